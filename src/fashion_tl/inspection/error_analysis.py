"""Where a run errs on its test images: tables and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fashion_tl.inspection.calibration import Calibration
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.metrics.decisions import best_thresholds, cost_weighted_error, least_cost_decisions
from fashion_tl.metrics.errors import (
    accuracy_by_group,
    confused_pairs,
    label_errors,
    least_confident_correct,
    most_confident_mistakes,
)
from fashion_tl.metrics.metrics import Floats, Ints, confusion_matrix, per_class, softmax
from fashion_tl.plots.tiles import Tile, draw_tiles, in_rows
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.predictions import Predictions

SHOWN, PAIRS, IN_A_PAIR, COLUMNS = 24, 8, 8, 6
Groups = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Case:
    """A run's test predictions, and where their analysis goes."""

    analysis: Analysis
    run: OpenedRun
    probabilities: Floats
    predicted: Ints
    matrix: Ints

    @property
    def labels(self) -> Ints:
        return self.run.labels

    @property
    def names(self) -> tuple[str, ...]:
        return self.run.class_names

    def tiles(self, positions: Ints, texts: Sequence[str]) -> list[Tile]:
        pictures = self.run.pictures(positions)
        return [Tile(image, below=text) for image, text in zip(pictures, texts, strict=True)]

    def add_images(self, name: str, positions: Ints, texts: Sequence[str], alt: str) -> None:
        """Add a picture of test images with lines of text, if there are any."""
        if len(positions):
            drawn = draw_tiles(in_rows(self.tiles(positions, texts), COLUMNS), side=1.45)
            self.analysis.add_picture(f"diagnose-{name}.png", drawn, alt)


def add_errors(
    analysis: Analysis,
    run: OpenedRun,
    test: Predictions,
    validation: Predictions,
    calibration: Calibration,
    groups: Groups | None,
    costs: Floats | None,
) -> None:
    """Add tables, pictures and figures about errors.

    Args:
        analysis: Where they are added.
        run: The run.
        test: Its test predictions.
        validation: Its validation predictions, which thresholds are fitted to, unless the run itself was.
        calibration: The calibration that decisions by cost rest on.
        groups: Classes of each group, or None to leave groups out.
        costs: Costs (K, K) of mistakes, or None to leave them out.
    """
    probabilities = softmax(test.logits)
    predicted: Ints = probabilities.argmax(axis=1).astype(np.int64)
    matrix = confusion_matrix(predicted, test.labels, len(run.class_names))
    case = _Case(analysis, run, probabilities, predicted, matrix)
    figures: dict[str, Any] = {"confused_pairs": _pairs(case)}
    if groups is not None:
        figures["groups"] = _groups(case, groups)
    if not run.fitted_to_validation:
        figures["thresholds"] = _thresholds(case, validation)
    if costs is not None:
        figures["costs"] = _costs(case, calibration.probabilities(test.logits), costs)
    figures["most_confident_mistakes"] = _confident(case)
    figures["label_errors"] = _label_errors(case)
    analysis.figures["errors"] = figures


def _pairs(case: _Case) -> list[dict[str, Any]]:
    mistakes = int(case.matrix.sum() - np.trace(case.matrix))
    rows, tiles, heads, figures = [], [], [], []
    for pair in confused_pairs(case.matrix, PAIRS):
        true, taken = case.names[pair.true], case.names[pair.predicted]
        rows.append([f"{true} taken for {taken}", pair.images, pair.share, pair.images / mistakes])
        found = np.flatnonzero((case.labels == pair.true) & (case.predicted == pair.predicted))
        found = found[np.argsort(-case.probabilities[found, pair.predicted], kind="stable")][:IN_A_PAIR]
        tiles.append(case.tiles(found, [f"{case.probabilities[i].max():.2f}" for i in found]))
        heads.append(f"{true}\ntaken for\n{taken}")
        figures.append({"true": true, "predicted": taken, "images": pair.images, "share": pair.share})
    columns = ["mistake", "images", "share of the true class", "share of all mistakes"]
    case.analysis.add_table("Most confused pairs", columns, rows)
    if tiles:
        alt = "The most confused pairs of classes; in each row the most confident mistakes, with their confidence"
        case.analysis.add_picture("diagnose-confused-pairs.png", draw_tiles(tiles, heads, side=1), alt)
    return figures


