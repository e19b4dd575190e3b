"""How far a figure of one test set, or of a few seeds, can be trusted: intervals and deviations."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy import special

from fashion_tl.errors import UserError
from fashion_tl.metrics.calibration import bin_index
from fashion_tl.metrics.checks import check_level, check_probabilities, check_scores
from fashion_tl.metrics.metrics import Ints, balanced_accuracy, macro, softmax

CALIBRATION_BINS = 15
CLEAR = 3.0  # deviations from which the sign of a bin's gap counts as known
PSEUDO_IMAGES = 4  # of a bootstrap, half of them wrong: the squared deviations of an interval at 0.95, rounded
HALVINGS = 25  # of the bracket of an upper bound; leaves less than 1e-6 of it


def wilson_interval(correct: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the score interval of a proportion (Wilson 1927), such as an accuracy.

    Args:
        correct: Images that were classified correctly, 0 to ``count``.
        count: Images in all, at least 1.
        level: Probability that an interval made in this way covers the true proportion, above 0 and below 1.

    Returns:
        Lower and upper bound, 0 to 1; exactly 0 where none is correct and exactly 1 where all are.

    Raises:
        UserError: If the counts or the level are out of range.
    """
    from scipy.stats import binomtest

    if count < 1 or not 0 <= correct <= count:
        raise UserError(f"{correct} of {count} images: there must be at least one, and 0 to {count} of them.")
    found = binomtest(correct, count).proportion_ci(check_level(level), method="wilson")
    return float(found.low), float(found.high)


