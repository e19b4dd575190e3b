"""Image folders with one subfolder per class: found without opening a file, then read once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from fashion_tl.data.files import ImageFile, UnreadableImageError, check_header, decode_image
from fashion_tl.data.folder_index import Entries, FileIndex, scan_folder
from fashion_tl.data.images import EncodedImages, ImageSet, InMemoryImages
from fashion_tl.data.memory import memory_limit
from fashion_tl.data.sources import Loaded, Source, data_root
from fashion_tl.errors import UserError

_PROGRESS_FROM = 500
_CHUNK = 64  # small files take less time than handing a task to a thread

_Result = TypeVar("_Result")


class ImageFiles(Source):
    """Image files that a subclass has found, with their classes and splits.

    Args:
        index: The files.
        storage_size: Height and width that the files are decoded to, in pixels.
        resize: How an image becomes square, see `decode_image`.
        crop: Share of the shorter side that is kept, see `decode_image`.
        skip_unreadable: Whether to go on without files that cannot be read, and list them.
    """

    channels = 3

    def __init__(
        self, index: FileIndex, storage_size: int | None, resize: str, crop: float, skip_unreadable: bool
    ) -> None:
        self.index = index
        self.class_names = index.class_names
        self.storage_size, self.resize, self.crop = storage_size, resize, crop
        self.skip_unreadable = skip_unreadable

    def load(self) -> Loaded:
        """Decode all images if they fit in memory together, else check the files and leave them to the workers.

        Raises:
            UserError: If files are unreadable and not to be skipped, or a class has no readable file.
        """
        if self.storage_size is None:
            kind = type(self).__name__
            raise UserError(f"{kind} needs data.source.storage_size, or --data.image_size: files have any size.")
        index = self.ordered()
        parts, groups = index.parts, index.groups
        in_memory = sum(map(len, parts.values())) * 3 * self.storage_size**2 <= memory_limit()
        decoding = (self.storage_size, self.resize, self.crop)
        loaded = {
            name: load_folder(entries, *decoding, in_memory, self.skip_unreadable) for name, entries in parts.items()
        }
        sets = {name: images for name, (images, _) in loaded.items()}
        skipped = [file for _, left_out in loaded.values() for file in left_out]
        unused = set(skipped)
        used = [(file, label) for entries in parts.values() for file, label in entries if file not in unused]
        if groups is not None:
            kept = [group for (file, _), group in zip(parts["train"], groups, strict=True) if file not in unused]
        return Loaded(
            sets["train"],
            sets.get("test"),
            files_fingerprint(used),
            [str(file) for file in skipped],
            sets.get("val"),
            None if groups is None else torch.tensor(kept, dtype=torch.int64),
        )

    def ordered(self) -> FileIndex:
        """Return the files in the order in which they are loaded."""
        return self.index


class ImageFolder(ImageFiles):
    """A folder of images with one subfolder per class, or with such folders train/ and test/, train/ and val/, or all.

    Args:
        folder: The folder, below ``root``; an absolute path stands for itself.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".
        storage_size: Height and width that the files are decoded to, in pixels; the data module's ``image_size`` if not
            given.
        resize: How an image becomes square: crop (the centre), stretch, or pad (the whole image on black).
        crop: Side of the cropped square as a share of the shorter side, above 0 to 1.
        skip_unreadable: Whether to go on without files that cannot be read, and list them.

    Raises:
        UserError: If the folder does not have this layout.
    """

    def __init__(
        self,
        folder: str | Path = ".",
        root: str | Path | None = None,
        storage_size: int | None = None,
        resize: str = "crop",
        crop: float = 0.875,
        skip_unreadable: bool = False,
    ) -> None:
        self.root = data_root(root)
        index = scan_folder(self.root / Path(folder).expanduser())
        super().__init__(index, storage_size, resize, crop, skip_unreadable)


def load_folder(
    entries: Entries, size: int, resize: str, crop: float, in_memory: bool, skip_unreadable: bool
) -> tuple[ImageSet, list[ImageFile]]:
    """Decode image files into memory, or check them and leave them on disk.

    Files that stay on disk are only opened, unless unreadable ones are to be skipped: what is wrong with a truncated
    file shows in its last pixels alone, so that then each file is decoded once.

    Args:
        entries: File and label of each image.
        size: Height and width of the decoded images, in pixels.
        resize: How an image becomes square, see `decode_image`.
        crop: Share of the shorter side that is kept, see `decode_image`.
        in_memory: Whether to keep the decoded images, 3 * size * size bytes each.
        skip_unreadable: Leave unreadable files out instead of stopping.

    Returns:
        The images in the order of ``entries``, and the files left out.

    Raises:
        UserError: If files are unreadable and not to be skipped, or a class has no readable file.
    """
    files = [file for file, _ in entries]
    labels = torch.tensor([label for _, label in entries], dtype=torch.int64)
    # Not a tensor: each thread that copies into one may start a team of PyTorch's own threads.
    images: npt.NDArray[np.uint8] = np.empty((len(files) if in_memory else 0, 3, size, size), dtype=np.uint8)

    def read(index: int) -> str | None:
        """Read one file and return what is wrong with it."""
        try:
            if in_memory:
                images[index] = decode_image(files[index], size, resize, crop).numpy()
            elif skip_unreadable:
                decode_image(files[index], size, resize, crop)
            else:
                check_header(files[index])
        except UnreadableImageError as error:
            return error.reason
        return None

    reasons = in_threads(read, len(files), "reading images")
    unreadable = {file: reason for file, reason in zip(files, reasons, strict=True) if reason is not None}
    if unreadable and not skip_unreadable:
        raise UnreadableImageError(_unreadable_message(unreadable, len(files)))
    if unreadable:
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        _check_classes_left(entries, kept)
        files, labels = [files[index] for index in kept], labels[kept]
        # In place: a copy of the rest would need twice the memory.
        for target, source in enumerate(kept if in_memory else ()):
            images[target] = images[source]
        images = images[: len(kept)]
    if in_memory:
        return InMemoryImages(torch.from_numpy(images), labels), list(unreadable)
    return EncodedImages(files, labels, size, resize, crop), list(unreadable)


def files_fingerprint(entries: Entries) -> str:
    """Identify images by all that is in their files.

    The SHA-256 covers, in the order of the entries, each file's path relative to the deepest folder common to all, its
    label, and the SHA-256 of its content. It is the same for a copy elsewhere. Of packed images it covers label and
    content alone. Each file is read once more, by as many threads as there are processors.

    Args:
        entries: File and label of each image, as in `FileIndex`.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: A file cannot be read.
    """

    def content(index: int) -> bytes:
        file = entries[index][0]
        try:
            if not isinstance(file, Path):
                return hashlib.sha256(file.read_bytes()).digest()
            with file.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").digest()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}. Allow it or remove it.") from error

    digest = hashlib.sha256()
    folders = [file.parent for file, _ in entries if isinstance(file, Path)]
    common = os.path.commonpath(folders) if folders else ""
    contents = in_threads(content, len(entries), "identifying the images")
    for (file, label), told in zip(entries, contents, strict=True):
        name = os.fsencode(file.relative_to(common).as_posix()) if isinstance(file, Path) else b""
        digest.update(name + f"\0{label} {told.hex()}\n".encode())
    return digest.hexdigest()


def in_threads(task: Callable[[int], _Result], count: int, description: str) -> list[_Result]:
    """Run a task for 0 to count - 1 in threads, with a progress bar.

    Pillow decodes and hashlib hashes without the interpreter's lock.
    """
    console, threads = Console(stderr=True), os.cpu_count() or 1
    hidden = count <= _PROGRESS_FROM or not console.is_terminal
    size = min(max(1, count // (8 * threads)), _CHUNK)
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
    with ThreadPoolExecutor(threads) as pool:
        parts = pool.map(lambda indices: [task(index) for index in indices], chunks)
        shown = track(parts, description, len(chunks), console=console, transient=True, disable=hidden)
        return [result for part in shown for result in part]


def _unreadable_message(unreadable: dict[ImageFile, str], total: int) -> str:
    """Name the first 10 unreadable files, their number, and how to go on."""
    lines = [f"{len(unreadable)} of {total} files cannot be read as images:"]
    lines += [f"  {file}: {reason}" for file, reason in list(unreadable.items())[:10]]
    lines += [f"  ... ({len(unreadable)} in all)"] if len(unreadable) > 10 else []
    lines += ["Repair or remove them, or go on without them: `--data.source.skip_unreadable true`."]
    return "\n".join(lines)


def _check_classes_left(entries: Entries, kept: list[int]) -> None:
    """Refuse to go on when skipping has emptied a class."""
    lost = {label for _, label in entries} - {entries[index][1] for index in kept}
    if lost:
        places = [_place([file for file, own in entries if own == label]) for label in sorted(lost)]
        raise UserError(
            f"no file can be read as an image in {', '.join(places)}, so the class would be lost. "
            "Repair its images, or remove the class from every split."
        )


def _place(files: list[ImageFile]) -> str:
    """Name the folder that files have in common, or the first of those that are packed."""
    paths = [file.parent for file in files if isinstance(file, Path)]
    return os.path.commonpath(paths) if paths else f"{files[0]}" + (", ..." if len(files) > 1 else "")
