"""Whether a probability means what it says, and how to calibrate it after training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.metrics.checks import check_probabilities, check_scores
from fashion_tl.metrics.metrics import Floats, Ints, cross_entropy, softmax

INVERSE_TEMPERATURES = (0.01, 100.0)  # range of 1 / T that is searched


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram (DeGroot and Fienberg 1983; Guo 2017).

    Attributes:
        edges: Edges of the bins of confidence, 0 to 1 (bins + 1,); a bin is closed on the right.
        counts: Images in each bin (bins,).
        confidence: Mean confidence in each bin (bins,), NaN in an empty one.
        accuracy: Share of correct predictions in each bin (bins,), NaN in an empty one.
    """

    edges: Floats
    counts: Ints
    confidence: Floats
    accuracy: Floats


def reliability(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Compute a reliability diagram over the bins of ``metrics.calibration_error``.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        bins: Bins of equal width over (0, 1], at least 1.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    confidence, correct = values.max(axis=1), values.argmax(axis=1) == truth
    counts, mean, share = _bin_means(confidence, correct, bin_index(confidence, bins), bins)
    return Reliability(np.arange(bins + 1) / bins, counts, mean, share)


@dataclass(frozen=True)
class Brier:
    """A Brier score and its parts (Murphy 1973): score = reliability - resolution + uncertainty + remainder.

    Attributes:
        score: Mean squared distance of probabilities and one-hot labels, summed over classes, 0 (best) to 2.
        reliability: Squared gap of mean probability and frequency within bins, 0 (calibrated) or more.
        resolution: How far frequencies within bins spread about the classes' overall frequencies; more is better.
        uncertainty: Variance of the labels themselves: the score of always giving the classes' frequencies.
        remainder: What the spread of probabilities within bins adds (Stephenson 2008); near 0 for narrow bins.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    remainder: float


def adaptive_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Compute the calibration error over bins of equal mass (Nguyen and O'Connor 2015; Nixon 2019), 0 to 1.

    Images of equal confidence are in one bin, so that the order of the images does not matter.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        bins: Bins of the same number of images, up to one, at least 1.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    confidence, correct = values.max(axis=1), values.argmax(axis=1) == truth
    last = -(-np.arange(1, _check_bins(bins)) * len(truth) // bins) - 1
    index = np.searchsorted(np.sort(confidence)[last], confidence)
    return float(np.abs(np.bincount(index, weights=confidence - correct)).sum() / len(truth))


def classwise_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Compute the class-wise calibration error (Kull 2019), 0 to 1: every class's probability, not only the highest.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        bins: Bins of equal width over (0, 1], at least 1.

    Returns:
        Mean over classes of the mean gap between a class's probability and its frequency.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    classes = values.shape[1]
    gap = values - np.eye(classes)[truth]
    cell = bin_index(values, bins) * classes + np.arange(classes)
    return float(np.abs(np.bincount(cell.ravel(), weights=gap.ravel())).sum() / len(truth) / classes)


def brier_score(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> Brier:
    """Compute the Brier score (Brier 1950), decomposed for each class over bins of its probability and summed.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        bins: Bins of equal width over (0, 1], at least 1; they concern the parts, not the score.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    images, classes = values.shape
    parts = np.zeros(4)
    for k in range(classes):
        p, y = values[:, k], truth == k
        index = bin_index(p, bins)
        counts, mean, share = _bin_means(p, y, index, bins)
        full, base = counts > 0, y.mean()
        parts[0] += (counts * (mean - share) ** 2)[full].sum()
        parts[1] += (counts * (share - base) ** 2)[full].sum()
        parts[2] += images * base * (1 - base)
        within = p - mean[index]
        parts[3] += (within * (within - 2 * (y - share[index]))).sum()
    score = ((values - np.eye(classes)[truth]) ** 2).sum() / images
    return Brier(float(score), *(parts / images).tolist())


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Find the temperature T that minimises the cross-entropy of logits / T (Guo 2017).

    The cross-entropy is convex in 1 / T, so its minimum is the root of its slope. Predicted classes stay as they are.

    Args:
        logits: Logits (N, K) of validation images, never of the test set.
        labels: True classes (N,).

    Returns:
        Temperature, 0.01 to 100. A bound is returned where the best value lies beyond it: 0.01 if every image is
        classified correctly by far, 100 if the logits say nothing about the labels.

    Raises:
        UserError: If shapes disagree or a logit is not finite.
    """
    from scipy.optimize import brentq

    values, truth = check_scores(logits, labels)
    # Relative to the true class's logit the slope is a mean of like terms, not a difference of two large ones.
    relative = values - values[np.arange(len(truth)), truth][:, None]

    def slope(inverse: float) -> float:
        return float((softmax(inverse * values) * relative).sum(axis=1).mean())

    low, high = INVERSE_TEMPERATURES
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    return 1 / float(brentq(slope, low, high, xtol=1e-15))


def fit_vector_scaling(logits: npt.ArrayLike, labels: npt.ArrayLike, ridge: float = 1e-4) -> tuple[Floats, Floats]:
    """Find a scale and a bias for each class that minimise the cross-entropy of the scaled logits (Guo 2017).

    Newton's method with step halving on the mean cross-entropy + ridge / 2 * (|scale - 1|^2 + |bias|^2), which is
    strictly convex: the ridge holds what the images leave open, such as a bias common to all classes.

    Args:
        logits: Logits (N, K) of validation images, never of the test set.
        labels: True classes (N,).
        ridge: Strength of the pull towards the logits as they are, above 0.

    Returns:
        Scale (K,) and bias (K,), for ``apply_scaling``.

    Raises:
        UserError: If shapes disagree, a logit is not finite, or the ridge is not positive.
    """
    values, truth = check_scores(logits, labels)
    if not ridge > 0:
        raise UserError(f"the ridge is {ridge}, it must be above 0, such as 1e-4.")
    images, classes = values.shape
    each, onehot = np.arange(classes), np.eye(classes)[truth]
    inputs = np.stack([values, np.ones_like(values)], axis=1)
    unchanged = np.repeat([[1.0], [0.0]], classes, axis=1)

    def objective(point: Floats) -> float:
        return cross_entropy(values * point[0] + point[1], truth) + ridge / 2 * float(((point - unchanged) ** 2).sum())

    point = unchanged
    for _ in range(200):
        p = softmax(values * point[0] + point[1])
        gradient = np.einsum("nk,nik->ik", p - onehot, inputs) / images + ridge * (point - unchanged)
        weighted = (p[:, None] * inputs).reshape(images, 2 * classes)
        hessian = ridge * np.eye(2 * classes) - weighted.T @ weighted / images
        own = np.einsum("nk,nik,njk->kij", p, inputs, inputs) / images
        hessian.reshape(2, classes, 2, classes)[:, each, :, each] += own
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(2, classes)
        gain, size = float((gradient * step).sum()), 1.0
        if gain < 1e-12:
            point = point - step
            break
        while objective(point - size * step) > objective(point) - 1e-4 * size * gain and size > 1e-10:
            size /= 2
        point = point - size * step
    return point[0], point[1]


def apply_scaling(logits: npt.ArrayLike, scale: npt.ArrayLike, bias: npt.ArrayLike = 0.0) -> Floats:
    """Scale logits (N, K): ``scale`` and ``bias`` (K,) of vector scaling, or 1 / T and nothing for a temperature."""
    result: Floats = np.asarray(logits, dtype=np.float64) * np.asarray(scale) + np.asarray(bias)
    return result


def bin_index(values: Floats, bins: int) -> Ints:
    """Number the bins of values (N,) in 0 to 1: bins of equal width, closed on the right, the first holding 0 too."""
    return np.searchsorted(np.arange(1, _check_bins(bins)) / bins, values).astype(np.int64)


def _check_bins(bins: int) -> int:
    if bins < 1:
        raise UserError(f"{bins} bins: there must be at least 1, and 15 is usual.")
    return bins


def _bin_means(values: Floats, outcomes: npt.NDArray[np.bool_], index: Ints, bins: int) -> tuple[Ints, Floats, Floats]:
    """Count the images of each bin and average values and outcomes there; NaN in empty bins."""
    counts = np.bincount(index, minlength=bins)
    means = []
    for weights in (values, outcomes):
        total = np.bincount(index, weights=weights, minlength=bins)
        means.append(np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0))
    return counts.astype(np.int64), means[0], means[1]
