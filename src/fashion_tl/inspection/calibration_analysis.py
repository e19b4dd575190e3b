"""Calibration and selective prediction of a run, before and after scaling, as tables and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fashion_tl.inspection.calibration import TEMPERATURE, UNSCALED, VECTOR, Calibration
from fashion_tl.metrics.calibration import (
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    reliability,
)
from fashion_tl.metrics.metrics import Floats, Ints, calibration_error, cross_entropy, softmax
from fashion_tl.metrics.selective import accuracy_at_coverage, area_under_risk_coverage, risk_coverage
from fashion_tl.plots.reliability import draw_reliability
from fashion_tl.plots.style import GREY, INK, PALETTE, png, style
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.predictions import Predictions

AS_TRAINED = "as trained"
COVERAGE = 0.9
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
FIGURES = {
    "accuracy": "accuracy",
    "ece": "expected calibration error",
    "ace": "adaptive",
    "cce": "class-wise",
    "nll": "NLL",
    "brier": "Brier score",
}


def add_calibration(analysis: Analysis, test: Predictions, calibration: Calibration) -> None:
    """Add tables, pictures and figures.

    Args:
        analysis: Where they are added.
        test: Test predictions.
        calibration: The scalings, fitted to validation images.
    """
    scaled = {
        AS_TRAINED: calibration.apply(test.logits, UNSCALED),
        TEMPERATURE: calibration.apply(test.logits, TEMPERATURE),
        VECTOR: calibration.apply(test.logits, VECTOR),
    }
    names = {AS_TRAINED: AS_TRAINED, TEMPERATURE: "temperature scaling", VECTOR: "vector scaling"}
    chosen = AS_TRAINED if calibration.method == UNSCALED else calibration.method
    figures = {name: calibration_figures(logits, test.labels) for name, logits in scaled.items()}
    rows = [
        [names[name] + (", chosen" if name == chosen else ""), *(own[key] for key in FIGURES)]
        for name, own in figures.items()
    ]
    analysis.add_table("Calibration on the test images (15 bins)", ["", *FIGURES.values()], rows)
    parts = ("brier", "reliability", "resolution", "uncertainty", "remainder")
    analysis.add_table(
        "Brier score = reliability - resolution + uncertainty + remainder",
        ["", "score", *parts[1:]],
        [[names[name], *(own[part] for part in parts)] for name, own in figures.items()],
    )
    _scalings_table(analysis, calibration)
    selective = {name: _selective(softmax(logits), test.labels) for name, logits in scaled.items()}
    analysis.add_table(
        "Selective prediction: accuracy on the most confident images, and the area under the risk-coverage curve",
        ["", *(f"at {c:.0%} coverage" for c in COVERAGES), "area"],
        [[names[name], *found["accuracy_at"].values(), found["aurc"]] for name, found in selective.items()],
    )
    after = TEMPERATURE if chosen == AS_TRAINED else chosen
    shown = {names[name]: softmax(scaled[name]) for name in (AS_TRAINED, after)}
    alt = f"Reliability diagrams on the test images, as trained and after {names[after]}"
    analysis.add_picture("diagnose-reliability.png", reliability_diagrams(shown, test.labels), alt)
    alt = "Risk-coverage curves: errors among the most confident images, against the share of images answered"
    analysis.add_picture("diagnose-risk-coverage.png", risk_coverage_curves(shown, test.labels), alt)
    analysis.figures["calibration"] = {
        "chosen": chosen,
        "reason": calibration.reason,
        "temperature": calibration.temperature,
        "validation_images": calibration.images,
        "cross_validated_nll": calibration.losses,
        "test": figures,
        "selective": selective,
    }


def calibration_figures(logits: Floats, labels: Ints) -> dict[str, float]:
    """Compute accuracy, calibration errors, loss and the parts of the Brier score of logits (N, K)."""
    probabilities = softmax(logits)
    brier = brier_score(probabilities, labels)
    return {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "ece": calibration_error(probabilities, labels),
        "ace": adaptive_calibration_error(probabilities, labels),
        "cce": classwise_calibration_error(probabilities, labels),
        "nll": cross_entropy(logits, labels),
        "brier": brier.score,
        "reliability": brier.reliability,
        "resolution": brier.resolution,
        "uncertainty": brier.uncertainty,
        "remainder": brier.remainder,
    }


def _scalings_table(analysis: Analysis, calibration: Calibration) -> None:
    losses = calibration.losses
    values = {TEMPERATURE: f"T = {calibration.temperature:.4f}", VECTOR: "a scale and a bias for each class"}
    rows = [
        [name, values.get(name, "none"), losses.get(name), "yes" if name == calibration.method else ""]
        for name in (UNSCALED, TEMPERATURE, VECTOR)
    ]
    caption = f"Scalings fitted to {calibration.images:,} validation images, chosen: {calibration.method}"
    if calibration.reason:
        caption += f" ({calibration.reason})"
    analysis.add_table(caption, ["scaling", "value", "cross-validated NLL", "chosen"], rows)


def _selective(probabilities: Floats, labels: Ints) -> dict[str, Any]:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return {
        "accuracy_at": {f"{c:.2f}": accuracy_at_coverage(confidence, right, c) for c in COVERAGES},
        "aurc": area_under_risk_coverage(confidence, right),
    }


def reliability_diagrams(probabilities: dict[str, Floats], labels: Ints) -> bytes:
    """Draw a reliability diagram of each of some probabilities (N, K), by name."""
    with style():
        figure = Figure(figsize=(3.5 * len(probabilities), 3.8), layout="constrained")
        grid: Any = figure.subplots(1, len(probabilities), squeeze=False)
        for axes, (name, values) in zip(grid[0], probabilities.items(), strict=True):
            draw_reliability(axes, reliability(values, labels))
            axes.set_title(f"{name}: ECE {calibration_error(values, labels):.4f}")
            axes.grid(visible=True)
        grid[0, 0].legend(loc="upper left", fontsize=7)
        return png(figure)


def risk_coverage_curves(probabilities: dict[str, Floats], labels: Ints) -> bytes:
    """Draw risk-coverage curves of probabilities (N, K), by name, and the best possible one of the same accuracy."""
    with style():
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), colour, line in zip(probabilities.items(), PALETTE, ("-", "--", ":"), strict=False):
            curve = risk_coverage(values.max(axis=1), values.argmax(axis=1) == labels)
            axes.plot(curve.coverage, curve.risk, color=colour, linestyle=line, label=name)
        right = next(iter(probabilities.values())).argmax(axis=1) == labels
        best = risk_coverage(right.astype(np.float64), right)
        axes.plot(best.coverage, best.risk, color=GREY, linewidth=1.2, label="best possible: errors last")
        axes.axvline(COVERAGE, color=INK, linewidth=0.8, linestyle=":", label=f"{COVERAGE:.0%} answered")
        axes.set(
            xlabel="coverage: share of the images answered, the most confident first",
            ylabel="risk: share of errors",
            xlim=(0, 1.005),
            ylim=(0, None),
        )
        axes.grid(visible=True)
        axes.legend(loc="upper left")
        return png(figure)
