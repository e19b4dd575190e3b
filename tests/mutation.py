"""Breaks the safety checks of the source one by one and sees whether the tests notice: ``make mutation``.

Each check is broken in a copy of the project, where the tests named for it run in a process of its own, forked from one
that has imported the libraries; the project's own modules are imported from the copy. Before that the same tests run
unbroken. The table goes to docs/reliability.md, between its markers. The exit status is 1 if more than one check goes
unnoticed, or a text of the list is not found any more.

    python -m tests.mutation [--only PATTERN] [--no_write]
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
from collections.abc import Sequence
from pathlib import Path

from .mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- mutation: begin -->", "<!-- mutation: end -->"
FOLDERS = ("src", "tests", "docs", "examples", "experiments", "benchmarks")
UNNOTICED = 1  # how many may be
LONGEST = 900.0  # seconds for the tests of one check without a change
WARM = (
    *("torch", "torchvision.transforms.v2", "lightning.pytorch", "torchmetrics", "timm", "tensorboard", "captum.attr"),
    *("torch.utils.tensorboard", "jsonargparse", "sklearn.metrics", "scipy.stats", "matplotlib.figure", "PIL.Image"),
    *("rich.progress", "jinja2", "filelock", "pytest", "safetensors.torch", "lightning.pytorch.cli"),
)


def occurrences(mutation: Mutation, root: Path = ROOT) -> int:
    """Count the places of a check's text; it has to have one."""
    return (root / "src" / "fashion_tl" / mutation.file).read_text(encoding="utf-8").count(mutation.text)


def copied(folder: Path) -> Path:
    """Copy what tests need of the project."""
    tree = folder / "project"
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.name in FOLDERS:
            shutil.copytree(path, tree / path.name, ignore=shutil.ignore_patterns("__pycache__", ".venv*"))
        elif path.is_file():
            shutil.copy(path, tree)
    return tree


def failing(tree: Path, tests: Sequence[str], output: Path, limit: float) -> str | None:
    """Run tests of a copy in a child for at most ``limit`` seconds; returns None if they pass, else what happened."""
    child = os.fork()
    if not child:
        status = 4
        try:
            os.setsid()
            _enter(tree, output)
            import pytest

            flags = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(tree)]
            flags += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported already
            status = int(pytest.main([*flags, *tests]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    ends = time.monotonic() + limit
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code == 0 else "a test fails" if code == 1 else f"pytest ends with status {code}"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"a test takes more than {limit:.0f} s"


def _enter(tree: Path, output: Path) -> None:
    """Turn this process to a copy, and its output to a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "fashion_tl")]:
        del sys.modules[name]
    # A process that a test spawns imports the main module of this one, and tests from the copy.
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path[:] = [
        str(tree / "src"),
        str(tree),
        *(path for path in sys.path if Path(path or ".").resolve() not in _OWN),
    ]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = str(tree / "src")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    os.environ["FASHION_TL_DATA_DIR"] = str(tree / "no data")


_OWN = {ROOT.resolve(), (ROOT / "src").resolve()}


def main(args: Sequence[str] | None = None) -> int:
    """Break every check in turn; returns the exit status."""
    parser = argparse.ArgumentParser(description="Break safety checks one by one and see whether the tests notice.")
    parser.add_argument("--only", default="", help="the checks whose words match this pattern")
    parser.add_argument("--no_write", action="store_true", help="leave docs/reliability.md as it is")
    given = parser.parse_args(args)
    chosen = [mutation for mutation in MUTATIONS if re.search(given.only, mutation.what)]
    lost = [f"{m.file}: {m.text!r} occurs {occurrences(m)} times" for m in chosen if occurrences(m) != 1]
    if lost or not chosen:
        print("\n".join(lost or ["no such check"]))
        return 1
    for name in WARM:
        importlib.import_module(name)
    imported = [name for name in sys.modules if name.partition(".")[0] == "fashion_tl"]
    if imported:
        print(f"imported before the copy is: {imported}")
        return 1
    began, rows, unnoticed = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        tree, output = copied(Path(folder)), Path(folder, "output")
        limits: dict[tuple[str, ...], float] = {}
        for tests in dict.fromkeys(mutation.tests for mutation in chosen):
            started = time.monotonic()
            why = failing(tree, tests, output, LONGEST)
            limits[tests] = 60 + 5 * (time.monotonic() - started)  # what takes longer hangs
            if why is not None:
                print(f"{' '.join(tests)} without a change: {why}\n{output.read_text(errors='replace')[-3000:]}")
                return 1
        for mutation in chosen:
            why = _broken(tree, mutation, output, limits[mutation.tests])
            unnoticed += why is None
            rows.append((mutation.what, mutation.file, " ".join(mutation.tests), why or "NOT NOTICED"))
            print(" | ".join(rows[-1]), flush=True)
    seconds = time.monotonic() - began
    summary = f"{len(rows) - unnoticed} of {len(rows)} broken checks are noticed, in {seconds / 60:.0f} minutes."
    print(summary)
    if not given.only and not given.no_write:
        _write(summary, rows)
    return int(unnoticed > UNNOTICED)


def _broken(tree: Path, mutation: Mutation, output: Path, limit: float) -> str | None:
    path = tree / "src" / "fashion_tl" / mutation.file
    whole = path.read_text(encoding="utf-8")
    try:
        path.write_text(whole.replace(mutation.text, mutation.broken), encoding="utf-8")
        return failing(tree, mutation.tests, output, limit)
    finally:
        path.write_text(whole, encoding="utf-8")


def _write(summary: str, rows: Sequence[tuple[str, ...]]) -> None:
    lines = ["| broken check | file | tests | outcome |", "| --- | --- | --- | --- |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    block = "\n".join((BEGIN, summary, "", *lines, END))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + block + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # no team of threads before a fork
    sys.exit(main())
