"""Writing files: the old one or the new one, never half of one; drafts that killed processes left are removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashion_tl import files
from fashion_tl.files import (
    copy,
    draft_beside,
    read_json,
    replacing,
    replacing_folder,
    write_bytes,
    write_json,
    write_text,
)


def full(*_: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_write_text_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    write_text(path, "né")
    assert path.read_text(encoding="utf-8") == "né"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), lambda path: copy(Path(__file__), path)])
def test_a_failed_write_leaves_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "run.json"
    write_text(path, "old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write(path)
    monkeypatch.undo()
    assert caught.value.filename == str(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_library_says_of_what_it_reads_is_not_said_of_the_file_that_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="truncated") as caught, replacing(tmp_path / "images.npz"):
        raise OSError("image file is truncated")
    assert caught.value.filename is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_reaches_the_disk_before_its_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for step in ("fsync", "replace"):
        original = getattr(os, step)

        def note(*args: Any, original: Any = original, step: str = step) -> Any:
            steps.append(step)
            return original(*args)

        monkeypatch.setattr(os, step, note)
    write_bytes(tmp_path / "a", b"x")
    assert steps == ["fsync", "replace", "fsync"]


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 127), "x")
    assert len(list(tmp_path.iterdir())) == 1


def test_drafts_of_killed_processes_are_removed_and_those_of_others_kept(tmp_path: Path) -> None:
    code = f"from fashion_tl.files import *; p = draft_beside(Path({str(tmp_path)!r}, 'a'))"
    subprocess.run([sys.executable, "-c", code + "; p.write_bytes(b'x' * 9)"], check=True)
    subprocess.run([sys.executable, "-c", code + "; p.mkdir(); (p / 'b').write_bytes(b'x')"], check=True)
    assert [p.is_dir() for p in tmp_path.glob(".draft.*")] == [True]  # the second has removed that of the first
    mine = draft_beside(tmp_path / "a")
    parent = mine.with_name(mine.name.replace(str(os.getpid()), str(os.getppid())))
    elsewhere = tmp_path / ".draft.999999999.1.another-host"
    for path in (parent, elsewhere, tmp_path / ".draft.mine"):
        path.write_text("x", encoding="utf-8")
    write_text(tmp_path / "a", "x")
    assert set(tmp_path.iterdir()) == {parent, elsewhere, tmp_path / ".draft.mine", tmp_path / "a"}


def test_a_file_takes_the_place_of_no_folder_and_of_no_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(IsADirectoryError, match="there"), replacing(tmp_path / "there"):
        pytest.fail("it is told before anything is written")
    (tmp_path / "link").symlink_to("target")
    for text in ("one", "two"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "target").read_text("utf-8") == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target", "there"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> None:
        with replacing_folder(folder) as draft:
            write_text(draft / "a", "x")
            monkeypatch.setattr(os, "fsync", full)
            write_text(draft / "b", "x")

    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path / name)
        monkeypatch.undo()
        assert caught.value.filename == str(tmp_path / name)
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]
    for name in ("new", "empty"):
        with replacing_folder(tmp_path / name) as draft:
            write_text(draft / "a", "x")
        assert [p.name for p in (tmp_path / name).iterdir()] == ["a"]


# Checksums


def test_json_is_read_as_written(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, "é"], "b": {"0": 1e-30}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    write_json(tmp_path / "a.json", {**read_json(tmp_path / "a.json"), "c": (1, 2)})
    assert read_json(tmp_path / "a.json") == {**content, "c": [1, 2]}


def test_no_flipped_bit_of_a_json_file_changes_what_is_read(tmp_path: Path) -> None:
    content = {"status": "completed", "test": {"accuracy": 0.75, "1": [1, None]}, "name": "é"}
    path = tmp_path / "a.json"
    write_json(path, content)
    written = path.read_bytes()
    noticed = 0
    for place in range(8 * len(written)):
        flipped = bytearray(written)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = read_json(path)
        except ValueError:
            noticed += 1
        else:  # white space, or a checksum that is not found: then nothing else has changed
            assert {key: found[key] for key in content} == content
    assert noticed > 4 * len(written)


def test_json_without_a_checksum_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert files.SHA256 == "sha256"
