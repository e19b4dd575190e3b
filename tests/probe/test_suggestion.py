"""The rule that suggests a boundary."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_tl.probe.suggestion import Depth, suggest

STAGES = ("stem", "one", "two", "three")


def depth(boundary: int, val: float, train: float) -> Depth:
    correct = np.arange(1000) < round(1000 * val)
    return Depth(boundary, STAGES[boundary - 1], correct, train)


@pytest.mark.parametrize(
    ("val", "train", "boundary", "word"),
    [
        ((0.5, 0.7, 0.9, 0.9), 0.99, 3, "labels"),  # few labels: what the last stage adds nothing to is kept
        ((0.5, 0.7, 0.8, 0.9), 0.99, 4, "labels"),  # few labels, better with every stage: the head alone
        ((0.5, 0.72, 0.8, 0.9), 0.91, 2, "features"),  # half of the way from 0.5 to 0.9 is made behind the second stage
        ((0.8, 0.8, 0.7, 0.6), 0.81, 1, "features"),  # the lowest is the best
        ((0.5, 0.7, 1.0, 1.0), 1.0, 3, "labels"),  # no error at all
    ],
)
def test_rule(val: tuple[float, ...], train: float, boundary: int, word: str) -> None:
    found = suggest([depth(i + 1, each, train) for i, each in enumerate(val)], STAGES)
    assert found.boundary == boundary
    assert f"the {word} are the limit" in found.why


def test_differences_within_a_standard_error_do_not_count() -> None:
    images = np.arange(500)
    for only_upper, boundary in ((12, 1), (24, 2)):  # against 10 that only the lower one classifies correctly
        lower, upper = images >= only_upper, (images < 490) | (images % 500 < only_upper)
        found = suggest([Depth(1, "stem", lower, 1.0), Depth(2, "one", upper, 1.0)], STAGES[:2])
        assert found.boundary == boundary


def test_the_best_probe_tells_what_the_limit_is() -> None:
    """A lower stage that is as good has fewer features, which fit the training images less."""
    images = np.arange(1000)
    last = Depth(4, "three", (images >= 2) & (images < 963), 0.999)  # one more than the third stage, within chance
    depths = [depth(1, 0.5, 0.5), depth(2, 0.7, 0.7), depth(3, 0.96, 0.94), last]
    found = suggest(depths, STAGES)
    assert "the labels are the limit" in found.why
    assert found.boundary == 3
