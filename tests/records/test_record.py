"""Records: version numbers, names, atomic files, the newest completed run, messages."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fashion_tl.errors import UserError
from fashion_tl.files import write_text
from fashion_tl.records.record import (
    all_records,
    check_name,
    newest_completed,
    next_paths,
    paths_of,
    read_record,
    taken,
    versions,
    write_record,
)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def make_run(
    logs: Path, checkpoints: Path, version: int, status: str | None, best: bool = True, name: str = "phase1"
) -> None:
    """Write a run; a status of None makes a damaged record."""
    paths = paths_of(logs, checkpoints, name, version)
    write_text(paths.logs / "run.json", "{" if status is None else json.dumps({"status": status}))
    if best:
        write_text(paths.best, "")


# Names and numbers


def test_paths_of_a_run(logs: Path, checkpoints: Path) -> None:
    paths = paths_of(logs, checkpoints, "phase1", 12)
    assert (paths.name, paths.version) == ("phase1", 12)
    assert paths.logs == logs / "phase1" / "version_12"
    assert paths.best == checkpoints / "phase1" / "version_12" / "best.ckpt"
    assert paths.last == checkpoints / "phase1" / "version_12" / "last.ckpt"


def test_numbers_are_never_used_again(logs: Path, checkpoints: Path) -> None:
    assert next_paths(logs, checkpoints, "phase1").version == 0
    (logs / "phase1" / "version_2").mkdir(parents=True)
    assert next_paths(logs, checkpoints, "phase1").version == 3
    (checkpoints / "phase1" / "version_10").mkdir(parents=True)
    assert next_paths(logs, checkpoints, "phase1").version == 11
    assert next_paths(logs, checkpoints, "phase2").version == 0


def test_versions_are_sorted_as_numbers(logs: Path) -> None:
    for name in ("version_10", "version_9", "version_", "version_x", "version_1.old", "other"):
        (logs / "phase1" / name).mkdir(parents=True)
    assert versions(logs, "phase1") == [9, 10]


@pytest.mark.parametrize("name", ["phase1", "a", "resnet18.tv_in1k-64+x"])
def test_good_name(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "../a", "a b", "-a", "a\n", "a\0", "é"])
def test_bad_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--name .* letters, digits"):
        next_paths(tmp_path, tmp_path, name)


# Files


def test_record_is_read_as_written(tmp_path: Path) -> None:
    record = {"status": "running", "seed": 1, "data": {"class_names": ["Été"]}, "best": None}
    write_record(tmp_path / "version_0", record)
    assert read_record(tmp_path / "version_0") == record


def test_record_holds_no_nan(tmp_path: Path) -> None:
    write_record(tmp_path, {"status": "running"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, {"status": "running", "loss": math.nan})
    assert read_record(tmp_path) == {"status": "running"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist: .* is not the log folder of a run"),
        (b"", "is damaged: "),
        (b'{"status": "comp', "is damaged: "),
        (b"\xff\xfe", "is damaged: "),
        (b"[1, 2]", "is damaged: it is not the record of a run"),
        (b'{"name": "phase1"}', "is damaged: it is not the record of a run"),
    ],
)
def test_unreadable_record(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_record(tmp_path)
    assert str(tmp_path / "run.json") in str(caught.value)


# Many runs


def test_newest_completed_skips_what_is_not_whole(logs: Path, checkpoints: Path) -> None:
    make_run(logs, checkpoints, 0, "completed")
    make_run(logs, checkpoints, 1, "completed")
    make_run(logs, checkpoints, 2, "running")
    make_run(logs, checkpoints, 3, "failed")
    make_run(logs, checkpoints, 4, "interrupted")
    make_run(logs, checkpoints, 5, None)
    make_run(logs, checkpoints, 6, "completed", best=False)
    (checkpoints / "phase1" / "version_7").mkdir()
    assert newest_completed(logs, checkpoints, "phase1") == paths_of(logs, checkpoints, "phase1", 1)
    make_run(logs, checkpoints, 10, "completed")
    assert newest_completed(logs, checkpoints, "phase1").version == 10


@pytest.mark.parametrize("status", [None, "running"])
def test_no_completed_run_names_the_command(logs: Path, checkpoints: Path, status: str | None) -> None:
    make_run(logs, checkpoints, 0, status)
    with pytest.raises(UserError, match="no completed run 'phase1'") as caught:
        newest_completed(logs, checkpoints, "phase1")
    for part in (str(logs), str(checkpoints), "`make phase1`", "experiments/phase1.yaml"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["best_scratch", "other"])
def test_the_command_of_a_run_is_one_that_exists(
    logs: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("experiments/best/scratch.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("# Question: none\nname: best_scratch\n")
    says = {"best_scratch": f"`fashion-tl fit -c {path}`", "other": "`fashion-tl fit -c FILE --name other`"}
    with pytest.raises(UserError, match="Run it first") as caught:
        newest_completed(logs, checkpoints, name)
    assert says[name] in str(caught.value)


def test_no_runs_at_all(logs: Path, checkpoints: Path) -> None:
    with pytest.raises(UserError, match=r"no completed run 'phase1' .*`make phase1`"):
        newest_completed(logs, checkpoints, "phase1")
    assert list(all_records(logs)) == []


def test_near_spelling_of_a_run(logs: Path, checkpoints: Path) -> None:
    make_run(logs, checkpoints, 0, "completed")
    told = r"unknown run 'phase_1'; did you mean 'phase1'\? .*`fashion-tl fit -c FILE --name phase_1` makes one"
    with pytest.raises(UserError, match=told):
        newest_completed(logs, checkpoints, "phase_1")


def test_all_records_come_by_name_and_number_with_their_errors(logs: Path, checkpoints: Path) -> None:
    make_run(logs, checkpoints, 10, "completed", name="b")
    make_run(logs, checkpoints, 9, None, name="b")
    make_run(logs, checkpoints, 0, "failed", name="a")
    (logs / "c" / "version_0").mkdir(parents=True)
    (logs / "file").touch()
    found = [(f"{folder.parent.name}/{folder.name}", record) for folder, record in all_records(logs)]
    assert [name for name, _ in found] == ["a/version_0", "b/version_9", "b/version_10", "c/version_0"]
    records = [record for _, record in found]
    assert records[0] == {"status": "failed"}
    assert records[2] == {"status": "completed"}
    assert isinstance(records[1], UserError)
    assert "version_9/run.json is damaged" in str(records[1])
    assert isinstance(records[3], UserError)


def test_a_version_is_taken_once(logs: Path, checkpoints: Path) -> None:
    paths = next_paths(logs, checkpoints, "new")
    with taken(paths, new=True):
        assert paths.logs.is_dir()
        for new in (True, False):
            with pytest.raises(UserError, match="another process has taken"), taken(paths, new):
                pass
        assert next_paths(logs, checkpoints, "new").version == paths.version + 1
    with taken(paths, new=False):  # another process may go on with it now
        pass
    assert [p.name for p in paths.logs.parent.iterdir()] == ["version_0"]