def bootstrap_intervals(
    logits: npt.ArrayLike, labels: npt.ArrayLike, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Compute percentile bootstrap intervals over the test images (Efron 1979; Efron and Tibshirani 1993, chapter 13).

    Each resample draws N images with replacement, ``rng.integers(0, N, N)`` in turn from ``default_rng(seed)``, and
    figures are those of ``summarise``: a class that a resample leaves out does not count, unless it is predicted.

    Images without a mistake cannot show that there are any, so that the figures of the confusion matrix also get
    pseudo-images: Poisson(4) in each resample, half of them correct, spread evenly over the classes that occur and, if
    wrong, over the others that occur or are predicted. That is the rule of two correct and two wrong ones for a
    proportion (Agresti and Coull 1998) and for a mean of proportions (Price and Bonett 2004). In simulations of 2 to 10
    balanced classes, 100 to 1000 images and 1 to 60 expected mistakes, intervals at 0.95 covered in 94 % to 97 %.

    Args:
        logits: Logits (N, K).
        labels: True classes (N,).
        resamples: Number of resamples, at least 1.
        seed: Seed of the draws; the same seed pairs the resamples of two models on one test set.
        level: Share of the resampled figures inside the interval, above 0 and below 1.

    Returns:
        Lower and upper bound of "loss", "balanced_accuracy", "macro_precision" and "macro_f1"; the figure itself is
        between those of the last three. The loss has none where it is the same of all images, as of a single one. The
        calibration error is not among them: resampling adds its upward bias once more, so that such an interval misses
        a small error; ``calibration_interval`` is made for it.

    Raises:
        UserError: If shapes disagree, a logit is not finite, or a number is out of range.
    """
    values, truth = check_scores(logits, labels)
    if resamples < 1:
        raise UserError(f"{resamples} resamples: a bootstrap needs at least 1, and 1000 for an interval at 0.95.")
    tail = (1 - check_level(level)) / 2
    images, classes = values.shape
    # What an image adds to the figures does not change between resamples: its loss and its cell of the confusion
    # matrix. A resample only counts how often each image is drawn.
    predicted = softmax(values).argmax(axis=1)
    loss = special.logsumexp(values, axis=1) - values[np.arange(images), truth]
    cell = truth * classes + predicted

    seen = np.bincount(cell, minlength=classes * classes).reshape(classes, classes)
    rng = np.random.default_rng(seed)
    added = _pseudo_images(seen, resamples, np.random.default_rng([seed, 1]))
    figures = np.empty((resamples, 4))
    for row, extra in zip(figures, added, strict=True):
        drawn = np.bincount(rng.integers(0, images, images), minlength=images).astype(np.float64)
        matrix = np.bincount(cell, weights=drawn, minlength=classes * classes).astype(np.int64)
        np.add.at(matrix, extra, 1)
        row[0] = drawn @ loss / images
        row[1:] = _matrix_figures(matrix.reshape(classes, classes))
    low, high = np.quantile(figures, [tail, 1 - tail], axis=0)
    itself = _matrix_figures(seen)
    low[1:], high[1:] = np.minimum(low[1:], itself), np.maximum(high[1:], itself)
    names = ("loss", "balanced_accuracy", "macro_precision", "macro_f1")
    found = dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    if np.ptp(loss) == 0:
        del found["loss"]
    return found


def _matrix_figures(matrix: Ints) -> tuple[float, float, float]:
    means = macro(matrix)
    return balanced_accuracy(matrix), means["precision"], means["f1"]


def _pseudo_images(matrix: Ints, resamples: int, rng: np.random.Generator) -> list[Ints]:
    """Draw the cells of a confusion matrix, row by row, that the pseudo-images of each resample are added to."""
    occurs = np.flatnonzero(matrix.sum(axis=1))
    there = np.flatnonzero(matrix.sum(axis=0) + matrix.sum(axis=1))
    counts = rng.poisson(PSEUDO_IMAGES, resamples)
    total = int(counts.sum())
    truth = rng.choice(occurs, total)
    if len(there) == 1:  # whatever is not taken for it is taken for a class that was not seen
        there = np.arange(len(matrix))
    step = rng.integers(0, 2, total) * rng.integers(min(1, len(there) - 1), len(there), total)
    predicted = there[(np.searchsorted(there, truth) + step) % len(there)]
    return np.split(truth * len(matrix) + predicted, np.cumsum(counts)[:-1])


def calibration_interval(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    level: float = 0.95,
    bins: int = CALIBRATION_BINS,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute an interval of the true binned calibration error by inverting tests of the measured one.

    What is covered is the sum over these bins of |E[confidence - correct; image in the bin]|, the value that
    ``metrics.calibration_error`` approaches with ever more images. With few images the measured error lies above it:
    chance alone opens a gap in every bin, and absolute gaps do not cancel (Broecker and Smith 2007; Kumar 2019; Roelofs
    2022). A bin's gap is taken as normal about its true value, and each bound holds for every division of the error
    among the bins:

    - Lower: the measured error exceeds the true one by no more than the summed size of the chance gaps (triangle
      inequality), or, in bins whose sign is clear, their signed sum. It is 0 where chance alone explains the error.
    - Upper: the largest error of which so small a measured one is not rejected. Least of a given error is measured if
      every bin's gap is the same multiple of its deviation, as the mean of a folded normal is convex. The bound is at
      least the one of a calibrated model's median (power-constrained, Cowan 2011).

    That makes the interval conservative: over shapes of miscalibration, 500 to 10,000 images and 15 bins, intervals at
    0.95 covered errors of 0 to 0.02 in 95 % to 100 % of simulations.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        level: Probability that an interval made in this way covers the true error, above 0 and below 1.
        bins: Bins of equal width over (0, 1], at least 1.
        draws: Draws of the chance gaps, at least 1.
        seed: Seed of the draws.

    Returns:
        Lower and upper bound, 0 to 1; the measured error lies between them.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    tail = (1 - check_level(level)) / 2
    if draws < 1:
        raise UserError(f"{draws} draws: an interval needs at least 1, and 4000 at 0.95.")
    images, confidence = len(truth), values.max(axis=1)
    index = bin_index(confidence, bins)
    counts, sums, squares, correct = (
        np.bincount(index, weights=weights, minlength=bins)
        for weights in (np.ones(images), confidence, confidence**2, values.argmax(axis=1) == truth)
    )
    gap = (sums - correct) / images
    # Two correct and two wrong images more than were seen (Agresti and Coull 1998): a bin without errors can still err.
    accuracy = (correct + 2) / (counts + 4)
    second = squares - 2 * accuracy * sums + accuracy * counts
    deviation = np.sqrt(second / images - ((sums - accuracy * counts) / images) ** 2) / math.sqrt(images)

    noise = np.random.default_rng(seed).standard_normal((draws, bins))
    measured, scale = float(np.abs(gap).sum()), float(deviation.sum())
    clear = np.abs(gap) > CLEAR * deviation
    excess = np.where(clear, noise, np.abs(noise)) @ deviation
    lower = measured - float(np.quantile(excess, 1 - tail))
    # A smaller error than calibrated models show at the median is luck, and must not make the interval narrower.
    seen = max(measured, float(np.median(np.abs(noise) @ deviation)))
    # The true error as a multiple of the summed deviations; at the upper end every draw exceeds what was seen.
    low, high = 0.0, seen / scale + float(np.abs(noise).max())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if np.quantile(np.abs(middle + noise) @ deviation, tail) > seen:
            high = middle
        else:
            low = middle
    return max(0.0, lower), min(1.0, max(measured, high * scale))


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
