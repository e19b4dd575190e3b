"""Image files found in folders, and lists of them in arrays: a million names take little more than their letters."""

from __future__ import annotations

import hashlib
import heapq
import os
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from fashion_tl.data.files import SUFFIXES, ImageFile
from fashion_tl.errors import UserError

PASSED_OVER = "passed over"
UNKNOWN = -1  # size of a file that the system tells nothing of

Reached: TypeAlias = dict[tuple[int, int], list[str]]  # paths of a folder by its device and inode


class LabelledFiles(Sequence[tuple[ImageFile, int]], ABC):
    """Image files and their classes: a sequence of files and labels.

    Attributes:
        labels: int64 (N,), the class of each file.
    """

    labels: NDArray[np.int64]

    @property
    @abstractmethod
    def names(self) -> bytes:
        """What the names say of the files, wherever they lie."""

    @abstractmethod
    def file(self, index: int) -> ImageFile:
        """Return a file; the index is from 0."""

    @abstractmethod
    def take(self, chosen: NDArray[np.bool_]) -> Self:
        """Return a list of the files that are marked (N,), in their order."""

    @classmethod
    @abstractmethod
    def joined(cls, lists: Sequence[Self]) -> Self:
        """Put lists one after the other."""

    @property
    def files(self) -> Sequence[ImageFile]:
        """The files alone, each made when it is asked for."""
        return _Files(self)

    def __len__(self) -> int:
        """Return the number of files N."""
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[ImageFile, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[ImageFile, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[ImageFile, int] | list[tuple[ImageFile, int]]:
        """Return file and label, or a list of several.

        Raises:
            IndexError: If the index is not in -N to N - 1.
        """
        places = range(len(self))[index]
        if isinstance(places, int):
            return self.file(places), int(self.labels[places])
        return [self[place] for place in places]

    def __eq__(self, other: object) -> bool:
        """Say whether another sequence has the same files and labels."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == each for one, each in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment] # as of a list


class PackedList(LabelledFiles):
    """Packed images and their classes.

    Args:
        packed: N images.
        labels: int64 (N,), the class of each.
    """

    names = b""

    def __init__(self, packed: Sequence[ImageFile], labels: NDArray[np.int64]) -> None:
        self.packed, self.labels = packed, labels

    def file(self, index: int) -> ImageFile:
        """Return an image; the index is from 0."""
        return self.packed[index]

    def take(self, chosen: NDArray[np.bool_]) -> PackedList:
        """Return a list of the images that are marked (N,), in their order."""
        return PackedList([self.packed[place] for place in np.flatnonzero(chosen).tolist()], self.labels[chosen])

    @classmethod
    def joined(cls, lists: Sequence[PackedList]) -> PackedList:
        """Put lists one after the other."""
        packed = [image for each in lists for image in each.packed]
        return cls(packed, np.concatenate([each.labels for each in lists]))

    def __repr__(self) -> str:
        """Name all images and labels: no other list has the same text."""
        return f"PackedList({list(map(str, self.packed))}, {self.labels.tolist()})"


class FileList(LabelledFiles):
    """Paths and their classes, held as arrays.

    Args:
        folder: The folder that the names start from.
        text: The names one after the other, as the file system encodes them, with slashes.
        ends: int64 (N,), where each name ends in the text.
        labels: int64 (N,), the class of each file.
        sizes: int64 (N,), bytes of each file when it was found; `UNKNOWN` where the system told nothing.
        times: int64 (N,), when each was last modified, in nanoseconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        text: bytes,
        ends: NDArray[np.int64],
        labels: NDArray[np.int64],
        sizes: NDArray[np.int64],
        times: NDArray[np.int64],
    ) -> None:
        self.folder, self.text, self.ends, self.labels = folder, text, ends, labels
        self.sizes, self.times = sizes, times

    @classmethod
    def of(cls, entries: Iterable[tuple[Path, int]]) -> FileList:
        """Make a list of paths and labels, in their order; the system is asked for sizes and times."""
        paths, labels = list[str](), array("q")
        for path, label in entries:
            paths.append(os.fspath(path))
            labels.append(label)
        if len({os.path.isabs(path) for path in paths}) > 1:  # noqa: PTH117 - here and below: no million objects
            paths = [os.path.abspath(path) for path in paths]
        folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""  # noqa: PTH120
        names = [path[len(folder) :].lstrip(os.sep).replace(os.sep, "/") for path in paths]
        told = [_size_and_time(path) for path in paths]
        return cls._from(Path(folder), names, labels, [size for size, _ in told], [time for _, time in told])

    @classmethod
    def below(
        cls,
        root: Path,
        folders: Sequence[Path],
        labels: Sequence[int],
        others: Counter[str] | None = None,
        reached: Reached | None = None,
    ) -> FileList:
        """List the images at any depth of folders below a root, folder by folder, each sorted by name.

        Args:
            root: What the names start from.
            folders: The folders.
            labels: The class of each of them.
            others: Counts the files that are left out, by their ending.
            reached: Collects the folders, see ``walk_images``.

        Raises:
            OSError: If a folder cannot be listed.
        """
        found = [cls._scan(root, folder, label, others, reached) for folder, label in zip(folders, labels, strict=True)]
        return cls.joined(found) if found else cls._from(root, [], [], [], [])

    @classmethod
    def _scan(
        cls, root: Path, folder: Path, label: int, others: Counter[str] | None, reached: Reached | None
    ) -> FileList:
        names, sizes, times = list[str](), array("q"), array("q")
        for name, entry in walk_images(folder, others, reached):
            names.append(name)
            size, time = _size_and_time(entry)
            sizes.append(size)
            times.append(time)
        order = sorted(range(len(names)), key=names.__getitem__)
        prefix = folder.relative_to(root).as_posix() + "/"
        place = np.array(order, dtype=np.int64)
        return cls._from(
            root,
            [prefix + names[index] for index in order],
            [label] * len(names),
            np.array(sizes, dtype=np.int64)[place],
            np.array(times, dtype=np.int64)[place],
        )

    @classmethod
    def _from(
        cls,
        folder: Path,
        names: Sequence[str],
        labels: Sequence[int],
        sizes: Sequence[int] | NDArray[np.int64],
        times: Sequence[int] | NDArray[np.int64],
    ) -> FileList:
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
        columns = (np.array(values, dtype=np.int64) for values in (labels, sizes, times))
        return cls(folder, b"".join(encoded), ends, *columns)

    @classmethod
    def joined(cls, lists: Sequence[FileList]) -> FileList:
        """Put lists of one folder one after the other."""
        if len({each.folder for each in lists}) != 1:
            raise ValueError("lists to join must be of one folder")
        shifts = np.cumsum([0, *(len(each.text) for each in lists[:-1])])
        return cls(
            lists[0].folder,
            b"".join(each.text for each in lists),
            np.concatenate([each.ends + shift for each, shift in zip(lists, shifts, strict=True)]),
            *(np.concatenate([getattr(each, name) for each in lists]) for name in ("labels", "sizes", "times")),
        )

    def take(self, chosen: NDArray[np.bool_]) -> FileList:
        """Return a list of the files that are marked (N,), in their order."""
        if chosen.all():
            return self
        lengths = np.diff(self.ends, prepend=0)
        text = np.frombuffer(self.text, dtype=np.uint8)[np.repeat(chosen, lengths)].tobytes()
        arrays = (each[chosen] for each in (self.labels, self.sizes, self.times))
        return FileList(self.folder, text, np.cumsum(lengths[chosen]), *arrays)

    @property
    def names(self) -> bytes:
        """The names below the folder, and where each ends."""
        return self.text + self.ends.tobytes()

    def name(self, index: int) -> str:
        """Return the name of a file below the folder; the index is from 0."""
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[start : int(self.ends[index])])

    def file(self, index: int) -> Path:
        """Return the path of a file; the index is from 0."""
        return self.folder / self.name(index)

    def __repr__(self) -> str:
        """Tell this list from all others: by its folder, and by a hash of the rest."""
        digest = hashlib.sha256(self.text)
        for each in (self.ends, self.labels, self.sizes, self.times):
            digest.update(np.ascontiguousarray(each).data)
        return f"FileList({str(self.folder)!r}, {len(self)} files, {digest.hexdigest()})"


