"""Faults of a disk: the n-th write, fsync, rename or read below a folder fails, in this process."""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from fashion_tl.records.record import COMPLETED, PREDICTIONS, RECORD, read_record

KINDS = {"write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.EROFS, "read": errno.EIO}


class Faults:
    """What was done to files below a folder, and what of it fails: the n-th of a kind, of writes all later ones too.

    A write that fails writes half, as the last one on a disk that fills up.

    Args:
        folder: The folder.
        kind: Of ``KINDS``.
        n: Which fails, from 1; 0 for none.

    Attributes:
        counts: What was done so far, by kind.
        failed: The files whose operations failed.
    """

    def __init__(self, folder: Path, kind: str, n: int) -> None:
        self.folder, self.kind, self.n = os.path.realpath(folder), kind, n
        self.counts = dict.fromkeys(KINDS, 0)
        self.failed: list[str] = []

    def inside(self, path: object) -> bool:
        """Say whether a path lies below the folder."""
        return isinstance(path, str | os.PathLike) and os.path.realpath(path).startswith(self.folder + os.sep)

    def check(self, kind: str, path: object, half: bool = False) -> bool:
        """Count an operation; one that is to fail raises, or returns True if it is the first and can be halved."""
        self.counts[kind] += 1
        at = self.counts[kind]
        if kind != self.kind or not 0 < self.n <= at or (at > self.n and kind != "write"):
            return False
        self.failed.append(str(path))
        if half and at == self.n:
            return True
        raise OSError(KINDS[kind], os.strerror(KINDS[kind]))


@contextmanager
def faults(folder: Path, kind: str = "write", n: int = 0) -> Iterator[Faults]:
    """Have operations on files below a folder fail; see ``Faults``."""
    found = Faults(folder, kind, n)
    really_open, really_sync = io.open, os.fsync

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        *rest: Any,
        **more: Any,
    ) -> Any:
        if not found.inside(file):
            return really_open(file, mode, buffering, encoding, errors, newline, *rest, **more)
        raw = _File(found, os.fspath(file), mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader if "r" in mode else io.BufferedWriter
        return kind(raw) if "b" in mode else io.TextIOWrapper(kind(raw), encoding, errors, newline)

    def synced(descriptor: int) -> None:
        found.check("fsync", descriptor)
        really_sync(descriptor)

    def moving(really: Any) -> Any:
        def move(source: Any, target: Any, **more: Any) -> None:
            if found.inside(target):
                found.check("rename", target)
            really(source, target, **more)

        return move

    with ExitStack() as patches:
        for where, name, new in (
            (builtins, "open", opened),
            (io, "open", opened),
            (os, "fsync", synced),
            (os, "replace", moving(os.replace)),
            (os, "rename", moving(os.rename)),
        ):
            patches.enter_context(mock.patch.object(where, name, new))
        yield found


class _File(io.FileIO):
    def __init__(self, found: Faults, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.found, self.path = found, path

    def write(self, content: Any) -> int:
        half = self.found.check("write", self.path, half=len(content) > 1)
        return super().write(memoryview(content)[: len(content) // 2] if half else content)

    def readinto(self, buffer: Any) -> int:
        self.found.check("read", self.path)
        return super().readinto(buffer) or 0

    def readall(self) -> bytes:
        self.found.check("read", self.path)
        return super().readall()


RUN = (
    *("--data.source", "SyntheticGarments", "--data.source.num_train", "60", "--data.batch_size", "32"),
    *("--data.image_size", "32", "--model.backbone", "test_resnet", "--model.pretrained", "false", "--cache", "off"),
    *("--model.train", "{0: head, 1: layer4}", "--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a run with one fault: "same", or where it stopped, or "WRONG" and what was."""

    kind: str
    n: int
    file: str
    what: str


def count_faults(folder: Path) -> dict[str, int]:
    """Run without a fault in ``folder/whole``; returns how many operations of each kind there were."""
    with faults(folder) as found:
        status, said = fit(folder / "whole")
    if status:
        raise ValueError(said)
    return found.counts


def every_fault(
    folder: Path, counts: dict[str, int], chosen: Callable[[str, int], bool] | None = None
) -> Iterator[Outcome]:
    """Make a small run in two phases once with every single fault, and resume it where it stops.

    Args:
        folder: Where ``count_faults`` has left the run without one; each run has a folder of its own below it.
        counts: What ``count_faults`` returned.
        chosen: Which faults, by kind and n; all if None.
    """
    for kind, count in counts.items():
        for n in range(1, count + 1):
            if chosen is None or chosen(kind, n):
                with faults(folder, kind, n) as found:
                    status, said = fit(folder / f"{kind}-{n}")
                file = Path(found.failed[0]).name if found.failed else "none"
                yield Outcome(kind, n, file, _outcome(folder / "whole", folder / f"{kind}-{n}", status, said))
                shutil.rmtree(folder / f"{kind}-{n}", ignore_errors=True)


def fit(folder: Path, *more: str) -> tuple[int, str]:
    """Run ``fashion-tl fit`` in a folder; returns its exit status and what it wrote to standard error."""
    from fashion_tl.callbacks.checkpoints import LastCheckpoint
    from fashion_tl.cli import main

    folder.mkdir(exist_ok=True)
    said = io.StringIO()
    short = mock.patch.object(LastCheckpoint, "every_seconds", 0.0)  # these epochs are shorter
    with chdir(folder), redirect_stderr(said), redirect_stdout(io.StringIO()), short:
        try:
            status = main(["fit", *RUN, *more])
        except Exception:
            status = 1
            traceback.print_exc()
    return status, said.getvalue()


def _outcome(whole: Path, folder: Path, status: int, said: str) -> str:
    if status == 0:
        return "same" if _same(whole, folder) else "WRONG: another result, and nothing said"
    if status != 2 or "Traceback" in said or said.count("error:") != 1 or len(said.splitlines()) > 3:
        return f"WRONG: exit {status}, {said}"
    logs = folder / "lightning_logs" / "run" / "version_0"
    if (logs / RECORD).exists() and read_record(logs)["status"] == COMPLETED:
        return "stopped after its end: same" if _same(whole, folder) else "WRONG: completed, but another result"
    begun = (folder / "checkpoints" / "run" / "version_0" / "last.ckpt").exists()
    if begun:
        status, said = fit(folder, "--ckpt_path", "last")
    else:
        shutil.rmtree(folder)
        status, said = fit(folder)
    if status or not _same(whole, folder):
        return f"WRONG: gone on: exit {status}, {said}"
    return "stopped, resumed: same" if begun else "stopped at its start, run again: same"


def _same(first: Path, second: Path) -> bool:
    """Compare weights and test predictions of two runs, bit for bit."""
    found: list[dict[str, np.ndarray[Any, Any]]] = []
    for folder in (first, second):
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for name in ("best", "last"):
            checkpoint = torch.load(folder / "checkpoints" / "run" / "version_0" / f"{name}.ckpt", weights_only=True)
            arrays |= {f"{name}.{key}": value.numpy() for key, value in checkpoint["state_dict"].items()}
        with np.load(folder / "lightning_logs" / "run" / "version_0" / PREDICTIONS) as predictions:
            arrays |= dict(predictions)
        found.append(arrays)
    return found[0].keys() == found[1].keys() and all(np.array_equal(found[0][k], found[1][k]) for k in found[0])
