"""Sides take turns, finished measurements are kept, failures are told."""

import json
from pathlib import Path

import pytest
from benchmarks.groups import Group, Ratio, Settings, Side
from benchmarks.run import Bench, SideError

SIDES = (Side("slow", "usual", ("--slow",), tuned=True), Side("fast", "ours", ("--fast",), warm=True))
GROUP = Group("g", "a group", SIDES, (Ratio("fast", "slow", 2.0),))


class FakeBench(Bench):
    """Answers for the sides and notes what was called."""

    def __init__(self, folder: Path, fails: tuple[str, ...] = ()):
        super().__init__(Settings(folder), folder / "raw.jsonl", threads=2, any_source=False)
        self.calls: list[tuple[str, ...]] = []
        self.fails, self.filled = fails, False

    def _call(self, side, arguments):
        arguments = tuple(arguments)
        self.calls.append(arguments)
        if side.name in self.fails:
            raise SideError(f"{side.name} broke\nwith details")
        seconds = 1.0 if arguments[-2:] == ("--workers", "2") else 3.0
        new, self.filled = 0 if self.filled else 3, True
        return {"process_seconds": 9.0, "result": {"seconds": seconds, "new_entries": new}}


def test_workers_are_tried_once_and_sides_take_turns(tmp_path):
    bench = FakeBench(tmp_path)
    assert bench.group(GROUP, 2) == []
    assert [call[-1] for call in bench.calls[:4]] == ["0", "1", "2", "4"]
    assert all("--probe" in call for call in bench.calls[:4])
    assert bench.calls[4:] == [("--slow", "--workers", "2"), ("--fast",)] * 2


def test_a_warm_side_that_had_to_fill_the_cache_runs_again(tmp_path):
    bench = FakeBench(tmp_path)
    bench.group(Group("g", "a group", SIDES[1:], ()), 1)
    assert bench.calls == [("--fast",), ("--fast",)]
    assert bench.rows[-1]["result"]["new_entries"] == 0


def test_what_must_come_before_a_side_comes_right_before_it_each_time(tmp_path):
    bench = FakeBench(tmp_path)
    bench.group(Group("g", "a group", (Side("kept", "ours", ("--b",), before=("--a",)),), ()), 2)
    assert bench.calls == [("--a",), ("--b",)] * 2


def test_an_interrupted_benchmark_goes_on_where_it_stopped(tmp_path):
    FakeBench(tmp_path).group(GROUP, 1)
    again = FakeBench(tmp_path)
    again.filled = True
    again.group(GROUP, 2)
    assert again.calls == [("--slow", "--workers", "2"), ("--fast",)]


@pytest.mark.parametrize("what", ["source", "machine", "threads"])
def test_measurements_of_other_code_machines_or_threads_do_not_count(tmp_path, what):
    FakeBench(tmp_path).group(GROUP, 1)
    rows = [json.loads(line) | {what: "other"} for line in (tmp_path / "raw.jsonl").read_text().splitlines()]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = FakeBench(tmp_path)
    again.filled = True
    again.group(GROUP, 1)
    assert again.calls[-2:] == [("--slow", "--workers", "2"), ("--fast",)]


def test_a_failing_side_is_told_once_and_the_others_go_on(tmp_path):
    bench = FakeBench(tmp_path, fails=("slow",))
    bench.filled = True
    assert bench.group(GROUP, 3) == ["slow broke"]
    assert bench.calls == [("--slow", "--probe", "4096", "--workers", "0"), *[("--fast",)] * 3]


def test_a_missing_environment_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.run.PYTHONS", {"fastai": tmp_path / "none"})
    bench = Bench(Settings(tmp_path), tmp_path / "raw.jsonl", threads=2, any_source=False)
    side = Side("fastai", "fastai_side", (), environment="fastai")
    assert bench.group(Group("g", "a group", (side,), ()), 1) == [
        "fastai has no environment; `make bench-peers` makes it"
    ]
