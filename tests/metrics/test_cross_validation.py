"""Figures over folds, against the formulas worked out by hand and against simulated cross-validations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.cross_validation import corrected_interval, cross_validation
from fashion_tl.metrics.metrics import summarise
from fashion_tl.metrics.repeated import mean_interval
from fashion_tl.metrics.uncertainty import wilson_interval

T4 = 2.7764451051977987  # of Student's distribution, 4 degrees of freedom, 97.5 %


def test_the_interval_by_hand() -> None:
    values = [0.8, 0.82, 0.78, 0.81, 0.79]
    deviation = math.sqrt(2.5e-4)
    interval = corrected_interval(values, 0.25)
    assert interval is not None
    low, high = interval
    assert (low + high) / 2 == pytest.approx(0.8)
    assert high - low == pytest.approx(2 * T4 * deviation * math.sqrt(1 / 5 + 1 / 4))
    plain = mean_interval(values)
    assert plain is not None
    assert (high - low) / (plain[1] - plain[0]) == pytest.approx(1.5)  # sqrt((1/5 + 1/4) / (1/5))


def test_equal_figures_of_all_folds_give_no_interval() -> None:
    assert corrected_interval([0.1] * 3, 1.0) is None  # whose computed deviation is 1e-17
    logits, labels = np.eye(2)[[0, 1] * 6] * 9, np.array([0, 1] * 6)
    found = cross_validation(folds_of(logits, labels, 2), [6, 6])
    assert found.means["accuracy"] == (1.0, None)
    assert found.lines()[0].startswith("mean of 2 folds: accuracy 1.0000 (no interval), ")


@pytest.mark.parametrize(("values", "share"), [([0.5], 0.25), ([], 0.25), ([0.5, 0.6], 0.0), ([0.5, 0.6], math.inf)])
def test_what_is_no_cross_validation_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(UserError):
        corrected_interval(values, share)


def folds_of(logits: Any, labels: Any, folds: int) -> list[dict[str, Any]]:
    names = [str(label) for label in range(logits.shape[1])]
    return [summarise(logits[fold::folds], labels[fold::folds], names) for fold in range(folds)]


def test_the_pooled_accuracy_is_that_of_all_images_however_large_the_folds() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((97, 4)), rng.integers(0, 4, 97)
    found = cross_validation(folds_of(logits, labels, 5), [70] * 5)
    correct = int((logits.argmax(1) == labels).sum())
    assert (found.folds, found.images) == (5, 97)
    assert found.pooled == (correct / 97, wilson_interval(correct, 97))
    for name, (mean, interval) in found.means.items():
        assert mean == pytest.approx(np.mean(found.values[name]))
        expected = corrected_interval(found.values[name], 97 / 5 / 70)
        assert expected is not None
        assert interval == pytest.approx((max(0, expected[0]), min(1, expected[1])), abs=1e-12)
    first, second = found.lines()
    assert first.startswith(f"mean of 5 folds: accuracy {found.means['accuracy'][0]:.4f} (")
    assert second.endswith("on 97 images, each tested once")


def test_intervals_of_shares_stay_shares() -> None:
    logits, labels = np.eye(2)[[0, 1] * 20] * 9, np.array([0, 1] * 20)
    logits[0] = logits[0, ::-1]
    found = cross_validation(folds_of(logits, labels, 4), [30] * 4)
    mean, interval = found.means["accuracy"]
    assert interval is not None
    assert 0 <= interval[0] < mean < interval[1] == 1


@pytest.mark.slow
def test_it_covers_the_mean_accuracy_of_training_where_students_does_not() -> None:
    """Five folds of 60 images in 3 dimensions, nearest class mean: each trained network is one of many."""
    rng, hits, trials = np.random.default_rng(0), {"corrected": 0, "plain": 0}, 400

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 2, count)
        return rng.standard_normal((count, 3)) + labels[:, None] * 0.6, labels

    def trained(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.stack([x[y == label].mean(0) for label in (0, 1)])

    def accuracy(means: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
        return float((((x[:, None] - means) ** 2).sum(-1).argmin(1) == y).mean())

    far = draw(20_000)
    truth = float(np.mean([accuracy(trained(*draw(48)), *far) for _ in range(300)]))
    for _ in range(trials):
        x, y = draw(60)
        held = np.arange(60) % 5
        values = [accuracy(trained(x[held != k], y[held != k]), x[held == k], y[held == k]) for k in range(5)]
        for kind, interval in (("corrected", corrected_interval(values, 12 / 48)), ("plain", mean_interval(values))):
            assert interval is not None
            hits[kind] += interval[0] <= truth <= interval[1]
    assert hits["corrected"] / trials > 0.95
    assert hits["plain"] < hits["corrected"]
