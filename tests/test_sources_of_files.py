"""The same photographs as a folder, a table, Parquet and shards are the same run; networks of other channels."""

from __future__ import annotations

import csv
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.file_list import find_images
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded, Source
from fashion_tl.data.torchvision_sets import TorchVision
from fashion_tl.metrics.metrics import softmax
from fashion_tl.records.predictions import read_predictions
from fashion_tl.records.record import read_record

from .conftest import Fit
from .data.packed import key_of, write_parquet, write_shard

SMALL = (
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"),
    *("--data.image_size", "16", "--data.batch_size", "8", "--data.source.root", ".", "--data.source.resize", "pad"),
    *("--model", "ScratchClassifier", "--model.network", "plain", "--model.network_args={widths: [3, 4]}"),
)
SOURCES = {
    "folder": ("ImageFolder", "folder=photos"),
    "table": ("CSV", "file=table.csv", "split_column=set"),
    "parquet": ("HuggingFace", "name=parquet"),
    "images_of_the_hub": ("HuggingFace", "name=photos"),
    "shards": ("WebDataset", "train=shards/train-{00..02}.tar", "test=shards/test-*.tar"),
}


def save_photos(folder: Path) -> None:
    """Save 8 + 3 + 4 photographs of each of two classes, JPEG files one of which is turned, and PNG files."""
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for part, count in (("train", 8), ("val", 3), ("test", 4)):
        for label, level in (("dark", 60), ("light", 180)):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = (level + rng.integers(-50, 50, (12, 20, 3))).astype(np.uint8)
                path = folder / part / label / f"{label}.{number}"
                if number % 2:
                    Image.fromarray(pixels).save(f"{path}.jpg", exif=turned)
                else:
                    Image.fromarray(pixels).save(f"{path}.png")


def pack(folder: Path, target: Path) -> None:
    """Write a table of the images of a folder, Parquet files and shards of them, each in an order of its own."""
    rng = np.random.default_rng(1)

    def shuffled(paths: list[Path]) -> list[Path]:
        return [paths[place] for place in rng.permutation(len(paths))]

    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    with (target / "table.csv").open("w", newline="") as file:
        rows = [(path, path.parent.name, path.parent.parent.name) for path in shuffled(paths)]
        csv.writer(file, delimiter=";").writerows([("path", "label", "set"), *rows])
    for part in sorted({path.parent.parent.name for path in paths}):
        mixed = shuffled([path for path in paths if path.parent.parent.name == part])
        for number, each in enumerate(np.array_split(np.arange(len(mixed)), 3)):
            chosen = [mixed[place] for place in each]
            images = [(path.read_bytes(), path.name) for path in chosen]
            labels = {"label": [path.parent.name for path in chosen]}
            write_parquet(target / f"parquet/{part}-{number:05}-of-00003.parquet", images, labels)
            write_shard(target / f"shards/{part}-{number:02}.tar", (file for path in chosen for file in _sample(path)))


def _sample(path: Path) -> Iterator[tuple[str, bytes]]:
    key = f"{path.parent.name}/{key_of(path)}"
    yield f"{key}{path.suffix}", path.read_bytes()
    yield f"{key}.cls", path.parent.name.encode()


def fitted(workdir: Path, name: str, *flags: str) -> np.ndarray:
    """Fit on a source and return the logits of the test images."""
    kind, *given = SOURCES[name]
    source = [f"--data.source.{each}" for each in given]
    assert main(["fit", "--name", name, "--data.source", kind, *source, *flags]) == 0
    logs = workdir / "lightning_logs" / name / "version_0"
    record = read_record(logs)
    assert record["data"]["source"] == kind
    predictions = read_predictions(logs, record, 2)
    assert predictions.labels.tolist() == sorted(predictions.labels.tolist())
    return predictions.logits


def test_the_same_images_from_every_source_train_and_predict_alike(workdir: Path) -> None:
    save_photos(workdir / "photos")
    pack(workdir / "photos", workdir)
    validation = {"shards": ("--data.source.val", "shards/val-*.tar")}
    found = {name: fitted(workdir, name, *validation.get(name, ()), *SMALL) for name in SOURCES}
    assert len(np.unique(found["folder"], axis=0)) == 8
    for name, logits in found.items():
        assert np.array_equal(logits, found["folder"]), name
        record = read_record(workdir / "lightning_logs" / name / "version_0")
        assert record["data"]["sizes"] == {"train": 16, "val": 6, "test": 8}
    for name in ("table", "parquet", "shards"):
        best = workdir / f"checkpoints/{name}/version_0/best.ckpt"
        assert main(["predict", str(best), "photos/test", "--output", f"of_{name}.csv"]) == 0
        assert len((workdir / f"of_{name}.csv").read_text().splitlines()) == 9
    assert main(["compare", "folder", "parquet", "shards"]) == 0
    page = (workdir / "reports/index.html").read_text()
    assert all(text in page for text in ("parquet", "shards", "HuggingFace", "WebDataset"))


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_a_run_says_how_many_images_are_in_two_splits(
    workdir: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    save_photos(workdir / "photos")
    for number in (0, 2):
        copy = (workdir / f"photos/train/dark/dark.{number}.png").read_bytes()
        (workdir / f"photos/test/dark/dark.{number}.png").write_bytes(copy)
    pack(workdir / "photos", workdir)
    fitted(workdir, source, *(("--data.source.val", "shards/val-*.tar") if source == "shards" else ()), *SMALL)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("copies")]
    assert told == ["copies: 2 test images are train images as well; `fashion-tl audit` finds them"]


