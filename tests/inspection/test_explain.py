"""The verb as a user types it: its files, and one clear message for each mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.commands import call
from fashion_tl.errors import UserError
from fashion_tl.inspection import visualisation
from fashion_tl.inspection.explain import explain as command

SMALL = (
    "--trainer.max_epochs",
    "1",
    "--trainer.enable_progress_bar",
    "false",
    "--data.source.num_train",
    "120",
    "--data.source.num_test",
    "30",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two runs on garments, from scratch and with a frozen backbone, and one on objects."""
    folder = tmp_path_factory.mktemp("explained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(visualisation, "STEPS", 3)
        scratch = ("--model", "ScratchClassifier", "--model.network_args", "{widths: [4, 8, 8]}")
        frozen = ("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false")
        garments = ("--data.source", "SyntheticGarments")
        objects = ("--data.source", "SyntheticObjects", "--data.image_size", "32")
        assert main(["fit", "--name", "scratch", *garments, *SMALL, *scratch]) == 0
        assert main(["fit", "--name", "frozen", *garments, *SMALL, "--data.image_size", "64", *frozen,
                     "--model.train", "head"]) == 0  # fmt: skip
        assert main(["fit", "--name", "objects", *objects, *SMALL, *scratch]) == 0
        yield folder


def explain(*args: str) -> None:
    call(command, "fashion-tl explain", args)


def files(name: str) -> set[str]:
    return {p.name for p in Path(f"lightning_logs/{name}/version_0/analysis").glob("*")}


def document(name: str, file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(f"lightning_logs/{name}/version_0/analysis/{file}").read_text())
    return content


def test_everything_is_found_and_written(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (40, 30), "white").save("own.png")
    explain("scratch", "frozen", "--all", "--images", "own.png")
    each = {
        "explain.json", "explain-classes.png", "explain-worst.png", "explain-randomised.png",
        "explain_filters.json", "explain_filters-first_layer.png",
        "explain_channels.json", "explain_channels-exemplars.png",
        "explain_features.json", "explain_features-made.png",
    }  # fmt: skip
    shared = {"explain_compared.json", "explain_compared-classes.png", "explain_images.json", "explain_images-own.png"}
    assert files("frozen") == each
    assert files("scratch") - {"explain_compared-disagreements.png"} == each | shared
    for name in ("scratch", "frozen"):
        shown = document(name, "explain.json")
        assert {p["file"] for p in shown["pictures"]} <= files(name)
        assert all(len(row) == len(t["columns"]) for t in shown["tables"] for row in t["rows"])
        assert len(shown["figures"]["classes"]) == 20
        assert next(r["stage"] for r in shown["figures"]["randomised"]) == "head"
        assert Path(f"lightning_logs/{name}/version_0/projector/projector_config.pbtxt").is_file()
    assert document("frozen", "explain.json")["figures"]["layer"] == "layer3"
    out = capsys.readouterr().out
    assert "explain_channels-exemplars.png" in out
    assert "tab Projector" in out


def test_runs_of_the_same_images_load_them_once(trained: Path, loads: list[object]) -> None:
    explain("scratch", "frozen", "--projector", "5")
    assert len(loads) == 1


def test_predictions_shown_are_those_of_the_run(trained: Path) -> None:
    import numpy as np

    from fashion_tl.metrics.metrics import softmax

    explain("scratch")
    with np.load("lightning_logs/scratch/version_0/test_predictions.npz") as kept:
        probabilities, labels = softmax(kept["logits"]), kept["label"]
    record = json.loads(Path("lightning_logs/scratch/version_0/run.json").read_text())
    names = record["data"]["class_names"]
    figures = document("scratch", "explain.json")["figures"]
    for item in figures["classes"] + figures["worst"]:
        row = probabilities[item["test image"]]
        assert item["true"] == names[labels[item["test image"]]]
        assert item["predicted"] == names[row.argmax()]
        assert item["confidence"] == pytest.approx(row.max(), abs=1e-4)
    confidences = [item["confidence"] for item in figures["worst"]]
    assert confidences == sorted(confidences, reverse=True)
    assert all(item["true"] != item["predicted"] for item in figures["worst"])


def test_inverted_images_are_those_of_inverted_files(trained: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    found = []
    for values, flags in ((pixels, ["--invert"]), (255 - pixels, []), (pixels, [])):
        Image.fromarray(values).save("own.png")
        explain("scratch", "--images", "own.png", *flags)
        found.append(Path("lightning_logs/scratch/version_0/analysis/explain_images-own.png").read_bytes())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("scratch", "--stage", "tip"), "unknown stage 'tip'; did you mean 'top'"),
        (("scratch", "--channels", "8"), "no channel 8; it has 0 to 7"),
        (("scratch", "--features", "Bagg"), "unknown class 'Bagg'"),
        (("scratch", "--images", "nowhere"), "nowhere does not exist"),
        (("scratch", "--images", "text.png"), "text.png cannot be read"),
        (("scratch", "--projector", "0"), "--projector is 0"),
        (("scratch", "--projector", "1", "2"), "takes one number"),
        (("scratch", "--seed", "-1"), "--seed is -1"),
        (("scratch", "--batch_size", "0"), "--batch_size is 0"),
        (("scratch", "objects"), "have other classes"),
        (("none",), "unknown run 'none'"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(trained: Path, args: tuple[str, ...], message: str) -> None:
    Path("text.png").write_text("no picture")
    for name in ("scratch", "objects"):
        shutil.rmtree(f"lightning_logs/{name}/version_0/analysis", ignore_errors=True)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        explain(*args)
    assert files("scratch") == files("objects") == set()


def test_other_test_images_are_refused(trained: Path) -> None:
    scratch = ("--model", "ScratchClassifier", "--model.network_args", "{widths: [4, 8, 8]}")
    assert (
        main(
            [
                "fit",
                "--name",
                "other",
                "--data.source",
                "SyntheticGarments",
                *SMALL,
                *scratch,
                "--data.source.num_test",
                "31",
            ]
        )
        == 0
    )
    with pytest.raises(UserError, match="tested on different images"):
        explain("scratch", "other")


def test_colour_images_are_explained(trained: Path) -> None:
    explain("objects", "--channels", "1", "--features", "1")
    assert files("objects") == {
        "explain_channels.json", "explain_channels-exemplars.png", "explain_features.json", "explain_features-made.png",
    }  # fmt: skip
    assert document("objects", "explain_channels.json")["tables"][0]["rows"][0][0] == "1"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from fashion_tl.cli import main; main(['explain', '--help']); "
        "main(['diagnose', '--help']); main(['robustness', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
