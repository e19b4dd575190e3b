"""Where a run errs on its test images: tables and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fashion_tl.inspection.diagnose_plots import Captioned, image_grid, pair_rows
from fashion_tl.inspection.predictions import Predictions
from fashion_tl.metrics.decisions import best_thresholds, cost_weighted_error, least_cost_decisions
from fashion_tl.metrics.errors import (
    accuracy_by_group,
    confused_pairs,
    label_errors,
    least_confident_correct,
    most_confident_mistakes,
)
from fashion_tl.metrics.metrics import Floats, Ints, confusion_matrix, per_class
from fashion_tl.records.findings import Findings

SHOWN, PAIRS, IN_A_PAIR = 24, 8, 8


@dataclass(frozen=True)
class Case:
    """What errors are looked for in.

    Attributes:
        class_names: Names of the K classes.
        test: Test predictions.
        validation: Validation predictions, which thresholds are fitted to.
        calibrated: Calibrated test probabilities (N, K), which decisions by cost rest on.
        images: Takes indices (M,) and returns those test images, uint8 (M, C, H, W).
    """

    class_names: Sequence[str]
    test: Predictions
    validation: Predictions
    calibrated: Floats
    images: Callable[[Ints], np.ndarray]


def diagnose_errors(
    findings: Findings,
    case: Case,
    probabilities: Floats,
    validation: Floats,
    groups: dict[str, tuple[str, ...]] | None,
    costs: Floats | None,
) -> None:
    """Add tables, pictures and figures about errors.

    Args:
        findings: Where they are added.
        case: Predictions, names and images.
        probabilities: Test probabilities (N, K) of the run as it was tested.
        validation: Validation probabilities (M, K), likewise.
        groups: Classes of each group, or None to leave groups out.
        costs: Costs (K, K) of mistakes, or None to leave them out.
    """
    labels = case.test.labels
    predicted: Ints = probabilities.argmax(axis=1).astype(np.int64)
    matrix = confusion_matrix(predicted, labels, len(case.class_names))
    figures: dict[str, Any] = {}
    figures["confused_pairs"] = _pairs(findings, case, probabilities, predicted, matrix)
    if groups is not None:
        figures["groups"] = _groups(findings, case, matrix, groups)
    figures["thresholds"] = _thresholds(findings, case, probabilities, validation, matrix)
    if costs is not None:
        figures["costs"] = _costs(findings, case, predicted, costs)
    figures["most_confident_mistakes"] = _confident(findings, case, probabilities, predicted)
    figures["label_errors"] = _label_errors(findings, case, probabilities, predicted)
    findings.figures["errors"] = figures


def _pairs(
    findings: Findings, case: Case, probabilities: Floats, predicted: Ints, matrix: Ints
) -> list[dict[str, Any]]:
    names, labels = case.class_names, case.test.labels
    pairs = confused_pairs(matrix, PAIRS)
    rows, lines = [], []
    mistakes = int(matrix.sum() - np.trace(matrix))
    for pair in pairs:
        rows.append(
            [f"{names[pair.true]} taken for {names[pair.predicted]}", pair.images, pair.share, pair.images / mistakes]
        )
        found = np.flatnonzero((labels == pair.true) & (predicted == pair.predicted))
        found = found[np.argsort(-probabilities[found, pair.predicted], kind="stable")][:IN_A_PAIR]
        shown = [
            Captioned(image, f"{probabilities[i].max():.2f}")
            for i, image in zip(found, _take(case, found), strict=True)
        ]
        lines.append((f"{names[pair.true]}\ntaken for\n{names[pair.predicted]}", shown))
    findings.add_table(
        "Most confused pairs", ["mistake", "images", "share of the true class", "share of all mistakes"], rows
    )
    if lines:
        alt = "The most confused pairs of classes; in each row the most confident mistakes, with their confidence"
        findings.add_picture("diagnose-confused-pairs.png", pair_rows(lines, IN_A_PAIR), alt)
    return [
        {"true": names[p.true], "predicted": names[p.predicted], "images": p.images, "share": p.share} for p in pairs
    ]


def _groups(
    findings: Findings, case: Case, matrix: Ints, groups: dict[str, tuple[str, ...]]
) -> dict[str, dict[str, Any]]:
    found = accuracy_by_group(matrix, case.class_names, groups)
    rows = [[name, g.images, g.accuracy, g.group_accuracy, g.within] for name, g in found.items()]
    columns = ["group", "images", "right class", "right group", "right class within the group"]
    told = "; ".join(f"{name}: {', '.join(names)}" for name, names in groups.items())
    findings.add_table(f"Accuracy by group ({told})", columns, rows)
    return {name: vars(g) for name, g in found.items()}


def _thresholds(
    findings: Findings, case: Case, probabilities: Floats, validation: Floats, matrix: Ints
) -> dict[str, dict[str, Any]]:
    thresholds, reached = best_thresholds(validation, case.validation.labels)
    usual = per_class(matrix)["f1"]
    rows, figures = [], {}
    for k, name in enumerate(case.class_names):
        scores: list[float | None] = [None, None, None]
        if np.isfinite(thresholds[k]):
            said = (probabilities[:, k] >= thresholds[k]).astype(np.int64)
            own = per_class(confusion_matrix(said, (case.test.labels == k).astype(np.int64), 2))
            scores = [float(own[figure][1]) for figure in ("precision", "recall", "f1")]
        rows.append([name, float(thresholds[k]), float(reached[k]), scores[2], float(usual[k]), *scores[:2]])
        figures[name] = {
            "threshold": float(thresholds[k]),
            "validation_f1": float(reached[k]),
            "test_f1": scores[2],
            "test_f1_most_probable": float(usual[k]),
        }
    columns = ["class", "threshold", "F1, validation", "F1, test", "F1, test, most probable class"]
    columns += ["precision, test", "recall, test"]
    caption = "Threshold of each class against the rest: fitted to F1 on validation images, evaluated on test images"
    findings.add_table(caption, columns, rows)
    return figures


def _costs(findings: Findings, case: Case, predicted: Ints, costs: Floats) -> dict[str, float]:
    labels = case.test.labels
    least = least_cost_decisions(case.calibrated, costs)
    rows: list[list[Any]] = [
        [name, cost_weighted_error(decided, labels, costs), float(np.mean(decided == labels))]
        for name, decided in (("the most probable class", predicted), ("least expected cost, calibrated", least))
    ]
    findings.add_table("Mean cost of a test image", ["decision for", "mean cost", "accuracy"], rows)
    return {"most_probable": rows[0][1], "least_expected": rows[1][1], "least_expected_accuracy": rows[1][2]}


def _confident(findings: Findings, case: Case, probabilities: Floats, predicted: Ints) -> list[int]:
    wrong = most_confident_mistakes(probabilities, case.test.labels, SHOWN)
    right = least_confident_correct(probabilities, case.test.labels, SHOWN)
    for name, found, alt in (
        ("mistakes", wrong, "The most confident mistakes: true class, predicted class, confidence"),
        ("hits", right, "The least confident right answers: class, the runner-up, confidence"),
    ):
        if len(found) == 0:
            continue
        second = np.argsort(-probabilities[found], axis=1, kind="stable")[:, 1]
        other = predicted[found] if name == "mistakes" else second
        sign = "→" if name == "mistakes" else "or"
        shown = [
            Captioned(
                image,
                f"{case.class_names[case.test.labels[i]]}\n{sign} {case.class_names[k]}\n{probabilities[i].max():.3f}",
            )
            for i, k, image in zip(found, other, _take(case, found), strict=True)
        ]
        file = "diagnose-confident-mistakes.png" if name == "mistakes" else "diagnose-unsure-hits.png"
        findings.add_picture(file, image_grid(shown), alt)
    return [int(i) for i in wrong]


def _label_errors(findings: Findings, case: Case, probabilities: Floats, predicted: Ints) -> dict[str, Any]:
    names, labels = case.class_names, case.test.labels
    doubted = label_errors(probabilities, labels)
    pairs = Counter(zip(labels[doubted.indices].tolist(), doubted.suggested.tolist(), strict=True))
    rows = [
        [f"{names[i]}, rather {names[j]}", count, count / len(labels)] for (i, j), count in pairs.most_common(PAIRS)
    ]
    caption = (
        f"Test labels to doubt, by confident learning: {len(doubted.indices):,} of {len(labels):,} images. A weak "
        "model doubts many right labels: look at the pictures."
    )
    findings.add_table(caption, ["label", "images", "share of all test images"], rows)
    first = doubted.indices[:SHOWN]
    if len(first):
        shown = [
            Captioned(image, f"label {names[labels[i]]}\nrather {names[k]}\n#{i}")
            for i, k, image in zip(first, doubted.suggested, _take(case, first), strict=False)
        ]
        alt = "Test images whose labels are most likely wrong: the label, what it rather is, number of the image"
        findings.add_picture("diagnose-label-errors.png", image_grid(shown), alt)
    return {
        "images": len(doubted.indices),
        "indices": doubted.indices[:200],
        "suggested": [names[k] for k in doubted.suggested[:200]],
        "margin": doubted.margin[:200],
    }


def _take(case: Case, indices: Ints) -> list[np.ndarray]:
    taken = case.images(indices)
    return [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in taken]
