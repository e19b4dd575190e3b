"""Room for entries of the cache: what the disk and the limit allow, and which entries go first."""

from __future__ import annotations

import shutil
from pathlib import Path

from fashion_tl.cache.store import Entry, entries, remove, remove_stale
from fashion_tl.files import existing_above


def why_no_room(folder: Path, needed: int, limit: int) -> str | None:
    """Say why entries cannot be kept, even if all others were removed; None if they can. Nothing is changed.

    Args:
        folder: The cache's folder, which need not exist.
        needed: Size of the entries, in bytes.
        limit: Largest total size of all entries, in bytes.
    """
    return _judge(folder, needed, limit)[0]


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
    reason, known, short = _judge(folder, needed, limit, make=True)
    if reason is not None:
        return reason
    for entry in sorted(known, key=lambda entry: not entry.damaged):
        if short > 0:
            short -= remove(entry.path) or 0
    return None if short <= 0 else f"entries that are in use cannot be removed from {folder}"


def _judge(folder: Path, needed: int, limit: int, make: bool = False) -> tuple[str | None, list[Entry], int]:
    """Return why there can be no room or None, the entries, and how many bytes of them must go.

    Args:
        folder: The cache's folder.
        needed: Size of the entries, in bytes.
        limit: Largest total size of all entries, in bytes.
        make: Whether the folder is made, and cleared of what killed runs left.
    """
    if needed > limit:
        allowed = f"the limit of all entries is {size_text(limit)} (FASHION_TL_CACHE_LIMIT, in GiB)"
        return f"it needs {size_text(needed)}, {allowed}", [], 0
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stale(folder)
        known, free = entries(folder), shutil.disk_usage(existing_above(folder)).free
    except OSError as error:
        return f"{folder}: {error.strerror or error}", [], 0
    held, reserved = sum(entry.bytes for entry in known), needed + _reserve(needed)
    short = max(held + needed - limit, reserved - free)
    if short <= held:
        return None, known, short
    there = f"the disk of {folder} has {size_text(free)} free, {size_text(held)} in entries"
    return f"it needs {size_text(reserved)}; {there}", known, short


def _reserve(needed: int) -> int:
    return needed // 20 + 64 * 2**20  # logs and checkpoints of the run need the disk as well


def size_text(count: float) -> str:
    """Write a number of bytes in GiB or MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
