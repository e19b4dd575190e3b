"""The contract of a source of images: it knows its classes before it loads."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from fashion_tl.data.images import ImageSet


@dataclass(frozen=True)
class Loaded:
    """The images of a source.

    Attributes:
        train: The images to train and validate on; to test on as well if ``test`` is None.
        test: The test images, or None if they are to be split off.
        fingerprint: Hash of the images and labels, or of what identifies them.
        skipped: Paths of unreadable files that were left out.
    """

    train: ImageSet
    test: ImageSet | None
    fingerprint: str
    skipped: list[str] = field(default_factory=list)


class Source(ABC):
    """A source of images; its constructor's arguments are ``--data.source.ARGUMENT``.

    Attributes:
        class_names: Names of the classes, in the order of their labels.
        channels: Channels of the images.
        storage_size: Height and width of the stored images in pixels; None for a source that decodes files to the
            size that the network sees, which the data module then sets.
        resize: How a file of other proportions becomes square: "crop" or "stretch".
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


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder with the data: as given, else ``FASHION_TL_DATA_DIR``, else "data"."""
    return Path(root or os.environ.get("FASHION_TL_DATA_DIR") or "data").expanduser()
