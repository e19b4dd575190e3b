"""Arrays computed once and kept on disk, one row an image, memory-mapped for reading; needs no torch.

An entry is one file, ``<key>.ftl``: a header block (magic bytes, version of the format, length, SHA-256 over the rest
of the block, then JSON with the description of the key and every array's name, dtype, shape, offset and CRC, padded to
a whole page), then the arrays, each from a page boundary. A file gets this name only when it is whole and on the disk.

Noticed when an entry is read: any changed byte of the header block, any other length of the file, another version or
description, and damage in the pages that the CRC samples (64 of each array, first and last among them; all of them up
to 256 KiB). Not noticed: a changed byte in another page of a larger array, as to read it all costs what the map saves.

A killed run leaves at most a ``.partial`` and a ``.lock`` file, which are never read. Each is locked while its process
lives, so later runs know which are stale and remove them. Where files cannot be locked (Windows, some network disks)
they are stale after a day, and two runs may compute the same entry: both are whole, and the later one stays.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fashion_tl.errors import UserError
from fashion_tl.locks import claim as take

Plain: TypeAlias = "bool | int | float | str | Sequence[Plain] | Mapping[str, Plain] | None"
Arrays: TypeAlias = Mapping[str, tuple[DTypeLike, Sequence[int]]]

MAGIC, VERSION = b"FTLSTORE", 1
_PREFIX = struct.Struct("<8sII32s")  # magic, version, length of the header block, SHA-256
_PAGE, _SAMPLED, _DAY = 4096, 64, 86400.0


class CacheWriteError(OSError):
    """The disk refused an entry (full, read-only, ...); nothing of it is left, and a run can go on without it."""


def _refused(path: Path, error: OSError) -> CacheWriteError:
    told = CacheWriteError(f"cannot write the cache {path}: {error.strerror or error}")
    told.errno = error.errno
    return told


class _DamagedError(Exception):
    """A file is not the whole entry that its name promises; the message ends the sentence "the entry ..."."""


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


def _paged(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _fields(arrays: Arrays) -> list[dict[str, Any]]:
    """Lay arrays out one after the other; offsets count from the end of the header block."""
    fields: list[dict[str, Any]] = []
    offset = 0
    for name, (given, shape) in arrays.items():
        dtype = np.dtype(given)
        if dtype.kind not in "biufc" or not shape or min(shape) < 0:
            raise ValueError(f"array {name!r}: needs a numeric dtype and a first axis of rows, not {dtype}, {shape}")
        size = dtype.itemsize * math.prod(shape)
        field = {"name": name, "dtype": dtype.str, "shape": [int(n) for n in shape], "offset": offset, "bytes": size}
        fields.append(field | {"crc": "0" * 8})  # of its final length, so that the header does not grow
        offset += _paged(size)
    return fields


def _end(fields: Sequence[Mapping[str, Any]]) -> int:
    return max((field["offset"] + field["bytes"] for field in fields), default=0)


def _header(description: Mapping[str, Plain], fields: list[dict[str, Any]]) -> bytes:
    text = json.dumps({"description": description, "arrays": fields, "payload": _end(fields)})
    length = _paged(_PREFIX.size + len(text))
    body = text.encode().ljust(length - _PREFIX.size)
    digest = hashlib.sha256(_PREFIX.pack(MAGIC, VERSION, length, bytes(32)) + body).digest()
    return _PREFIX.pack(MAGIC, VERSION, length, digest) + body


def _crc(file: BinaryIO, start: int, size: int) -> str:
    """Return the CRC-32 of evenly spaced pages of one array."""
    last, crc = -(-size // _PAGE) - 1, 0
    for page in sorted({i * last // (_SAMPLED - 1) for i in range(_SAMPLED)}) if size else []:
        file.seek(start + page * _PAGE)
        crc = zlib.crc32(file.read(min(_PAGE, size - page * _PAGE)), crc)
    return f"{crc:08x}"


def _check(file: BinaryIO, key: str) -> tuple[dict[str, Any], int]:
    """Return an open entry's header and where its arrays begin, or raise _DamagedError."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(_PREFIX.size)
    if len(start) < _PREFIX.size or not start.startswith(MAGIC):
        raise _DamagedError("does not begin as one")
    _, version, length, digest = _PREFIX.unpack(start)
    if version != VERSION:
        raise _DamagedError(f"has version {version} of the format, not {VERSION}")
    body = file.read(length - _PREFIX.size) if _PREFIX.size < length <= size else b""
    if hashlib.sha256(_PREFIX.pack(MAGIC, version, length, bytes(32)) + body).digest() != digest:
        raise _DamagedError("has a damaged header")
    header: dict[str, Any] = json.loads(body)
    if key_of(header["description"]) != key:
        raise _DamagedError("belongs to another key")
    if size != length + header["payload"]:
        raise _DamagedError(f"has {size} bytes instead of {length + header['payload']}")
    for field in header["arrays"]:
        if _crc(file, length + field["offset"], field["bytes"]) != field["crc"]:
            raise _DamagedError(f"has damaged values in {field['name']!r}")
    return header, length


