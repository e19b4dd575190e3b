"""Memory that a process can still take: what the machine has free, and what its control groups leave of that."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

RESIDENT_SHARE = 0.25  # of a GPU's free memory, for each split: the rest is for the network

# Limit, usage, and cached file pages that the kernel drops first, of version 2 and version 1 of control groups.
_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes Linux still gives to this process, or None where the system does not tell.

    It is the least of the machine's available memory (page cache counts as available) and of what each control group
    of the process leaves: a container, a batch job or a service may have far less than the machine.

    Args:
        root: Folder that holds ``proc`` and what is mounted.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    left = [int(found[1]) * 1024] if found else []
    left += [rest for kind, folder in _control_groups(root) if (rest := _left(kind, folder)) is not None]
    return min(left, default=None)


def memory_limit(root: Path = Path("/")) -> int:
    """Return half of the memory that this process can still take, in bytes; 2 GiB where the system does not tell.

    On Linux it is half of `available_memory`, elsewhere half of the physical memory.

    Args:
        root: Folder that holds ``proc`` and what is mounted.
    """
    available = available_memory(root)
    if available is not None:
        return available // 2
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 2**31


def _control_groups(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield kind and folder of every control group that may limit the process's memory, and of those around it."""
    own: dict[str, PurePosixPath] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            own["cgroup2" if number == "0" else "cgroup"] = PurePosixPath(path)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind not in own or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        shown, place = (re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), part) for part in before.split()[3:5])
        mounted = root / place.lstrip("/")
        # A container that sees the machine's name of its group, but has only the group itself mounted.
        inner = own[kind].relative_to(shown) if own[kind].is_relative_to(shown) else PurePosixPath()
        for part in (inner, *inner.parents):
            yield kind, mounted / part


def _left(kind: str, folder: Path) -> int | None:
    """Return how many bytes a control group may still take; None if it has no limit or does not tell."""
    limit, usage, cached = _FILES[kind]
    most, taken = _text(folder / limit).strip(), _text(folder / usage).strip()
    if not (most.isdigit() and taken.isdigit()):
        return None
    found = re.search(rf"^{cached} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
    return max(0, int(most) - max(0, int(taken) - (int(found[1]) if found else 0)))


def _text(path: Path) -> str:
    """Read a file of the kernel; empty where it is missing or closed."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
