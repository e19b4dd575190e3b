"""Derived records: whole or not at all, with checksums, never over another version, and read by list and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.cli import main
from fashion_tl.errors import UserError
from fashion_tl.files import sha256, write_bytes
from fashion_tl.metrics.metrics import summarise
from fashion_tl.records import derived
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.derived import member, write_derived
from fashion_tl.records.predictions import Predictions, read_predictions
from fashion_tl.records.record import RunPaths, newest_completed, paths_of, read_record
from fashion_tl.report.compare import compare

NAMES = ["bag", "coat", "shoe"]


def found(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def predictions(images: int = 30, draw: int = 0) -> Predictions:
    labels = np.random.default_rng(9).integers(0, 3, images)
    logits = np.random.default_rng(draw).standard_normal((images, 3)) + 2 * np.eye(3)[labels]
    return Predictions(np.arange(images), labels, logits)


def write(folder: Path, name: str = "ens", draw: int = 0, **more: Any) -> RunPaths:
    made = predictions(draw=draw)
    data = {"source": "s", "class_names": NAMES, "test_set": "feed", "sizes": {"train": 5}, "image_size": 8}
    settings: dict[str, Any] = {
        "kind": "ensemble",
        "data": data,
        "model": {"architecture": "2 x cnn", "parameters": 20, "strategy": "mean of probabilities of a, b"},
        "test": summarise(made.logits, made.labels, NAMES),
        "predictions": made,
    }
    return write_derived(folder / "logs", folder / "checkpoints", name, **{**settings, **more})


def test_files_checksums_and_versions(tmp_path: Path) -> None:
    analysis = Analysis("Ensemble")
    analysis.add_picture("ensemble-curve.png", b"png", "a curve")
    first = write(tmp_path, checkpoint=b"weights", config="data: {}\n", analysis=("ensemble", analysis))
    second = write(tmp_path, facts={"seed": 3, "chosen": {"alpha": np.float64(0.5)}})
    assert (first.version, second.version) == (0, 1)
    own = {"run.json", "test_predictions.npz", "config.yaml", "analysis/ensemble.json", "analysis/ensemble-curve.png"}
    assert found(first.logs) == own
    assert found(second.logs) == {"run.json", "test_predictions.npz"}
    assert first.best.read_bytes() == b"weights"
    assert not second.checkpoints.exists()
    told = [json.loads((paths.logs / "run.json").read_text()).get("checkpoint") for paths in (first, second)]
    assert told == [sha256(first.best), None]
    record = read_record(first.logs)
    assert record["files"] == {n: sha256(first.logs / n) for n in ("config.yaml", "test_predictions.npz")}
    assert (record["kind"], record["status"], record["seed"]) == ("ensemble", "completed", None)
    assert {"fashion_tl", "torch"} <= record["environment"]["libraries"].keys()
    assert read_record(second.logs)["chosen"] == {"alpha": 0.5}
    read = read_predictions(first.logs, record, 3)
    assert np.array_equal(read.logits, predictions().logits)
    assert newest_completed(tmp_path / "logs", tmp_path / "checkpoints", "ens") == first


@pytest.mark.parametrize("step", ["write_bytes", "sha256", "write_record"])
def test_nothing_is_left_of_what_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(path: Path, *_: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        raise OSError(28, "No space left on device", "run.json")

    monkeypatch.setattr(derived, step, full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, checkpoint=b"weights")
    with pytest.raises(UserError, match="a run's name is made of"):
        write(tmp_path, name="../up")
    assert [path for path in tmp_path.rglob("*") if path.name not in ("logs", "checkpoints")] == []


def test_a_member_is_named_with_the_hash_of_its_checkpoint(tmp_path: Path) -> None:
    paths = paths_of(tmp_path / "logs", tmp_path / "checkpoints", "a", 2)
    write_bytes(paths.best, b"weights")
    expected = {"name": "a", "version": 2, "checkpoint": sha256(paths.best), "weight": 0.5}
    assert member(paths, weight=0.5) == expected


def test_list_and_report_show_it_like_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    write(tmp_path, "other", draw=1)
    assert main(["runs", "--log_dir", str(tmp_path / "logs")]) == 0
    assert "completed" in capsys.readouterr().out
    compare(log_dir=tmp_path / "logs", output=tmp_path / "reports")
    page = (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
    assert "mean of probabilities of a, b" in page
    assert "Gaps in the records" not in page
    table = (tmp_path / "reports" / "comparison.md").read_text(encoding="utf-8")
    assert "McNemar" in table
    assert capsys.readouterr().err == ""
