"""``fashion-tl runs``: names are whole, on a terminal and without one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from fashion_tl.cli import main
from fashion_tl.records.record import COMPLETED, write_record

NAMES = [f"mobilenetv2_finetuned_with_a_long_name.{ending}" for ending in ("mobilenetv2_035", "tf_efficientnet_lite0")]


@pytest.fixture(autouse=True)
def _(workdir: Path) -> None:
    for name in NAMES:
        folder = workdir / "lightning_logs" / name / "version_0"
        folder.mkdir(parents=True)
        write_record(folder, {"status": COMPLETED, "time": {"fit_seconds": 1.0}})


def test_a_pipe_gets_each_name_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["runs", "--newest"]) == 0
    out = capsys.readouterr().out
    assert all(sum(name in line for line in out.splitlines()) == 1 for name in NAMES)
    assert "…" not in out


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_terminal_folds_names(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["runs", "--newest"]) == 0
    out = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= columns
    cells = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert "".join(cells) == "".join(NAMES)
