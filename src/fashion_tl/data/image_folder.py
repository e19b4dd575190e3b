"""Image folders with one subfolder per class: found without opening a file, then read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress

from fashion_tl.data.images import (
    FolderImages,
    ImageSet,
    InMemoryImages,
    UnreadableImageError,
    check_header,
    decode_image,
)
from fashion_tl.data.memory import available_memory
from fashion_tl.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_LAYOUT = "Allowed: a folder with one subfolder of images per class, or with such folders train/ and test/."
_VALIDATION_NAMES = {"val", "valid", "validation"}
_SPLIT_NAMES = {"train", "training", "test", "testing"}
_PROGRESS_FROM = 500
# Tasks are handed to the pool in slabs, so that a million files do not mean a million waiting futures.
_SLAB, _CHUNK = 4096, 64

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class FolderIndex:
    """The files of an image folder and their classes.

    Attributes:
        class_names: Names of the classes, sorted; a label is an index into them.
        train: Path and label of each training image, class by class, sorted by path.
        test: The same for the test images; None if the folder is not divided and the caller has to split `train`.
    """

    class_names: tuple[str, ...]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]] | None


def scan_folder(root: Path) -> FolderIndex:
    """List the images of a folder without opening one.

    If `root` has train/ and test/, each with one subfolder per class, other folders beside these two are left alone;
    else `root` itself has one subfolder per class. Images count at any depth below their class folder; hidden files,
    hidden folders and files without a suffix of `SUFFIXES` do not.

    Args:
        root: The image folder; `~` is expanded.

    Returns:
        The classes and files, in an order that depends on nothing but their names.

    Raises:
        UserError: The folder does not have this layout, a class is empty, or train/ and test/ differ in their classes.
    """
    root = root.expanduser()
    if not root.is_dir():
        wrong = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"the image folder {root} {wrong}. {_LAYOUT} Give the path of such a folder.")
    try:
        names = _subfolders(root)
        _check_split_names(root, names)
        if not {"train", "test"} <= set(names):
            return _index({"": root})
        return _index({"train": root / "train", "test": root / "test"})
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}. Allow it or remove it.") from error


def load_folder(
    entries: Sequence[tuple[Path, int]],
    size: int,
    resize: Literal["crop", "squash"],
    memory_limit_bytes: int,
    skip_unreadable: bool,
    description: str,
    crop: float = 1.0,
) -> tuple[ImageSet, list[str]]:
    """Decode the images into memory where they fit, else check the files and leave them to the workers.

    Files that stay on disk are only opened, unless unreadable ones are to be skipped: what is wrong with a truncated
    file shows in its last pixels alone, so that then each file is decoded once.

    Args:
        entries: Path and label of each image, as in `FolderIndex`.
        size: Height and width of the decoded images, in pixels.
        resize: How an image becomes square, see `decode_image`.
        memory_limit_bytes: Most bytes that the decoded images (3 * size * size each) may take.
        skip_unreadable: Leave unreadable files out instead of stopping.
        description: Text before the progress bar.
        crop: Share of the shorter side that is kept, see `decode_image`.

    Returns:
        The images in the order of `entries`, and the paths of the files left out.

    Raises:
        UserError: Files are unreadable and not to be skipped, or a class has no readable file.
    """
    paths = [path for path, _ in entries]
    labels = torch.tensor([label for _, label in entries], dtype=torch.int64)
    images: npt.NDArray[np.uint8] | None = None
    if len(paths) * 3 * size * size <= memory_limit_bytes:
        # Not a tensor: each thread that copies into one may start a team of PyTorch's own threads.
        images = np.empty((len(paths), 3, size, size), dtype=np.uint8)

    def read(index: int) -> str | None:
        """Read one file and return what is wrong with it."""
        try:
            if images is not None:
                images[index] = decode_image(paths[index], size, resize, crop).numpy()
            elif skip_unreadable:
                decode_image(paths[index], size, resize, crop)
            else:
                check_header(paths[index])
        except UnreadableImageError as error:
            return error.reason
        return None

    reasons = _in_threads(read, len(paths), description)
    unreadable = {paths[index]: reason for index, reason in enumerate(reasons) if reason is not None}
    if unreadable and not skip_unreadable:
        raise UnreadableImageError(_unreadable_message(unreadable, len(paths)))
    if unreadable:
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        _check_classes_left(entries, kept)
        paths = [paths[index] for index in kept]
        labels = labels[kept]
        if images is not None:
            # In place: a copy of the rest would need twice the memory.
            for target, source in enumerate(kept):
                images[target] = images[source]
            images = images[: len(kept)]
    skipped = [str(path) for path in unreadable]
    if images is None:
        return FolderImages(paths, labels, size, resize, crop), skipped
    return InMemoryImages(torch.from_numpy(images), labels), skipped


def default_memory_limit(root: Path = Path("/")) -> int:
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


def folder_fingerprint(entries: Sequence[tuple[Path, int]]) -> str:
    """Identify the images of a folder by all that is in their files.

    The SHA-256 covers, in the order of the entries, each file's path relative to the deepest folder common to all, its
    label, and the SHA-256 of its content. It is the same for a copy elsewhere. Each file is read once more, by as many
    threads as there are processors.

    Args:
        entries: Path and label of each image, as in `FolderIndex`.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: A file cannot be read.
    """

    def content(index: int) -> bytes:
        path = entries[index][0]
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}. Allow it or remove it.") from error

    digest = hashlib.sha256()
    common = os.path.commonpath([path.parent for path, _ in entries]) if entries else ""
    contents = _in_threads(content, len(entries), "identifying the images")
    for (path, label), told in zip(entries, contents, strict=True):
        name = os.fsencode(path.relative_to(common).as_posix())
        digest.update(name + f"\0{label} {told.hex()}\n".encode())
    return digest.hexdigest()


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _check_split_names(root: Path, names: list[str]) -> None:
    """Refuse folders of splits that would be taken for classes or silently left out."""
    validation = [name for name in names if name.lower() in _VALIDATION_NAMES]
    if validation:
        raise UserError(
            f"{root} has a folder {validation[0]!r}, but the validation set is split from the training images by seed. "
            f"Move its images into the class folders of train/, rename it to 'test' if there is no test/, or remove it."
        )
    if names and {name.lower() for name in names} <= _SPLIT_NAMES and not {"train", "test"} <= set(names):
        raise UserError(
            f"{root} has {', '.join(map(repr, names))}, but 'train' and 'test' are needed, spelt like this and both. "
            f"Rename or add the other one, or give {root / names[0]} itself and the test set is split from it."
        )


def _index(splits: dict[str, Path]) -> FolderIndex:
    """List the images of one or two folders with the same classes; "" names a folder that is not divided."""
    class_names = {name: _subfolders(folder) for name, folder in splits.items()}
    every_class = sorted(set().union(*class_names.values()))
    found: dict[str, list[tuple[Path, int]]] = {}
    problems: list[str] = []
    for split, folder in splits.items():
        if not class_names[split]:
            problems.append(f"{folder} has no class folders. {_LAYOUT}")
            continue
        missing = [name for name in every_class if name not in class_names[split]]
        if missing:
            problems.append(
                f"{folder} has no folder for {', '.join(map(repr, missing))}, which the other split has. "
                "Add it with images, or remove the class from both."
            )
        files = {name: _image_files(folder / name) for name in class_names[split]}
        empty = [str(folder / name) for name, paths in files.items() if not paths]
        if empty:
            problems.append(f"no images in {', '.join(empty)}. Add images ({' '.join(SUFFIXES)}) or remove the folder.")
        found[split] = [(path, every_class.index(name)) for name, paths in files.items() for path in paths]
    if len(every_class) == 1:
        (root, *_) = splits.values()
        problems.append(
            f"{root} has one class folder, {every_class[0]!r}; at least two are needed. {_LAYOUT} "
            "Add a class, or give the folder that holds the class folders."
        )
    if problems:
        raise UserError("\n".join(problems))
    train, *test = found.values()
    return FolderIndex(tuple(every_class), train, test[0] if test else None)


def _image_files(folder: Path) -> list[Path]:
    """Return the image files at any depth below a folder, sorted by their relative path.

    Raises:
        OSError: A subfolder cannot be listed.
    """

    def stop(error: OSError) -> None:
        """Raise what `os.walk` would pass over."""
        raise error

    files: list[str] = []
    for parent, subfolders, names in os.walk(folder, onerror=stop, followlinks=True):
        here = Path(parent)
        # A link that leads back up would be followed for ever.
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not here.resolve().is_relative_to((here / name).resolve())
        ]
        relative = here.relative_to(folder)
        files += [
            (relative / name).as_posix()
            for name in names
            if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    return [folder / name for name in sorted(files)]


def _in_threads(task: Callable[[int], _Result], count: int, description: str) -> list[_Result]:
    """Run a task for 0 to count - 1 in threads, with a progress bar.

    Pillow decodes and hashlib hashes without the interpreter's lock.
    """
    results: list[_Result] = []
    console = Console(stderr=True)
    progress = Progress(console=console, transient=True, disable=count <= _PROGRESS_FROM or not console.is_terminal)
    threads = os.cpu_count() or 1
    # Small files take less time than handing a task over.
    chunk = min(max(1, count // (8 * threads)), _CHUNK)

    def run(start: int, stop: int) -> list[_Result]:
        return [task(index) for index in range(start, min(start + chunk, stop))]

    with progress, ThreadPoolExecutor(threads) as pool:
        bar = progress.add_task(description, total=count)
        for start in range(0, count, _SLAB):
            stop = min(start + _SLAB, count)
            for part in pool.map(run, range(start, stop, chunk), repeat(stop)):
                results += part
                progress.advance(bar, len(part))
    return results


def _unreadable_message(unreadable: dict[Path, str], total: int) -> str:
    """Name the first 10 unreadable files, their number, and how to go on."""
    lines = [f"  {path}: {reason}" for path, reason in list(unreadable.items())[:10]]
    if len(unreadable) > 10:
        lines.append(f"  ... ({len(unreadable)} in all)")
    return "\n".join(
        [
            f"{len(unreadable)} of {total} files cannot be read as images:",
            *lines,
            "Repair or remove them, or go on without them: `--data.skip_unreadable true`.",
        ]
    )


def _check_classes_left(entries: Sequence[tuple[Path, int]], kept: list[int]) -> None:
    """Refuse to go on when skipping has emptied a class."""
    lost = {label for _, label in entries} - {entries[index][1] for index in kept}
    if lost:
        folders = [os.path.commonpath([path.parent for path, own in entries if own == label]) for label in sorted(lost)]
        raise UserError(
            f"no file can be read as an image in {', '.join(folders)}, so the class would be lost. "
            "Repair its images, or remove the class folder from train and test."
        )
