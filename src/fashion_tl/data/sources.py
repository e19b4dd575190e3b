"""The contract of a source of images: it knows its classes before it loads."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

from torch import Tensor

from fashion_tl.data.file_list import LabelledFiles
from fashion_tl.data.images import ImageSet, InMemoryImages


@dataclass(frozen=True)
class Loaded:
    """The images of a source.

    Attributes:
        train: The images to train on; to validate on as well if ``val`` is None, to test on as well if ``test`` is.
        test: The test images, or None if they are to be split off.
        fingerprint: Hash of the images and labels, or of what identifies them.
        skipped: Paths of unreadable files that were left out.
        val: The validation images, or None if they are to be split off.
        groups: int64 (N,), the group of each of the N images in ``train``; a group is never divided between splits.
            None if each image stands for itself.
        others: How many files beside the images were passed over, by ending; see ``FileIndex``.
        remarks: What a run says about the images before it trains, in lines.
        digests: int64 (N,) for each of ``sets`` that has images of its own, by its name: a digest of the content of
            each image, by which it is known again in another set; none if there are no files.
    """

    train: ImageSet
    test: ImageSet | None
    fingerprint: str
    skipped: list[str] = field(default_factory=list)
    val: ImageSet | None = None
    groups: Tensor | None = None
    others: Mapping[str, int] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    digests: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def sets(self) -> dict[str, ImageSet]:
        """The set that each split takes its images from."""
        val, test = (self.train if own is None else own for own in (self.val, self.test))
        return {"train": self.train, "val": val, "test": test}

    @property
    def divided(self) -> list[str]:
        """The splits that share the images of ``train``, beginning with "train"."""
        return [name for name, images in self.sets.items() if images is self.train]


class Source(ABC):
    """A source of images; its constructor's arguments are ``--data.source.ARGUMENT``.

    Attributes:
        class_names: Names of the classes, in the order of their labels.
        channels: Channels of the images.
        storage_size: Height and width of the stored images in pixels; None for a source that decodes files to the
            size that the network sees, which the data module then sets.
        resize: How a file of other proportions becomes square: "crop", "stretch" or "pad".
        crop: Side of the cropped square as a share of the shorter side, above 0 to 1.
    """

    class_names: tuple[str, ...]
    channels: int
    storage_size: int | None = None
    resize: str = "crop"
    crop: float = 1.0

    @abstractmethod
    def load(self) -> Loaded:
        """Read or generate all images."""

    def is_at_hand(self) -> bool:
        """Say whether ``load`` needs no download."""
        return True


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder with the data: as given, else ``FASHION_TL_DATA_DIR``, else "data"."""
    return Path(root or os.environ.get("FASHION_TL_DATA_DIR") or "data").expanduser()


_kept: dict[tuple[type, str], Loaded] | None = None  # by class and settings, while runs share what they load


@contextmanager
def loading_once() -> Iterator[None]:
    """Have runs that follow each other share their images: a source does not load what an equal one has loaded.

    Sources are equal if they are of one class and their attributes are equal plain values. Images that do not fit in
    memory are not shared.
    """
    global _kept
    before, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


def load(source: Source) -> Loaded:
    """Load the images of a source, or take those that an equal one has loaded; see ``loading_once``."""
    if _kept is None or not _is_plain(settings := sorted(vars(source).items())):
        return source.load()
    key = (type(source), repr(settings))
    if key not in _kept:
        loaded = source.load()
        if not all(isinstance(images, InMemoryImages) for images in loaded.sets.values()):
            return loaded
        _kept[key] = loaded
    return _kept[key]


def of_same_images(source: Source, other: Source) -> bool:
    """Say whether two sources are sure to have the same images, perhaps decoded to other sizes."""
    settings = [sorted({**vars(each), "storage_size": None}.items()) for each in (source, other)]
    return type(source) is type(other) and _is_plain(settings) and repr(settings[0]) == repr(settings[1])


def _is_plain(value: object) -> bool:
    """Say whether the text of a value tells it apart from every other value."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    if is_dataclass(value) and not isinstance(value, type):
        return all(_is_plain(getattr(value, each.name)) for each in fields(value) if each.compare)
    return value is None or isinstance(value, str | int | float | Path | LabelledFiles)
