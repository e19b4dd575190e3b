"""The numbers of a report, computed from stored predictions alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from fashion_tl.metrics.calibration import Reliability, reliability
from fashion_tl.metrics.metrics import Floats, Ints, per_class, softmax, summarise
from fashion_tl.metrics.pareto import pareto_front
from fashion_tl.metrics.significance import McNemar, holm, mcnemar
from fashion_tl.metrics.uncertainty import (
    bootstrap_intervals,
    calibration_interval,
    mean_and_deviation,
    wilson_interval,
)
from fashion_tl.records.predictions import Predictions
from fashion_tl.report.run_files import Run
from fashion_tl.report.sections import Section

SCALARS = {  # by their names in a record
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "loss": "Loss",
    "macro_precision": "Macro precision",
    "calibration_error": "Calibration error",
}
TOLERANCE = 1e-6  # relative; a record's figures come from the same logits


@dataclass(frozen=True, eq=False)
class Figures:
    """Test figures of a run.

    Attributes:
        values: Accuracy, balanced accuracy, macro F1, loss, macro precision, calibration error.
        intervals: Their 95 % intervals: Wilson's for the accuracy, inverted tests for the calibration error, the
            bootstrap for the others. The loss has none where it is the same of all images.
        classes: Precision, recall and F1 of each class (K,).
        matrix: Confusion matrix (K, K), rows true.
        predicted: Predicted classes (N,).
        correct: Whether they are correct (N,).
        true_class_probability: Probability of the true class (N,).
        bins: Reliability diagram.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: dict[str, Floats]
    matrix: Ints
    predicted: Ints
    correct: npt.NDArray[np.bool_]
    true_class_probability: Floats
    bins: Reliability


@dataclass(eq=False)
class Entry:
    """A run in its section.

    Attributes:
        run: The run.
        number: Its place in the section, from 0; it decides colour and marker.
        figures: Its test figures; None if its predictions cannot be read.
    """

    run: Run
    number: int
    figures: Figures | None

    @property
    def label(self) -> str:
        """What the report calls the run."""
        return self.run.label


@dataclass(frozen=True)
class Pair:
    """Two runs on the same images; ``p`` is adjusted over all pairs of the section (Holm)."""

    a: Entry
    b: Entry
    test: McNemar
    p: float


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of figures over the seeds of one experiment."""

    entry: Entry
    seeds: list[Any]
    values: dict[str, tuple[float, float | None]]


@dataclass(frozen=True)
class Comparison:
    """A section with its numbers."""

    section: Section
    entries: list[Entry]
    pairs: list[Pair]
    spreads: list[Spread]

    @property
    def scored(self) -> list[Entry]:
        """The runs whose predictions can be read."""
        return [entry for entry in self.entries if entry.figures is not None]

    @property
    def about(self) -> str:
        """The test set, the classes and the version, in words."""
        images = {len(entry.figures.correct) for entry in self.entries if entry.figures is not None}
        test_set = self.section.test_set or "not recorded"
        count = f"{images.pop():,} test images" if images else "test images not recorded"
        version = self.section.library or "of a version that is not recorded"
        return f"{count}, {len(self.section.class_names)} classes, test set {test_set}, made by fashion_tl {version}"


def compare_section(section: Section) -> Comparison:
    """Compute all numbers of a section."""
    entries = entries_of(section)
    return Comparison(section, entries, pairs_of(entries), spreads_of(section, entries))


def entries_of(section: Section) -> list[Entry]:
    """Compute the figures of a section's runs, the most accurate first."""
    made = [Entry(run, 0, figures_of(run.predictions) if run.predictions else None) for run in section.runs]
    made.sort(key=lambda e: (-e.figures.values["accuracy"] if e.figures else math.inf, e.label))
    for number, entry in enumerate(made):
        entry.number = number
        if entry.figures is not None:
            entry.run.alarms += disagreements(entry.run, entry.figures)
    return made


