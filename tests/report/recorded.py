"""Committed records of a few small runs, and every figure that the program computes from them.

``python -m tests.report.recorded`` writes both again; it is run where a definition changes on purpose.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.metrics import calibration, decisions, detection, errors, selective, uncertainty
from fashion_tl.metrics.metrics import softmax, summarise
from fashion_tl.report.exports import csv_text
from fashion_tl.report.figures import compare_section, front_of
from fashion_tl.report.sections import collect

from .conftest import Maker

RECORDS = Path(__file__).with_name("records")
FIGURES = Path(__file__).with_name("figures.json")
DIGITS = 13  # significant ones that the file holds
COVERAGES = (0.25, 0.9, 1.0)


def write_records(folder: Path) -> None:
    """Write runs on two test sets: several seeds, a class that is never predicted, records with gaps."""
    make = Maker(folder)
    five = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
    common: dict[str, Any] = {"images": 90, "classes": five}
    for version in range(3):
        make.run("phase1", version, draw=10 + version, skill=1.6, **common)
    make.run("phase2", draw=20, skill=3.0, config={"model.init_args.lr": 0.001}, **common)
    scratch = make.run("scratch", draw=30, skill=1.0, filters=None, **common)
    labels, logits = make.logits(scratch)
    logits[:, 4] = -9
    np.savez_compressed(scratch / "test_predictions.npz", index=np.arange(90), label=labels, logits=logits)
    make.change(scratch, test=summarise(logits, labels, five), study={"system": "CNN", "accuracy": 0.5, "loss": None})
    old = make.run("old", draw=40, skill=1.2, **common)
    make.change(old, test__calibration_error="absent", peak_memory_bytes="absent", time__fit_seconds=None)
    make.run("torn", draw=50, without=("test_predictions.npz", "metrics.csv", "config.yaml"), **common)
    make.run("failed", draw=60, change={"status": "failed", "reason": "out of memory"}, **common)
    other = {"data.source": "folder", "data.test_set": "fedcba9876543210"}
    make.run("bags", draw=70, images=60, classes=["bag", "belt", "hat"], change=other)
    make.run("belts", draw=71, skill=0.5, images=60, classes=["bag", "belt", "hat"], change=other)


def every_figure(folder: Path) -> dict[str, Any]:
    """Compute all figures of the records below a folder as plain values."""
    sections, left_out = collect([], folder)
    found: dict[str, Any] = {"left out": [[item.run, item.why] for item in left_out]}
    compared = [compare_section(section) for section in sections]
    for comparison in compared:
        section, entries = comparison.section, comparison.entries
        pairs, spreads = comparison.pairs, comparison.spreads
        for entry in entries:
            if entry.run.predictions is not None and entry.figures is not None:
                found[f"{section.slug}, {entry.label}, test"] = test_figures(entry.figures)
                found[f"{section.slug}, {entry.label}, more"] = further_figures(
                    entry.run.predictions.logits, entry.run.predictions.labels, section.class_names
                )
        found[f"{section.slug}, pairs"] = [[p.a.label, p.b.label, p.test, p.p] for p in pairs]
        found[f"{section.slug}, spreads"] = [[s.entry.label, s.seeds, s.values] for s in spreads]
        for cost in (("time", "fit_seconds"), ("model", "parameters")):
            known, costs, values, front = front_of(entries, cost)
            found[f"{section.slug}, front of {cost[-1]}"] = [[e.label for e in known], costs, values, sorted(front)]
    found["table"] = list(csv.DictReader(io.StringIO(csv_text(compared))))
    plain: dict[str, Any] = _plain(found)
    return plain


def test_figures(figures: Any) -> dict[str, Any]:
    """Collect what the report shows of one run."""
    return {
        "values": figures.values,
        "intervals": figures.intervals,
        "classes": figures.classes,
        "matrix": figures.matrix,
        "predicted": figures.predicted,
        "correct": figures.correct,
        "true class probability": figures.true_class_probability,
        "bins": figures.bins,
    }


test_figures.__test__ = False  # type: ignore[attr-defined]


def further_figures(logits: Any, labels: Any, names: list[str]) -> dict[str, Any]:
    """Compute what the diagnosis of a run takes from its predictions."""
    probabilities, classes = softmax(logits), len(names)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    costs = np.arange(classes * classes).reshape(classes, classes) % 7 * (1 - np.eye(classes))
    decided = decisions.least_cost_decisions(probabilities, costs)
    matrix = summarise(logits, labels, names)["confusion_matrix"]
    energies = detection.energy_score(logits), detection.energy_score(-np.asarray(logits), 2.0)
    gaussians = detection.fit_gaussians(logits, labels, 1e-3)
    temperature = calibration.fit_temperature(logits, labels)
    return {
        "bins": calibration.reliability(probabilities, labels, 7),
        "adaptive": calibration.adaptive_calibration_error(probabilities, labels),
        "classwise": calibration.classwise_calibration_error(probabilities, labels),
        "brier": calibration.brier_score(probabilities, labels),
        "temperature": temperature,
        "vector scaling": calibration.fit_vector_scaling(logits, labels),
        "thresholds": decisions.best_thresholds(probabilities, labels),
        "decided": decided,
        "cost": decisions.cost_weighted_error(decided, labels, costs),
        "confident mistakes": errors.most_confident_mistakes(probabilities, labels),
        "doubtful correct": errors.least_confident_correct(probabilities, labels),
        "confused": errors.confused_pairs(matrix),
        "labels": errors.label_errors(probabilities, labels),
        "groups": errors.accuracy_by_group(matrix, names, {"first": names[:2], "others": names[2:]}),
        "risk": selective.risk_coverage(confidence, correct).risk,
        "area": selective.area_under_risk_coverage(confidence, correct),
        "answered": [selective.accuracy_at_coverage(confidence, correct, share) for share in COVERAGES],
        "detection": [
            detection.detection(*energies),
            detection.detection(np.round(energies[0]), np.round(energies[1])),
            detection.detection(detection.max_softmax_score(logits), confidence**2),
        ],
        "energy": energies[1],
        "distance": detection.mahalanobis_score(np.asarray(logits) + 1, gaussians),
        "wide interval": uncertainty.wilson_interval(int(correct.sum()), len(labels), 0.99),
        "bootstrap": uncertainty.bootstrap_intervals(logits, labels, 50, seed=3, level=0.8),
        "calibration interval": uncertainty.calibration_interval(probabilities, labels, 0.8, bins=10, draws=300),
    }


def _plain(value: Any) -> Any:
    """Turn any figure into plain values; NaN becomes None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


if __name__ == "__main__":
    shutil.rmtree(RECORDS, ignore_errors=True)
    RECORDS.mkdir()
    write_records(RECORDS)
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in every_figure(RECORDS).items()]
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