class _Files(Sequence[ImageFile]):
    """The files of a list."""

    def __init__(self, labelled: LabelledFiles) -> None:
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.labelled)

    @overload
    def __getitem__(self, index: int) -> ImageFile: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageFile]: ...
    def __getitem__(self, index: int | slice) -> ImageFile | list[ImageFile]:
        places = range(len(self))[index]
        return self.labelled.file(places) if isinstance(places, int) else [self.labelled.file(each) for each in places]


def files_of(entries: Sequence[tuple[ImageFile, int]]) -> LabelledFiles:
    """Make a list of files and labels, of paths or of packed images."""
    paths = [(file, label) for file, label in entries if isinstance(file, Path)]
    if len(paths) == len(entries):
        return FileList.of(paths)
    return PackedList([file for file, _ in entries], np.array([label for _, label in entries], dtype=np.int64))


def joined(lists: Sequence[LabelledFiles]) -> LabelledFiles:
    """Put lists of one kind one after the other."""
    return type(lists[0]).joined(lists)


def split_names(text: bytes, ends: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield the names that a text consists of, as the file system encodes them."""
    start = 0
    for end in ends.tolist():
        yield text[start:end]
        start = end


def walk_images(
    folder: Path, others: Counter[str] | None = None, reached: Reached | None = None
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Find the image files at any depth of a folder, in no order; none is opened.

    Hidden files, hidden folders, and files without a suffix of ``SUFFIXES`` are left out; links are followed, but not
    those that lead back up. A folder counts once: where it lies, else by the first name of the links to it.

    Args:
        folder: The folder.
        others: Counts the files without such a suffix, by the one that they have.
        reached: Collects the path of each folder that is listed; several walks may share it.

    Yields:
        The name below the folder, with slashes, and what the system lists.

    Raises:
        OSError: If a subfolder cannot be listed.
    """
    folders, links, listed_before = [("", os.fspath(folder))], list[tuple[str, str]](), set[tuple[int, int]]()
    while folders or links:
        prefix, here = folders.pop() if folders else heapq.heappop(links)
        status = os.stat(here)  # noqa: PTH116 - of text
        identity = status.st_dev, status.st_ino
        if identity in listed_before:
            continue
        listed_before.add(identity)
        if reached is not None:
            reached.setdefault(identity, []).append(here)
        with os.scandir(here) as listed:
            for entry in listed:
                if entry.name.startswith("."):
                    continue
                if _is_dir(entry):
                    below = f"{prefix}{entry.name}/", entry.path
                    if not entry.is_symlink():
                        folders.append(below)
                    elif not Path(here).resolve().is_relative_to(Path(entry.path).resolve()):
                        heapq.heappush(links, below)
                elif entry.name.lower().endswith(SUFFIXES):
                    yield prefix + entry.name, entry
                elif others is not None:
                    others[PurePath(entry.name).suffix.lower() or "no ending"] += 1


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def find_images(folder: Path, others: Counter[str] | None = None) -> list[Path]:
    """List the image files at any depth of a folder, sorted by their relative path; see ``walk_images``."""
    return [folder / name for name in sorted(name for name, _ in walk_images(folder, others))]


def image_files(paths: Sequence[Path], others: Counter[str] | None = None) -> list[Path]:
    """List files as given, and the images below each folder; see ``walk_images``.

    Raises:
        UserError: If a path does not exist, or a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: give image files, or folders of them.")
        found = find_images(path, others) if path.is_dir() else [path]
        if not found:
            raise UserError(f"the folder {path} holds no images ({' '.join(SUFFIXES)}).")
        files += found
    return files


def counted_endings(others: Mapping[str, int]) -> str:
    """Say how many files have which ending, the most frequent first.

    >>> counted_endings({".txt": 1, ".heic": 36})
    '36 .heic, 1 .txt'
    """
    return ", ".join(f"{count:,} {ending}" for ending, count in sorted(others.items(), key=lambda each: -each[1]))


def _size_and_time(file: str | os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = os.stat(file) if isinstance(file, str) else file.stat()  # noqa: PTH116 - of text
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return UNKNOWN, 0
    return status.st_size, status.st_mtime_ns
