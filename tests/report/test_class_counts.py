"""How far the sizes of classes lie apart, in the report and in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from fashion_tl.metrics.imbalance import class_ratio, imbalance
from fashion_tl.report.columns import data
from fashion_tl.report.context import classes
from fashion_tl.report.run_files import open_run

from .conftest import CLASSES


@pytest.mark.parametrize(
    ("counts", "ratio", "told"),
    [
        ([600, 12, 40], 50, "12 (b) to 600 (a), 50 : 1"),
        ([3000, 1500, 2000], 2, "1,500 (b) to 3,000 (a), 2 : 1"),
        ([15, 20, 29], 29 / 15, None),
        ([7, 7, 7], 1, None),
        ([5, 0, 2], math.inf, "0 (b) to 5 (a)"),
        ([10, 30, 99], 9.9, "10 (a) to 99 (c), 9.9 : 1"),
    ],
)
def test_imbalance_in_words(counts: list[int], ratio: float, told: str | None) -> None:
    assert class_ratio(counts) == ratio
    assert imbalance(counts, ["a", "b", "c"]) == told


def test_the_report_tells_of_classes_of_unequal_size(make: Any, report: Callable[..., Any]) -> None:
    counts = {"train": [100, 10, 50, 40], "val": [5] * 4, "test": [15] * 4}
    about = {"data.class_counts": counts, "data.sizes": {"train": 200}, "data.sampler": "balanced"}
    make.run("one", change=about)
    make.run("two", draw=1, change={**about, "data.sampler": "random"})
    (compared,) = report().sections
    told = {entry.label: data(entry.run) for entry in compared.entries}
    source = (
        f"{compared.entries[0].run.text('data', 'source')}, 200; of a class 10 ({CLASSES[1]}) to 100 ({CLASSES[0]})"
    )
    assert told == {"one": f"{source}, 10 : 1, balanced sampler", "two": f"{source}, 10 : 1"}
    table = classes(compared)
    assert table is not None
    assert [cell.text for cell in table.head[:3]] == ["Class", "Training images", "Test images"]
    rows = table.groups[0][1]
    assert [row.cells[0].text for row in rows] == ["100", "10", "50", "40", "200"]
    assert sum(int(row.cells[1].text) for row in rows[:-1]) == 60
    make.run("three", draw=2, change={"data.class_counts": {**counts, "train": [1] * 4}})
    (compared,) = report().sections
    table = classes(compared)
    assert table is not None
    assert [cell.text for cell in table.head[:2]] == ["Class", "Images"]  # runs were trained on different numbers


@pytest.mark.parametrize("counts", [None, 3, [1, 2], [1, 2, 3, "x"], [1, 2, 3, -4], {"a": 1}])
def test_counts_that_are_not_whole_are_not_shown(make: Any, counts: Any) -> None:
    run = open_run(make.run("run", change={"data.sizes": {"train": 9}}))
    run.record["data"]["class_counts"] = {"train": counts}
    assert data(run) == f"{run.text('data', 'source')}, 9"
