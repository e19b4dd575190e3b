"""Calibration against scikit-learn, scipy's optimisers, naive loops, and cases worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.calibration import (
    adaptive_calibration_error,
    apply_scaling,
    brier_score,
    classwise_calibration_error,
    fit_temperature,
    fit_vector_scaling,
    reliability,
)
from fashion_tl.metrics.metrics import Floats, Ints, calibration_error, cross_entropy, softmax

EXACT = 1e-9
K = 6


@pytest.fixture
def logits() -> Floats:
    return 2 * np.random.default_rng(0).standard_normal((500, K))


@pytest.fixture
def labels(logits: Floats) -> Ints:
    rng = np.random.default_rng(1)
    return np.where(rng.random(500) < 0.6, logits.argmax(1), rng.integers(0, K - 1, 500))


def two(confidences: list[float]) -> Floats:
    """Probabilities of two classes in which class 0 is predicted with the given confidence."""
    first = np.array(confidences)
    return np.stack([first, 1 - first], axis=1)


# Reliability


@pytest.mark.parametrize("bins", [1, 10, 15, 200])
def test_reliability_against_a_loop(logits: Floats, labels: Ints, bins: int) -> None:
    probabilities = softmax(logits)
    ours = reliability(probabilities, labels, bins)
    assert ours.edges.tolist() == [i / bins for i in range(bins + 1)]
    for b in range(bins):
        inside = [i for i in range(500) if b / bins < probabilities[i].max() <= (b + 1) / bins]
        assert ours.counts[b] == len(inside)
        expected = np.nan, np.nan
        if inside:
            expected = (
                float(np.mean([probabilities[i].max() for i in inside])),
                float(np.mean([probabilities[i].argmax() == labels[i] for i in inside])),
            )
        assert (ours.confidence[b], ours.accuracy[b]) == pytest.approx(expected, abs=EXACT, nan_ok=True)
    gaps = np.nansum(ours.counts * np.abs(ours.confidence - ours.accuracy)) / 500
    assert gaps == pytest.approx(calibration_error(probabilities, labels, bins), abs=EXACT)


def test_reliability_against_scikit_learn(logits: Floats, labels: Ints) -> None:
    import sklearn.calibration as sklearn

    probabilities = softmax(logits)
    ours = reliability(probabilities, labels, 10)
    hit = probabilities.argmax(1) == labels
    accuracy, confidence = sklearn.calibration_curve(hit, probabilities.max(1), n_bins=10)
    full = ours.counts > 0
    assert ours.accuracy[full] == pytest.approx(accuracy, abs=EXACT)
    assert ours.confidence[full] == pytest.approx(confidence, abs=EXACT)


def test_reliability_of_certainty_of_edges_and_of_one_image() -> None:
    ours = reliability(two([1.0, 1.0, 0.6, 0.95]), np.array([0, 1, 0, 0]), 10)
    assert ours.counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 3]
    assert ours.accuracy[9] == pytest.approx(2 / 3)
    assert np.isnan(ours.confidence[:5]).all()
    assert np.isnan(ours.accuracy[:5]).all()
    alone = reliability([[0.5, 0.5]], [1], 2)
    assert alone.counts.tolist() == [1, 0]
    assert alone.accuracy[0] == 0


# Scores


def naive_classwise(probabilities: Floats, labels: Ints, bins: int) -> float:
    images, classes = probabilities.shape
    total = 0.0
    for k in range(classes):
        for b in range(bins):
            low = -1 if b == 0 else b / bins
            inside = [i for i in range(images) if low < probabilities[i, k] <= (b + 1) / bins]
            if inside:
                gap = np.mean([probabilities[i, k] for i in inside]) - np.mean([labels[i] == k for i in inside])
                total += len(inside) / images * abs(float(gap))
    return float(total / classes)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_classwise_error_against_a_loop(logits: Floats, labels: Ints, bins: int) -> None:
    probabilities = softmax(logits)
    expected = naive_classwise(probabilities, labels, bins)
    assert classwise_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=EXACT)


def test_classwise_error_of_two_classes_and_of_certainty() -> None:
    # Each class's gap is the other's, so the mean is either: |1.0 - 0.5| over the images.
    assert classwise_calibration_error(two([1.0, 1.0]), [0, 1]) == pytest.approx(0.5)
    assert classwise_calibration_error(np.eye(3), [0, 1, 2]) == 0
    assert classwise_calibration_error(np.eye(3), [1, 2, 0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("bins", [1, 7, 15, 499, 500, 900])
def test_adaptive_error_against_equal_parts(logits: Floats, labels: Ints, bins: int) -> None:
    probabilities = softmax(logits)
    confidence, hit = probabilities.max(1), probabilities.argmax(1) == labels
    order = sorted(range(500), key=lambda i: confidence[i])
    parts = [order[-(-500 * b // bins) : -(-500 * (b + 1) // bins)] for b in range(bins)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    expected = sum(abs(sum(confidence[i] - hit[i] for i in part)) for part in parts) / 500
    assert adaptive_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=EXACT)
    shuffled = np.random.default_rng(2).permutation(500)
    again = adaptive_calibration_error(probabilities[shuffled], labels[shuffled], bins)
    assert again == pytest.approx(expected, abs=EXACT)


def test_adaptive_error_keeps_ties_together() -> None:
    # One confidence, half of it right: calibrated, in whatever order the images come.
    for truth in ([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]):
        assert adaptive_calibration_error(two([0.5 + 1e-15] * 4), np.array(truth), 2) == pytest.approx(0, abs=EXACT)
    mixed = two([1.0, 1.0, 1.0, 1.0, 0.75, 0.75])
    assert adaptive_calibration_error(mixed, np.array([0, 0, 0, 1, 0, 0]), 3) == pytest.approx((1 + 0.5) / 6)
    assert adaptive_calibration_error(two([1.0]), [1]) == 1


def test_brier_score_against_scikit_learn(logits: Floats, labels: Ints) -> None:
    import sklearn.metrics as sklearn

    probabilities = softmax(logits)
    expected = sum(sklearn.brier_score_loss(labels == k, probabilities[:, k]) for k in range(K))
    assert brier_score(probabilities, labels).score == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 1000])
def test_brier_parts_add_up_and_match_their_definitions(logits: Floats, labels: Ints, bins: int) -> None:
    probabilities = softmax(logits)
    ours = brier_score(probabilities, labels, bins)
    whole = ours.reliability - ours.resolution + ours.uncertainty + ours.remainder
    assert whole == pytest.approx(ours.score, abs=EXACT)
    reliable = resolved = uncertain = 0.0
    for k in range(K):
        base = float(np.mean(labels == k))
        uncertain += base * (1 - base)
        for b in range(bins):
            low = -1 if b == 0 else b / bins
            inside = (probabilities[:, k] > low) & (probabilities[:, k] <= (b + 1) / bins)
            if inside.any():
                share = float(np.mean(labels[inside] == k))
                reliable += inside.mean() * (probabilities[inside, k].mean() - share) ** 2
                resolved += inside.mean() * (share - base) ** 2
    parts = ours.reliability, ours.resolution, ours.uncertainty
    assert parts == pytest.approx((reliable, resolved, uncertain), abs=EXACT)


def test_brier_parts_without_spread_are_murphys() -> None:
    # Where a bin holds one value only, the three parts of Murphy 1973 are all there is.
    probabilities = two([0.9] * 10 + [0.6] * 5)
    ours = brier_score(probabilities, np.array([0] * 8 + [1] * 2 + [0] * 3 + [1] * 2), 10)
    assert ours.remainder == pytest.approx(0, abs=EXACT)
    assert ours.reliability == pytest.approx(2 * (10 * 0.1**2 + 5 * 0) / 15)
    assert ours.uncertainty == pytest.approx(2 * (11 / 15) * (4 / 15))
    perfect = brier_score(np.eye(3), [0, 1, 2])
    assert (perfect.score, perfect.resolution) == pytest.approx((0, perfect.uncertainty))
    assert brier_score(np.eye(3), [1, 2, 0]).score == pytest.approx(2)


@pytest.mark.parametrize("figure", [reliability, adaptive_calibration_error, classwise_calibration_error, brier_score])
@pytest.mark.parametrize(
    ("probabilities", "labels", "bins", "part"),
    [
        ([[2.0, -1.0]], [0], 15, "allowed is 0 to 1"),
        ([[np.nan, 1.0]], [0], 15, "not finite"),
        ([[0.5, 0.5]], [0, 1], 15, "do not go together"),
        ([[0.5, 0.5]], [2], 15, "whole numbers"),
        ([[0.5, 0.5]], [0], 0, "0 bins"),
    ],
)
def test_what_is_no_probability_is_refused(figure: Callable[..., object], probabilities, labels, bins, part) -> None:
    with pytest.raises(UserError, match=part):
        figure(probabilities, labels, bins)


# Scaling


def test_temperature_has_the_least_cross_entropy_and_scales_with_the_logits(logits: Floats, labels: Ints) -> None:
    best = fit_temperature(logits, labels)
    least = cross_entropy(logits / best, labels)
    assert all(least < cross_entropy(logits / (best * factor), labels) for factor in (0.99, 1.01))
    for factor in (0.03, 0.7, 40.0):
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor * best, rel=EXACT)
    # Logits 1 and 0, correct three times of four: the probability 3/4 needs log 3 between them.
    assert fit_temperature(np.eye(2)[[0, 0, 0, 0]], [0, 0, 0, 1]) == pytest.approx(1 / np.log(3), rel=EXACT)
    assert fit_temperature(1e3 * np.eye(2)[[0, 0, 0, 0]], [0, 0, 0, 1]) == pytest.approx(100)  # beyond the bracket


def test_temperature_ends_at_a_bound_where_there_is_no_best() -> None:
    logits = 5 * np.eye(3)
    assert fit_temperature(logits, [0, 1, 2]) == pytest.approx(0.01)
    assert fit_temperature(logits, [1, 2, 0]) == pytest.approx(100)
    assert fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == pytest.approx(100)
    assert fit_temperature([[0.0, 3.0]], [1]) == pytest.approx(0.01)


@pytest.mark.parametrize("ridge", [1e-6, 1e-4, 1e-1])
def test_vector_scaling_against_scipy(logits: Floats, labels: Ints, ridge: float) -> None:
    import scipy.optimize as optimize

    def objective(point: Floats) -> float:
        pull = ((point[:K] - 1) ** 2).sum() + (point[K:] ** 2).sum()
        return cross_entropy(logits * point[:K] + point[K:], labels) + ridge / 2 * float(pull)

    start = np.repeat([1.0, 0.0], K)
    found = optimize.minimize(objective, start, method="BFGS", options={"gtol": 1e-8})
    scale, bias = fit_vector_scaling(logits, labels, ridge)
    point = np.concatenate([scale, bias])
    assert objective(point) <= found.fun + 1e-12
    assert point == pytest.approx(found.x, abs=2e-3)
    # At the minimum the slope is 0 along every coordinate.
    for axis in np.eye(2 * K):
        slope = (objective(point + 1e-5 * axis) - objective(point - 1e-5 * axis)) / 2e-5
        assert abs(slope) < 1e-9
    assert scale.shape == bias.shape == (K,)


def test_vector_scaling_undoes_a_distortion_and_stays_finite() -> None:
    rng = np.random.default_rng(3)
    true = 2 * rng.standard_normal((4000, 4))
    labels = np.array([rng.choice(4, p=p) for p in softmax(true)])
    distorted = (true - np.array([0, 1, -1, 0.5])) / np.array([0.5, 2, 1, 0.3])
    fitted = apply_scaling(distorted, *fit_vector_scaling(distorted, labels))
    assert cross_entropy(fitted, labels) <= cross_entropy(true, labels) + 1e-3
    assert cross_entropy(fitted, labels) < cross_entropy(distorted / fit_temperature(distorted, labels), labels) - 0.05
    # Separable, with a class that never occurs, and with logits far out: the ridge keeps the answer finite.
    for scale in (1.0, 1e3):
        scale_, bias = fit_vector_scaling(scale * np.eye(3)[[0, 1, 0]], [0, 1, 0])
        assert np.isfinite([scale_, bias]).all()
    for broken in (0.0, -1.0, np.nan):
        with pytest.raises(UserError, match="ridge"):
            fit_vector_scaling(true, labels, broken)


def test_apply_scaling(logits: Floats) -> None:
    assert apply_scaling(logits, 1 / 2.5).tolist() == (logits * (1 / 2.5)).tolist()
    scale, bias = np.arange(1.0, K + 1), np.arange(K)
    assert apply_scaling(logits.tolist(), scale, bias)[7, 2] == pytest.approx(3 * logits[7, 2] + 2, abs=EXACT)
