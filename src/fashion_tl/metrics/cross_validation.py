"""Figures over the folds of a cross-validation: their mean, and what is known of its error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fashion_tl.errors import UserError
from fashion_tl.metrics.checks import check_level
from fashion_tl.metrics.uncertainty import wilson_interval

SHARES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1"}
NO_INTERVAL = "no interval"
Interval = tuple[float, float]


@dataclass(frozen=True)
class CrossValidation:
    """Figures over K folds.

    Attributes:
        folds: Number of folds K.
        images: Images of all folds, each tested once.
        values: The figure of each fold (K,), by its name in ``SHARES``.
        means: Their mean, with ``corrected_interval``; None where that has none.
        pooled: Accuracy over all images, with Wilson's interval.
    """

    folds: int
    images: int
    values: dict[str, list[float]]
    means: dict[str, tuple[float, Interval | None]]
    pooled: tuple[float, Interval]

    def lines(self) -> list[str]:
        """Say them in words."""
        told = ", ".join(
            f"{words} {self.means[name][0]:.4f} ({interval_words(self.means[name][1])})"
            for name, words in SHARES.items()
        )
        share, interval = self.pooled
        return [
            f"mean of {self.folds} folds: {told}",
            f"pooled: accuracy {share:.4f} ({interval_words(interval)}) on {self.images:,} images, each tested once",
        ]


def interval_words(interval: Interval | None) -> str:
    """Say an interval, such as "0.9315 to 0.9410", or that there is none."""
    return NO_INTERVAL if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def corrected_interval(values: Iterable[float], test_share: float, level: float = 0.95) -> Interval | None:
    """Compute the corrected resampled t interval of a mean over folds (Nadeau and Bengio 2003, section 3.1).

    Folds share most of their training images, so their figures are not independent, and the plain Student's interval is
    too narrow. No estimator of the variance of K-fold cross-validation is unbiased (Bengio and Grandvalet 2004). This
    one replaces 1/K by 1/K + n_test/n_train, which was made for random splits and is conservative for folds. Equal
    values say nothing of their deviation, and have no interval.

    Args:
        values: The figure of each of K folds, two or more.
        test_share: Test images of a fold per training image, above 0.
        level: Probability at which an interval is to cover the mean, above 0 and below 1.

    Raises:
        UserError: If there are fewer than two values, or a number is out of range.
    """
    from scipy.stats import t

    figures, tail = np.array(list(values), dtype=np.float64), (1 - check_level(level)) / 2
    if figures.size < 2:
        raise UserError("no interval over fewer than two folds.")
    if not 0 < test_share < math.inf:
        raise UserError(f"{test_share} test images per training image: a fold has some of both.")
    if np.ptp(figures) == 0:
        return None
    deviation = math.sqrt((1 / figures.size + test_share) * float(figures.var(ddof=1)))
    half, mean = float(t.isf(tail, figures.size - 1)) * deviation, float(figures.mean())
    return mean - half, mean + half


def cross_validation(tests: Sequence[Mapping[str, Any]], trained: Sequence[int]) -> CrossValidation:
    """Combine the test figures of all folds.

    Args:
        tests: The figures of each fold, as ``metrics.summarise`` gives them.
        trained: Training images of each fold.

    Raises:
        UserError: If there are fewer than two folds.
    """
    values = {name: [float(test[name]) for test in tests] for name in SHARES}
    images = [int(test["images"]) for test in tests]
    share = float(np.mean([tested / train for tested, train in zip(images, trained, strict=True)]))
    means = {}
    for name, each in values.items():
        interval = corrected_interval(each, share)
        means[name] = float(np.mean(each)), interval and (max(0.0, interval[0]), min(1.0, interval[1]))
    correct = sum(int(np.trace(np.array(test["confusion_matrix"]))) for test in tests)
    pooled = correct / sum(images), wilson_interval(correct, sum(images))
    return CrossValidation(len(tests), sum(images), values, means, pooled)