def _groups(case: _Case, groups: Groups) -> dict[str, dict[str, Any]]:
    found = accuracy_by_group(case.matrix, case.names, groups)
    rows = [[name, g.images, g.accuracy, g.group_accuracy, g.within] for name, g in found.items()]
    columns = ["group", "images", "right class", "right group", "right class within the group"]
    members = "; ".join(f"{name}: {', '.join(names)}" for name, names in groups.items())
    case.analysis.add_table(f"Accuracy by group ({members})", columns, rows)
    return {name: vars(g) for name, g in found.items()}


def _thresholds(case: _Case, validation: Predictions) -> dict[str, dict[str, Any]]:
    thresholds, reached = best_thresholds(softmax(validation.logits), validation.labels)
    usual = per_class(case.matrix)["f1"]
    rows, figures = [], {}
    for k, name in enumerate(case.names):
        threshold, fitted = float(thresholds[k]), float(reached[k])
        scores: list[float | None] = [None, None, None]
        if np.isfinite(threshold):
            said = (case.probabilities[:, k] >= threshold).astype(np.int64)
            own = per_class(confusion_matrix(said, (case.labels == k).astype(np.int64), 2))
            scores = [float(own[figure][1]) for figure in ("f1", "precision", "recall")]
        rows.append([name, threshold, fitted, scores[0], float(usual[k]), *scores[1:]])
        figures[name] = {
            "threshold": threshold,
            "validation_f1": fitted,
            "test_f1": scores[0],
            "test_f1_most_probable": float(usual[k]),
        }
    case.analysis.add_table(
        "Threshold of each class against the rest: fitted to F1 on validation images, evaluated on test images",
        [
            "class",
            "threshold",
            *("F1, validation", "F1, test", "F1, test, most probable class", "precision, test", "recall, test"),
        ],
        rows,
    )
    return figures


def _costs(case: _Case, calibrated: Floats, costs: Floats) -> dict[str, float]:
    least = least_cost_decisions(calibrated, costs)
    rows: list[list[Any]] = [
        [name, cost_weighted_error(decided, case.labels, costs), float(np.mean(decided == case.labels))]
        for name, decided in (("the most probable class", case.predicted), ("least expected cost, calibrated", least))
    ]
    case.analysis.add_table("Mean cost of a test image", ["decision for", "mean cost", "accuracy"], rows)
    return {"most_probable": rows[0][1], "least_expected": rows[1][1], "least_expected_accuracy": rows[1][2]}


def _confident(case: _Case) -> list[int]:
    wrong = most_confident_mistakes(case.probabilities, case.labels, SHOWN)
    right = least_confident_correct(case.probabilities, case.labels, SHOWN)
    second = np.argsort(-case.probabilities, axis=1, kind="stable")[:, 1]
    for name, found, sign, other, alt in (
        ("confident-mistakes", wrong, "→", case.predicted, "The most confident mistakes: true class, predicted class"),
        ("unsure-correct", right, "or", second, "The least confident correct predictions: class, second class"),
    ):
        texts = [
            f"{case.names[case.labels[i]]}\n{sign} {case.names[other[i]]}\n{case.probabilities[i].max():.3f}"
            for i in found
        ]
        case.add_images(name, found, texts, f"{alt}, confidence")
    return [int(i) for i in wrong]


def _label_errors(case: _Case) -> dict[str, Any]:
    names, labels = case.names, case.labels
    doubted = label_errors(case.probabilities, labels)
    pairs = Counter(zip(labels[doubted.indices].tolist(), doubted.suggested.tolist(), strict=True))
    rows = [
        [f"{names[i]}, rather {names[j]}", count, count / len(labels)] for (i, j), count in pairs.most_common(PAIRS)
    ]
    caption = (
        f"Likely label errors of the test, by confident learning: {len(doubted.indices):,} of {len(labels):,} images. "
        "A weak model doubts many correct labels: look at the pictures."
    )
    case.analysis.add_table(caption, ["label", "images", "share of all test images"], rows)
    first = doubted.indices[:SHOWN]
    texts = [
        f"label {names[labels[i]]}\nrather {names[k]}\n#{i}" for i, k in zip(first, doubted.suggested, strict=False)
    ]
    alt = "Test images whose labels are most likely wrong: the label, the class suggested, number of the image"
    case.add_images("label-errors", first, texts, alt)
    return {
        "images": len(doubted.indices),
        "indices": doubted.indices[:200],
        "suggested": [names[k] for k in doubted.suggested[:200]],
        "margin": doubted.margin[:200],
    }
