"""What was measured about a run's robustness, as tables and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from fashion_tl.inspection.corruption_table import CORRUPTIONS, STRENGTHS
from fashion_tl.inspection.robustness_plots import corruption_sheet, heat_map, score_histograms, sensitivity_curves
from fashion_tl.inspection.sweep import Subset
from fashion_tl.records.findings import Findings

LEVELS = [str(level) for level in range(1, STRENGTHS + 1)]


def robustness_findings(
    measured: dict[str, Any],
    errors: dict[str, Any],
    baseline: str | None,
    detected: dict[str, Any],
    scores: dict[str, np.ndarray],
    skipped: list[str],
    subset: Subset,
    settings: dict[str, Any],
) -> Findings:
    """Lay out what ``sweep``, ``mean_corruption_error`` and ``detect`` found.

    Args:
        measured: What ``sweep`` returned.
        errors: What ``mean_corruption_error`` returned.
        baseline: Name of the baseline; None for none.
        detected: Figures that ``detect`` returned.
        scores: Scores that ``detect`` returned.
        skipped: A line for each set that was left out.
        subset: The test images; its first one is shown under every corruption.
        settings: Seed and numbers of images, for the record.
    """
    images, seed = len(subset.labels), settings["seed"]
    error = f"At an accuracy of 0.9 the standard error is {(0.09 / images) ** 0.5:.3f}. " if images < 10_000 else ""
    note = (
        f"On {images:,} of {settings['test_images']:,} test images, drawn by seed {seed}, corrupted as they are held. "
        f"{error}{' '.join(f'{line[0].upper()}{line[1:]}.' for line in skipped)}"
    )
    findings = Findings("Robustness", note.strip())
    cells, clean = measured["cells"], measured["clean"]
    _accuracies(findings, cells, clean, errors, baseline)
    _calibration(findings, cells, clean)
    _moves(findings, measured)
    _detection(findings, detected)
    rows = [
        [name, *(f"{s:g}" for s in entry.strengths), entry.unit, entry.source] for name, entry in CORRUPTIONS.items()
    ]
    findings.add_table(
        "The corruptions; pixels are those of an image of 28", ["corruption", *LEVELS, "strength is", "source"], rows
    )
    sheet = corruption_sheet(subset.images[0], int(subset.index[0]), seed)
    findings.add_picture("robustness-corruptions.png", sheet, "Every corruption at each strength on one test image")
    heat = heat_map(cells, clean["accuracy"])
    findings.add_picture("robustness-accuracy.png", heat, "Accuracy by corruption and strength")
    curves = sensitivity_curves(measured["curves"], clean)
    findings.add_picture("robustness-curves.png", curves, "Accuracy against shift and rotation of the images")
    histograms = score_histograms(detected, scores)
    findings.add_picture(
        "robustness-scores.png", histograms, "Scores of the test images and of images of other kinds, as histograms"
    )
    findings.figures = {
        "settings": settings,
        **measured,
        "corruption_error": {**errors, "baseline": baseline},
        "out_of_distribution": detected,
        "left_out": skipped,
    }
    return findings


def _accuracies(
    findings: Findings, cells: dict[str, Any], clean: dict[str, Any], errors: dict[str, Any], baseline: str | None
) -> None:
    columns = ["corruption", *LEVELS, "mean"]
    ratios = errors.get("by_corruption")
    caption = f"Accuracy by corruption and strength; mean corrupted error {errors['error']:.4f}"
    if ratios is not None:
        columns.append(f"corruption error / {baseline}")
        told = [
            f"{name} {errors[key]:.4f}"
            if errors[key] is not None
            else f"{name} not defined (the baseline loses nothing)"
            for key, name in (("mce", "mean corruption error"), ("relative_mce", "relative"))
        ]
        caption += f"; relative to {baseline}: {', '.join(told)}"
    rows: list[list[Any]] = [["clean", *[clean["accuracy"]] * len(LEVELS), clean["accuracy"]]]
    for name, row in cells.items():
        values = [cell["accuracy"] for cell in row]
        rows.append([name, *values, float(np.mean(values))])
    if ratios is not None:
        rows[0].append("")
        for row, name in zip(rows[1:], cells, strict=True):
            row.append(ratios[name])
    findings.add_table(caption, columns, rows)


def _calibration(findings: Findings, cells: dict[str, Any], clean: dict[str, Any]) -> None:
    calibrated = clean["ece_calibrated"] is not None
    columns = ["corruption", *LEVELS, "mean", *(["mean, calibrated"] if calibrated else [])]
    rows: list[list[Any]] = []
    for name, row in {"clean": [clean] * len(LEVELS), **cells}.items():
        values = [cell["ece"] for cell in row]
        rows.append([name, *values, float(np.mean(values))])
        if calibrated:
            rows[-1].append(float(np.mean([cell["ece_calibrated"] for cell in row])))
    findings.add_table("Expected calibration error by corruption and strength (15 bins)", columns, rows)


def _moves(findings: Findings, measured: dict[str, Any]) -> None:
    for kind, unit in (("horizontal shift", "px"), ("vertical shift", "px"), ("rotation", "degrees")):
        points = {0.0: measured["clean"]["accuracy"]}
        points |= {float(place): cell["accuracy"] for place, cell in measured["curves"][kind].items()}
        places = sorted(points)
        findings.add_table(
            f"Accuracy against {kind}",
            [unit, *(f"{p:g}" for p in places)],
            [["accuracy", *(points[p] for p in places)]],
        )


def _detection(findings: Findings, detected: dict[str, Any]) -> None:
    rows = []
    for name, scores in detected["sets"].items():
        for score, found in scores.items():
            best = " (best)" if detected["best"][name] == score else ""
            rows.append(
                [f"{name} ({detected['images'][name]:,})", score + best]
                + [found[key] for key in ("auroc", "aupr_inside", "aupr_outside", "fpr95")]
            )
    findings.add_table(
        f"Telling {detected['images']['inside']:,} test images from images of other kinds; Gaussians of "
        f"{', '.join(detected['stages'])} fitted to {detected['training_images']:,} training images",
        ["other images", "score", "AUROC", "AUPR, test images", "AUPR, others", "FPR at 95 % TPR"],
        rows,
    )
