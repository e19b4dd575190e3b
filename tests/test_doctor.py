"""``fashion-tl doctor``."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fashion_tl import doctor
from fashion_tl.cli import main

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(workdir / "cache"))
    monkeypatch.setattr(doctor, "LEAST_FREE", 0)
    monkeypatch.setattr(doctor, "_requirements", lambda: ["torch>=2", "gone>=1; extra == 'onnx'"])


def wrong(capsys: Output, *args: str) -> list[str]:
    """Run it where something is wrong; return the lines that say so."""
    assert main(["doctor", *args]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith("WRONG")]
    assert lines[-1] == f"{len(found)} wrong"
    assert sum("mend it: " in line for line in lines) == len(found)
    return found


def test_nothing_is_wrong(capsys: Output) -> None:
    before = list(Path().iterdir())
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "nothing is wrong"
    assert "WRONG" not in out
    for what in ("machine", "Python", "torch", "devices", "threads", "cache", "data", "records", "checkpoints"):
        assert f"ok    {what} " in out
    assert "not installed (gone): pip install 'fashion-tl[onnx]'" in out
    assert list(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("needed", "found"),
    [("gone>=1", "not installed"), ("torch>=99", "needed is >=99"), ("torch<1", "needed is <1")],
)
def test_a_library_that_does_not_fit(needed: str, found: str) -> None:
    finding = doctor.library(Requirement(needed))
    assert found in finding.found
    assert finding.mend == f"pip install '{needed}'"


def test_a_limit_that_is_no_number(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", "much")
    (line,) = wrong(capsys)
    assert "FASHION_TL_CACHE_LIMIT='much'" in line


def test_a_data_folder_that_is_not_there(capsys: Output) -> None:
    (line,) = wrong(capsys, "--root", "gone")
    assert "gone is no folder" in line


def test_a_data_folder_is_listed(capsys: Output) -> None:
    for i in range(10):
        Path("data", f"set{i}").mkdir(parents=True)
    assert main(["doctor"]) == 0
    assert "set0, set1, set2, set3, set4, set5, set6, set7, ... (10 in all); 0 of the 4" in capsys.readouterr().out


def test_folders_that_cannot_be_written(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a_file").touch()
    Path("locked").mkdir()
    mkdir = Path.mkdir

    def refused(path: Path, *args: Any, **settings: Any) -> None:
        if path.parent.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        mkdir(path, *args, **settings)

    monkeypatch.setattr(Path, "mkdir", refused)
    lines = wrong(capsys, "--log_dir", "a_file/logs", "--checkpoint_dir", "locked/deep")
    assert len(lines) == 2
    assert "a_file is no folder" in lines[0]
    assert "cannot write to locked/deep: Permission denied" in lines[1]


@pytest.mark.parametrize("folder", ["dangling", "dangling/deep", "a_file", "a_file/deep"])
def test_a_folder_that_fit_refuses_is_wrong(folder: str, capsys: Output) -> None:
    Path("dangling").symlink_to("nowhere/x")
    Path("a_file").touch()
    (line,) = wrong(capsys, "--log_dir", folder)
    reason = line.split("records")[1].strip()
    assert main(["fit", "--data.source", "SyntheticGarments", "--log_dir", folder]) == 2
    assert f"--log_dir: {reason}. Choose another folder." in capsys.readouterr().err
    assert not Path("nowhere").exists()


def test_a_full_disk_and_too_many_threads(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**80)
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    lines = wrong(capsys)
    assert len(lines) == 5  # threads, cache, records, checkpoints, temporary files
    assert "10000 on" in lines[0]


@pytest.mark.parametrize("args", [["--gone"], ["more"], ["--root"]])
def test_mistakes(capsys: Output, args: list[str]) -> None:
    assert main(["doctor", *args]) == 2
    assert capsys.readouterr().err.count("\n") == 1
