"""Which of several models are worth their cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError


def pareto_front(cost: npt.ArrayLike, value: npt.ArrayLike) -> list[int]:
    """Find the points that no other point beats.

    A point beats another if it costs no more and is worth no less, and is better in one of the two.

    Args:
        cost: What a point costs (N,), such as seconds: lower is better.
        value: What a point is worth (N,), such as an accuracy: higher is better.

    Returns:
        Indices of the front by rising cost, equal points by index. A point with a NaN is not on it and beats none.

    Raises:
        UserError: If there are not as many costs as values.
    """
    costs, values = np.asarray(cost, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if costs.ndim != 1 or costs.shape != values.shape:
        raise UserError(f"a front needs one cost and one value a point, got shapes {costs.shape} and {values.shape}.")
    known = np.flatnonzero(~(np.isnan(costs) | np.isnan(values)))
    front: list[int] = []
    for i in known[np.lexsort((-values[known], costs[known]))].tolist():
        # Points come by rising cost, the best of each cost first: only the last one kept can beat or equal this one.
        if not front or values[i] > values[front[-1]] or (costs[i], values[i]) == (costs[front[-1]], values[front[-1]]):
            front.append(i)
    return front
