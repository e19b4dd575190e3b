"""McNemar's test and Holm's correction against exact fractions and the definition."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import numpy.typing as npt
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.significance import McNemar, holm, mcnemar

EXACT = 1e-9


def disagreeing(only_a: int, only_b: int, both: int = 3, neither: int = 2) -> list[npt.NDArray[np.bool_]]:
    """Two classifiers with these counts, in a mixed order."""
    order = np.random.default_rng(0).permutation(only_a + only_b + both + neither)
    counts = [only_a, only_b, both, neither]
    return [np.repeat(flags, counts)[order] for flags in ([True, False, True, False], [False, True, True, False])]


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 1), (5, 6), (40, 17), (700, 300), (0, 1070), (5000, 4999)])
@pytest.mark.thorough(keep=2)
def test_mcnemar_is_the_exact_sum(only_a: int, only_b: int) -> None:
    trials = only_a + only_b
    tail = sum(comb(trials, i) for i in range(min(only_a, only_b) + 1))
    exact = float(Fraction(2 * tail, 2**trials))
    ours = mcnemar(*disagreeing(only_a, only_b))
    assert (ours.only_a, ours.only_b) == (only_a, only_b)
    assert ours.p == pytest.approx(exact, rel=EXACT, abs=0)
    assert mcnemar(*disagreeing(only_b, only_a)).p == pytest.approx(ours.p)


def test_mcnemar_of_one_classifier_with_itself_and_of_nothing() -> None:
    right = np.array([True, False, True])
    assert mcnemar(right, right) == McNemar(0, 0, 1.0)
    assert mcnemar([], []) == McNemar(0, 0, 1.0)
    assert mcnemar([1], [0]) == McNemar(1, 0, 1.0)


def test_mcnemar_refuses_other_images() -> None:
    with pytest.raises(UserError, match="same images"):
        mcnemar([True, False], [True])


def naive_holm(p_values: list[float]) -> list[float]:
    """The definition: the largest of the products up to each rank."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    for rank, i in enumerate(order):
        products = [(len(p_values) - r) * p_values[order[r]] for r in range(rank + 1)]
        adjusted[i] = min(1.0, max(products))
    return adjusted


@pytest.mark.parametrize(
    "p_values",
    [[], [0.03], [0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.5], [0.0, 1.0, 0.0], [0.02, 0.021, 0.9], [1.0, 1e-300]],
)
def test_holm_against_the_definition(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(naive_holm(p_values), abs=EXACT)


def test_holm_by_hand_and_in_order() -> None:
    assert holm(iter([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p_values = np.random.default_rng(0).random(66) ** 4
    assert holm(p_values) == pytest.approx(naive_holm(p_values.tolist()), abs=EXACT)


@pytest.mark.parametrize("broken", [[0.5, 1.5], [-0.1], [float("nan")]])
def test_holm_refuses_what_is_no_probability(broken: list[float]) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        holm(broken)
