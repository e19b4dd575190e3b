"""The one way to write files: a draft beside the target, synced to the disk, then renamed; never half a file."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

SHA256 = "sha256"
_DRAFT = re.compile(r"\.draft\.(\d+)\.\d+\.(.*)")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a draft to write; it takes the place of a file when it is whole on the disk, else the old file stays.

    Args:
        path: The file, or a link to it; missing folders are made.

    Raises:
        OSError: If it cannot be written, a folder included, which is told at once; ``filename`` is always set.
    """
    path = path.resolve() if path.is_symlink() else path
    with naming(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_beside(path)
    with _removed_after(draft), naming(path):
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file; see ``replacing``."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see ``replacing``."""
    write_bytes(path, text.encode("utf-8"))


def as_csv(rows: Iterable[Sequence[object]]) -> str:
    r"""Write rows as CSV whose lines end in a line feed, fields with any line break quoted.

    >>> as_csv([("a,b", 1), ("c\rd", 2)])
    '"a,b",1\n"c\rd",2\n'
    """
    lines: list[str] = []
    # Before Python 3.13 a carriage return is quoted only where lines end in one.
    csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n").writerows(rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def copy(source: Path, target: Path) -> None:
    """Copy a file; see ``replacing``."""
    with naming(source), source.open("rb") as file, replacing(target) as draft:
        shutil.copyfileobj(file, draft, 2**20)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a draft of a folder; it takes the place of a new or empty folder when all its files are written.

    Raises:
        OSError: If it cannot be made; ``filename`` is always set.
    """
    path = path.resolve()
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_beside(path)
    with _removed_after(draft), naming(path):
        draft.mkdir()
        yield draft
        if path.exists():
            path.rmdir()
        draft.replace(path)
        sync_folder(path.parent)


def draft_beside(path: Path) -> Path:
    """Return a hidden name beside a file, and remove drafts there of processes that were killed."""
    host = re.sub(r"[^\w.-]", "_", platform.node())[:60]
    for old in path.parent.glob(".draft.*"):
        named = _DRAFT.fullmatch(old.name)
        if named and named[2] == host and not _alive(int(named[1])):
            _remove(old)
    return path.with_name(f".draft.{os.getpid()}.{threading.get_native_id()}.{host}")


def existing_above(path: Path) -> Path:
    """Return a path, absolute, or where it is not there the nearest folder above it that is."""
    path = path.absolute()
    return next((each for each in (path, *path.parents) if each.exists()), path)


def sha256(path: Path) -> str:
    """Hash a file; returns 64 hexadecimal digits."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of its values as "sha256", which ``read_json`` verifies.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps({key: value for key, value in content.items() if key != SHA256}, allow_nan=False)
    write_text(path, json.dumps({**json.loads(text), SHA256: _sha256_of(json.loads(text))}, indent=2) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file, and verify the checksum if it has one.

    Returns:
        Its content, without the checksum.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON, or its checksum is another.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict) and (expected := content.pop(SHA256, None)) not in (None, _sha256_of(content)):
        raise ValueError(f"its values do not have the checksum that was written with them ({str(expected)[:16]}...)")
    return content


def _sha256_of(content: Any) -> str:  # noqa: ANN401 - any JSON value
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an OSError say which file it is about: writing and syncing do not, and a draft is not what a user knows.

    One without a number is not the system's: a library has raised it, about something that it was reading.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or ".draft." in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def _removed_after(draft: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(draft)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink() if not path.is_dir() or path.is_symlink() else shutil.rmtree(path)


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 is no question there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock file, which no other process can, here or wherever its folder is shared; one that dies lets it go.

    Args:
        path: The lock file, which is removed in the end; missing folders are made.

    Yields:
        Whether this process has it; else another one does.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            path.unlink()  # while it is locked, so that no other process gets this file
        lock.release()