def figures_of(predictions: Predictions) -> Figures:
    """Compute all test figures of a run."""
    labels = predictions.labels
    values = point_figures(predictions)
    probabilities = softmax(predictions.logits)
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    correct = predicted == labels
    matrix = np.array(values["confusion_matrix"], dtype=np.int64)
    return Figures(
        values={name: values[name] for name in SCALARS},
        intervals={
            "accuracy": wilson_interval(int(correct.sum()), len(labels)),
            **bootstrap_intervals(predictions.logits, labels),
            "calibration_error": calibration_interval(probabilities, labels),
        },
        classes=per_class(matrix),
        matrix=matrix,
        predicted=predicted,
        correct=correct,
        true_class_probability=probabilities[np.arange(len(labels)), labels],
        bins=reliability(probabilities, labels),
    )


def point_figures(predictions: Predictions) -> dict[str, Any]:
    """Compute test figures without intervals."""
    # By position: two classes of the same name stay two.
    return summarise(predictions.logits, predictions.labels, [str(i) for i in range(predictions.logits.shape[1])])


def disagreements(run: Run, figures: Figures) -> list[str]:
    """List the test figures in ``run.json`` that are not those of the stored predictions."""
    if not isinstance(run.get("test"), dict):
        return ["run.json holds no test figures; those shown are computed from test_predictions.npz"]
    found = []
    for name, value in {"images": len(figures.correct), **figures.values}.items():
        recorded = run.number("test", name)
        if recorded is not None and not math.isclose(recorded, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            found.append(f"{name.replace('_', ' ')} {recorded:.6g}, the predictions give {value:.6g}")
    recorded_matrix = run.get("test", "confusion_matrix")
    if recorded_matrix is not None and recorded_matrix != figures.matrix.tolist():
        found.append("another confusion matrix than the predictions give")
    return [f"run.json disagrees with test_predictions.npz: it says {'; '.join(found)}"] if found else []


def pairs_of(entries: list[Entry]) -> list[Pair]:
    """Test every two runs of a section against each other (McNemar, adjusted by Holm)."""
    tests = [
        (a, b, mcnemar(a.figures.correct, b.figures.correct))
        for a, b in combinations(entries, 2)
        if a.figures is not None and b.figures is not None
    ]
    adjusted = holm([test.p for _, _, test in tests])
    return [Pair(a, b, test, p) for (a, b, test), p in zip(tests, adjusted, strict=True)]


def spreads_of(section: Section, entries: list[Entry]) -> list[Spread]:
    """Compute mean and deviation for every run of which there are several seeds."""
    found = []
    for entry in entries:
        runs = [run for run in section.seeds[entry.label] if run.predictions is not None]
        if len(runs) < 2:
            continue
        points = [point_figures(run.predictions) for run in runs if run.predictions is not None]
        values = {name: mean_and_deviation([p[name] for p in points]) for name in SCALARS}
        seconds = [s for s in (run.number("time", "fit_seconds") for run in runs) if s is not None]
        if len(seconds) == len(runs):
            values["fit_seconds"] = mean_and_deviation(seconds)
        found.append(Spread(entry, [run.get("seed") for run in runs], values))
    return found


def front_of(entries: list[Entry], cost: tuple[str, ...]) -> tuple[list[Entry], list[float], list[float], set[int]]:
    """Set accuracy against a cost.

    Args:
        entries: Runs of a section.
        cost: Path of the cost in the record, such as ("time", "fit_seconds").

    Returns:
        Runs that have both, their costs and accuracies, and the positions of those that no other run beats.
    """
    found = [(e, e.run.number(*cost), e.figures.values["accuracy"]) for e in entries if e.figures is not None]
    known = [(e, c, v) for e, c, v in found if c is not None and c > 0]
    costs, values = [c for _, c, _ in known], [v for _, _, v in known]
    front = set(pareto_front(costs, values)) if known else set()
    return [e for e, _, _ in known], costs, values, front
