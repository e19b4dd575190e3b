"""``audit``: duplicates that were planted in a folder of images are found, and no others; runs are scored again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.inspection.audit import _configured

pytestmark = pytest.mark.slow
Output = pytest.CaptureFixture[str]
SMALL = ("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false")


def photograph(rng: np.random.Generator, size: int = 40) -> np.ndarray:
    """Draw a smooth picture that is unlike any other: (size, size, 3), uint8."""
    from scipy.ndimage import gaussian_filter

    drawn = gaussian_filter(rng.standard_normal((size, size, 3)), (3, 3, 0))
    pixels: np.ndarray = ((drawn / np.abs(drawn).max() + 1) * 127).astype(np.uint8)
    return pixels


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs of two classes with planted duplicates, and a run on it."""
    folder, rng = tmp_path_factory.mktemp("audit"), np.random.default_rng(0)
    train = {(kind, i): photograph(rng) for kind in ("cat", "dog") for i in range(20)}
    test = {(kind, i): photograph(rng) for kind in ("cat", "dog") for i in range(10)}
    test["cat", 0] = train["cat", 0]  # the same pixels
    test["cat", 1] = train["dog", 1]  # ... with another label
    test["dog", 2] = (train["dog", 2] * 0.7 + 30).astype(np.uint8)  # less contrast
    test["dog", 3] = train["cat", 3][:, ::-1]  # mirrored, with another label
    test["dog", 4] = np.roll(train["dog", 4], 1, axis=1)  # shifted by one of 40 pixels
    train["dog", 6] = train["dog", 5]  # within train
    for part, images in (("train", train), ("test", test)):
        for (kind, i), pixels in images.items():
            path = folder / "pets" / part / kind / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    places = ["--log_dir", str(folder / "lightning_logs"), "--checkpoint_dir", str(folder / "checkpoints")]
    data = ["--data.source", "ImageFolder", "--data.source.folder", str(folder / "pets"), "--data.image_size", "32"]
    crop = ["--data.source.crop", "1.0", "--data.batch_size", "16", "--data.val_fraction", "0.1"]
    assert main(["fit", "--name", "run", *data, *crop, *SMALL, *places, "--model", "ScratchClassifier"]) == 0
    other = ["--data.source", "SyntheticGarments", "--data.source.num_train", "120", "--data.batch_size", "32"]
    other += ["--data.source.num_test", "60"]
    assert main(["fit", "--name", "other", *other, *SMALL, *places, "--model", "ScratchClassifier"]) == 0
    return folder


@pytest.fixture
def folder(whole: Path, workdir: Path) -> Path:
    """A copy of the runs in the working directory; the photographs stay where they are."""
    for name in ("lightning_logs", "checkpoints"):
        shutil.copytree(whole / name, workdir / name)
    return workdir


def figures(path: Path = Path("reports/audit/audit.json")) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["figures"]
    return found


