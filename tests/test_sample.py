"""What `make test` leaves to `make test-all`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import sampled


class Case:
    """A case of a test, as pytest collects it."""

    def __init__(self, nodeid: str, keep: int | None) -> None:
        self.nodeid = nodeid
        self.mark = None if keep is None else SimpleNamespace(kwargs={"keep": keep} if keep else {})

    def get_closest_marker(self, name: str) -> Any:
        return self.mark if name == "thorough" else None


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        (0, []),
        (1, [0]),
        (2, [0, 6]),
        (3, [0, 3, 6]),
        (7, [0, 1, 2, 3, 4, 5, 6]),
        (9, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_so_many_cases_are_kept_from_the_first_to_the_last(keep: int | None, kept: list[int]) -> None:
    cases: list[Any] = [Case(f"tests/test_a.py::test_one[{number}]", keep) for number in range(7)]
    other: Any = Case("tests/test_a.py::test_two[0]", None)
    found = sampled([*cases, other])
    assert [place for place, case in enumerate(cases) if case in found] == kept
    assert other in found


def test_cases_are_those_of_one_test_in_one_file() -> None:
    cases: list[Any] = [Case(f"tests/test_{file}.py::test_one[{k}]", 1) for file in "ab" for k in range(3)]
    assert [case.nodeid for case in cases if case in sampled(cases)] == [cases[0].nodeid, cases[3].nodeid]
