"""Corruption errors from cells of accuracies, computed by hand."""

from __future__ import annotations

import pytest

from fashion_tl.inspection.corruption_error import mean_corruption_error


def cells(**accuracies: list[float]) -> dict[str, list[dict[str, float]]]:
    return {name: [{"accuracy": value} for value in row] for name, row in accuracies.items()}


CLEAN = {"accuracy": 0.9}


def test_without_a_baseline_there_is_a_mean_error_alone() -> None:
    found = mean_corruption_error(cells(a=[0.8, 0.6], b=[0.7, 0.5]), CLEAN, None)
    assert found["error"] == pytest.approx(0.35)
    assert found["mce"] is None


def test_errors_are_relative_to_the_baseline() -> None:
    baseline = {"cells": cells(a=[0.6, 0.2], b=[0.9, 0.5]), "clean": {"accuracy": 0.95}}
    found = mean_corruption_error(cells(a=[0.8, 0.6], b=[0.7, 0.5]), CLEAN, baseline)
    assert found["by_corruption"] == pytest.approx({"a": 0.6 / 1.2, "b": 0.8 / 0.6})
    assert found["mce"] == pytest.approx((0.5 + 4 / 3) / 2)
    assert found["relative_mce"] == pytest.approx(((0.6 - 0.2) / (1.2 - 0.1) + (0.8 - 0.2) / (0.6 - 0.1)) / 2)


def test_a_perfect_baseline_leaves_no_figure() -> None:
    baseline = {"cells": cells(a=[1.0, 1.0]), "clean": {"accuracy": 1.0}}
    found = mean_corruption_error(cells(a=[0.8, 0.6]), CLEAN, baseline)
    assert found["by_corruption"] == {"a": None}
    assert (found["mce"], found["relative_mce"]) == (None, None)
