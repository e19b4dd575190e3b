"""Image folders with one subfolder per class: found without opening a file, then read once."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fashion_tl.data.decoded import decoded_on_disk
from fashion_tl.data.file_index import Contents, contents
from fashion_tl.data.file_list import LabelledFiles, joined
from fashion_tl.data.files import ImageFile, UnreadableImageError, dark_remark, read_image
from fashion_tl.data.folder_index import FileIndex, scan_folder
from fashion_tl.data.images import EncodedImages, ImageSet, InMemoryImages
from fashion_tl.data.memory import memory_limit
from fashion_tl.data.sources import Loaded, Source, data_root
from fashion_tl.data.threads import in_order, tracked
from fashion_tl.errors import UserError

_SHORT = 8  # bytes of a SHA-256 that tell images apart: among a million two are alike once in 30 million sets


class ImageFiles(Source):
    """Image files that a subclass has found, with their classes and splits.

    Args:
        index: The files.
        storage_size: Height and width that the files are decoded to, in pixels; the data module's ``image_size`` if not
            given.
        resize: How an image becomes square: crop (the centre), stretch, or pad (the whole image on black).
        crop: Side of the cropped square as a share of the shorter side, above 0 to 1.
        skip_unreadable: Whether to go on without files that are missing or cannot be read, and list them.
        keep_decoded: Whether the decoded images are kept in the cache, from where the next start reads them; also for
            more images than memory holds.

    Attributes:
        owner: What tells these files from others below the same folder, in the index that is kept of many files.
    """

    channels = 3
    owner = ""

    def __init__(
        self,
        index: FileIndex,
        storage_size: int | None = None,
        resize: str = "crop",
        crop: float = 0.875,
        skip_unreadable: bool = False,
        keep_decoded: bool = False,
    ) -> None:
        self.index = index
        self.class_names = index.class_names
        self.storage_size, self.resize, self.crop = storage_size, resize, crop
        self.skip_unreadable, self.keep_decoded = skip_unreadable, keep_decoded

    def load(self) -> Loaded:
        """Decode all images if they fit in memory together or are kept, else check the files and leave them to workers.

        Raises:
            UserError: If files are unreadable and not to be skipped, or a class has no readable file.
        """
        size = self.storage_size
        if size is None:
            kind = type(self).__name__
            raise UserError(f"{kind} needs data.source.storage_size, or --data.image_size: files have any size.")
        index = self.ordered()
        files = joined(list(index.parts.values()))
        images: NDArray[np.uint8] | None = None
        if self.keep_decoded or len(files) * 3 * size**2 > memory_limit():
            # What is wrong with a truncated file shows in its last pixels alone.
            found = contents(files, self.skip_unreadable, self.owner)
        else:
            images, found = decode_all(files, size, self.resize, self.crop)
        if found.reasons and not self.skip_unreadable:
            told = {files.file(place): reason for place, reason in found.reasons.items()}
            raise UnreadableImageError(_unreadable_message(told, len(files)))
        readable = np.ones(len(files), dtype=np.bool_)
        readable[list(found.reasons)] = False
        used = files.take(readable)
        parts = _readable_parts(index, readable)
        if self.keep_decoded:
            images = decoded_on_disk(used, found.digests[readable], size, self.resize, self.crop)
        elif images is not None and not readable.all():
            # In place: a copy of the rest would need twice the memory.
            for target, place in enumerate(np.flatnonzero(readable)):
                images[target] = images[place]
        sets: dict[str, ImageSet] = {}
        digests: dict[str, torch.Tensor] = {}
        short = np.ascontiguousarray(found.digests[readable, :_SHORT]).view("<i8")[:, 0].astype(np.int64)
        start = 0
        for name, part in parts.items():
            labels = torch.from_numpy(part.labels)
            if images is None:
                sets[name] = EncodedImages(part.files, labels, size, self.resize, self.crop)
            else:
                sets[name] = InMemoryImages(as_tensor(images[start : start + len(part)]), labels)
            digests[name] = torch.from_numpy(short[start : start + len(part)])
            start += len(part)
        groups, remark = index.groups, dark_remark(found.highest_level)
        return Loaded(
            sets["train"],
            sets.get("test"),
            fingerprint(used, found.digests[readable]),
            [str(files.file(place)) for place in np.flatnonzero(~readable).tolist()],
            sets.get("val"),
            None if groups is None else torch.tensor(groups, dtype=torch.int64)[readable[: len(groups)]],
            index.others,
            index.remarks if remark is None else (*index.remarks, remark),
            digests,
        )

    def ordered(self) -> FileIndex:
        """Return the files in the order in which they are loaded."""
        return self.index


class ImageFolder(ImageFiles):
    """A folder of images with one subfolder per class, or with such folders train/ and test/, train/ and val/, or all.

    Args:
        folder: The folder, below ``root``; an absolute path stands for itself.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".
        **decoding: How images are decoded: the other arguments of ``ImageFiles``.

    Raises:
        UserError: If the folder does not have this layout.
    """

    def __init__(
        self,
        folder: str | Path = ".",
        root: str | Path | None = None,
        **decoding: Any,  # noqa: ANN401 - the arguments of ImageFiles, checked there
    ) -> None:
        self.root = data_root(root)
        index = scan_folder(self.root / Path(folder).expanduser())
        super().__init__(index, **decoding)


def decode_all(files: LabelledFiles, size: int, resize: str, crop: float) -> tuple[NDArray[np.uint8], Contents]:
    """Decode image files into memory.

    Args:
        files: The files.
        size: Height and width of the decoded images, in pixels.
        resize: How an image becomes square, see `decode_image`.
        crop: Share of the shorter side that is kept, see `decode_image`.

    Returns:
        Images (N, 3, size, size), those of unreadable files undefined; and what is known of the files.
    """
    # Not tensors: each thread that copies into one may start a team of PyTorch's own threads.
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    digests = np.zeros((len(files), 32), dtype=np.uint8)
    reasons: dict[int, str] = {}
    levels: list[int] = []

    def read(index: int) -> None:
        try:
            digest, image, highest = read_image(files.file(index), size, resize, crop)
        except UnreadableImageError as error:
            reasons[index] = error.reason
        else:
            digests[index], images[index] = np.frombuffer(digest, dtype=np.uint8), image.numpy()
            if highest is not None:
                levels.append(highest)

    for _ in tracked(in_order(read, len(files)), len(files), "reading images"):
        pass
    return images, Contents(digests, dict(sorted(reasons.items())), max(levels, default=None))


def as_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Share an array with a tensor, which nobody writes to; a map of a file is one that cannot be written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not writable.*")
        return torch.from_numpy(images)


def fingerprint(files: LabelledFiles, digests: NDArray[np.uint8]) -> str:
    """Identify images by all that is in their files: names below their folder, labels, contents; not by where they lie.

    Packed images have no names.

    Args:
        files: The files, in the order of the splits.
        digests: uint8 (N, 32), SHA-256 of the content of each.

    Returns:
        SHA-256 in 64 hexadecimal digits.
    """
    digest = hashlib.sha256(files.names)
    for array in (files.labels, digests):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _readable_parts(index: FileIndex, readable: NDArray[np.bool_]) -> dict[str, LabelledFiles]:
    """Return the files of each split that can be read.

    Raises:
        UserError: If a class has none.
    """
    parts, start = {}, 0
    for name, part in index.parts.items():
        chosen = readable[start : start + len(part)]
        start += len(part)
        if chosen.all():
            parts[name] = part
            continue
        lost = set(part.labels.tolist()) - set(part.labels[chosen].tolist())
        if lost:
            places = [_place([file for file, own in part if own == label]) for label in sorted(lost)]
            raise UserError(
                f"no file can be read as an image in {', '.join(places)}, so the class would be lost. "
                "Repair its images, or remove the class from every split."
            )
        parts[name] = part.take(chosen)
    return parts


def _unreadable_message(unreadable: dict[ImageFile, str], total: int) -> str:
    """Name the first 10 unreadable files, their number, and how to go on."""
    lines = [f"{len(unreadable)} of {total} files cannot be read as images:"]
    lines += [f"  {file}: {reason}" for file, reason in list(unreadable.items())[:10]]
    lines += [f"  ... ({len(unreadable)} in all)"] if len(unreadable) > 10 else []
    lines += ["Repair or remove them, or go on without them: `--data.source.skip_unreadable true`."]
    return "\n".join(lines)


def _place(files: list[ImageFile]) -> str:
    """Name the folder that files have in common, or the first of those that are packed."""
    paths = [file.parent for file in files if isinstance(file, Path)]
    return os.path.commonpath(paths) if paths else f"{files[0]}" + (", ..." if len(files) > 1 else "")