@pytest.mark.slow
def test_predict_equals_the_record_of_a_set_of_torchvision(workdir: Path) -> None:
    save_photos(workdir / "photos")  # half of them turned
    (workdir / "eurosat").mkdir()
    (workdir / "photos/train").rename(workdir / "eurosat/2750")
    given = ("--data.source", "TorchVision", "--data.source.name", "EuroSAT", *SMALL)
    assert main(["fit", "--name", "eurosat", *given]) == 0
    logs = workdir / "lightning_logs/eurosat/version_0"
    logits = read_predictions(logs, read_record(logs), 2).logits
    data = ImageDataModule(TorchVision("EuroSAT", ".", resize="pad"), image_size=16, num_workers=0)
    data.setup()
    files = find_images(Path("eurosat/2750"))
    tested = [str(files[place]) for place in data.splits["test"].indices.tolist()]
    assert main(["predict", "checkpoints/eurosat/version_0/best.ckpt", *tested, "--output", "told.csv"]) == 0
    _, *rows = csv.reader((workdir / "told.csv").read_text().splitlines())
    assert any(path.endswith("jpg") for path, *_ in rows)
    assert np.allclose([[float(cell) for cell in row[2:]] for row in rows], softmax(logits), atol=2e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.thorough
def test_real_photographs_from_every_source_train_and_predict_alike(
    real_data: Path, real_backbone: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cats and dogs: 1000 JPEG files to train on, divided by seed, and 500 to test on; decoded in memory and lazily."""
    (workdir / "photos").symlink_to(real_data / "cats_vs_dogs")
    if not (workdir / "photos").is_dir():
        pytest.skip("needs the real photographs")
    pack(workdir / "photos/", workdir)
    flags = (
        *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"),
        *("--data.image_size", "32", "--data.source.root", ".", "--model.backbone", real_backbone),
        *("--model.train", "head", "--data.augment.hflip", "0.5", "--cache", "off"),
    )
    found = {name: fitted(workdir, name, *flags) for name in SOURCES if name != "images_of_the_hub"}
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    SOURCES["lazy"] = SOURCES["shards"]
    found["lazy"] = fitted(workdir, "lazy", *flags)
    for name, logits in found.items():
        assert np.array_equal(logits, found["folder"]), name
    record = read_record(workdir / "lightning_logs/shards/version_0")
    assert record["data"]["sizes"] == {"train": 916, "val": 84, "test": 500}


def test_a_backbone_of_one_channel_on_grey_images(fit: Fit, workdir: Path) -> None:
    assert fit("--model.backbone_args", "{in_chans: 1}", "--model.train", "{0: head}") == 0
    record = read_record(workdir / "lightning_logs/run/version_0")
    assert record["model"]["input"]["channels"] == 1
    assert record["data"]["channels"] == 1
    assert len(record["model"]["input"]["mean"]) == 1
    Image.new("RGB", (40, 30), "red").save(workdir / "red.png")
    assert main(["predict", str(workdir / "checkpoints/run/version_0/best.ckpt"), "red.png"]) == 0


class Bands(Source):
    """Images of any number of channels, the first of which tells the classes apart."""

    def __init__(self, channels: int = 4) -> None:
        self.channels, self.class_names, self.storage_size = channels, ("low", "high"), 12

    def load(self) -> Loaded:
        """Draw 20 + 20 images to train on and as many to test on."""
        rng = np.random.default_rng(self.channels)
        labels = np.arange(80) % 2
        images = rng.integers(0, 100, (80, self.channels, 12, 12), dtype=np.uint8)
        images[:, 0] += (labels * 150).astype(np.uint8)[:, None, None]
        train, test = (
            InMemoryImages(torch.from_numpy(images[part]), torch.from_numpy(labels[part]))
            for part in (slice(0, 40), slice(40, 80))
        )
        return Loaded(train, test, f"bands {self.channels}")


BANDS = (
    *("--data.source", f"{__name__}.Bands", "--data.image_size", "16", "--data.batch_size", "8"),
    *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--data.augment.hflip", "0.5", "--data.augment.brightness", "0.1", "--data.augment.saturation", "0.3"),
    *("--data.augment.hue", "0.1", "--data.augment.trivial_augment", "true"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classifier", "channels"), [("scratch", 2), ("light", 4), ("backbone", 1), ("backbone", 2), ("backbone", 4)]
)
@pytest.mark.thorough(keep=1)
def test_images_of_any_number_of_channels(workdir: Path, classifier: str, channels: int) -> None:
    """Trained on with augmentation, recorded, drawn, and looked into; statistics are those of as many channels."""
    model = {
        "scratch": (
            "--model",
            "ScratchClassifier",
            "--model.network",
            "plain",
            "--model.network_args={widths: [3, 4]}",
        ),
        "light": ("--model", "ScratchClassifier", "--model.network", "light"),
        "backbone": (
            *("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false"),
            *("--model.backbone_args", f"{{in_chans: {channels}}}", "--model.train", "{0: head, 1: all}"),
        ),
    }[classifier]
    assert main(["fit", *BANDS, "--data.source.channels", str(channels), *model]) == 0
    record = read_record(workdir / "lightning_logs/run/version_0")
    assert record["data"]["channels"] == record["model"]["input"]["channels"] == channels
    assert len(record["model"]["input"]["mean"]) in (1, channels)
    assert main(["compare"]) == 0
    for verb in ("diagnose", "explain"):
        assert main([verb, "run"]) == 0


def test_channels_that_the_network_does_not_take(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ("--model.backbone", "test_resnet", "--model.pretrained", "false")
    assert main(["fit", *BANDS, "--data.source.channels", "4", *model]) == 2
    told = capsys.readouterr().err
    assert "the images have 4 channels, the network takes 3" in told
    assert "`--model.backbone_args '{in_chans: 4}'`" in told
    assert len(told.splitlines()) == 1
    assert main(["fit", *BANDS, "--data.source.channels", "4", *model, "--model.backbone_args", "{in_chans: 4}"]) == 0
    Image.new("RGB", (40, 30), "red").save(workdir / "red.png")
    assert main(["predict", "checkpoints/run/version_0/best.ckpt", "red.png"]) == 2
    told = capsys.readouterr().err
    assert "the images have 3 channels, the network takes 4" in told
    assert "Give such images; or train a network that takes 3: `fit` with" in told  # predict has no such option


def rgb_16(path: Path, level: int) -> None:
    """Write a 9 x 9 RGB image of 16 bits, as PNG or PPM, which Pillow does not write; half of it transparent in PNG."""
    if path.suffix == ".ppm":
        path.write_bytes(b"P6 9 9 65535 " + struct.pack(">243H", *[level] * 243))
        return
    rows = b"".join(b"\0" + struct.pack(">36H", *[level, level, level, 65535] * 9) for _ in range(9))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, 6, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    told = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))


def scans(folder: Path, ending: str, levels: tuple[int, int]) -> None:
    for label, level in zip(("dark", "light"), levels, strict=True):
        (folder / label).mkdir(parents=True)
        for number in range(4):
            path = folder / label / f"{number}.{ending}"
            if ending == "grey.png":
                Image.fromarray(np.full((9, 9), level + number, np.uint16)).save(path)
            else:
                rgb_16(path, level + number)


@pytest.mark.slow
def test_a_run_says_that_12_bits_in_16_are_almost_black(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans(workdir / "scans", "grey.png", (1000, 4000))
    assert main(["fit", "--data.source", "ImageFolder", "--data.source.folder", "scans", *SMALL]) == 0
    assert capsys.readouterr().out.count("levels of 16-bit files are 4003 of 65535 at most") == 1


@pytest.mark.parametrize("indexed", [False, True], ids=["few", "indexed"])
@pytest.mark.parametrize("path", ["held", "streamed", "streamed_whole", "kept"])
@pytest.mark.parametrize(("ending", "told"), [("grey.png", 4003), ("rgb.png", 3855), ("ppm", 4112)])
def test_12_bits_in_16_are_told_however_files_are_read(
    tmp_path: Path, ending: str, told: int, path: str, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("fashion_tl.data.file_index.INDEXED_FROM", 1 if indexed else 1000)
    if path.startswith("streamed"):
        monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    given: dict[str, Any] = {"skip_unreadable": path == "streamed_whole", "keep_decoded": path == "kept"}
    scans(tmp_path / "scans", ending, (1000, 4000))
    for _ in range(2):  # of which the second one may know it from the index
        (remark,) = ImageFolder(tmp_path / "scans", storage_size=8, **given).load().remarks
        assert f"levels of 16-bit files are {told} of 65535 at most" in remark
    scans(tmp_path / "whole", ending, (1000, 60000))
    assert ImageFolder(tmp_path / "whole", storage_size=8, **given).load().remarks == ()
    for label in ("dark", "light"):
        (tmp_path / "eight" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("RGBA", (9, 9), (number, 0, 0, 255)).save(tmp_path / f"eight/{label}/{number}.png")
    assert ImageFolder(tmp_path / "eight", storage_size=8, **given).load().remarks == ()
