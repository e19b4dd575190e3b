"""``robustness`` on one small run: its files, its figures against scikit-learn's, and what a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fashion_tl.errors import UserError
from fashion_tl.inspection.corruptions import CORRUPTIONS
from fashion_tl.inspection.robustness import robustness
from fashion_tl.records.analysis import Analysis

pytestmark = pytest.mark.slow

IMAGES = 40
PICTURES = {f"robustness-{name}.png" for name in ("corruptions", "accuracy", "curves", "scores")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from fashion_tl.cli import main

    folder: Path = tmp_path_factory.mktemp("robustness")
    data = ["--data.source", "SyntheticGarments", "--data.source.num_test", "300", "--data.batch_size", "32"]
    trainer = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    places = ["--log_dir", str(folder / "logs"), "--checkpoint_dir", str(folder / "checkpoints")]
    model = ["--model", "ScratchClassifier"]
    for name, drawn in (("run", "400"), ("other", "300")):
        assert main(["fit", "--name", name, *data, "--data.source.num_train", drawn, *trainer, *places, *model]) == 0
    (folder / "stripes").mkdir()
    for i in range(6):
        stripes = np.zeros((40, 30, 3), np.uint8)
        stripes[:: i + 2] = 255
        Image.fromarray(stripes).save(folder / "stripes" / f"{i}.png")
    return folder


def measure(folder: Path, *runs: str, **options) -> list[Analysis]:
    settings: dict[str, Any] = {
        "images": IMAGES,
        "root": str(folder),
        "log_dir": folder / "logs",
        "checkpoint_dir": folder / "checkpoints",
    }
    return robustness(list(runs or ["run"]), **{**settings, **options})


@pytest.fixture(scope="module")
def found(folder) -> Analysis:
    return measure(folder, ood=[folder / "stripes"], baseline="run")[0]


def analysis(folder: Path) -> Path:
    return folder / "logs" / "run" / "version_0" / "analysis"


def test_it_leaves_these_files_and_no_others(folder, found) -> None:
    assert {path.name for path in analysis(folder).iterdir()} == {"robustness.json", "robustness.npz"} | PICTURES
    document = json.loads((analysis(folder) / "robustness.json").read_text())
    assert {picture["file"] for picture in document["pictures"]} == PICTURES
    for table in document["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert set(document["figures"]["cells"]) == set(CORRUPTIONS)
    assert document["figures"]["settings"]["images"] == IMAGES
    assert "MNIST's test images are not in" in document["note"]
    assert "no calibration" in document["note"]


def test_figures_agree_with_scikit_learn(folder, found) -> None:
    with np.load(analysis(folder) / "robustness.npz") as file:
        scores = dict(file)
    sets = found.figures["out_of_distribution"]["sets"]
    assert set(sets) == {"uniform noise", "stripes"}
    for name, by_score in sets.items():
        for score, figures in by_score.items():
            inside, outside = scores[f"in-distribution/{score}"], scores[f"{name}/{score}"]
            both = np.concatenate([inside, outside])
            truth = np.arange(len(both)) < len(inside)
            assert figures["auroc"] == pytest.approx(roc_auc_score(truth, both), abs=1e-9)
            assert figures["aupr_in"] == pytest.approx(average_precision_score(truth, both), abs=1e-9)
            assert figures["aupr_out"] == pytest.approx(average_precision_score(~truth, -both), abs=1e-9)
            false, true, _ = roc_curve(truth, both, drop_intermediate=False)
            assert figures["fpr95"] == pytest.approx(false[true >= 0.95][0], abs=1e-9)


def test_a_run_relative_to_itself_is_one(found) -> None:
    errors = found.figures["corruption_error"]
    assert errors["mce"] == pytest.approx(1)
    assert list(errors["by_corruption"].values()) == pytest.approx([1] * len(CORRUPTIONS))


@pytest.mark.thorough
def test_neither_batch_size_nor_a_stored_baseline_changes_figures(folder, found) -> None:
    again = measure(folder, batch_size=7, baseline="run", ood=[folder / "stripes"])[0]
    for name, row in found.figures["cells"].items():
        for before, after in zip(row, again.figures["cells"][name], strict=True):
            assert after["accuracy"] == before["accuracy"]
            assert after["ece"] == pytest.approx(before["ece"], abs=1e-4)
    assert again.figures["corruption_error"]["mce"] == pytest.approx(1)


@pytest.mark.thorough
def test_all_images_are_the_test_of_the_record(folder) -> None:
    record = json.loads((folder / "logs" / "run" / "version_0" / "run.json").read_text())
    whole = measure(folder, images=10_000)[0]
    assert whole.figures["clean"]["accuracy"] == pytest.approx(record["test"]["accuracy"], abs=1e-12)
    assert whole.figures["clean"]["ece"] == pytest.approx(record["test"]["calibration_error"], abs=1e-5)


def test_wrong_input_is_one_error_and_changes_nothing(folder, found) -> None:
    before = (analysis(folder) / "robustness.json").read_bytes()
    for options, says in (
        ({"images": 0, "batch_size": 0}, "--images is 0.*--batch_size is 0"),
        ({"ood": [folder / "none"]}, "not a folder"),
        ({"baseline": "other"}, "tested on other images"),
        ({"baseline": "none"}, "unknown run 'none'"),
        ({"seed": -1}, "--seed"),
    ):
        with pytest.raises(UserError, match=says):
            measure(folder, **options)
    with pytest.raises(UserError, match="unknown run"):
        measure(folder, "run", "runn")
    assert (analysis(folder) / "robustness.json").read_bytes() == before
    assert not (folder / "logs" / "other" / "version_0" / "analysis").exists()
