"""``diagnose`` on one small run: its files, its figures against scikit-learn's, and what a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from fashion_tl.errors import UserError
from fashion_tl.inspection import diagnose as verb
from fashion_tl.inspection.calibration import load_calibration
from fashion_tl.records.analysis import Analysis

pytestmark = pytest.mark.slow

PICTURES = {
    f"diagnose-{name}.png"
    for name in (
        "reliability",
        "risk-coverage",
        "confused-pairs",
        "confident-mistakes",
        "unsure-correct",
        "label-errors",
    )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from fashion_tl.cli import main

    folder: Path = tmp_path_factory.mktemp("diagnose")
    data = ["--data.source", "SyntheticGarments", "--data.source.num_train", "600", "--data.batch_size", "32"]
    trainer = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    places = ["--log_dir", str(folder / "logs"), "--checkpoint_dir", str(folder / "checkpoints")]
    assert main(["fit", "--name", "run", *data, *trainer, *places, "--model", "ScratchClassifier"]) == 0
    return folder


def diagnose(folder: Path, **options) -> Analysis:
    return verb.diagnose("run", log_dir=folder / "logs", checkpoint_dir=folder / "checkpoints", **options)


@pytest.fixture(scope="module")
def found(folder) -> Analysis:
    costs = folder / "costs.yaml"
    costs.write_text("default: 1\n")
    return diagnose(folder, costs=costs)


def logs(folder: Path) -> Path:
    return folder / "logs" / "run" / "version_0"


def test_it_leaves_these_files_and_no_others(folder, found) -> None:
    assert {path.name for path in (logs(folder) / "analysis").iterdir()} == {"diagnose.json"} | PICTURES
    assert (folder / "checkpoints" / "run" / "version_0" / "calibration.json").is_file()
    assert list(logs(folder).rglob("*.diagnose"))
    document = json.loads((logs(folder) / "analysis" / "diagnose.json").read_text())
    assert {picture["file"] for picture in document["pictures"]} == PICTURES
    for table in document["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_figures_agree_with_scikit_learn(folder, found) -> None:
    with np.load(logs(folder) / "test_predictions.npz") as file:
        labels, logits = file["label"], file["logits"]
    record = json.loads((logs(folder) / "run.json").read_text())
    figures = found.figures["calibration"]["test"]
    assert figures["as trained"]["accuracy"] == pytest.approx(record["test"]["accuracy"], abs=1e-12)
    assert figures["as trained"]["ece"] == pytest.approx(record["test"]["calibration_error"], abs=1e-12)
    chosen = found.figures["calibration"]["chosen"]
    assert sum(found.figures["calibration"]["reason"] in table["caption"] for table in found.tables) == 1
    calibrated = load_calibration(folder / "checkpoints" / "run" / "version_0" / "best.ckpt")(logits)
    classes = range(logits.shape[1])
    assert figures[chosen]["nll"] == pytest.approx(log_loss(labels, calibrated, labels=classes), abs=1e-9)
    # Cost 1 for every mistake is the error rate, and the least cost is the most probable class then.
    costs = found.figures["errors"]["costs"]
    predicted = logits.argmax(1)
    assert costs["most_probable"] == pytest.approx(1 - accuracy_score(labels, predicted), abs=1e-12)
    assert costs["least_expected"] == pytest.approx(1 - accuracy_score(labels, calibrated.argmax(1)), abs=1e-12)
    usual = f1_score(labels, predicted, average=None, labels=list(classes), zero_division=0)
    told = [entry["test_f1_most_probable"] for entry in found.figures["errors"]["thresholds"].values()]
    assert told == pytest.approx(usual, abs=1e-12)


def test_validation_logits_are_computed_once(folder, found) -> None:
    path = logs(folder) / "val_predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    assert arrays["logits"].shape == (len(arrays["label"]), len(arrays["logits"][0]))
    assert len(np.unique(arrays["index"])) == len(arrays["index"])
    before = path.stat().st_mtime_ns
    again = diagnose(folder)
    assert path.stat().st_mtime_ns == before
    assert again.figures["calibration"]["temperature"] == found.figures["calibration"]["temperature"]


@pytest.mark.thorough
def test_logits_of_another_checkpoint_are_computed_again(folder, found) -> None:
    path = logs(folder) / "val_predictions.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **{**arrays, "checkpoint": np.array("another"), "logits": arrays["logits"] * 0})
    diagnose(folder)
    with np.load(path) as file:
        assert file["logits"] == pytest.approx(arrays["logits"], abs=1e-5)


@pytest.mark.thorough
def test_groups_split_the_accuracy(folder, found) -> None:
    names = json.loads((logs(folder) / "run.json").read_text())["data"]["class_names"]
    groups = folder / "groups.yaml"
    groups.write_text(json.dumps({"first": names[:1], "others": names[1:]}))
    figures = diagnose(folder, groups=groups).figures
    together = figures["errors"]["groups"]["all"]
    assert together["accuracy"] == pytest.approx(figures["calibration"]["test"]["as trained"]["accuracy"], abs=1e-12)


def test_wrong_input_is_one_error_and_changes_nothing(folder, found) -> None:
    path = logs(folder) / "analysis" / "diagnose.json"
    before = path.read_bytes()
    wrong = folder / "wrong.yaml"
    wrong.write_text("[[0, 1], [1, 0]]")
    for options, says in (
        ({"costs": wrong}, "shape"),
        ({"groups": wrong}, "map"),
        ({"batch_size": 0}, "--batch_size is 0, allowed is 1 or more"),
    ):
        with pytest.raises(UserError, match=says):
            diagnose(folder, **options)
    with pytest.raises(UserError, match="unknown run"):
        verb.diagnose("runn", log_dir=folder / "logs", checkpoint_dir=folder / "checkpoints")
    with pytest.raises(UserError, match="lies neither in"):
        verb.diagnose("elsewhere/run/version_0", log_dir=folder / "logs", checkpoint_dir=folder / "checkpoints")
    assert path.read_bytes() == before


def test_damaged_predictions_are_named(folder, found) -> None:
    path = logs(folder) / "test_predictions.npz"
    whole = path.read_bytes()
    try:
        for content in (b"nothing", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"test_predictions\.npz is damaged"):
                diagnose(folder)
        path.unlink()
        with pytest.raises(UserError, match="is missing"):
            diagnose(folder)
    finally:
        path.write_bytes(whole)


@pytest.mark.thorough
def test_a_run_that_was_tested_in_part_is_told_as_such(folder) -> None:
    from fashion_tl.cli import main

    part = ("-c", str(logs(folder) / "config.yaml"), "--name", "part", "--trainer.limit_test_batches", "1")
    assert main(["fit", *part, "--data.eval_batch_size", "40", "--trainer.max_epochs", "1"]) == 0
    with pytest.raises(UserError, match=r"tested on 40 of 200 images \(trainer\.limit_test_batches\)"):
        verb.diagnose("part", log_dir=folder / "logs", checkpoint_dir=folder / "checkpoints")
