"""Whether a run's probabilities mean what they say, before and after scaling: tables and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from fashion_tl.inspection.diagnose_plots import reliability_diagrams, risk_coverage_picture
from fashion_tl.inspection.predictions import Predictions
from fashion_tl.inspection.scaling import TEMPERATURE, UNSCALED, VECTOR, Calibration
from fashion_tl.metrics.calibration import (
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    reliability,
)
from fashion_tl.metrics.metrics import Floats, Ints, calibration_error, cross_entropy, softmax
from fashion_tl.metrics.selective import accuracy_at_coverage, area_under_risk_coverage, risk_coverage
from fashion_tl.records.findings import Findings

COVERAGE = 0.9
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


def diagnose_calibration(findings: Findings, test: Predictions, calibration: Calibration) -> None:
    """Add tables, pictures and figures about calibration and selective prediction.

    Args:
        findings: Where they are added.
        test: Test predictions.
        calibration: The scalings, fitted to validation images.
    """
    scaled = {
        "as trained": test.logits,
        "temperature": calibration.apply(test.logits, TEMPERATURE),
        "vector": calibration.apply(test.logits, VECTOR),
    }
    figures = {name: calibration_figures(logits, test.labels) for name, logits in scaled.items()}
    chosen = "as trained" if calibration.method == UNSCALED else calibration.method
    columns = ["", "accuracy", "expected calibration error", "adaptive", "class-wise", "NLL", "Brier score"]
    keys = ("accuracy", "ece", "ace", "cce", "nll", "brier")
    names = {name: f"{name} scaling" if name != "as trained" else name for name in scaled}
    rows = [
        [names[name] + (", chosen" if name == chosen else ""), *(f[key] for key in keys)] for name, f in figures.items()
    ]
    findings.add_table("Calibration on the test images (15 bins)", columns, rows)
    parts = ("brier", "reliability", "resolution", "uncertainty", "remainder")
    findings.add_table(
        "Brier score = reliability - resolution + uncertainty + remainder",
        ["", "score", *parts[1:]],
        [[names[name], *(figures[name][part] for part in parts)] for name in scaled],
    )
    _fit_table(findings, calibration)
    selective = {name: _selective(softmax(logits), test.labels) for name, logits in scaled.items()}
    findings.add_table(
        "Selective prediction: accuracy on the most confident images, and the area under the risk-coverage curve",
        ["", *(f"at {c:.0%} coverage" for c in COVERAGES), "area"],
        [[names[name], *found["accuracy_at"].values(), found["aurc"]] for name, found in selective.items()],
    )
    _draw(findings, scaled, test.labels, chosen)
    findings.figures["calibration"] = {
        "chosen": chosen,
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


def _fit_table(findings: Findings, calibration: Calibration) -> None:
    losses = calibration.losses
    values = {"temperature": f"T = {calibration.temperature:.4f}", "vector": "a scale and a bias for each class"}
    rows = [
        [name, values.get(name, "none"), losses.get(name), "yes" if name == calibration.method else ""]
        for name in (UNSCALED, TEMPERATURE, VECTOR)
    ]
    caption = f"Scalings fitted to {calibration.images:,} validation images; the cross-validated NLL chooses"
    if not losses:
        caption += " (some class has fewer than 5 validation images: no cross-validation, the temperature is taken)"
    findings.add_table(caption, ["scaling", "value", "cross-validated NLL", "chosen"], rows)


def _selective(probabilities: Floats, labels: Ints) -> dict[str, Any]:
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return {
        "accuracy_at": {f"{c:.2f}": accuracy_at_coverage(confidence, right, c) for c in COVERAGES},
        "aurc": area_under_risk_coverage(confidence, right),
    }


def _draw(findings: Findings, scaled: dict[str, Floats], labels: Ints, chosen: str) -> None:
    probabilities = {name: softmax(logits) for name, logits in scaled.items()}
    chosen = TEMPERATURE if chosen == "as trained" else chosen
    after = f"{chosen} scaling"
    diagrams = []
    for name, title in (("as trained", "as trained"), (chosen, after)):
        error = calibration_error(probabilities[name], labels)
        diagrams.append((f"{title}: ECE {error:.4f}", reliability(probabilities[name], labels)))
    alt = f"Reliability diagrams on the test images, as trained and after {after}"
    findings.add_picture("diagnose-reliability.png", reliability_diagrams(diagrams), alt)
    curves = []
    for name, title in (("as trained", "as trained"), (chosen, after)):
        values = probabilities[name]
        curves.append((title, risk_coverage(values.max(axis=1), values.argmax(axis=1) == labels)))
    right = np.sort(probabilities["as trained"].argmax(axis=1) == labels)[::-1]
    best = risk_coverage(np.arange(len(right), 0, -1, dtype=np.float64), right)
    alt = "Risk-coverage curves: errors among the most confident images, against the share of images answered"
    findings.add_picture("diagnose-risk-coverage.png", risk_coverage_picture(curves, best, COVERAGE), alt)
