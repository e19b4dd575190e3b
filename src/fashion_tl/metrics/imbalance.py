"""How far apart the sizes of classes lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

TOLD = 2.0  # times as many images in the largest class as in the smallest, from which classes are called imbalanced


def class_ratio(counts: Sequence[int]) -> float:
    """Return how many times as many images the largest class has as the smallest; infinity if that has none."""
    return max(counts) / min(counts) if min(counts) else math.inf


def imbalance(counts: Sequence[int], class_names: Sequence[str]) -> str | None:
    """Say how far apart the sizes of the smallest and the largest class lie; None if that is less than twofold.

    >>> imbalance([600, 12], ["coat", "bag"])
    '12 (bag) to 600 (coat), 50 : 1'

    Args:
        counts: Images of each class (K,).
        class_names: Names of the K classes.
    """
    ratio = class_ratio(counts)
    if ratio < TOLD:
        return None
    ends = (f"{count:,} ({class_names[list(counts).index(count)]})" for count in (min(counts), max(counts)))
    return " to ".join(ends) + (f", {ratio:.3g} : 1" if math.isfinite(ratio) else "")
