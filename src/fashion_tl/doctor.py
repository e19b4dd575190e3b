"""``fashion-tl doctor``: what this machine and its settings offer, what is wrong, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

from fashion_tl import __version__
from fashion_tl.errors import UserError, one_line
from fashion_tl.files import existing_above
from fashion_tl.folders import obstacle
from fashion_tl.imports import installed_version

DISTRIBUTION = "fashion-tl"
LEAST_FREE = 2**30  # bytes of a disk that is written to
_LISTED = 8


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: What was looked at.
        found: What was found.
        mend: How to mend it, if it is wrong; else "".
    """

    what: str
    found: str
    mend: str = ""


def doctor(
    log_dir: Path = Path("lightning_logs"), checkpoint_dir: Path = Path("checkpoints"), root: str | None = None
) -> None:
    """Say what this machine offers, what is wrong with it, and how to mend that. Nothing is left on the disk.

    The exit status is 0 if nothing is wrong, else 1.

    Args:
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".

    Raises:
        SystemExit: With status 1, if something is wrong.
    """
    wrong = 0
    for finding in find_all(log_dir, checkpoint_dir, root):
        print(f"{'WRONG' if finding.mend else 'ok':6}{finding.what:24} {finding.found}", flush=True)
        if finding.mend:
            wrong += 1
            print(f"{'':6}{'':24} mend it: {finding.mend}")
    print(f"{wrong} wrong" if wrong else "nothing is wrong")
    if wrong:
        raise SystemExit(1)


def find_all(log_dir: Path, checkpoint_dir: Path, root: str | None) -> Iterator[Finding]:
    """Look at everything, the cheapest first."""
    yield Finding("machine", f"{platform.platform()}, {os.cpu_count()} cores{_memory()}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("fashion_tl", __version__)
    yield from libraries()
    yield from devices()
    yield cache()
    yield data(root)
    folders = {"records": log_dir, "checkpoints": checkpoint_dir, "temporary files": Path(tempfile.gettempdir())}
    for what, folder in folders.items():
        yield writable(what, folder)


def libraries() -> Iterator[Finding]:
    """Compare the installed libraries with what the package needs, and say which extras are installed."""
    needed = [Requirement(text) for text in _requirements()]
    extras: dict[str, list[Requirement]] = {}
    for each in needed:
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            yield library(each)
            continue
        for extra in ("tune", "onnx", "hub", "dev"):
            if each.marker.evaluate({"extra": extra}):
                extras.setdefault(extra, []).append(each)
    if not needed:
        yield Finding("libraries", "fashion_tl is not installed", "pip install fashion-tl, or run `make setup`")
    for extra, wanted in extras.items():
        missing = [each.name for each in wanted if installed_version(each.name) is None]
        told = f"not installed ({', '.join(missing)}): pip install 'fashion-tl[{extra}]'" if missing else "installed"
        yield Finding(f"extra {extra}", told)


def library(needed: Requirement) -> Finding:
    """Compare one installed library with what is needed."""
    found = installed_version(needed.name)
    if found is None:
        return Finding(needed.name, "not installed", f"pip install '{needed.name}{needed.specifier}'")
    if not needed.specifier.contains(found, prereleases=True):
        told = f"{found}, needed is {needed.specifier}"
        return Finding(needed.name, told, f"pip install '{needed.name}{needed.specifier}'")
    return Finding(needed.name, found)


def devices() -> Iterator[Finding]:
    """List the devices that torch computes on, and its threads."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("devices", f"torch cannot be imported: {one_line(error)}", "install torch again")
        return
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("devices", f"GPU: {', '.join(gpus)}" if gpus else "CPU alone")
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    mend = f"set OMP_NUM_THREADS to {cores} or less" if threads > cores else ""
    yield Finding("threads", f"{threads} on {cores} cores", mend)


def cache() -> Finding:
    """Say what is kept of frozen stages, and whether more can be."""
    from fashion_tl.cache.store import cache_dir, entries, limit_bytes

    folder = cache_dir()
    try:
        limit = limit_bytes()
        kept = entries(folder)
    except (UserError, OSError) as error:
        return Finding("cache", one_line(error), "set FASHION_TL_CACHE_LIMIT to a number of GiB, such as 20")
    held = sum(entry.bytes for entry in kept) / 2**30
    told = f"{folder}: {len(kept)} entries, {held:.2f} of {limit / 2**30:.1f} GiB"
    damaged = sum(entry.damaged for entry in kept)
    if damaged:
        return Finding("cache", f"{told}, {damaged} damaged", "`fashion-tl cache clear`")
    room = writable("cache", folder)
    return Finding("cache", told if not room.mend else f"{told}; {room.found}", room.mend and _choose("a cache"))


def data(root: str | None) -> Finding:
    """Say what lies in the folder with the data."""
    from fashion_tl.data.fashion_mnist import CONTENTS
    from fashion_tl.data.idx import find_idx
    from fashion_tl.data.sources import data_root

    folder = data_root(root)
    if not folder.is_dir():
        if root or os.environ.get("FASHION_TL_DATA_DIR"):
            return Finding("data", f"{folder} is no folder", "name one with --root or FASHION_TL_DATA_DIR")
        return Finding("data", f"{folder} does not exist yet: Fashion-MNIST is downloaded into it when it is needed")
    try:
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        return Finding("data", f"{folder}: {error.strerror}", "name a folder that can be read with --root")
    there = sum(find_idx(folder / "FashionMNIST" / "raw" / name) is not None for name in CONTENTS)
    more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    listed = f"{', '.join(names[:_LISTED]) or 'empty'}{more}"
    return Finding("data", f"{folder}: {listed}; {there} of the 4 files of Fashion-MNIST")


def writable(what: str, folder: Path) -> Finding:
    """Say whether a folder, or what it would be made in, can be written to and has room."""
    if problem := obstacle(folder):
        return Finding(what, problem, _choose(what))
    free = shutil.disk_usage(existing_above(folder)).free
    told = f"{folder}: writable, {free / 2**30:.1f} GiB free"
    return Finding(what, told, "free some space on its disk" if free < LEAST_FREE else "")


def _choose(what: str) -> str:
    options = {"records": "--log_dir", "checkpoints": "--checkpoint_dir", "a cache": "FASHION_TL_CACHE_DIR"}
    return f"choose another folder with {options.get(what, 'TMPDIR')}"


def _requirements() -> list[str]:
    try:
        return requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f", {total / 2**30:.0f} GiB of memory"
