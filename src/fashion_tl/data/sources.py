"""Where images come from: every source tells its classes without loading, then loads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from fashion_tl.data import fashion_mnist, garments, objects
from fashion_tl.data.batches import fingerprint
from fashion_tl.data.image_folder import FolderIndex, default_memory_limit, folder_fingerprint, load_folder, scan_folder
from fashion_tl.data.images import ImageSet, InMemoryImages
from fashion_tl.errors import UserError, unknown_name
from fashion_tl.imports import import_class

SOURCES = ("fashion_mnist", "image_folder", "garments", "objects")
DRAWN_SIZE = 28


@dataclass(frozen=True)
class Loaded:
    """What a source gives.

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
    """A source of images: it tells its classes without loading, then loads.

    A subclass of your own is named by its class path (``--data.source mine.Shoes``) and gets ``data.source_args``.

    Attributes:
        class_names: Names of the classes, in the order of their labels.
        channels: Channels of the images.
        held_size: Height and width of the images as held, in pixels.
    """

    class_names: tuple[str, ...]
    channels: int
    held_size: int

    @abstractmethod
    def load(self) -> Loaded:
        """Read or draw all images."""


class FashionMNISTSource(Source):
    """Fashion-MNIST's official training and test sets."""

    class_names = fashion_mnist.CLASS_NAMES
    channels = 1
    held_size = fashion_mnist.SIZE

    def __init__(self, root: Path) -> None:
        self.root = root

    def load(self) -> Loaded:
        """Read the four files, downloading what is missing."""
        train = fashion_mnist.load_fashion_mnist(self.root, train=True)
        test = fashion_mnist.load_fashion_mnist(self.root, train=False)
        return Loaded(InMemoryImages(*train), InMemoryImages(*test), fingerprint(*train, *test))


class DrawnSource(Source):
    """A task that the package draws itself.

    Args:
        name: "garments" or "objects".
        count: Training images to draw.
        test_count: Test images to draw; a third of ``count``, at most 2,000, if not given.
        seed: The same seed gives the same pixels.
    """

    channels = 1
    held_size = DRAWN_SIZE

    def __init__(self, name: Literal["garments", "objects"], count: int, test_count: int | None, seed: int) -> None:
        self.draw: Callable[[int, int, int], tuple[Tensor, Tensor]]
        if name == "garments":
            self.class_names, self.draw = garments.CLASS_NAMES, garments.draw_garments
        else:
            self.class_names, self.draw = objects.CLASS_NAMES, objects.draw_objects
        least = 4 * len(self.class_names)
        self.test_count = min(count // 3, 2000) if test_count is None else test_count
        if count < least or self.test_count < len(self.class_names):
            raise UserError(
                f"data.drawn is {count} and data.drawn_test is {self.test_count}: {name} needs at least {least} images "
                f"to train and {len(self.class_names)} to test."
            )
        self.count, self.seed = count, seed

    def load(self) -> Loaded:
        """Draw the training and the test images, from different seeds."""
        train = self.draw(self.count, 2 * self.seed, self.held_size)
        test = self.draw(self.test_count, 2 * self.seed + 1, self.held_size)
        return Loaded(InMemoryImages(*train), InMemoryImages(*test), fingerprint(*train, *test))


class ImageFolderSource(Source):
    """A folder of images, one subfolder per class, with or without train/ and test/.

    Args:
        folder: The folder.
        size: Height and width to decode to, in pixels.
        resize: "crop" or "squash".
        crop: Share of the shorter side that is kept.
        skip_unreadable: Whether to go on without files that cannot be read.
    """

    channels = 3

    def __init__(
        self, folder: Path, size: int, resize: Literal["crop", "squash"], crop: float, skip_unreadable: bool
    ) -> None:
        self.index: FolderIndex = scan_folder(folder)
        self.class_names, self.held_size = self.index.class_names, size
        self.resize, self.crop, self.skip_unreadable = resize, crop, skip_unreadable

    def load(self) -> Loaded:
        """Decode all images that fit in memory together."""
        entries = [*self.index.train, *(self.index.test or [])]
        limit = default_memory_limit()
        sets, skipped = [], []
        for part, name in ((self.index.train, "training"), (self.index.test, "test")):
            if part is not None:
                share = int(limit * len(part) / max(1, len(entries)))
                loaded = load_folder(
                    part, self.held_size, self.resize, share, self.skip_unreadable, f"reading {name} images", self.crop
                )
                sets.append(loaded[0])
                skipped += loaded[1]
        test = sets[1] if self.index.test is not None else None
        left_out = set(skipped)
        used = [(path, label) for path, label in entries if str(path) not in left_out]
        return Loaded(sets[0], test, folder_fingerprint(used), skipped)


def make_source(
    name: str,
    root: Path,
    folder: str | None,
    size: int | None,
    resize: Literal["crop", "squash"],
    crop: float,
    skip_unreadable: bool,
    drawn: int,
    drawn_test: int | None,
    seed: int,
    source_args: dict[str, Any] | None,
) -> Source:
    """Make a source by name or class path; the other arguments are those of ``ImageDataModule``.

    Raises:
        UserError: If there is no such source, or what it needs is missing.
    """
    if "." in name:
        try:
            return import_class(name, Source, "data.source")(**(source_args or {}))  # type: ignore[type-abstract]
        except TypeError as error:
            raise UserError(f"data.source_args do not fit {name}: {error}.") from error
    if source_args:
        raise UserError(f"data.source_args are for a source named by its class path; {name!r} takes none.")
    if name == "fashion_mnist":
        return FashionMNISTSource(root)
    if name in ("garments", "objects"):
        return DrawnSource(cast(Literal["garments", "objects"], name), drawn, drawn_test, seed)
    if name != "image_folder":
        raise unknown_name("source", name, SOURCES, "Set it with --data.source; MODULE.CLASS names one of your own.")
    if size is None:
        raise UserError("data.source image_folder needs --data.image_size: the files may have any size.")
    return ImageFolderSource(root / Path(folder or "").expanduser(), size, resize, crop, skip_unreadable)
