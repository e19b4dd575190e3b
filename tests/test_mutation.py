"""The list of checks that ``make mutation`` breaks is that of the source."""

from __future__ import annotations

from .mutation import ROOT, occurrences
from .mutations import MUTATIONS


def test_every_check_is_there_once() -> None:
    assert len(MUTATIONS) >= 30
    assert {mutation.what: occurrences(mutation) for mutation in MUTATIONS if occurrences(mutation) != 1} == {}
    assert all(mutation.text != mutation.broken for mutation in MUTATIONS)
    files = {test for mutation in MUTATIONS for test in mutation.tests if test.startswith("tests/")}
    assert all((ROOT / file).exists() for file in files)
