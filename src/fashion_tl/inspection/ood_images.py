"""Images of other kinds than a run was trained on, in the size and channels that the run holds its own."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.transforms import InputSpec, resize_images, to_float, to_grey
from fashion_tl.errors import UserError
from fashion_tl.inspection.corruption_table import to_bytes
from fashion_tl.inspection.random_draws import Draws

MNIST_IMAGES = "t10k-images-idx3-ubyte"
DRAWN = 2000
INSIDE = "inside"  # how the run's own test images are called among the sets


def outside_sets(
    spec: InputSpec, root: Path, source: str, folders: list[Path], count: int, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Collect sets of images that a run does not know.

    Args:
        spec: How the run holds its images.
        root: Folder with the data; MNIST's test images are read from ``root/MNIST/raw``.
        source: The run's own source: what it was trained on is not outside.
        folders: Folders of image files, searched at any depth.
        count: Most images of each set, drawn by seed.
        seed: The same seed takes the same images.

    Returns:
        Images (at most ``count``, C, H, W), uint8, of each set by name, and a line for each set that was left out.

    Raises:
        UserError: If a folder holds no images or one that cannot be read, or MNIST's file is damaged.
    """
    sets: dict[str, Tensor] = {}
    skipped: list[str] = []
    digits = load_mnist(root / "MNIST" / "raw")
    if digits is None:
        skipped.append(f"MNIST's test images are not in {root / 'MNIST' / 'raw'} ({MNIST_IMAGES}[.gz]): left out")
    else:
        sets["MNIST"] = as_held(take(digits, count, seed), spec)
    if source == "garments":
        skipped.append("garments are what the run was trained on: left out as images of other kinds")
    else:
        from fashion_tl.data.garments import draw_garments

        sets["garments"] = as_held(draw_garments(min(count, DRAWN), seed, 28)[0], spec)
    side = _side(spec)
    noise = Draws(seed, 0, torch.arange(min(count, DRAWN))).uniform(spec.channels, side, side)
    sets["uniform noise"] = to_bytes(noise)
    for folder in folders:
        name = folder.resolve().name
        while name in (*sets, INSIDE):
            name += "'"
        sets[name] = read_folder(folder, spec, count, seed)
    return sets, skipped


def load_mnist(raw: Path) -> Tensor | None:
    """Read MNIST's test images (10,000, 1, 28, 28), uint8, compressed or not; None if they are not there.

    Raises:
        UserError: If the file is damaged.
    """
    for path, read in ((raw / f"{MNIST_IMAGES}.gz", _unpack), (raw / MNIST_IMAGES, Path.read_bytes)):
        if path.is_file():
            return _parse(path, read)
    return None


def _unpack(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def _parse(path: Path, read: Callable[[Path], bytes]) -> Tensor:
    try:
        data = read(path)
        magic, *sizes = np.frombuffer(data, ">u4", 4).tolist()
        pixels = np.frombuffer(data, np.uint8, offset=16)
        if magic != 2051 or len(sizes) != 3 or pixels.size != np.prod(sizes):
            raise ValueError("it is not a whole IDX file of images")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}. Replace or remove it.") from error
    return torch.from_numpy(pixels.reshape(-1, 1, *sizes[1:]).copy())


def read_folder(folder: Path, spec: InputSpec, count: int, seed: int) -> Tensor:
    """Read image files at any depth of a folder, decoded as the run's own images are.

    Raises:
        UserError: If the folder holds no images, or one of them cannot be read.
    """
    from fashion_tl.data.image_folder import SUFFIXES
    from fashion_tl.data.images import UnreadableImageError, decode_image

    if not folder.is_dir():
        raise UserError(f"--ood {folder} is not a folder: give a folder of images.")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UserError(f"--ood {folder} holds no images ({' '.join(SUFFIXES)}).")
    chosen = [files[i] for i in _choose(len(files), count, seed).tolist()]
    resize = "squash" if spec.resize == "squash" else "crop"
    try:
        images = torch.stack([decode_image(path, _side(spec), resize, spec.crop) for path in chosen])  # type: ignore[arg-type]
    except UnreadableImageError as error:
        raise UserError(f"--ood {folder}: an image cannot be read: {error}") from error
    return to_bytes(to_grey(images)) if spec.channels == 1 else images


def take(images: Tensor, count: int, seed: int) -> Tensor:
    """Take at most ``count`` images (N, C, H, W) by seed, in their own order."""
    return images[_choose(len(images), count, seed)]


def _choose(available: int, count: int, seed: int) -> Tensor:
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def as_held(images: Tensor, spec: InputSpec) -> Tensor:
    """Bring images (N, C, H, W), uint8, to the size and channels in which a run holds its own."""
    side = _side(spec)
    values = resize_images(to_float(images), side, "bilinear")
    if spec.channels == 1 and values.shape[1] == 3:
        values = to_grey(values)
    return to_bytes(values.expand(-1, spec.channels, -1, -1))


def _side(spec: InputSpec) -> int:
    return spec.held_size or spec.image_size
