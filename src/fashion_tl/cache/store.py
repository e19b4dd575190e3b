"""Arrays computed once and kept on disk, one row an image, memory-mapped for reading; needs no torch.

An entry is a folder named by its key: a ``.npy`` file for each array, and ``meta.json`` with the description of the
key, the size and the CRC-32 of each file, and a SHA-256 over all that. The folder gets this name when it is whole and
on the disk; until then it is ``.KEY.partial``, which is never read and which the holder of the key's lock alone writes.
Nothing else in the cache's folder is ever removed.

Noticed when an entry is read, before any of its values is used: another version or description, any change of
``meta.json``'s content, any other size of a file, and damaged values. Each file is read whole for that, once in a
process as long as the system tells of no change to it; training reads it all in its first epoch anyway, from memory
then. A damaged entry is removed and computed again, so that no figure comes of it. Not noticed: what a disk changes
under an entry that a run has begun to train on, and damage that is new while inode and time of a file are not.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import DTypeLike, NDArray

from fashion_tl.errors import UserError

Plain: TypeAlias = "bool | int | float | str | Sequence[Plain] | Mapping[str, Plain] | None"
Arrays: TypeAlias = Mapping[str, tuple[DTypeLike, Sequence[int]]]
Append: TypeAlias = Callable[[NDArray[Any]], None]

VERSION = 3
META = "meta.json"
_BLOCK = 4096  # of a disk
_KEY = "[0-9a-f]{32}"
_verified: set[tuple[Any, ...]] = set()  # files of entries whose values this process has found whole


class CacheWriteError(OSError):
    """An entry cannot be written (a full disk, a type that does not hold its numbers); a run can go on without it."""


class _DamagedError(Exception):
    """A folder is not the whole entry that its name promises; the message ends the sentence "the entry ..."."""


def cache_dir() -> Path:
    """Return FASHION_TL_CACHE_DIR, else ``fashion_tl`` in the folder that the system keeps for caches."""
    if chosen := os.environ.get("FASHION_TL_CACHE_DIR"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fashion_tl"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative path is invalid by the XDG specification
    return (base if base.is_absolute() else Path.home() / ".cache") / "fashion_tl"


def limit_bytes() -> int:
    """Return the largest total size of all entries: FASHION_TL_CACHE_LIMIT in GiB, else 20 GiB."""
    given = os.environ.get("FASHION_TL_CACHE_LIMIT") or "20"
    with contextlib.suppress(ValueError):
        if 0 <= float(given) <= 1e9:
            return int(float(given) * 2**30)
    raise UserError(f"FASHION_TL_CACHE_LIMIT={given!r}: allowed is a number of GiB from 0 up, such as 20 or 0.5.")


def key_of(description: Mapping[str, Plain]) -> str:
    """Return 32 hexadecimal digits that stand for a description, whatever the order of its names.

    >>> key_of({"size": 64, "views": ["identity"]}) == key_of({"views": ["identity"], "size": 64})
    True
    """
    return hashlib.sha256(_canonical(description)).hexdigest()[:32]


def _canonical(description: Mapping[str, Plain]) -> bytes:
    return json.dumps(dict(description), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _crc(path: Path) -> str:
    """Return the CRC-32 of a file. It is read, not mapped: a disk's error is then an exception, not a signal."""
    crc, buffer = 0, memoryview(bytearray(2**20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            crc = zlib.crc32(buffer[:count], crc)
    return f"{crc:08x}"


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({k: v for k, v in meta.items() if k != "sha256"})).hexdigest()


def _check(path: Path) -> dict[str, Any]:
    """Return what ``meta.json`` of an entry says, or raise _DamagedError if that or a file's size is wrong."""
    try:
        meta = json.loads((path / META).read_bytes())
        if meta["sha256"] != _digest(meta):
            raise _DamagedError(f"has a damaged {META}")
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _DamagedError(f"has a damaged {META}") from error
    if meta["version"] != VERSION:
        raise _DamagedError(f"has version {meta['version']} of the format, not {VERSION}")
    if key_of(meta["description"]) != path.name:
        raise _DamagedError("belongs to another key")
    for name, (size, _) in meta["arrays"].items():
        file = path / f"{name}.npy"
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise _DamagedError(f"has {found} bytes instead of {size} in {file.name}")
    return dict(meta)


def _verify(path: Path, meta: Mapping[str, Any]) -> None:
    """Raise _DamagedError if values of an entry are not those that were written."""
    for name, (_, crc) in meta["arrays"].items():
        file = path / f"{name}.npy"
        status = file.stat()
        version = file, status.st_ino, status.st_mtime_ns, crc
        if version not in _verified and _crc(file) != crc:
            raise _DamagedError(f"has damaged values in {file.name}")
        _verified.add(version)


def read(folder: Path, description: Mapping[str, Plain]) -> dict[str, NDArray[Any]] | None:
    """Map an entry's arrays for reading, and mark the entry as used.

    The arrays are read-only: copy the rows that torch gets (``array[indices]`` does), as it cannot honour that.

    Args:
        folder: The cache's folder.
        description: All that the values depend on.

    Returns:
        Memory maps by name; None if there is no such entry. An entry that is not whole is told by a warning and
        removed.
    """
    path = folder / key_of(description)
    if not path.exists():
        return None
    try:
        meta = _check(path)
        if _canonical(meta["description"]) != _canonical(description):
            raise _DamagedError("belongs to another description")
        _verify(path, meta)
        found = {name: np.load(path / f"{name}.npy", mmap_mode="r") for name in meta["arrays"]}
    except (_DamagedError, ValueError) as problem:
        if path.exists():  # else another run has removed it meanwhile
            done = "cannot be removed" if remove(path) is None else "removed, to be computed again"
            warnings.warn(f"cache: the entry {path} {problem}; {done}.", stacklevel=2)
        return None
    except OSError as error:
        warnings.warn(f"cache: cannot read {path}: {error.strerror or error}.", stacklevel=2)
        return None
    with contextlib.suppress(OSError):  # a cache that only others may write
        os.utime(path)
    return found


@contextlib.contextmanager
def write(folder: Path, description: Mapping[str, Plain], arrays: Arrays) -> Iterator[dict[str, Append]]:
    """Write an entry; it appears, whole, when the context ends, and not at all on an exception.

    Rows are written, not stored through a memory map, which takes several times as long, and the files have blocks of
    their full size from the beginning, so that a full disk is an exception there. The caller holds the ``lock`` of the
    key.

    Args:
        folder: The cache's folder; made if absent.
        description: All that the values depend on.
        arrays: Dtype and shape of each array by a name that a file can have, rows first.

    Yields:
        For each array a function that appends rows.

    Raises:
        CacheWriteError: The disk refused something.
        ValueError: Rows are missing, or too many.
    """
    path = folder / key_of(description)
    partial = folder / f".{path.name}.partial"
    described = json.loads(_canonical(description))  # a copy: the caller's may change
    sizes: dict[str, list[Any]] = {}
    try:
        with contextlib.ExitStack() as opened:
            with _disk(path):
                shutil.rmtree(partial, ignore_errors=True)  # of a killed run
                partial.mkdir(parents=True)
                files = {}
                for name, array in arrays.items():
                    files[name] = _create(partial / f"{name}.npy", *array)
                    opened.callback(_close, files[name])
            yield {name: functools.partial(_append, path, file, arrays[name][0]) for name, file in files.items()}
            with _disk(path):
                for name, file in files.items():
                    if file.tell() != _file_size(*arrays[name]):
                        raise ValueError(f"the array {name} of the entry {path} has not as many rows as it was to have")
                    file.flush()
                    os.fsync(file.fileno())
                    sizes[name] = [file.tell(), _crc(partial / f"{name}.npy")]
        with _disk(path):
            meta = {"version": VERSION, "description": described, "arrays": sizes}
            with (partial / META).open("w", encoding="utf-8") as text:
                json.dump({**meta, "sha256": _digest(meta)}, text, indent=1)
                text.flush()
                os.fsync(text.fileno())  # before the entry's name: after a power cut, that stands for whole values
            remove(path)
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Raise what the system refuses as CacheWriteError."""
    try:
        yield
    except OSError as error:
        told = CacheWriteError(f"cannot write the cache {path}: {error.strerror or error}")
        told.errno = error.errno
        raise told from error


def _header(dtype: DTypeLike, shape: Sequence[int]) -> bytes:
    text = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(text, about)
    return text.getvalue()


def _file_size(dtype: DTypeLike, shape: Sequence[int]) -> int:
    return len(_header(dtype, shape)) + np.dtype(dtype).itemsize * math.prod(shape)


def _create(path: Path, dtype: DTypeLike, shape: Sequence[int]) -> BinaryIO:
    """Begin a ``.npy`` file with blocks of its full size, where the system can reserve them."""
    file = path.open("w+b")
    try:
        file.write(_header(dtype, shape))
        file.flush()
        os.posix_fallocate(file.fileno(), 0, _file_size(dtype, shape))
    except (AttributeError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            _close(file)
            raise
    return file


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # what is still buffered may meet the full disk again
        file.close()


def _append(path: Path, file: BinaryIO, dtype: DTypeLike, rows: NDArray[Any]) -> None:
    values = np.ascontiguousarray(rows, dtype)
    with _disk(path):
        file.write(values.data if values.size else b"")


def required_bytes(arrays: Arrays) -> int:
    """Return the size of an entry with these arrays, to within the length of its description and headers."""
    return _BLOCK + sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in arrays.values())


@dataclass(frozen=True)
class Entry:
    """One entry of the cache.

    Attributes:
        key: What stands for the description, 32 hexadecimal digits.
        path: Its folder.
        bytes: Its size.
        last_used: When it was last written or read, in seconds since 1970.
        description: All that its values depend on; empty if damaged.
        damaged: Whether it would not be read.
    """

    key: str
    path: Path
    bytes: int
    last_used: float
    description: dict[str, Any]
    damaged: bool


def entries(folder: Path) -> list[Entry]:
    """List the entries of a folder, the least recently used first."""
    found = []
    for path in _paths(folder):
        description: dict[str, Any] = {}
        damaged = False
        with contextlib.suppress(FileNotFoundError):  # another run may remove it meanwhile
            try:
                description = _check(path)["description"]
            except (_DamagedError, OSError):
                damaged = True
            found.append(Entry(path.name, path, _bytes(path), path.stat().st_mtime, description, damaged))
    return sorted(found, key=lambda entry: (entry.last_used, entry.key))


def clear(folder: Path) -> tuple[int, int, list[Path]]:
    """Remove all entries and what killed runs left; returns how many, their bytes, and what could not be removed."""
    removed = {path: remove(path) for path in _paths(folder)}
    sizes = [size for size in removed.values() if size is not None] + remove_stale(folder)
    for path in _named(folder, rf"\.{_KEY}\.lock"):
        with contextlib.suppress(OSError, Timeout), FileLock(path, timeout=0):
            path.unlink()
    return len(sizes), sum(sizes), [path for path, size in removed.items() if size is None and path.exists()]


@contextlib.contextmanager
def lock(folder: Path, key: str, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold an entry's lock, so that of several runs that want the entry one computes it and the others then read it.

    The lock ends with its process, however that ends.

    Args:
        folder: The cache's folder; made if absent.
        key: The entry's key.
        waiting: Called once if another run has the lock.

    Raises:
        CacheWriteError: The folder cannot be written.
    """
    held = FileLock(folder / f".{key}.lock")
    with _disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=0)
        except Timeout:
            waiting()
            held.acquire()
    try:
        yield
    finally:
        held.release()


