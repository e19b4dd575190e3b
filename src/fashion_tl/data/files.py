"""Image files, of their own or packed into larger files, decoded to one size."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fashion_tl.data.threads import in_order
from fashion_tl.data.transforms import InputSpec, to_grey
from fashion_tl.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_BATCHES_AHEAD = 2
_SMALL = 2**20  # bytes
_TWELVE_BITS = 16  # of 255, what the highest level of many cameras and scanners, 4095 of 65535, becomes
_PHOTOMETRIC = 262  # the TIFF tag that says which level is white

# What Pillow's decoders let through on damaged files: a broken PNG chunk, for one, is a SyntaxError, a DDS of unknown
# pixels a NotImplementedError, which is a RuntimeError like those of AVIF.
_DECODER_ERRORS = (
    OSError,
    EOFError,
    ArithmeticError,
    AssertionError,
    LookupError,
    RuntimeError,
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

    Args:
        message: The file, the reason, and how to go on.
        reason: The reason alone, for lists of many files.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class PackedImage(ABC):
    """An image file within a larger file, such as a member of an archive; its text names it in messages.

    It is read in threads and in worker processes, so it holds no open file.
    """

    __slots__ = ()

    @abstractmethod
    def read_bytes(self) -> bytes:
        """Read the image file as it was packed.

        Raises:
            OSError: If the larger file cannot be read.
            ValueError: If there is no image.
        """


ImageFile: TypeAlias = Path | PackedImage


def decode_image(file: ImageFile, size: int, resize: str, crop: float = 1.0) -> Tensor:
    """Decode one image file of any mode to a square RGB image.

    The EXIF rotation is applied, transparency is laid on white, levels of 16 bits are scaled to 8 bits, and the first
    frame of an animation is taken. Resizing is bilinear with antialias.

    Args:
        file: The image file.
        size: Height and width of the result, in pixels.
        resize: "crop" keeps a square around the centre; "stretch" scales each side to ``size``; "pad" scales the longer
            side to ``size`` and fills the rest with black, on both sides alike.
        crop: Side of that square as a share of the shorter side, above 0 to 1; ImageNet's custom is 0.875.

    Returns:
        uint8 (3, size, size), values 0 to 255.

    Raises:
        UnreadableImageError: If the file is missing, empty, truncated, not an image, or too large to decode safely.
    """
    return _decode_file(file, size, resize, crop)[0]


def read_image(file: ImageFile, size: int, resize: str, crop: float = 1.0) -> tuple[bytes, Tensor, int | None]:
    """Hash an image file and decode it, in one opening; see ``decode_image``.

    Returns:
        SHA-256 of its content, 32 bytes; the image, uint8 (3, size, size); and the highest level of an image of 16
        bits, None for others.
    """
    with _opened(file) as opened:
        return _hash(opened), *_decode(opened, size, resize, crop)


def check_image(file: ImageFile) -> tuple[bytes, int | None]:
    """Hash an image file and look at its header; its pixels are decoded only if they have 16 bits.

    Returns:
        SHA-256 of its content, 32 bytes, and the highest level of an image of 16 bits, None for others.

    Raises:
        UnreadableImageError: If the file is missing, empty, not an image, or too large to decode safely.
    """
    with _opened(file) as opened:
        digest = _hash(opened)
        with Image.open(opened) as image:
            return digest, _highest_level(image) if _has_16_bits(image) else None


def _hash(opened: BufferedReader | BytesIO) -> bytes:
    # The digest of an open file takes a buffer that is larger than most images.
    small = isinstance(opened, BytesIO) or os.fstat(opened.fileno()).st_size <= _SMALL
    digest = hashlib.sha256(opened.read()) if small else hashlib.file_digest(opened, "sha256")
    opened.seek(0)
    return digest.digest()


def _decode_file(
    file: ImageFile, size: int, resize: str, crop: float, invert: bool = False
) -> tuple[Tensor, int | None]:
    with _opened(file) as opened:
        return _decode(opened, size, resize, crop, invert)


def _decode(
    opened: BufferedReader | BytesIO, size: int, resize: str, crop: float, invert: bool = False
) -> tuple[Tensor, int | None]:
    """Decode an open file, and find the highest level of one of 16 bits.

    The checksums of a PNG file are compared, which decoding does not always do.
    """
    image = Image.open(opened)
    if image.format == "PNG":
        image.verify()
        opened.seek(0)
        image = Image.open(opened)
    with image:
        deep = _has_16_bits(image)
        if deep and isinstance(key := image.info.get("transparency"), tuple):
            image.info["transparency"] = tuple(level >> 8 for level in key)  # as Pillow reads colours of 16 bits
        ImageOps.exif_transpose(image, in_place=True)
        return to_square(image, size, resize, crop, invert), _highest_level(image) if deep else None


def dark_remark(highest_level: int | None) -> str | None:
    """Say that levels of 16 bits use a small part of their range, if they do.

    Args:
        highest_level: The highest level of images of 16 bits; None if there are none.
    """
    if highest_level is None or (highest := round(highest_level / 257)) > _TWELVE_BITS:
        return None
    return (
        f"levels of 16-bit files are {highest_level} of 65535 at most: as 8 bits they are almost black "
        f"({highest} of 255). Scale them to the whole range."
    )


def _has_16_bits(image: Image.Image) -> bool:
    """Say whether an image file that is not decoded yet has 16 bits a channel; Pillow's mode says so of grey alone."""
    if image.mode.startswith("I"):
        return True
    for tile in getattr(image, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        # "RGB;16B" of a PNG or TIFF; of a PPM its highest value, from which Pillow scales it to 8 bits.
        if any(";16" in each for each in args if isinstance(each, str)) or (
            tile[0].startswith("ppm") and 65535 in args
        ):
            return True
    return False


def _highest_level(image: Image.Image) -> int:
    """Return the highest level of an image of 16 bits, without alpha; of colours about, for Pillow reads 8 bits."""
    if image.mode.startswith("I"):
        return int(_grey_levels(image).max())
    levels = np.asarray(image)
    return int((levels[..., :-1] if image.mode in ("LA", "RGBA") else levels).max()) * 257


def _grey_levels(image: Image.Image) -> NDArray[np.int64]:
    """Return the levels (H, W) of a grey image of more than 8 bits, of which 65535 is white."""
    levels = np.asarray(image).astype(np.int64)
    # Pillow turns a TIFF image whose level 0 is white, but not one of 16 bits.
    return 65535 - levels if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0 else levels


def to_square(image: Image.Image, size: int, resize: str, crop: float = 1.0, invert: bool = False) -> Tensor:
    """Bring an image of any mode and proportions to a square RGB image; see ``decode_image``.

    Args:
        image: The image.
        size: Height and width of the result, in pixels.
        resize: "crop", "stretch" or "pad".
        crop: Side of the cropped square as a share of the shorter side.
        invert: Whether the image is inverted; the bars of a padded one are black all the same.

    Returns:
        uint8 (3, size, size), values 0 to 255.

    Raises:
        ValueError: If its pixels cannot be brought to 8 bits.
    """
    rgb = _to_rgb(image)
    if resize == "pad":
        width, height = (max(1, round(side * size / max(rgb.size))) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    else:
        # The crop is a box of the resampling itself: the same pixels, but a 10000 x 1 image never grows first.
        side = crop * min(rgb.size) if resize == "crop" else None
        left, top = ((length - (side or length)) / 2 for length in rgb.size)
        box = (left, top, rgb.width - left, rgb.height - top)
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box=box)
    square = Image.new("RGB", (size, size))
    square.paste(ImageOps.invert(rgb) if invert else rgb, ((size - rgb.width) // 2, (size - rgb.height) // 2))
    return torch.from_numpy(np.array(np.asarray(square).transpose(2, 0, 1), order="C"))


def decoded(
    files: list[Path], spec: InputSpec, batch_size: int, skip: bool, invert: bool = False
) -> Iterator[tuple[list[Path], Tensor]]:
    """Decode files to the size and channels of a run's stored images, in threads ahead of what takes them.

    A line on standard error tells, at the end, of levels of 16 bits that use a small part of their range.

    Args:
        files: Image files.
        spec: How the run stores its images.
        batch_size: Files in a batch, at least 1.
        skip: Whether to go on without files that cannot be read, and name them.
        invert: Whether the images are inverted; the bars of padded ones are black all the same.

    Yields:
        The files of a batch and their images: uint8 (B, 3, H, W), or float in 0 to 1 (B, 1, H, W).

    Raises:
        UnreadableImageError: If a file cannot be read and is not to be skipped.
    """

    def decode(index: int) -> tuple[Tensor, int | None] | UnreadableImageError:
        try:
            return _decode_file(files[index], spec.stored, spec.resize, spec.crop, invert)
        except UnreadableImageError as error:
            return error

    # While a batch is used, the next ones are decoded, and no more of them: images may be large.
    results = in_order(decode, len(files), _BATCHES_AHEAD * batch_size)
    levels = list[int]()
    for start in range(0, len(files), batch_size):
        names, tensors = [], []
        for name, result in zip(files[start : start + batch_size], results, strict=False):
            if isinstance(result, tuple):
                image, highest = result
                names.append(name)
                tensors.append(image)
                if highest is not None:
                    levels.append(highest)
            elif skip:
                print(f"skipped {name}: {result.reason}", file=sys.stderr)
            else:
                raise result
        if tensors:
            batch = torch.stack(tensors)
            yield names, to_grey(batch) if spec.channels == 1 else batch
    if remark := dark_remark(max(levels, default=None)):
        print(remark, file=sys.stderr)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = _grey_levels(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its grey levels are outside 0 to 65535; save it with 8 or 16 bits")
        if "transparency" in image.info:
            values[np.asarray(image) == image.info["transparency"]] = 65535
        # Pillow's own conversion would clip at 255.
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


@contextmanager
def _opened(file: ImageFile) -> Iterator[BufferedReader | BytesIO]:
    """Open an image file; errors of the decoders become one that names the file and says how to go on."""
    try:
        if isinstance(file, Path):
            if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe would wait for someone to write
                raise ValueError("not a regular file")
            with file.open("rb") as opened:
                yield opened
        else:
            yield BytesIO(file.read_bytes())
    except _DECODER_ERRORS as error:
        if isinstance(error, UnidentifiedImageError):
            reason = "the file is empty" if _is_empty(file) else "not an image"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = str(error) or type(error).__name__
        raise UnreadableImageError(
            f"{file} cannot be read as an image: {reason}. Repair or remove it, or go on without it: "
            "--data.source.skip_unreadable true (fit), --skip_unreadable (predict, explain).",
            reason,
        ) from error


def _is_empty(file: ImageFile) -> bool:
    return not (file.stat().st_size if isinstance(file, Path) else file.read_bytes())
