"""Figures against torchmetrics, scikit-learn and torch, and against cases worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional import classification as tm

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import (
    Floats,
    Ints,
    balanced_accuracy,
    calibration_error,
    confusion_matrix,
    cross_entropy,
    headline,
    per_class,
    softmax,
    summarise,
)
from fashion_tl.training.figures import EvaluationFigures

K = 7
NAMES = [f"class {index}" for index in range(K)]
EXACT = 1e-9


@pytest.fixture
def logits() -> Floats:
    return 2 * np.random.default_rng(0).standard_normal((400, K))


@pytest.fixture
def labels(logits: Floats) -> Ints:
    rng = np.random.default_rng(1)
    return np.where(rng.random(400) < 0.6, logits.argmax(1), rng.integers(0, K - 1, 400))


def two(confidences: list[float]) -> Floats:
    """Probabilities of two classes in which class 0 is predicted with the given confidence."""
    first = np.array(confidences)
    return np.stack([first, 1 - first], axis=1)


# Against other libraries


def test_against_torchmetrics(logits: Floats, labels: Ints) -> None:
    ours = summarise(logits, labels, NAMES)
    predictions, truth = torch.from_numpy(logits).softmax(1), torch.from_numpy(labels)
    options: dict[str, Any] = {"num_classes": K, "average": "macro"}
    theirs = {
        "accuracy": tm.multiclass_accuracy(predictions, truth, K, average="micro"),
        "macro_precision": tm.multiclass_precision(predictions, truth, **options),
        "macro_f1": tm.multiclass_f1_score(predictions, truth, **options),
        "calibration_error": tm.multiclass_calibration_error(predictions, truth, K, n_bins=15, norm="l1"),
    }
    # torchmetrics computes in single precision.
    assert {name: ours[name] for name in theirs} == pytest.approx({k: float(v) for k, v in theirs.items()}, abs=1e-6)
    assert ours["confusion_matrix"] == tm.multiclass_confusion_matrix(predictions, truth, K).tolist()


def test_against_scikit_learn(logits: Floats, labels: Ints) -> None:
    import sklearn.metrics as sklearn

    predicted = logits.argmax(1)
    ours = summarise(logits, labels, NAMES)
    assert ours["accuracy"] == pytest.approx(sklearn.accuracy_score(labels, predicted), abs=EXACT)
    assert ours["loss"] == pytest.approx(sklearn.log_loss(labels, softmax(logits), labels=range(K)), abs=EXACT)
    assert ours["confusion_matrix"] == sklearn.confusion_matrix(labels, predicted, labels=range(K)).tolist()
    figures = sklearn.precision_recall_fscore_support(labels, predicted, labels=range(K), zero_division=0)
    for name, expected in zip(("precision", "recall", "f1"), figures, strict=False):
        assert [ours["per_class"][k][name] for k in NAMES] == pytest.approx(list(expected), abs=EXACT)
        if name != "recall":
            assert ours[f"macro_{name}"] == pytest.approx(float(expected.mean()), abs=EXACT)
    assert ours["balanced_accuracy"] == pytest.approx(
        sklearn.recall_score(labels, predicted, labels=np.unique(labels), average="macro"), abs=EXACT
    )
    both = np.isin(predicted, labels)  # else scikit-learn warns of classes that are predicted alone
    assert summarise(logits[both], labels[both], NAMES)["balanced_accuracy"] == pytest.approx(
        sklearn.balanced_accuracy_score(labels[both], predicted[both]), abs=EXACT
    )


def test_cross_entropy_against_torch(logits: Floats, labels: Ints) -> None:
    single = logits.astype(np.float32)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(single).double(), torch.from_numpy(labels))
    assert cross_entropy(single, labels) == pytest.approx(float(expected), abs=EXACT)


# By hand


def test_rows_are_true_classes() -> None:
    predicted, labels = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    assert confusion_matrix(predicted, labels, 3).tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert confusion_matrix(np.array([2]), np.array([0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_classes_that_never_occur_or_are_never_predicted() -> None:
    # Class 1 occurs but is never predicted, class 2 is predicted but never occurs, class 3 does neither.
    figures = per_class(np.array([[3, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    assert figures["precision"].tolist() == [0.75, 0, 0, 0]
    assert figures["recall"].tolist() == [0.75, 0, 0, 0]
    assert figures["f1"].tolist() == [0.75, 0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_validation_are_those_of_the_test_where_classes_are_missing(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, logits = draw.integers(0, 4, 12), draw.normal(size=(12, 10))
    logits[:, 8:] -= 50  # two classes neither occur nor are predicted
    figures = EvaluationFigures(10)
    figures.add(torch.from_numpy(logits), torch.from_numpy(labels))
    found = summarise(logits, labels, [str(i) for i in range(10)])
    for name, metric in figures.final("val").items():
        assert float(metric.compute()) == pytest.approx(found[name.removeprefix("val/")], abs=1e-6), name


def test_balanced_accuracy_counts_each_class_that_occurs_the_same() -> None:
    matrix = np.array([[90, 0, 10], [1, 1, 0], [0, 0, 0]])
    assert balanced_accuracy(matrix) == (0.9 + 0.5) / 2
    assert balanced_accuracy(np.array([[0, 5], [0, 0]])) == 0
    summary = summarise(np.eye(3)[[0, 0, 2, 1]], np.array([0, 0, 0, 1]), ["a", "b", "c"])
    assert (summary["balanced_accuracy"], summary["accuracy"]) == ((2 / 3 + 1) / 2, 0.75)
    line = headline(summary)
    assert line.startswith("test accuracy 0.7500, balanced accuracy 0.8333, macro F1 0.6000, loss ")
    assert line.endswith(" on 4 images")


def test_huge_logits() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4], [-1e4, 1e4]], dtype=np.float32)
    labels = np.array([0, 0, 1])
    assert softmax(logits).tolist() == [[1, 0], [0, 1], [0, 1]]
    assert cross_entropy(logits, labels) == pytest.approx(1e4 / 3)
    assert summarise(logits, labels, ["a", "b"])["calibration_error"] == pytest.approx(1 / 3)


def test_equal_logits() -> None:
    assert cross_entropy(np.zeros((5, 4)), np.arange(5) % 4) == pytest.approx(math.log(4), abs=EXACT)
    assert summarise(np.zeros((4, 4)), np.arange(4), list("abcd"))["calibration_error"] == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize(
    ("confidences", "right", "bins", "expected"),
    [
        # Certain and right, certain and wrong: both in the last bin, none in one of its own.
        ([1.0, 0.95], [True, False], 10, abs(1.95 - 1) / 2),
        # 0.6 closes the bin (0.5, 0.6]: it is not with 0.65, so the two gaps do not cancel.
        ([0.6, 0.65], [True, False], 10, (0.4 + 0.65) / 2),
        ([0.6, 0.55], [True, False], 10, abs(1.15 - 1) / 2),
        # Every other bin is empty.
        ([0.7, 0.7, 0.7, 0.7], [True, True, True, False], 15, 0.05),
        ([0.5, 1.0], [True, True], 1, 0.25),
    ],
)
def test_calibration_error(confidences: list[float], right: list[bool], bins: int, expected: float) -> None:
    labels = np.where(right, 0, 1)
    assert calibration_error(two(confidences), labels, bins) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("bins", [15, 25, 50])
def test_upper_edges_belong_to_their_bins(bins: int) -> None:
    numbers = np.arange(bins // 2 + 1, bins + 1)
    confidences = np.concatenate([numbers / bins, (numbers - 0.25) / bins])
    right = np.random.default_rng(0).random(len(confidences)) < 0.6
    gaps = (confidences - right).reshape(2, -1).sum(0)
    ours = calibration_error(two(confidences.tolist()), np.where(right, 0, 1), bins)
    assert ours == pytest.approx(np.abs(gaps).sum() / len(confidences), abs=EXACT)


def test_summary_is_plain_and_whole(logits: Floats, labels: Ints) -> None:
    summary = summarise(logits.astype(np.float32), labels.tolist(), NAMES)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary) == {
        "images",
        "accuracy",
        "loss",
        "balanced_accuracy",
        "macro_precision",
        "macro_f1",
        "calibration_error",
        "per_class",
        "confusion_matrix",
    }
    assert summary["images"] == 400
    assert list(summary["per_class"]) == NAMES


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_of_a_diverged_network(value: float) -> None:
    with pytest.raises(UserError, match=r"1 of 3 images .*not finite.*diverged.*--model\.lr"):
        summarise([[0.0, 1.0], [value, 0.0], [1.0, 0.0]], [0, 1, 0], ["a", "b"])
