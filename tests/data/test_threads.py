"""Work in threads: order, errors, and an end from wherever it comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from fashion_tl.data.threads import in_order


def test_results_come_in_order_and_errors_are_raised() -> None:
    assert list(in_order(lambda index: index * index, 1000)) == [index * index for index in range(1000)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda index: 1 // (500 - index), 1000))


def test_what_is_left_may_be_dropped_in_one_of_the_threads() -> None:
    # As the garbage collector does, which runs in any thread.
    taken, ended = threading.Event(), threading.Event()
    failed: list[BaseException] = []
    results: Iterator[int]

    def task(index: int) -> int:
        if index == 1999:
            taken.wait(10)
            try:
                results.close()  # type: ignore[attr-defined]
            except RuntimeError as error:
                failed.append(error)
            ended.set()
        return index

    results = in_order(task, 2000)
    assert next(results) == 0
    taken.set()
    assert ended.wait(10)
    assert failed == []
