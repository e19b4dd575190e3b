"""Selective classification against loops over thresholds, scikit-learn's rates, and all orders of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.selective import accuracy_at_coverage, area_under_risk_coverage, risk_coverage

EXACT = 1e-9


def test_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(300), rng.random(300) < 0.8
    order = sorted(range(300), key=lambda i: -confidence[i])
    risks = [1 - np.mean([right[i] for i in order[: n + 1]]) for n in range(300)]
    curve = risk_coverage(confidence, right)
    assert curve.coverage.tolist() == [(n + 1) / 300 for n in range(300)]
    assert curve.risk == pytest.approx(risks, abs=EXACT)
    assert area_under_risk_coverage(confidence, right) == pytest.approx(np.mean(risks), abs=EXACT)
    shuffled = rng.permutation(300)
    assert risk_coverage(confidence[shuffled], right[shuffled]).risk == pytest.approx(risks, abs=EXACT)


def test_against_scikit_learn() -> None:
    # The risk among answered images is 1 - precision, where being right is what is to be found.
    import sklearn.metrics as sklearn

    rng = np.random.default_rng(1)
    confidence, right = rng.integers(0, 40, 300) / 40, rng.random(300) < 0.8
    precision, _, thresholds = sklearn.precision_recall_curve(right, confidence)
    curve = risk_coverage(confidence, right)
    for threshold, expected in zip(thresholds, precision, strict=False):
        answered = int((confidence >= threshold).sum())
        assert 1 - curve.risk[answered - 1] == pytest.approx(expected, abs=EXACT)
        assert accuracy_at_coverage(confidence, right, answered / 300) == pytest.approx(expected, abs=EXACT)


def test_ties_are_the_mean_over_all_their_orders() -> None:
    confidence, right = np.array([0.5, 0.9, 0.5, 0.5, 0.1, 0.1]), np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    total = np.zeros(6)
    orders = [p for p in permutations(range(6)) if (np.diff(confidence[list(p)]) <= 0).all()]
    for order in orders:
        total += np.cumsum(~right[list(order)]) / np.arange(1, 7)
    assert risk_coverage(confidence, right).risk == pytest.approx(total / len(orders), abs=EXACT)
    assert risk_coverage(np.ones(4), [1, 0, 1, 0]).risk.tolist() == [0.5] * 4


def test_the_ends() -> None:
    assert area_under_risk_coverage([0.3], [True]) == 0
    assert area_under_risk_coverage([1.0], [False]) == 1
    assert area_under_risk_coverage([3, 2, 1], [1, 1, 1]) == 0
    # Hits first: 0, 0, 1/3. Misses first: 1, 1/2, 1/3.
    assert area_under_risk_coverage([3, 2, 1], [1, 1, 0]) == pytest.approx(1 / 9)
    assert area_under_risk_coverage([1, 2, 3], [1, 1, 0]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert area_under_risk_coverage([np.inf, -np.inf], [True, False]) == 0.25


@pytest.mark.parametrize(("coverage", "answered"), [(1.0, 10), (0.7, 7), (0.69, 7), (0.71, 8), (0.1, 1), (1e-12, 1)])
def test_accuracy_at_coverage_answers_at_least_that_share(coverage: float, answered: int) -> None:
    right = np.array([1, 1, 0, 1, 0, 1, 0, 1, 0, 0])
    expected = right[:answered].mean()
    assert accuracy_at_coverage(-np.arange(10), right, coverage) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("confidence", "right", "part"),
    [([], [], "at least one"), ([0.5], [True, False], "shapes"), ([[0.5]], [[True]], "shapes"), ([np.nan], [1], "NaN")],
)
def test_what_makes_no_curve_is_refused(confidence, right, part) -> None:
    with pytest.raises(UserError, match=part):
        risk_coverage(confidence, right)


@pytest.mark.parametrize("coverage", [0, -0.1, 1.1, 90, float("nan")])
def test_a_coverage_out_of_range_is_refused(coverage: float) -> None:
    with pytest.raises(UserError, match="coverage"):
        accuracy_at_coverage([0.5], [True], coverage)
