"""Which runs a user means, and what is said about all others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.errors import UserError
from fashion_tl.report.sections import collect
from fashion_tl.report.selection import LeftOut, find


@pytest.fixture
def logs(make: Any) -> Path:
    """Records: a 0 to 2 completed, a 10 failed, b 0 completed, b 1 interrupted, c 0 running, d 0 damaged."""
    for version in range(3):
        make.run("a", version, draw=version, images=10)
    make.run("b", images=10)
    make.run("a", 10, images=10, change={"status": "failed", "reason": "ValueError: no <b>"})
    make.run("b", 1, images=10, change={"status": "interrupted", "reason": "stopped by Ctrl-C"})
    make.run("c", 0, images=10, change={"status": "running", "started": "2026-01-01T00:00:00"})
    make.run("d", 0, images=10)
    (make.logs / "d" / "version_0" / "run.json").write_text("{", encoding="utf-8")
    make.pictures(images=10)
    return Path(make.logs)


def shown(logs: Path, *wanted: str) -> list[str]:
    return [f"{folder.parent.name}/{folder.name}" for folder, _ in find(list(wanted), logs)[0]]


def test_the_newest_completed_version_of_every_name(logs: Path) -> None:
    found, left_out = find([], logs)
    assert [(f"{f.parent.name}/{f.name}", [p.name for p in others]) for f, others in found] == [
        ("a/version_2", ["version_1", "version_0"]),
        ("b/version_0", []),
    ]
    damaged = f"{logs}/d/version_0/run.json is damaged"
    assert left_out[:3] == [
        LeftOut("a/version_10", "failed: ValueError: no <b>"),
        LeftOut("b/version_1", "interrupted: stopped by Ctrl-C"),
        LeftOut("c/version_0", "still running, or killed: started 2026-01-01T00:00:00, no end recorded"),
    ]
    assert [(item.run, item.why[: len(damaged)]) for item in left_out[3:]] == [("d/version_0", damaged)]


def test_names_globs_and_folders(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(logs, "b", "a") == ["b/version_0", "a/version_2"]
    assert shown(logs, "[ab]") == shown(logs, "?") == ["a/version_2", "b/version_0"]
    assert shown(logs, "a/version_1", str(logs / "a" / "version_0")) == ["a/version_1", "a/version_0"]
    assert shown(logs, "a", "a/version_2", "a*") == ["a/version_2"]
    assert shown(logs, str(logs / "a")) == ["a/version_2"]
    monkeypatch.chdir(logs.parent)
    assert shown(Path("logs"), "logs/a", "logs/a/version_0/") == ["a/version_2", "a/version_0"]


def test_a_folder_elsewhere(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "e").mkdir(parents=True)
    os.rename(logs / "b" / "version_0", tmp_path / "other" / "e" / "version_0")  # noqa: PTH104
    assert shown(logs, str(tmp_path / "other" / "e" / "version_0"), "a") == ["e/version_0", "a/version_2"]


def test_a_linked_run_keeps_its_name(logs: Path) -> None:
    (logs / "z").symlink_to(logs / "b")
    assert shown(logs, "z") == ["z/version_0"]


@pytest.mark.parametrize("name", ["phase1", "x*", "a/version_7", "logs"])
def test_unknown_names(logs: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"unknown run .* Allowed: a, b, c, d") as caught:
        find([name], logs)
    assert repr(name) in str(caught.value)
    assert str(logs) in str(caught.value)


def test_nothing_to_compare(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        collect([], tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no completed run to compare"):
        collect([], tmp_path / "empty")
    with pytest.raises(UserError, match="no run at all"):
        collect(["a"], tmp_path / "empty")
    with pytest.raises(UserError, match="no completed run to compare") as caught:
        collect(["c", "d", "a/version_10"], logs)
    for part in ("make phase1", "c/version_0: still running", "d/version_0: ", "a/version_10: failed: ValueError"):
        assert part in str(caught.value)
