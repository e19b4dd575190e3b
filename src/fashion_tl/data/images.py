"""Labelled images that a DataLoader reads a whole batch at a time, from memory or from files."""

from __future__ import annotations

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from fashion_tl.errors import UserError

# What Pillow's decoders let through on damaged files: a broken PNG chunk, for one, is a SyntaxError.
_DECODER_ERRORS = (
    OSError,
    EOFError,
    ArithmeticError,
    LookupError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImageError(UserError):
    """An image file cannot be decoded.

    A DataLoader builds the error of a worker again from its message alone, so nothing but the message is required.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        """Keep the reason beside the message, for lists of many files.

        Args:
            message: The file, the reason, and how to go on.
            reason: The reason alone.
        """
        super().__init__(message)
        self.reason = reason


class ImageSet(Dataset[tuple[Tensor, Tensor]], ABC):
    """Labelled images of one size, read by lists of indices.

    `torch.utils.data.Subset` passes such lists through, and a DataLoader whose `collate_fn` is the identity yields what
    `__getitems__` returns.

    Attributes:
        labels: int64 (N,), the class of each image.
        channels: Number of channels C of every image.
    """

    labels: Tensor
    channels: int

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, uint8 (C, H, W), and its label, int64 ().

        Raises:
            IndexError: The index is not in -N to N - 1.
        """
        images, labels = self.__getitems__([range(len(self))[index]])
        return images[0], labels[0]

    @abstractmethod
    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of B images, uint8 (B, C, H, W), and their labels, int64 (B,).

        Args:
            indices: B indices in 0 to N - 1, in any order, repeated or not; a list, or a tensor (B,).
        """


class InMemoryImages(ImageSet):
    """Images held as one tensor; a batch is one gather."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        """Hold the images without a copy.

        Args:
            images: uint8 (N, C, H, W).
            labels: int64 (N,).

        Raises:
            ValueError: A shape or a type differs from these.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be int64 ({len(images)},), not {labels.dtype} {tuple(labels.shape)}")
        self.images = images
        self.labels = labels
        self.channels = images.shape[1]

    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, see `ImageSet.__getitems__`."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.images.index_select(0, index), self.labels.index_select(0, index)


class FolderImages(ImageSet):
    """Image files that are decoded for every batch, in the workers of the DataLoader."""

    channels = 3

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor,
        size: int,
        resize: Literal["crop", "squash"] = "crop",
        crop: float = 1.0,
    ) -> None:
        """Hold the paths; no file is opened.

        Args:
            paths: N image files.
            labels: int64 (N,).
            size: Height and width of the decoded images, in pixels.
            resize: How an image becomes square, see `decode_image`.
            crop: Share of the shorter side that is kept, see `decode_image`.

        Raises:
            ValueError: The labels are not int64 (N,).
        """
        if labels.dtype != torch.int64 or labels.shape != (len(paths),):
            raise ValueError(f"labels must be int64 ({len(paths)},), not {labels.dtype} {tuple(labels.shape)}")
        self.paths = list(paths)
        self.labels = labels
        self.size = size
        self.resize: Literal["crop", "squash"] = resize
        self.crop = crop

    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, see `ImageSet.__getitems__`.

        Raises:
            UnreadableImageError: A file cannot be decoded.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        images = [decode_image(self.paths[index], self.size, self.resize, self.crop) for index in chosen.tolist()]
        return torch.stack(images), self.labels[chosen]


def decode_image(path: Path, size: int, resize: Literal["crop", "squash"], crop: float = 1.0) -> Tensor:
    """Decode one image file of any mode to a square RGB image.

    The EXIF rotation is applied, transparency is laid on white, 16-bit grey levels are scaled to 8 bits, and the first
    frame of an animation is taken. Resizing is bilinear with antialias.

    Args:
        path: The image file.
        size: Height and width of the result, in pixels.
        resize: "crop" keeps a square around the centre; "squash" scales each side to `size`.
        crop: Side of that square as a share of the shorter side, above 0 to 1; ImageNet's custom is 0.875.

    Returns:
        uint8 (3, size, size), values 0 to 255.

    Raises:
        UnreadableImageError: The file is missing, empty, truncated, not an image, or too large to decode safely.
    """
    with _unreadable(path), Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
        # The crop is a box of the resampling itself: the same pixels, but a 10000 x 1 image never grows first.
        side = crop * min(rgb.size) if resize == "crop" else None
        left, top = ((length - (side or length)) / 2 for length in rgb.size)
        box = (left, top, rgb.width - left, rgb.height - top)
        pixels = np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=box))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def check_header(path: Path) -> None:
    """Open an image file without decoding its pixels.

    Raises:
        UnreadableImageError: The file is missing, empty, not an image, or too large to decode safely.
    """
    with _unreadable(path), Image.open(path):
        pass


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its grey levels are outside 0 to 65535; save it with 8 or 16 bits")
        # Pillow's own conversion would clip at 255.
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Turn the errors of the decoders into one that names the file and says how to go on."""
    try:
        yield
    except _DECODER_ERRORS as error:
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image" if path.stat().st_size else "the file is empty"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = str(error) or type(error).__name__
        message = f"{path} cannot be read as an image: {reason}. `--data.skip_unreadable true` goes on without it."
        raise UnreadableImageError(message, reason) from error