def planted(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Name the near duplicates between test and the images that are not: class and position within its class."""
    pairs = [pair for pair in found["pairs"] if pair["one"]["split"] == "test"]
    return {
        (f"{pair['one']['label']} {pair['one']['index'] % 10}", pair["two"]["label"], str(pair["mirrored"]))
        for pair in pairs
    }


EXPECTED = {
    ("cat 0", "cat", "False"),
    ("cat 1", "dog", "False"),
    ("dog 2", "dog", "False"),
    ("dog 3", "cat", "True"),
    ("dog 4", "dog", "False"),
}


@pytest.mark.parametrize("way", [(), ("--pixels",)], ids=["features", "pixels"])
@pytest.mark.thorough(keep=1)
def test_planted_duplicates_and_no_others_are_found(folder: Path, capsys: Output, way: tuple[str, ...]) -> None:
    assert main(["audit", "run", "--threshold", "0.98", *way]) == 0
    found = figures()
    assert planted(found) == EXPECTED
    assert found["affected_test_images"] == [0, 1, 12, 13, 14]
    exact = found["exact"]
    assert sum(exact[f"test and {part}"]["pairs"] for part in ("train", "val")) == 2
    assert sum(exact[f"test and {part}"]["other_label"] for part in ("train", "val")) == 1
    # Two files of one split or of two, as the validation images were drawn.
    assert sum(exact[kind]["pairs"] for kind in ("within train", "within val", "val and train")) == 1
    assert exact["within test"] == {"pairs": 0, "other_label": 0}
    assert found["copies"]["mirrored"]["0.98"] == 1
    assert found["features"] is (way == ())
    out = capsys.readouterr().out
    assert "Near duplicates" in out
    assert "reports/audit/audit-test-train.png" in out


@pytest.mark.thorough
def test_many_copies_of_an_image_are_told_and_hide_nothing(workdir: Path, capsys: Output) -> None:
    """Eight copies of a photograph in train; the test has another and an altered one; a blank image is in both."""
    rng = np.random.default_rng(1)
    copied, blank = photograph(rng), np.full((40, 40, 3), 255, np.uint8)
    altered = (copied * 0.7 + 30).astype(np.uint8)
    images = {("train", "cat"): [copied] * 8 + [blank] * 2, ("test", "cat"): [copied, altered, blank]}
    for (part, kind), given in {**images, ("train", "dog"): [], ("test", "dog"): []}.items():
        for i, pixels in enumerate([*given, *(photograph(rng) for _ in range(12))]):
            path = workdir / "pets" / part / kind / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    source = {"class_path": "ImageFolder", "init_args": {"folder": "pets", "root": ".", "crop": 1.0}}
    Path("pets.yaml").write_text(json.dumps({"data": {"source": source, "image_size": 32, "val_fraction": 0.1}}))
    assert main(["audit", "-c", "pets.yaml", "--pixels", "--threshold", "0.98"]) == 0
    found = figures()
    exact = sum(found["exact"][f"test and {part}"]["pairs"] for part in ("train", "val"))
    near = [each for each in found["near"] if each["between"].startswith("test") and each["threshold"] == 0.98]
    assert exact == 8 + 2
    assert sum(each["pairs"] for each in near) == exact + 8  # those of the altered one
    assert found["affected_test_images"] == [0, 1, 2]
    assert found["copies"]["mirrored"]["0.98"] == 1
    capsys.readouterr()


@pytest.mark.thorough
def test_runs_are_scored_without_the_affected_images(folder: Path) -> None:
    assert main(["audit", "run", "--threshold", "0.98", "--pixels"]) == 0
    with np.load("lightning_logs/run/version_0/test_predictions.npz") as file:
        correct = file["logits"].argmax(1) == file["label"]
    keep = np.setdiff1d(np.arange(20), [0, 1, 12, 13, 14])
    scores = figures()["runs"]["run version 0"]
    assert scores["all"]["accuracy"] == pytest.approx(correct.mean(), abs=1e-12)
    assert scores["without"] | {"low": 0, "high": 0} == {
        "images": 15,
        "accuracy": pytest.approx(correct[keep].mean(), abs=1e-12),
        "low": 0,
        "high": 0,
    }
    # Wilson 1927, written out.
    p, n, z = correct[keep].mean(), 15, 1.959963984540054
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    bounds = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    assert [scores["without"]["low"], scores["without"]["high"]] == pytest.approx(bounds, abs=1e-9)


def test_it_leaves_these_files_and_no_others(folder: Path) -> None:
    before = set(Path().rglob("*"))
    assert main(["audit", "run", "--pixels", "--top", "3", "--threshold", "0.98"]) == 0
    pictures = {f"audit-{name}.png" for name in ("test-train", "test-val", "val-train")}
    places = (Path("reports/audit"), Path("lightning_logs/run/version_0/analysis"))
    written = {place / name for place in places for name in ("audit.json", *pictures)}
    assert set(Path().rglob("*")) - before == written | {Path("reports"), *places}
    again = {path: path.read_bytes() for path in written}
    assert main(["audit", "run", "--pixels", "--top", "3", "--threshold", "0.98"]) == 0
    assert {path: path.read_bytes() for path in written} == again
    assert main(["compare"]) == 0
    assert "Duplicates across splits" in Path("reports/index.html").read_text()


@pytest.mark.thorough
def test_the_data_of_a_configuration(folder: Path, whole: Path, capsys: Output) -> None:
    config = "lightning_logs/run/version_0/config.yaml"
    assert main(["audit", "-c", config, "--threshold", "0.98", "--output", "found"]) == 0
    assert planted(figures(Path("found/audit.json"))) == EXPECTED
    assert figures(Path("found/audit.json"))["runs"] == {}
    assert not figures(Path("found/audit.json"))["features"]  # of random weights
    assert not Path("lightning_logs/run/version_0/analysis").exists()


@pytest.mark.thorough
def test_runs_and_the_data_of_a_configuration(folder: Path, loads: list[object]) -> None:
    config = "lightning_logs/other/version_0/config.yaml"
    assert main(["audit", "other", "-c", config]) == 0
    assert len(loads) == 1
    assert not figures()["features"]  # the configuration's network has random weights, whatever the run has
    assert set(figures()["runs"]) == {"other version 0"}


def test_the_network_of_a_configuration_is_where_networks_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fashion_tl.process.own_device", lambda: torch.device("meta"))
    _, module = _configured(Path("lightning_logs/other/version_0/config.yaml"), None, True, None)
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "audit needs the data of a run, or of a configuration"),
        (("rum",), "unknown run 'rum'; did you mean 'run'?"),
        (("run", "--top", "0"), "--top is 0, allowed is 1 or more"),
        (("run", "--threshold", "2"), "--threshold is 2.0, allowed is 0.5 to 1"),
        (("run", "other"), "was tested on other images"),
        (("run", "--output", "taken"), "--output taken cannot be written: taken is not a folder"),
        (("run", "--output", "taken/deeper"), "taken is not a folder. Name another one."),
        (("run", "--output", "lightning_logs"), "--output lightning_logs holds something else than an audit"),
        (("run", "--backbone", "test_resnet"), "--backbone goes with -c FILE"),
        (("-c", "nowhere.yaml"), "the configuration nowhere.yaml cannot be read"),
        (("-c", "gone.yaml"), "the image folder gone/pets does not exist"),
    ],
)
def test_wrong_input(folder: Path, capsys: Output, args: tuple[str, ...], message: str) -> None:
    Path("taken").touch()
    source = {"class_path": "ImageFolder", "init_args": {"folder": "pets", "root": "gone"}}
    Path("gone.yaml").write_text(json.dumps({"data": {"source": source, "image_size": 32}}))
    before = set(Path().rglob("*"))
    assert main(["audit", *args]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert set(Path().rglob("*")) == before
