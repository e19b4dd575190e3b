"""Every single fault of a disk in a small run of two phases, by ``tests.faults``: each in a forked child."""

from __future__ import annotations

import functools
import json
import multiprocessing
import random
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from tests import faults
from tests.soak.children import LIMIT, run_in
from tests.soak.results import DIFFERENT, HANG, IDENTICAL, TRACEBACK, Case, Result


def in_child(function: Callable[..., Any], folder: Path, *args: Any) -> Any:
    """Call a function in a forked child; returns what it returns, by JSON, or None if it has hung or died."""
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    child = multiprocessing.get_context("fork").Process(target=_answer, args=(function, folder, args, answer))
    child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
    child.join()
    return json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else None


def _answer(function: Callable[..., Any], folder: Path, args: tuple[Any, ...], answer: Path) -> None:
    run_in(folder, folder / "output.txt")
    with chdir(folder):
        text = json.dumps(function(folder, *args))
    answer.write_text(text, encoding="utf-8")


def _outcome(folder: Path, whole: Path, counts: dict[str, int], kind: str, n: int) -> list[str]:
    (folder / "whole").symlink_to(whole)
    (found,) = faults.every_fault(folder, counts, lambda each, at: (each, at) == (kind, n))
    return [found.file, found.what]


def cases(seed: int, lane: int, lanes: int, root: Path) -> Iterator[Case]:
    """Yield every single fault once, in an order of the seed."""
    folder = root / "faultless"
    folder.mkdir()
    counts = in_child(faults.count_faults, folder)
    if counts is None:
        raise RuntimeError(f"the run without a fault has failed: {(folder / 'output.txt').read_text()[-500:]}")
    every = [(kind, n) for kind, count in counts.items() for n in range(1, count + 1)]
    random.Random(seed).shuffle(every)
    for kind, n in every[lane::lanes]:
        yield functools.partial(_case, folder / "whole", counts, kind, n)


def _case(whole: Path, counts: dict[str, int], kind: str, n: int, folder: Path) -> Result:
    folder.mkdir()
    found = in_child(_outcome, folder, whole, counts, kind, n)
    row, case = f"single faults, {kind}", f"fault: {kind} {n} of {counts[kind]}"
    if found is None:
        return Result(row, case, HANG, (folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-2000:])
    file, what = found
    outcome = IDENTICAL
    if what.startswith("WRONG"):
        outcome = TRACEBACK if "Traceback" in what else DIFFERENT
    return Result(row, f"{case}, {file}", outcome, what)
