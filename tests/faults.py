"""Faults of a disk: the n-th write, fsync, rename or read below a folder fails, in this process."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

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
