"""Detection figures against counting and by hand; scores against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.detection import (
    detection,
    energy_score,
    fit_gaussians,
    mahalanobis_score,
    max_softmax_score,
)
from fashion_tl.metrics.metrics import Floats

EXACT = 1e-9


def scores(levels: int | None, images: tuple[int, int] = (200, 130)) -> tuple[Floats, Floats]:
    """Scores of inside and outside images, on so few levels that many are equal."""
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, images[0]), rng.normal(0, 1, images[1])
    if levels:
        return np.round(inside * levels) / levels, np.round(outside * levels) / levels
    return inside, outside


CASES = {
    "no ties": scores(None),
    "ties": scores(4),
    "many ties": scores(1),
    "one level": (np.ones(5), np.ones(3)),
    "one image each": (np.array([1.0]), np.array([0.0])),
    "one image each, wrong": (np.array([0.0]), np.array([1.0])),
    "separable": (np.arange(10, 20), np.arange(10)),
    "the wrong way around": (np.arange(10), np.arange(10, 20)),
    "exactly 95 %": (np.arange(20), np.array([0.5, 1.0, 1.5])),
    "half infinitely far": (np.array([1e300, 5, 5, -1e300]), np.array([5.0, -1e300])),
}


@pytest.mark.parametrize("case", CASES)
def test_figures_against_counting(case: str) -> None:
    inside, outside = CASES[case]
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]
    found = detection(inside, outside)
    assert found.auroc == pytest.approx(np.mean(pairs), abs=EXACT)
    assert detection(outside, inside).auroc == pytest.approx(1 - np.mean(pairs), abs=EXACT)
    threshold = max(t for t in inside if np.mean(np.asarray(inside) >= t) >= 0.95)
    assert found.fpr95 == pytest.approx(np.mean(np.asarray(outside) >= threshold), abs=EXACT)


def test_by_hand() -> None:
    assert detection([3, 2], [1, 0]).__dict__ == {"auroc": 1, "aupr_in": 1, "aupr_out": 1, "fpr95": 0}
    found = detection([3, 1], [2])
    assert found.aupr_in == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert found.aupr_out == pytest.approx(1 / 2)  # the one outside image comes second from below


@pytest.mark.parametrize(
    ("inside", "outside"), [([], [1.0]), ([1.0], []), ([np.nan], [1.0]), ([1.0], [np.inf]), ([[1.0]], [1.0])]
)
def test_scores_that_cannot_be_compared_are_refused(inside, outside) -> None:
    with pytest.raises(UserError, match="cannot be compared"):
        detection(inside, outside)


# Scores


def test_softmax_and_energy_scores() -> None:
    logits = 5 * np.random.default_rng(0).standard_normal((50, 8))
    assert energy_score(logits, 4.0) == pytest.approx(4 * np.log(np.exp(logits / 4).sum(axis=1)), abs=EXACT)
    assert energy_score([[1e4, 1e4], [-1e4, -1e4]]) == pytest.approx(np.array([1e4, -1e4]) + np.log(2))
    assert max_softmax_score([[1e4, -1e4]]).tolist() == [1]
    with pytest.raises(UserError, match="temperature"):
        energy_score(logits, 0)


def test_mahalanobis_against_scikit_learn() -> None:
    import sklearn.covariance as covariance

    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 300)
    features = rng.standard_normal((4, 5))[labels] * 4 + rng.standard_normal((300, 5)) @ rng.standard_normal((5, 5))
    means = np.stack([features[labels == k].mean(0) for k in range(4)])
    shared = covariance.EmpiricalCovariance(assume_centered=True).fit(features - means[labels]).covariance_
    shared = shared + 1e-3 * np.trace(shared) / 5 * np.eye(5)
    fresh = 5 * rng.standard_normal((40, 5))
    expected = [-min((x - m) @ np.linalg.inv(shared) @ (x - m) for m in means) for x in fresh]
    gaussians = fit_gaussians(features, labels, ridge=1e-3)
    assert gaussians.means == pytest.approx(means, abs=EXACT)
    assert mahalanobis_score(fresh, gaussians) == pytest.approx(expected, rel=EXACT)


def test_mahalanobis_with_dead_features_missing_classes_and_one_image() -> None:
    rng = np.random.default_rng(2)
    features, labels = rng.standard_normal((60, 4)), np.repeat([0, 5], 30)  # classes 1 to 4 do not occur
    features[:, 2] = 7.0
    gaussians = fit_gaussians(features, labels)
    assert gaussians.means.shape == (2, 4)
    inside, outside = mahalanobis_score(features, gaussians), mahalanobis_score(features + np.eye(4)[2], gaussians)
    assert np.isfinite([inside, outside]).all()
    assert detection(inside, outside).auroc == 1
    alone = fit_gaussians([[1.0, 2.0]], [3])
    assert mahalanobis_score([[1.0, 2.0], [1.0, 2.001]], alone) == pytest.approx([0, -1])


@pytest.mark.parametrize(
    ("features", "labels", "ridge", "part"),
    [
        ([[1.0]], [0, 1], 1e-6, "shapes"),
        (np.empty((0, 2)), [], 1e-6, "shapes"),
        ([[np.inf]], [0], 1e-6, "finite"),
        ([[1.0]], [-1], 1e-6, "0 or more"),
        ([[1.0]], [0], 0.0, "ridge"),
    ],
)
def test_features_that_cannot_be_fitted_are_refused(features, labels, ridge, part) -> None:
    with pytest.raises(UserError, match=part):
        fit_gaussians(features, labels, ridge)
    with pytest.raises(UserError, match="expect"):
        mahalanobis_score([[1.0, 2.0]], fit_gaussians([[1.0], [2.0]], [0, 1]))
