"""What is known of many image files: a hash of each, and that it can be read; kept, and checked by size and time."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fashion_tl.cache import store
from fashion_tl.cache.eviction import room
from fashion_tl.data.file_list import UNKNOWN, FileList, LabelledFiles, split_names
from fashion_tl.data.files import UnreadableImageError, check_image, read_image
from fashion_tl.data.threads import in_order, tracked

VERSION = 1
INDEXED_FROM = 1000  # files; fewer are read as fast as they are looked up
UNREADABLE, OPENED, DECODED = 0, 1, 2  # states: how far a file could be read
_SETTLED = 2 * 10**9  # ns: a file that changes again within a tick of its system's clock keeps its time

_anew = False


@dataclass(frozen=True)
class Contents:
    """What is in files.

    Attributes:
        digests: uint8 (N, 32), SHA-256 of the content of each file; undefined for one that cannot be read.
        reasons: What is wrong with the unreadable ones, by their index.
        highest_level: The highest of 16-bit grey levels; None if there are no such files, or they were not decoded.
    """

    digests: NDArray[np.uint8]
    reasons: Mapping[int, str]
    highest_level: int | None = None


@contextmanager
def reading_anew() -> Iterator[None]:
    """Have all files read again, whatever is known of them: size and time do not tell of a disk that decays."""
    global _anew
    before, _anew = _anew, True
    try:
        yield
    finally:
        _anew = before


def contents(files: LabelledFiles, whole: bool, owner: str) -> Contents:
    """Find out what is in files: read what is new or changed by size or time, look up the rest.

    What is known is kept in the cache, one entry for a folder and owner, and written again when it has changed. A
    process that finds another one at work waits, and reads what that has found. Packed images are always read.

    Args:
        files: The files, as the system lists them now.
        whole: Whether each file must have been decoded once; else its header suffices.
        owner: What tells this list from others of the same folder.
    """
    needed = DECODED if whole else OPENED
    if not isinstance(files, FileList) or len(files) < INDEXED_FROM or _anew:
        return _read(files, needed, *_nothing(len(files)))
    folder, about = store.cache_dir(), _description(files, owner)
    digests, states, fits = _known(files, folder, about)
    if fits and (states >= needed).all():
        return Contents(digests, {})
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.lock(folder, store.key_of(about)))
        except store.CacheWriteError as error:
            _warn(str(error))
            return _read(files, needed, digests, states)
        started = time.time_ns()
        digests, states, fits = _known(files, folder, about)
        before = states.copy()
        found = _read(files, needed, digests, states)
        if not fits or (states != before).any():
            _keep(files, digests, states, started, folder, about)
    return found


def _description(files: FileList, owner: str) -> dict[str, store.Plain]:
    return {
        "kind": "index",
        "version": VERSION,
        "folder": str(files.folder.absolute()),
        "owner": owner,
    }


def _nothing(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return np.zeros((count, 32), dtype=np.uint8), np.zeros(count, dtype=np.uint8)


def _known(
    files: FileList, folder: Path, about: Mapping[str, store.Plain]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
    """Look up files that have the size and time that they had.

    Returns:
        Their digests and states, zeros for the others, and whether the same files were known before.
    """
    digests, states = _nothing(len(files))
    kept = store.read(folder, about)
    if kept is None:
        return digests, states, False
    text = kept["text"].tobytes()
    fits = text == files.text and np.array_equal(kept["ends"], files.ends)
    if fits:
        here = there = np.arange(len(files))
    else:
        places = {name: place for place, name in enumerate(split_names(text, kept["ends"]))}
        found = (places.get(name, -1) for name in split_names(files.text, files.ends))
        there = np.fromiter(found, dtype=np.int64, count=len(files))
        here = np.flatnonzero(there >= 0)
        there = there[here]
    same = (kept["sizes"][there] == files.sizes[here]) & (kept["times"][there] == files.times[here])
    same &= files.sizes[here] != UNKNOWN
    digests[here[same]], states[here[same]] = kept["digests"][there[same]], kept["states"][there[same]]
    return digests, states, fits


def _read(files: LabelledFiles, needed: int, digests: NDArray[np.uint8], states: NDArray[np.uint8]) -> Contents:
    """Read the files whose state is not what is needed, and fill in what is found."""
    missing = np.flatnonzero(states < needed)
    reasons: dict[int, str] = {}

    def look(number: int) -> None:
        index = int(missing[number])
        try:
            file = files.file(index)
            digest = read_image(file, 1, "stretch")[0] if needed == DECODED else check_image(file)
        except UnreadableImageError as error:
            reasons[index] = error.reason
            states[index] = UNREADABLE
        else:
            digests[index] = np.frombuffer(digest, dtype=np.uint8)
            states[index] = needed

    for _ in tracked(in_order(look, len(missing)), len(missing), "reading files"):
        pass
    return Contents(digests, dict(sorted(reasons.items())))


def _keep(
    files: FileList,
    digests: NDArray[np.uint8],
    states: NDArray[np.uint8],
    started: int,
    folder: Path,
    about: Mapping[str, store.Plain],
) -> None:
    """Write the entry, or say why it cannot be kept."""
    settled = files.times < started - _SETTLED
    columns: dict[str, NDArray[np.generic]] = {
        "text": np.frombuffer(files.text, dtype=np.uint8),
        "ends": files.ends,
        "sizes": np.where(settled, files.sizes, UNKNOWN),
        "times": files.times,
        "digests": digests,
        "states": states,
    }
    arrays: store.Arrays = {name: (values.dtype, values.shape) for name, values in columns.items()}
    try:
        reason = room(folder, store.required_bytes(arrays), store.limit_bytes())
        if reason is None:
            with store.write(folder, about, arrays) as append:
                for name, values in columns.items():
                    append[name](values)
    except store.CacheWriteError as error:
        reason = str(error)
    if reason is not None:
        _warn(reason)


def _warn(reason: str) -> None:
    warnings.warn(
        f"the index of the files is not kept ({reason}); they are read again at the next start.", stacklevel=2
    )
