"""How far a figure of one test set, or of a few seeds, can be trusted: intervals and deviations, in NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from fashion_tl.analysis.calibration import bin_index
from fashion_tl.analysis.checks import check_level, check_scores
from fashion_tl.analysis.metrics import per_class, softmax
from fashion_tl.errors import UserError

CALIBRATION_BINS = 15


def wilson_interval(hits: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the score interval of a proportion (Wilson 1927), such as an accuracy.

    Args:
        hits: Images that were classified right, 0 to ``count``.
        count: Images in all, at least 1.
        level: Probability that an interval made in this way covers the true proportion, above 0 and below 1.

    Returns:
        Lower and upper bound, 0 to 1; exactly 0 without a hit and exactly 1 without a miss.

    Raises:
        UserError: If the counts or the level are out of range.
    """
    if count < 1 or not 0 <= hits <= count:
        raise UserError(f"{hits} hits of {count} images: there must be at least one image, and 0 to {count} hits.")
    z = NormalDist().inv_cdf((1 + check_level(level)) / 2)
    share, scale = hits / count, 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (0.0 if hits == 0 else centre - half, 1.0 if hits == count else centre + half)


def bootstrap_intervals(
    logits: npt.ArrayLike, labels: npt.ArrayLike, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Compute percentile bootstrap intervals over the test images (Efron 1979; Efron and Tibshirani 1993, chapter 13).

    Each resample draws N images with replacement, ``rng.integers(0, N, N)`` in turn from ``default_rng(seed)``, and
    figures are those of ``summarise``: a class that a resample leaves out counts as 0 in its means.

    Args:
        logits: Logits (N, K).
        labels: True classes (N,).
        resamples: Number of resamples, at least 1.
        seed: Seed of the draws; the same seed pairs the resamples of two models on one test set.
        level: Share of the resampled figures inside the interval, above 0 and below 1.

    Returns:
        Lower and upper bound of "loss", "macro_precision", "macro_recall", "macro_f1" and "calibration_error".

    Raises:
        UserError: If shapes disagree, a logit is not finite, or a number is out of range.
    """
    values, truth = check_scores(logits, labels)
    if resamples < 1:
        raise UserError(f"{resamples} resamples: a bootstrap needs at least 1, and 1000 for an interval at 0.95.")
    tail = (1 - check_level(level)) / 2
    images, classes = values.shape
    # What an image adds to the figures does not change between resamples: its loss, its cell of the confusion matrix,
    # its bin and gap of confidence and hit. A resample only counts how often each image is drawn.
    probabilities = softmax(values)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    highest = values.max(axis=1, keepdims=True)
    loss = np.log(np.exp(values - highest).sum(axis=1)) + highest[:, 0] - values[np.arange(images), truth]
    cell = truth * classes + predicted
    bins = bin_index(confidence, CALIBRATION_BINS)
    gap = confidence - (predicted == truth)

    rng = np.random.default_rng(seed)
    figures = np.empty((resamples, 5))
    for row in figures:
        drawn = np.bincount(rng.integers(0, images, images), minlength=images).astype(np.float64)
        matrix = np.bincount(cell, weights=drawn, minlength=classes * classes).reshape(classes, classes)
        macro = per_class(matrix.astype(np.int64))
        gaps = np.bincount(bins, weights=drawn * gap, minlength=CALIBRATION_BINS)
        row[0] = drawn @ loss / images
        row[1:4] = macro["precision"].mean(), macro["recall"].mean(), macro["f1"].mean()
        row[4] = np.abs(gaps).sum() / images
    low, high = np.quantile(figures, [tail, 1 - tail], axis=0).tolist()
    names = ("loss", "macro_precision", "macro_recall", "macro_f1", "calibration_error")
    return {name: (low[i], high[i]) for i, name in enumerate(names)}


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Compute mean and sample standard deviation (divisor n - 1) of a figure over seeds.

    Returns:
        Mean and deviation; the deviation of a single value is not known and None.

    Raises:
        UserError: If there is no value, or one is not finite.
    """
    figures = np.array(list(values), dtype=np.float64)
    if figures.size == 0 or not np.isfinite(figures).all():
        raise UserError(f"no mean of {figures.tolist()}: it needs at least one value, and only finite ones.")
    return float(figures.mean()), float(figures.std(ddof=1)) if figures.size > 1 else None
