"""What the command line imports, and what it sets before: help and lists are there at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fashion_tl import cli
from fashion_tl.cli import WAITING

SCRIPT = """
import sys
from fashion_tl.cli import main
for args in (["--help"], ["--version"], ["cache", "list"], ["cache", "--help"], ["runs"], ["explain", "-h"],
    ["tournament", "--help"], ["tune", "--help"], ["fti"]):
    main(args)
    heavy = {"torch", "lightning", "numpy.f2py", "matplotlib", "timm", "optuna"} & set(sys.modules)
    print("imported", args, sorted(heavy))
    if heavy:
        sys.exit(1)
"""


def test_help_version_and_lists_import_neither_torch_nor_lightning(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-300:]
    assert "usage: fashion-tl VERB" in done.stdout


@pytest.mark.parametrize(
    ("given", "loaded", "expected"),
    [
        ({}, False, {"GOMP_SPINCOUNT": "2000"}),
        ({}, True, {}),  # somebody's programme, whose threads are there
        ({"OMP_WAIT_POLICY": "ACTIVE"}, False, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "100"}, False, {"GOMP_SPINCOUNT": "100"}),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_has_chosen(
    given: dict[str, str], loaded: bool, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}
    for name in WAITING:
        monkeypatch.setenv(name, given.get(name, ""))  # put back afterwards
        if name not in given:
            del os.environ[name]
    monkeypatch.setitem(sys.modules, "torch", pytest)
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(cli, "run", lambda *_: seen.update(os.environ))
    assert cli.main(["runs"]) == 0
    assert {name: seen[name] for name in WAITING if name in seen} == expected
