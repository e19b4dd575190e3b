"""The wheel on each Python: what is run there, what counts as absent and as failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from . import versions
from .versions import COMMANDS, attempt, check


def test_all_versions_that_the_package_names_are_tried() -> None:
    assert versions.versions() == ["3.11", "3.12", "3.13", "3.14"]


def test_a_command_sees_neither_this_environment_nor_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "src")
    seen = "import os; assert 'PYTHONPATH' not in os.environ; print('so far'); raise SystemExit(3)"
    assert attempt((sys.executable, "-S", "-c", seen), tmp_path) == "so far"
    assert attempt((sys.executable, "-S", "-c", ""), tmp_path) is None


@pytest.mark.parametrize(("failing", "outcome"), [("venv", None), ("predict", False), ("install", False)])
def test_a_python_is_absent_or_a_command_fails(
    failing: str, outcome: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    ran = []

    def attempted(command: tuple[str, ...], folder: Path) -> str | None:
        ran.append(command)
        return "what went wrong" if failing in command else None

    monkeypatch.setattr(versions, "attempt", attempted)
    assert check("3.14", tmp_path / "fashion_tl.whl", tmp_path) is outcome
    told = capsys.readouterr().out
    assert told.startswith("absent   Python 3.14" if outcome is None else "FAILED   Python 3.14")
    assert ("what went wrong" in told) == (outcome is False)
    assert len(ran) == {"venv": 1, "install": 2}.get(failing, 2 + [c[1] for c in COMMANDS].index("predict") + 1)
