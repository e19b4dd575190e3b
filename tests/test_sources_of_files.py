"""The same photographs as a folder and as a table are the same run; a grey network on grey images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.records.predictions import read_predictions
from fashion_tl.records.record import read_record

from .conftest import Fit

SMALL = (
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"),
    *("--data.image_size", "16", "--data.batch_size", "8", "--data.source.root", ".", "--data.source.resize", "pad"),
    *("--model", "ScratchClassifier", "--model.network", "plain", "--model.network_args={widths: [3, 4]}"),
)


def save_photos(folder: Path) -> None:
    """Save 8 + 3 + 4 photographs of each of two classes, and a table of them in another order."""
    rng, rows = np.random.default_rng(0), []
    for part, count in (("train", 8), ("val", 3), ("test", 4)):
        for label, level in (("dark", 60), ("light", 180)):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = (level + rng.integers(-50, 50, (12, 20, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
                rows.append(f"{part}/{label}/{number}.png;{label};{part}")
    order = np.random.default_rng(1).permutation(len(rows))
    (folder / "table.csv").write_text("\n".join(["path;label;set", *(rows[number] for number in order)]))


def test_a_folder_and_a_table_of_it_train_and_predict_alike(workdir: Path) -> None:
    save_photos(workdir / "photos")
    sources = {
        "folder": ("--data.source", "ImageFolder", "--data.source.folder", "photos"),
        "table": (
            "--data.source",
            "CSV",
            "--data.source.file",
            "photos/table.csv",
            "--data.source.split_column",
            "set",
        ),
    }
    found = {}
    for name, source in sources.items():
        assert main(["fit", "--name", name, *source, *SMALL]) == 0
        logs = workdir / "lightning_logs" / name / "version_0"
        record = read_record(logs)
        assert record["data"]["sizes"] == {"train": 16, "val": 6, "test": 8}
        found[name] = read_predictions(logs, record, 2)
    assert np.array_equal(found["folder"].labels, found["table"].labels)
    assert np.array_equal(found["folder"].logits, found["table"].logits)
    best = workdir / "checkpoints/table/version_0/best.ckpt"
    assert main(["predict", str(best), "photos/test", "--output", "predicted.csv"]) == 0
    assert len((workdir / "predicted.csv").read_text().splitlines()) == 9


def test_a_backbone_of_one_channel_on_grey_images(fit: Fit, workdir: Path) -> None:
    assert fit("--model.backbone_args", "{in_chans: 1}", "--model.train", "{0: head}") == 0
    record = read_record(workdir / "lightning_logs/run/version_0")
    assert record["model"]["input"]["channels"] == 1
    assert record["data"]["channels"] == 1
    assert len(record["model"]["input"]["mean"]) == 1
    Image.new("RGB", (40, 30), "red").save(workdir / "red.png")
    assert main(["predict", str(workdir / "checkpoints/run/version_0/best.ckpt"), "red.png"]) == 0