def read(folder: Path, description: Mapping[str, Plain]) -> dict[str, NDArray[Any]] | None:
    """Map an entry's arrays for reading, and mark the entry as used.

    The arrays are read-only: copy the rows that torch gets (``array[indices]`` does), as it cannot honour that.

    Args:
        folder: The cache's folder.
        description: All that the values depend on.

    Returns:
        Memory maps by name (plain arrays where they have no values); None if there is no such entry. An entry that is
        not whole is told by a warning and removed.
    """
    key = key_of(description)
    path = folder / f"{key}.ftl"
    try:
        with path.open("rb") as file:
            header, start = _check(file, key)
            if _canonical(header["description"]) != _canonical(description):
                raise _DamagedError("belongs to another description")
            # One map of the whole file: an array without rows could not be mapped, but it can be a view.
            whole = np.memmap(file, dtype=np.uint8, mode="r")
    except FileNotFoundError:
        return None
    except _DamagedError as problem:
        _remove(path)
        warnings.warn(f"cache: the entry {path} {problem}; removed, to be computed again.", stacklevel=2)
        return None
    except OSError as error:
        warnings.warn(f"cache: cannot read {path}: {error.strerror or error}.", stacklevel=2)
        return None
    with contextlib.suppress(OSError):  # a cache that only others may write
        os.utime(path)
    found = {}
    for field in header["arrays"]:
        begin = start + field["offset"]
        found[field["name"]] = whole[begin : begin + field["bytes"]].view(field["dtype"]).reshape(field["shape"])
    return found


