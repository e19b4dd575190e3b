"""Image files: found in folders, or packed into larger files; decoded to one size."""

from __future__ import annotations

import os
import stat
import struct
import sys
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fashion_tl.data.transforms import InputSpec, to_grey
from fashion_tl.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_MOST_THREADS, _BATCHES_AHEAD = 4, 2

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


def find_images(folder: Path) -> list[Path]:
    """List the image files at any depth of a folder, sorted by their relative path; nothing is opened.

    Hidden files, hidden folders, and files without a suffix of ``SUFFIXES`` are left out; links are followed.

    Raises:
        OSError: If a subfolder cannot be listed.
    """

    def stop(error: OSError) -> None:
        """Raise what `os.walk` would pass over."""
        raise error

    found: list[str] = []
    for parent, subfolders, names in os.walk(folder, onerror=stop, followlinks=True):
        here = Path(parent)
        # A link that leads back up would be followed for ever.
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not here.resolve().is_relative_to((here / name).resolve())
        ]
        images = [name for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
        found += [(here.relative_to(folder) / name).as_posix() for name in images]
    return [folder / name for name in sorted(found)]


def image_files(paths: Sequence[Path]) -> list[Path]:
    """List files as given, and the images below each folder.

    Raises:
        UserError: If a path does not exist, or a folder holds no images.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: give image files, or folders of them.")
        found = find_images(path) if path.is_dir() else [path]
        if not found:
            raise UserError(f"the folder {path} holds no images ({' '.join(SUFFIXES)}).")
        files += found
    return files


def decode_image(file: ImageFile, size: int, resize: str, crop: float = 1.0) -> Tensor:
    """Decode one image file of any mode to a square RGB image.

    The EXIF rotation is applied, transparency is laid on white, 16-bit grey levels are scaled to 8 bits, and the first
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
    with _unreadable(file), _verified(file) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return to_square(image, size, resize, crop)


def to_square(image: Image.Image, size: int, resize: str, crop: float = 1.0) -> Tensor:
    """Bring an image of any mode and proportions to a square RGB image; see ``decode_image``.

    Returns:
        uint8 (3, size, size), values 0 to 255.

    Raises:
        ValueError: If its pixels cannot be brought to 8 bits.
    """
    rgb = _to_rgb(image)
    if resize == "pad":
        width, height = (max(1, round(side * size / max(rgb.size))) for side in rgb.size)
        square = Image.new("RGB", (size, size))
        square.paste(
            rgb.resize((width, height), Image.Resampling.BILINEAR), ((size - width) // 2, (size - height) // 2)
        )
    else:
        # The crop is a box of the resampling itself: the same pixels, but a 10000 x 1 image never grows first.
        side = crop * min(rgb.size) if resize == "crop" else None
        left, top = ((length - (side or length)) / 2 for length in rgb.size)
        box = (left, top, rgb.width - left, rgb.height - top)
        square = rgb.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)))


def _verified(file: ImageFile) -> Image.Image:
    """Open an image file; the checksums of a PNG file are compared, which decoding does not always do."""
    image = _opened(file)
    if image.format != "PNG":
        return image
    with image:
        image.verify()
    return _opened(file)


def _opened(file: ImageFile) -> Image.Image:
    return Image.open(file if isinstance(file, Path) else BytesIO(file.read_bytes()))


def check_header(file: ImageFile) -> None:
    """Open an image file without decoding its pixels.

    Raises:
        UnreadableImageError: If the file is missing, empty, not an image, or too large to decode safely.
    """
    with _unreadable(file), _opened(file):
        pass


def decoded(files: list[Path], spec: InputSpec, batch_size: int, skip: bool) -> Iterator[tuple[list[Path], Tensor]]:
    """Decode files to the size and channels of a run's stored images, in threads ahead of what takes them.

    Args:
        files: Image files.
        spec: How the run stores its images.
        batch_size: Files in a batch, at least 1.
        skip: Whether to go on without files that cannot be read, and name them.

    Yields:
        The files of a batch and their images: uint8 (B, 3, H, W), or float in 0 to 1 (B, 1, H, W).

    Raises:
        UnreadableImageError: If a file cannot be read and is not to be skipped.
    """

    def decode(path: Path) -> Tensor:
        return decode_image(path, spec.stored, spec.resize, spec.crop)

    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    ahead: deque[list[tuple[Path, Future[Tensor]]]] = deque()
    starts = iter(range(0, len(files), batch_size))
    try:
        while True:
            # While a batch is used, the next ones are decoded, and no more of them: images may be large.
            for start in islice(starts, _BATCHES_AHEAD + 1 - len(ahead)):
                ahead.append([(path, pool.submit(decode, path)) for path in files[start : start + batch_size]])
            if not ahead:
                return
            names, tensors = [], []
            for path, future in ahead.popleft():
                try:
                    tensors.append(future.result())
                    names.append(path)
                except UnreadableImageError as error:
                    if not skip:
                        raise
                    print(f"skipped {path}: {error.reason}", file=sys.stderr)
            if tensors:
                batch = torch.stack(tensors)
                yield names, to_grey(batch) if spec.channels == 1 else batch
    finally:
        pool.shutdown(cancel_futures=True)


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
def _unreadable(file: ImageFile) -> Iterator[None]:
    """Turn the errors of the decoders into one that names the file and says how to go on."""
    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):  # a pipe would wait for someone to write
            raise ValueError("not a regular file")
        yield
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
