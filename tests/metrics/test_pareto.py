"""The Pareto front against its definition, with ties and gaps."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.pareto import pareto_front

NAN, INF = float("nan"), float("inf")


def naive_front(cost: list[float], value: list[float]) -> list[int]:
    points = list(zip(cost, value, strict=True))
    beaten = [any(c <= own_c and v >= own_v and (c < own_c or v > own_v) for c, v in points) for own_c, own_v in points]
    return sorted((i for i in range(len(points)) if not beaten[i]), key=lambda i: (cost[i], i))


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("seed", range(10))
def test_against_the_definition(seed: int, levels: int) -> None:
    # Few levels make many ties, in one of the two or in both.
    cost, value = np.random.default_rng(seed).integers(0, levels, (2, 25)).astype(float).tolist()
    assert pareto_front(cost, value) == naive_front(cost, value)


@pytest.mark.parametrize(
    ("cost", "value", "front"),
    [
        ([], [], []),
        ([3], [0.5], [0]),
        ([1, 2, 3], [0.7, 0.6, 0.9], [0, 2]),
        ([3, 2, 1], [0.9, 0.6, 0.7], [2, 0]),
        ([1, 1, 1], [0.5, 0.5, 0.4], [0, 1]),  # equal points are both kept
        ([1, 2], [0.5, 0.5], [0]),  # the same for more is beaten
        ([1, 1], [0.4, 0.5], [1]),
        ([1, NAN, 2, 0], [0.5, 0.9, 0.6, NAN], [0, 2]),
        ([INF, 1], [0.9, 0.5], [1, 0]),
        ([NAN], [0.5], []),
    ],
)
def test_by_hand(cost: list[float], value: list[float], front: list[int]) -> None:
    assert pareto_front(cost, value) == front


def test_other_numbers_of_costs_and_values_are_refused() -> None:
    with pytest.raises(UserError, match="one cost and one value"):
        pareto_front([1, 2], [1])
