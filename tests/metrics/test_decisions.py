"""Thresholds and costs against scikit-learn, loops, and cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.decisions import best_thresholds, check_costs, cost_weighted_error, least_cost_decisions
from fashion_tl.metrics.metrics import Floats, Ints, softmax

EXACT = 1e-9
K = 4


def predictions(digits: int = 15) -> tuple[Floats, Ints]:
    """Probabilities, rounded if many are to be equal, and labels that follow them."""
    rng = np.random.default_rng(0)
    probabilities = softmax(2 * rng.standard_normal((300, K)))
    labels = np.where(rng.random(300) < 0.7, probabilities.argmax(1), rng.integers(0, K, 300))
    return np.round(probabilities, digits), labels


# Thresholds


@pytest.mark.slow
@pytest.mark.parametrize("digits", [15, 1])
def test_thresholds_against_scikit_learn(digits: int) -> None:
    import sklearn.metrics as sklearn

    probabilities, labels = predictions(digits)
    thresholds, reached = best_thresholds(probabilities, labels)
    for k in range(K):
        scores = {t: sklearn.f1_score(labels == k, probabilities[:, k] >= t) for t in set(probabilities[:, k].tolist())}
        highest = max(scores.values())
        assert reached[k] == pytest.approx(highest, abs=EXACT)
        assert thresholds[k] == max(t for t, score in scores.items() if score > highest - 1e-12)


def test_thresholds_by_hand() -> None:
    # Class 0: at 0.4 all three of its images and none else. Class 1 of two classes is the mirror image.
    first = np.array([0.9, 0.6, 0.4, 0.3, 0.0])
    thresholds, reached = best_thresholds(np.stack([first, 1 - first], 1), [0, 0, 0, 1, 1])
    assert thresholds.tolist() == [0.4, 0.7]
    assert reached.tolist() == [1, 1]


def test_thresholds_of_ties_of_missing_classes_and_of_one_image() -> None:
    thresholds, reached = best_thresholds(np.full((4, 2), 0.5), [0, 0, 0, 1])
    assert thresholds.tolist() == [0.5, 0.5]
    assert reached == pytest.approx([2 * 3 / 7, 2 / 5])
    thresholds, reached = best_thresholds([[0.1, 0.2, 0.7]], [1])
    assert np.isnan(thresholds[[0, 2]]).all()
    assert (thresholds[1], reached[1]) == (0.2, 1)
    # Two thresholds with equal F1 of 2/3: the higher one claims less.
    first = np.array([0.9, 0.5, 0.4, 0.3])
    thresholds, reached = best_thresholds(np.stack([first, 1 - first], 1), [0, 1, 1, 0])
    assert (thresholds[0], reached[0]) == (0.9, pytest.approx(2 / 3))
    with pytest.raises(UserError, match="0 to 1"):
        best_thresholds([[3.0, -1.0]], [0])


# Costs


def test_least_cost_against_a_loop() -> None:
    probabilities, _ = predictions()
    costs = np.random.default_rng(1).integers(0, 20, (K, K))
    ours = least_cost_decisions(probabilities, costs)
    for p, decision in zip(probabilities, ours, strict=True):
        expected = [sum(p[true] * costs[true, k] for true in range(K)) for k in range(K)]
        assert expected[decision] == pytest.approx(min(expected), abs=EXACT)


def test_equal_costs_give_the_most_probable_class_and_the_error_rate() -> None:
    import sklearn.metrics as sklearn

    probabilities, labels = predictions()
    costs = 1 - np.eye(K)
    decided = least_cost_decisions(probabilities, costs)
    assert decided.tolist() == probabilities.argmax(1).tolist()
    error = 1 - sklearn.accuracy_score(labels, decided)
    assert cost_weighted_error(decided, labels, costs) == pytest.approx(error, abs=EXACT)


def test_least_cost_avoids_the_dear_mistake() -> None:
    # Missing class 1 costs 9 times as much as a false alarm: from a probability of 0.1 on, it is assumed.
    costs = np.array([[0, 1], [9, 0]])
    assert least_cost_decisions([[0.89, 0.11], [0.91, 0.09], [1.0, 0.0], [0.0, 1.0]], costs).tolist() == [1, 0, 0, 1]
    assert cost_weighted_error([1, 0, 0, 0], [1, 1, 0, 0], costs) == 9 / 4
    assert cost_weighted_error([1], [0], costs) == 1
    assert least_cost_decisions([[0.5, 0.5]], np.zeros((2, 2))).tolist() == [0]  # the first of equal ones


def test_cost_weighted_error_against_a_loop() -> None:
    rng = np.random.default_rng(2)
    costs, (decided, labels) = rng.random((K, K)), rng.integers(0, K, (2, 200))
    expected = np.mean([costs[t, d] for t, d in zip(labels, decided, strict=True)])
    assert cost_weighted_error(decided, labels, costs) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("costs", "part"),
    [
        ([[0, 1, 1], [1, 0, 1]], r"shape \(2, 3\), it must be \(2, 2\)"),
        ([0, 1], r"shape \(2,\)"),
        ([[0]], r"shape \(1, 1\)"),
        ([], r"shape \(0,\)"),
        (5, r"shape \(\)"),
        ([[0, -1], [1, 0]], r"costs\[0\]\[1\] is -1: costs must be finite and 0 or more"),
        ([[0, 1], [float("nan"), 0]], r"costs\[1\]\[0\] is nan"),
        ([[0, float("inf")], [1, 0]], r"costs\[0\]\[1\] is inf"),
        ([[-1, -1], [-1, -1]], "and 1 more"),
        ([[0, "dear"], [1, 0]], "2 rows of 2 numbers"),
        ([[0, 1], [1]], "2 rows of 2 numbers"),
        ([[0, None], [1, 0]], r"costs\[0\]\[1\] is nan"),
    ],
)
def test_unusable_costs_are_refused(costs, part) -> None:
    with pytest.raises(UserError, match=part):
        check_costs(costs, 2)
    with pytest.raises(UserError, match=part):
        least_cost_decisions([[0.5, 0.5]], costs)


@pytest.mark.parametrize(
    ("predicted", "labels", "costs", "part"),
    [
        ([], [], [[0, 1], [1, 0]], "needs images"),
        ([0, 1], [0], [[0, 1], [1, 0]], "needs images"),
        ([2], [0], [[0, 1], [1, 0]], "0 to 1"),
        ([0], [-1], [[0, 1], [1, 0]], "0 to 1"),
        ([0.5], [0], [[0, 1], [1, 0]], "whole numbers"),
        ([0], [0], [[0, 1, 1], [1, 0, 1]], r"must be \(K, K\)"),
        ([0], [0], [], r"must be \(K, K\)"),
    ],
)
def test_decisions_that_have_no_cost_are_refused(predicted, labels, costs, part) -> None:
    with pytest.raises(UserError, match=part):
        cost_weighted_error(predicted, labels, costs)
