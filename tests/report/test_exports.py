"""Every figure of the CSV and the Markdown against independent implementations, from the stored predictions alone."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.metrics.metrics import summarise
from fashion_tl.metrics.uncertainty import bootstrap_intervals, calibration_interval
from fashion_tl.report.exports import csv_text, markdown_text

EXACT = 1e-9
SKILLS = {"good": 2.5, "fair": 1.5, "poor": 0.0}
Z = 1.959963984540054


def softmax(logits: Any) -> Any:
    import scipy.special as scipy

    return scipy.softmax(logits.astype(np.float64), axis=1)


def naive_calibration_error(probabilities: Any, labels: Any) -> float:
    """Compute the expected calibration error bin by bin, image by image."""
    total = 0.0
    for b in range(15):
        inside = [
            i for i, p in enumerate(probabilities) if b / 15 < p.max() <= (b + 1) / 15 or (b == 14 and p.max() > 1)
        ]
        if inside:
            confidence = sum(probabilities[i].max() for i in inside) / len(inside)
            accuracy = sum(int(probabilities[i].argmax() == labels[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(confidence - accuracy)
    return total


def naive_wilson(hits: int, count: int) -> tuple[float, float]:
    """Solve |p - hits/count| = z sqrt(p (1 - p) / count) for p."""
    share = hits / count
    a, b, c = 1 + Z * Z / count, -(2 * share + Z * Z / count), share * share
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def expected(labels: Any, logits: Any) -> dict[str, float]:
    import sklearn.metrics as sklearn

    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1)
    classes = range(logits.shape[1])
    macro = sklearn.precision_recall_fscore_support(labels, predicted, labels=classes, average="macro", zero_division=0)
    return {
        "accuracy": sklearn.accuracy_score(labels, predicted),
        "loss": sklearn.log_loss(labels, probabilities, labels=classes),
        "balanced_accuracy": sklearn.recall_score(labels, predicted, labels=np.unique(labels), average="macro"),
        "macro_precision": macro[0],
        "macro_f1": macro[2],
        "calibration_error": naive_calibration_error(probabilities, labels),
    }


@pytest.fixture
def folders(make: Any) -> dict[str, Path]:
    """Write three runs, one of which never predicts the last class, and three more seeds of one."""
    made = {name: make.run(name, draw=7 + i, skill=skill) for i, (name, skill) in enumerate(SKILLS.items())}
    poor = made["poor"]
    labels, logits = make.logits(poor)
    logits[:, 3] = -20
    np.savez(poor / "test_predictions.npz", index=np.arange(60), label=labels, logits=logits)
    make.change(poor, test=summarise(logits, labels, list("abcd")))
    for version in (1, 2, 3):
        made[f"fair{version}"] = make.run("fair", version, draw=20 + version, skill=1.5)
    made["fair"] = made["fair3"]
    make.change(made["good"], study={"system": "A <study>", "accuracy": 0.9, "macro_f1": None, "loss": 0.29})
    make.change(made["poor"], study={"system": "B", "accuracy": "70 to 80 %", "macro_f1": 0.7, "loss": None})
    return made


def rows_of(text: str) -> dict[str, dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return {row["run"]: row for row in rows}


def test_every_test_figure(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    rows = rows_of(csv_text(report().sections))
    assert sorted(rows) == sorted(SKILLS)
    for name, row in rows.items():
        labels, logits = make.logits(folders[name])
        figures = expected(labels, logits)
        for key, value in figures.items():
            assert float(row[key]) == pytest.approx(value, abs=EXACT), (name, key)
        low, high = naive_wilson(int((logits.argmax(1) == labels).sum()), len(labels))
        assert float(row["accuracy_low"]) == pytest.approx(low, abs=EXACT)
        assert float(row["accuracy_high"]) == pytest.approx(high, abs=EXACT)


def test_bootstrap_intervals(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    rows = rows_of(csv_text(report().sections))
    for name, row in rows.items():
        labels, logits = make.logits(folders[name])
        found = bootstrap_intervals(logits, labels)
        assert set(found) == {"loss", "balanced_accuracy", "macro_precision", "macro_f1"}
        for key, bounds in found.items():
            shown = float(row[f"{key}_low"]), float(row[f"{key}_high"])
            assert shown == pytest.approx(bounds, abs=EXACT), (name, key)


def test_a_single_image_leaves_the_cells_of_the_losss_interval_empty(make: Any, report: Callable[..., Any]) -> None:
    make.run("one", images=1)
    found = report()
    (row,) = rows_of(csv_text(found.sections)).values()
    assert (row["loss_low"], row["loss_high"]) == ("", "")
    assert float(row["accuracy_low"]) < float(row["accuracy_high"])
    assert f"{float(row['loss']):.4f} (no interval)" in markdown_text(found.sections, [])
    assert "no interval" in found.text


def test_calibration_intervals(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    rows = rows_of(csv_text(report().sections))
    for name, row in rows.items():
        labels, logits = make.logits(folders[name])
        shown = float(row["calibration_error_low"]), float(row["calibration_error_high"])
        assert shown == pytest.approx(calibration_interval(softmax(logits), labels), abs=EXACT), name
        assert shown[0] < float(row["calibration_error"]) < shown[1], name


def test_recorded_columns(folders: dict[str, Path], report: Callable[..., Any]) -> None:
    rows = rows_of(csv_text(report().sections))
    for name, row in rows.items():
        record = json.loads((folders[name] / "run.json").read_text(encoding="utf-8"))
        assert float(row["fit_seconds"]) == record["time"]["fit_seconds"]
        assert int(row["parameters"]) == record["model"]["parameters"]
        assert int(row["trained_parameters"]) == max(p["trained_parameters"] for p in record["model"]["phases"])
        assert int(row["peak_memory_bytes"]) == record["peak_memory_bytes"]
        assert (row["version"], row["seed"]) == (str(record["version"]), str(record["seed"]))
        assert (row["test_set"], row["fashion_tl"]) == ("0123456789abcdef", "0.1.0")
        assert (row["epochs"], row["best_epoch"], row["image_size"]) == ("3", "2", "28")
        assert row["architecture"] == "resnet18"
        assert row["strategy"] == "first head only, from epoch 3 layer4 and head"
        assert row["learning_rates"] == "0.003; then 0.003, backbone 0.0003"
        assert row["data"] == "fashion_mnist, 1,234"
        assert row["weights"] == "resnet18.tv_in1k (65fc645836693caa)"
        assert row["notes"] == ""
    assert [rows["good"][f"study_{k}"] for k in ("system", "accuracy", "macro_f1", "loss")] == [
        "A <study>",
        "0.9",
        "",
        "0.29",
    ]
    assert [rows["poor"][f"study_{k}"] for k in ("system", "accuracy", "macro_f1", "loss")] == [
        "B",
        "70 to 80 %",
        "0.7",
        "",
    ]
    assert [rows["fair"][f"study_{k}"] for k in ("system", "accuracy", "macro_f1", "loss")] == [""] * 4


def test_spread_over_seeds(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    import statistics

    rows = rows_of(csv_text(report().sections))
    # Seeds 21 to 23 and, from the first version, 8.
    versions = [make.logs / "fair" / f"version_{v}" for v in range(4)]
    figures = [expected(*make.logits(folder)) for folder in versions]
    seconds = [json.loads((f / "run.json").read_text(encoding="utf-8"))["time"]["fit_seconds"] for f in versions]
    assert rows["fair"]["seeds"] == "4"
    for key in figures[0]:
        values = [f[key] for f in figures]
        assert float(rows["fair"][f"{key}_mean"]) == pytest.approx(statistics.mean(values), abs=EXACT)
        assert float(rows["fair"][f"{key}_deviation"]) == pytest.approx(statistics.stdev(values), abs=EXACT)
    assert float(rows["fair"]["fit_seconds_mean"]) == pytest.approx(statistics.mean(seconds), abs=EXACT)
    assert float(rows["fair"]["fit_seconds_deviation"]) == pytest.approx(statistics.stdev(seconds), abs=EXACT)
    assert rows["good"]["seeds"] == "1"
    assert rows["good"]["accuracy_mean"] == rows["good"]["accuracy_deviation"] == ""


def test_gaps_are_empty_and_explained(make: Any, report: Callable[..., Any]) -> None:
    make.run("whole")
    make.run("cut", without=("test_predictions.npz", "metrics.csv", "config.yaml", "filters.npz"))
    folder = make.logs / "cut" / "version_0"
    make.change(
        folder, time="absent", model={}, best=None, study="absent", peak_memory_bytes="absent", data__sizes=None
    )
    row = rows_of(csv_text(report().sections))["cut"]
    given = {key for key, value in row.items() if value}
    assert given == {"test_set", "fashion_tl", "run", "version", "seed", "data", "image_size", "seeds", "notes"}
    for name in ("test_predictions.npz", "metrics.csv", "config.yaml", "filters.npz"):
        assert f"{name} is missing" in row["notes"]


def test_runs_come_by_accuracy_and_gaps_last(make: Any, report: Callable[..., Any]) -> None:
    make.run("a_cut", without=("test_predictions.npz",))
    make.run("b_poor", skill=0.0)
    make.run("c_good", skill=4.0)
    text = csv_text(report().sections)
    assert [row["run"] for row in csv.DictReader(io.StringIO(text))] == ["c_good", "b_poor", "a_cut"]


def test_markdown(folders: dict[str, Path], make: Any, report: Callable[..., Any]) -> None:
    make.run("broken", change={"status": "failed", "reason": "a | b <script>"})
    built = report()
    text = markdown_text(built.sections, built.left_out)
    labels, logits = make.logits(folders["good"])
    figures = expected(labels, logits)
    low, high = naive_wilson(int((logits.argmax(1) == labels).sum()), len(labels))
    row = next(line for line in text.splitlines() if line.startswith("| good |"))
    assert f"| {figures['accuracy']:.4f} ({low:.4f} to {high:.4f}) |" in row
    assert f"| {figures['loss']:.4f} (" in row
    lines = text.splitlines()
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    header = next(line for line in tables if line.startswith("| Run | Accuracy (95"))
    assert all(t.count("|") == header.count("|") for t in tables if t.startswith(("| good | 0.", "| fair | 0.")))
    assert "<script>" not in text
    assert "failed: a \\| b &lt;script&gt;" in text
    assert "A <study>" not in text
    spread = next(line for line in lines if line.startswith("| fair | 4 |"))
    assert " ± " in spread
    tests = [line for line in lines if line.startswith(("| good | fair |", "| good | poor |", "| fair | poor |"))]
    assert len(tests) == 3
