"""Whether two classifiers differ by more than chance on one test set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers on the same images.

    Attributes:
        only_a: Images that only the first classifier classifies correctly.
        only_b: Images that only the second classifier classifies correctly.
        p: Two-sided probability of a difference at least as large if both were equally good, 0 to 1.
    """

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> McNemar:
    """Test whether two classifiers have the same accuracy (McNemar 1947), by the exact binomial distribution.

    Args:
        correct_a: Whether the first classifier is correct, per image (N,).
        correct_b: The same for the second classifier, in the same order of images.

    Raises:
        UserError: If the two do not have the same number of images.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise UserError(f"McNemar's test compares the same images: got shapes {a.shape} and {b.shape}, not (N,) twice.")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a == only_b:
        return McNemar(only_a, only_b, 1.0)
    return McNemar(only_a, only_b, float(binomtest(only_a, only_a + only_b).pvalue))


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
