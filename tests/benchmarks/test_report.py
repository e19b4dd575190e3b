"""Ratios and the page of results, from measurements made up here."""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.groups import Group, Ratio, Side
from benchmarks.report import of_result, ratios, reached, spread, write_results

MACHINE = {"processor": "a CPU", "cores": 2, "memory_gib": 8.0, "system": "an OS"}
SIDES = (Side("slow", "usual", ("--slow",), factor=6), Side("fast", "ours", ("--fast",)), Side("peer", "fts_side", ()))
GROUP = Group("g", "a group", SIDES, (Ratio("fast", "slow", 8), Ratio("fast", "peer", None)), "A note.")


def row(side: str, repeat: int, seconds: float, accuracy: float = 0.5) -> dict[str, Any]:
    arguments = next(list(s.arguments) for s in SIDES if s.name == side)
    result: dict[str, Any] = {
        "seconds": seconds,
        "test_seconds": 1.0,
        "import_seconds": 5.0,
        "accuracy": accuracy,
        "images": 1000,
    }
    result |= {"test_accuracy": accuracy, "peak_bytes": 2**20, "python": "3", "versions": {"torch": "2"}, "threads": 2}
    stamp = {"machine": MACHINE, "date": "2025-01-02T03:04:05+00:00", "commit": "abc", "source": "s", "threads": 2}
    head = {"group": "g", "side": side, "repeat": repeat, "arguments": arguments, "process_seconds": seconds + 6}
    return {**head, "result": result, **stamp}


ROWS = [row("slow", i, s) for i, s in enumerate((30.0, 40.0, 50.0))]
ROWS += [row("fast", i, s) for i, s in enumerate((20.0, 20.0, 60.0))]


def written(tmp_path: Path, rows, problems=None, source: str | None = "s") -> str:
    write_results(tmp_path / "results.md", [GROUP], rows, MACHINE, problems or {}, source, 2)
    return (tmp_path / "results.md").read_text()


def test_ratios_pair_the_repeats_that_both_sides_have():
    other, ours = {0: ROWS[0], 1: ROWS[1], 2: ROWS[2]}, {1: ROWS[4], 2: ROWS[5]}
    assert ratios(other, ours, of_result("seconds"), of_result("seconds")) == pytest.approx([2, 50 / 60])


def test_spread_is_minimum_median_maximum():
    assert spread([12.34, 3.0, 100.0]) == "3.00 / 12.3 / 100.0"
    assert spread([]) == "not measured"


def test_page_has_ratios_times_the_factor_and_says_what_is_missing(tmp_path):
    page = written(tmp_path, ROWS)
    assert "| g | fast | slow | 5.00 / 9.00 / 12.0 | 8 | yes |" in page
    assert "| g | fast | peer | not measured | none |  |" in page
    # The same with the test (6 x 31 / 21, ...) and as whole processes (6 x 36 / 26, ...).
    assert "| fast / slow | 5.00 / 9.00 / 12.0 | 5.02 / 8.86 / 11.7 | 5.09 / 8.31 / 10.6 |" in page
    assert "| slow | 240.00 | 5.0 | 0.5000 | 0.5000 | 1 |  |  |" in page
    assert "| peer | not measured |" in page
    assert "a CPU, 2 cores" in page
    assert "A note." in page


def test_measurements_of_another_machine_or_command_do_not_count(tmp_path):
    others = [{**r, "machine": {}} for r in ROWS] + [{**r, "arguments": ["--else"]} for r in ROWS]
    page = written(tmp_path, others, {"g": ["fast broke"]})
    assert "Nothing was measured on this machine." in page
    assert "Not measured to the end: fast broke." in page


def test_the_newest_measurement_of_a_repeat_counts(tmp_path):
    assert "| g | fast | slow | 5.00 / 12.0 / 18.0 | 8 | yes |" in written(tmp_path, [*ROWS, row("fast", 0, 10.0)])


@pytest.mark.parametrize(
    ("ours", "other", "seconds", "expected"),
    [(0.9, 0.9, 10.0, "yes"), (0.9, 0.91, 10.0, "no, accuracy is lower"), (0.9, 0.8, 1.0, "no")],
)
def test_a_target_counts_only_at_no_lower_accuracy(ours, other, seconds, expected):
    rows = {"fast": {0: row("fast", 0, 1.0, ours)}, "peer": {0: row("peer", 0, seconds, other)}}
    assert reached(Ratio("fast", "peer", 6, accuracy=True), [seconds], rows) == expected
    assert reached(Ratio("fast", "peer", None), [seconds], rows) == ""


def test_measurements_of_other_code_or_threads_count_only_where_asked_for(tmp_path):
    older = [{**r, "source": "t"} for r in ROWS]
    assert "| g | fast | slow | not measured |" in written(tmp_path, older)
    assert "| g | fast | slow | 5.00 / 9.00 / 12.0 |" in written(tmp_path, older, source=None)
    assert "| g | fast | slow | not measured |" in written(tmp_path, [{**r, "threads": 1} for r in ROWS])