class _Rows:
    """One array that is being written, by slices of rows."""

    def __init__(self, writer: Writer, field: Mapping[str, Any]) -> None:
        self.writer, self.field = writer, field
        self.dtype, self.shape = np.dtype(field["dtype"]), tuple(field["shape"])
        self.filled = np.zeros(self.shape[0], dtype=bool)

    def __setitem__(self, rows: slice, values: ArrayLike) -> None:
        start, stop, step = rows.indices(self.shape[0])
        array: NDArray[Any] = np.asarray(values)
        if step != 1 or array.shape != (max(stop - start, 0), *self.shape[1:]):
            raise ValueError(f"{self.field['name']!r} {self.shape}: rows {rows} cannot take values of {array.shape}")
        array = np.ascontiguousarray(array.astype(self.dtype, casting="same_kind", copy=False))
        self.writer.put(self.field["offset"] + start * (self.field["bytes"] // max(self.shape[0], 1)), array)
        self.filled[start:stop] = True


class Writer:
    """Context in which an entry is written; it appears, whole, when the context ends, and not at all on an exception.

    ``writer[name][start:stop] = values`` fills rows, in any order, from one thread at a time; every row must be filled.
    Rows are written and not stored through a memory map, and the file has its full size from the beginning: a full
    disk is an exception here, at the start where the system allows, while on a mapped page it would kill the process.

    Args:
        folder: The cache's folder; made if absent.
        description: All that the values depend on.
        arrays: Dtype and shape of each array, rows first.

    Raises:
        CacheWriteError: The disk refused something.
        ValueError: Values do not fit, or rows were left out.
    """

    def __init__(self, folder: Path, description: Mapping[str, Plain], arrays: Arrays) -> None:
        self.path = folder / f"{key_of(description)}.ftl"
        self._description = json.loads(_canonical(description))  # a copy: the header's length must not change
        self._fields = _fields(arrays)
        self._rows = {field["name"]: _Rows(self, field) for field in self._fields}
        self._start = len(_header(self._description, self._fields))
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.{secrets.token_hex(4)}.partial")
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        with self._or_nothing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.path.parent)
            while (claim := take(self._partial)) is None:
                time.sleep(0.01)  # another run took the new file for a stale one, before it was locked
            self._file = os.fdopen(claim[0], "r+b")
            _allocate(claim[0], self._start + _end(self._fields))
        return self

    def __getitem__(self, name: str) -> _Rows:
        return self._rows[name]

    def put(self, offset: int, values: NDArray[Any]) -> None:
        """Write values at a number of bytes behind the header; for the rows of an array."""
        if self._file is None:
            raise ValueError(f"the entry {self.path} is not open for writing")
        with self._or_nothing():
            self._file.seek(self._start + offset)
            self._file.write(values.data if values.size else b"")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None or self._file is None:
            self._abandon()
            return
        with self._or_nothing():
            if left := [name for name, rows in self._rows.items() if not rows.filled.all()]:
                raise ValueError(f"the entry {self.path} was left with empty rows in {', '.join(left)}")
            for field in self._fields:
                field["crc"] = _crc(self._file, self._start + field["offset"], field["bytes"])
            self._file.seek(0)
            self._file.write(_header(self._description, self._fields))
            self._file.flush()
            os.fsync(self._file.fileno())  # before the name: after a power cut, a whole name means whole values
            if sys.platform == "win32":
                self._file.close()  # an open file cannot be renamed there; elsewhere it keeps its lock until then
            self._partial.replace(self.path)
            self._file.close()
            self._file = None

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Leave no file behind on an exception, and raise the system's as CacheWriteError."""
        try:
            yield
        except BaseException as error:
            self._abandon()
            if not isinstance(error, OSError):
                raise
            raise _refused(self.path, error) from error

    def _abandon(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is still buffered may meet the full disk again
                self._file.close()
            self._file = None
        _remove(self._partial)


def _allocate(descriptor: int, size: int) -> None:
    """Give a new file its full size, with blocks on the disk where the system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
    os.truncate(descriptor, size)


def required_bytes(arrays: Arrays) -> int:
    """Return the size of an entry with these arrays, to within the length of its description."""
    return _PAGE + sum(_paged(field["bytes"]) for field in _fields(arrays))


def room(folder: Path, needed: int, limit: int) -> str | None:
    """Make room for an entry, at the cost of the entries that were not used for the longest time.

    Nothing is removed if that would not be enough. An entry that a run has mapped may be among those removed: on POSIX
    its pages stay readable, and its blocks in use, until that run ends; on Windows the system refuses to remove it.

    Args:
        folder: The cache's folder; made if absent.
        needed: Size of the entry, in bytes.
        limit: Largest total size of all entries, in bytes.

    Returns:
        None if there is room, else the reason in one line.
    """
    if needed > limit:
        return f"it needs {_size(needed)}, the limit of all entries is {_size(limit)} (FASHION_TL_CACHE_LIMIT, in GiB)"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    known = sorted(entries(folder), key=lambda entry: not entry.damaged)
    held = sum(entry.bytes for entry in known)
    reserve = needed // 20 + 64 * 2**20  # logs and checkpoints of the run need the disk as well
    short = max(held + needed - limit, needed + reserve - free)
    if short > held:
        return (
            f"it needs {_size(needed + reserve)}; the disk of {folder} has {_size(free)} free, {_size(held)} in entries"
        )
    for entry in known:
        if short > 0:
            short -= _remove(entry.path) or 0
    return None if short <= 0 else f"entries that are in use cannot be removed from {folder}"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


@dataclass(frozen=True)
class Entry:
    """One file of the cache.

    Attributes:
        key: What stands for the description, 32 hexadecimal digits.
        path: The file.
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
    for path in folder.glob("*.ftl"):
        description: dict[str, Any] = {}
        damaged = False
        with contextlib.suppress(FileNotFoundError):  # another run may remove it meanwhile
            try:
                with path.open("rb") as file:
                    description = _check(file, path.stem)[0]["description"]
            except (_DamagedError, OSError):
                damaged = True
            state = path.stat()
            found.append(Entry(path.stem, path, state.st_size, state.st_mtime, description, damaged))
    return sorted(found, key=lambda entry: (entry.last_used, entry.key))


def clear(folder: Path) -> tuple[int, int]:
    """Remove all entries and what killed runs left; returns how many files, and their bytes."""
    sizes = [size for path in folder.glob("*.ftl") if (size := _remove(path)) is not None] + _remove_stale(folder)
    return len(sizes), sum(sizes)


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
    path = folder / f".{key}.lock"
    told = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (claim := take(path)) is None:
            if not told:
                waiting()
            told = True
            time.sleep(0.05)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield
    finally:
        _remove(path)  # while it is locked: who waits for this file sees that it is gone and makes another
        os.close(claim[0])


def _remove_stale(folder: Path) -> list[int]:
    """Remove what killed runs left; returns the sizes of the unfinished entries."""
    sizes = []
    for path in [*folder.glob(".*.partial"), *folder.glob(".*.lock")]:
        with contextlib.suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if claim := take(path, create=False):
                size = _remove(path) if claim[1] or age > _DAY else None
                os.close(claim[0])
                if size is not None and path.suffix == ".partial":
                    sizes.append(size)
    return sizes


def _remove(path: Path) -> int | None:
    """Remove a file; returns its size, None if it could not be removed."""
    try:
        size = path.stat().st_size
        path.unlink()
    except OSError:
        return None
    return size
