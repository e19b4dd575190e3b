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

VERSION = 3
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
        highest_level: The highest level of files of 16 bits; None if there are none.
    """

    digests: NDArray[np.uint8]
    reasons: Mapping[int, str]
    highest_level: int | None = None


@dataclass(frozen=True)
class _Found:
    """What has been found out, of N files.

    Attributes:
        digests: uint8 (N, 32).
        states: uint8 (N,), how far each could be read; 0 of one that is not known, too.
        levels: int32 (N,), the highest level of each of 16 bits, -1 of others.
    """

    digests: NDArray[np.uint8]
    states: NDArray[np.uint8]
    levels: NDArray[np.int32]

    @classmethod
    def nothing(cls, count: int) -> _Found:
        """Know nothing of so many files."""
        return cls(np.zeros((count, 32), np.uint8), np.zeros(count, np.uint8), np.full(count, -1, np.int32))

    def contents(self, reasons: Mapping[int, str]) -> Contents:
        """Put together what is in the files, with what is wrong with some."""
        highest = int(self.levels.max(initial=-1))
        return Contents(self.digests, reasons, None if highest < 0 else highest)


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
        return _read(files, needed, _Found.nothing(len(files)))
    folder, about = store.cache_dir(), _description(files, owner)
    known, fits = _known(files, folder, about)
    if fits and (known.states >= needed).all():
        return known.contents({})
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.lock(folder, store.key_of(about)))
        except store.CacheWriteError as error:
            _warn(str(error))
            return _read(files, needed, known)
        started = time.time_ns()
        known, fits = _known(files, folder, about)
        before = known.states.copy()
        found = _read(files, needed, known)
        if not fits or (known.states != before).any():
            _keep(files, known, started, folder, about)
    return found


def _description(files: FileList, owner: str) -> dict[str, store.Plain]:
    return {
        "kind": "index",
        "version": VERSION,
        "folder": str(files.folder.absolute()),
        "owner": owner,
    }


def _known(files: FileList, folder: Path, about: Mapping[str, store.Plain]) -> tuple[_Found, bool]:
    """Look up files that have the size and time that they had, and say whether the same files were known before."""
    known = _Found.nothing(len(files))
    kept = store.read(folder, about)
    if kept is None:
        return known, False
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
    for column in ("digests", "states", "levels"):
        getattr(known, column)[here[same]] = kept[column][there[same]]
    return known, fits


def _read(files: LabelledFiles, needed: int, known: _Found) -> Contents:
    """Read the files whose state is not what is needed, and fill in what is found."""
    missing = np.flatnonzero(known.states < needed)
    reasons: dict[int, str] = {}

    def look(number: int) -> None:
        index = int(missing[number])
        try:
            file = files.file(index)
            digest, *_, highest = read_image(file, 1, "stretch") if needed == DECODED else check_image(file)
        except UnreadableImageError as error:
            reasons[index] = error.reason
            known.states[index] = UNREADABLE
        else:
            known.digests[index] = np.frombuffer(digest, dtype=np.uint8)
            known.states[index], known.levels[index] = needed, -1 if highest is None else highest

    for _ in tracked(in_order(look, len(missing)), len(missing), "reading files"):
        pass
    return known.contents(dict(sorted(reasons.items())))


def _keep(
    files: FileList,
    known: _Found,
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
        "digests": known.digests,
        "states": known.states,
        "levels": known.levels,
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