def _named(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob("*") if re.fullmatch(pattern, path.name))


def _paths(folder: Path, pattern: str = _KEY) -> list[Path]:
    return [path for path in _named(folder, pattern) if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    """Say whether a folder holds nothing but what an entry does: a cache's folder may be anyone's, by a slip."""
    if path.is_symlink() or not path.is_dir():
        return False
    return all(f.is_file() and not f.is_symlink() and (f.name == META or f.suffix == ".npy") for f in path.iterdir())


def remove_stale(folder: Path) -> list[int]:
    """Remove what killed runs left; returns the sizes of the unfinished entries."""
    sizes = []
    for path in _paths(folder, rf"\.{_KEY}\.partial"):
        # Timeout is an OSError: a run that lives has the lock.
        with contextlib.suppress(OSError), FileLock(path.with_suffix(".lock"), timeout=0):
            if (size := remove(path)) is not None:
                sizes.append(size)
    for path in _paths(folder, rf"\.{_KEY}(\.partial)?\.[0-9a-f]{{8}}\.removed"):
        shutil.rmtree(path, ignore_errors=True)
    return sizes


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def remove(path: Path) -> int | None:
    """Remove an entry, for all others at once; returns its size, None if it is not ours or could not be removed."""
    try:
        if not _is_ours(path):
            return None
        size = _bytes(path)
        gone = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.removed")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        if gone.exists():  # another user's
            gone.rename(path)
            return None
    except OSError:
        return None
    return size
