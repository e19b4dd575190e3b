"""Whether two classifiers differ by more than chance on one test set, in NumPy alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers on the same images.

    Attributes:
        only_a: Images that only the first classifier gets right.
        only_b: Images that only the second classifier gets right.
        p: Two-sided probability of a difference at least as large if both were equally good, 0 to 1.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(right_a: npt.ArrayLike, right_b: npt.ArrayLike) -> McNemar:
    """Test whether two classifiers have the same accuracy (McNemar 1947), by the exact binomial distribution.

    Args:
        right_a: Whether the first classifier is right, per image (N,).
        right_b: The same for the second classifier, in the same order of images.

    Raises:
        UserError: If the two do not have the same number of images.
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise UserError(f"McNemar's test compares the same images: got shapes {a.shape} and {b.shape}, not (N,) twice.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(only_a, only_b, _binomial_two_sided(min(only_a, only_b), only_a + only_b))


def _binomial_two_sided(fewer: int, trials: int) -> float:
    """Compute the two-sided p-value of ``fewer`` (at most half) successes in ``trials`` fair tosses."""
    # P(X = m) exactly, then P(X = m - 1), ... relative to it: no logarithms, so 1e-300 is as exact as 0.1.
    steps = np.arange(fewer, dtype=np.float64)
    tail = 1 + float(np.cumprod((fewer - steps) / (trials - fewer + 1 + steps)).sum())
    return min(1.0, 2 * tail * (math.comb(trials, fewer) / (1 << trials)))


def holm(p_values: Iterable[float]) -> list[float]:
    """Adjust p-values of several tests so that the chance of any false alarm stays bounded (Holm 1979).

    Args:
        p_values: p-values of the tests, each 0 to 1.

    Returns:
        Adjusted p-values in the order given, 0 to 1: below 0.05 means significant at 0.05 over all tests together.

    Raises:
        UserError: If a value is not a probability.
    """
    p = np.array(list(p_values), dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise UserError(f"p-values must be between 0 and 1, got {p.tolist()}.")
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(raised, 1)
    result: list[float] = adjusted.tolist()
    return result
