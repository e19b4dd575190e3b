"""Images of other kinds than a run was trained on, in the size and channels of the run's stored images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fashion_tl.data.idx import find_idx, read_idx
from fashion_tl.data.transforms import InputSpec, resize_images, to_float, to_grey
from fashion_tl.errors import UserError
from fashion_tl.inspection.corruption_table import to_bytes
from fashion_tl.inspection.random_draws import Draws

MNIST_IMAGES = "t10k-images-idx3-ubyte"
MOST = 2000
INSIDE = "inside"  # how the run's own test images are called among the sets


def outside_sets(
    spec: InputSpec, root: Path, source: str, folders: list[Path], count: int, seed: int
) -> tuple[dict[str, Tensor], list[str]]:
    """Collect sets of images that a run does not know.

    Args:
        spec: How the run stores its images.
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
        sets["MNIST"] = as_stored(take(digits, count, seed), spec)
    if source == "SyntheticGarments":
        skipped.append("SyntheticGarments are what the run was trained on: left out as images of other kinds")
    else:
        from fashion_tl.data.garments import SyntheticGarments

        sets["SyntheticGarments"] = as_stored(SyntheticGarments().draw(min(count, MOST), seed, 28)[0], spec)
    side = spec.stored
    noise = Draws(seed, 0, torch.arange(min(count, MOST))).uniform(spec.channels, side, side)
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
    path = find_idx(raw / MNIST_IMAGES)
    if path is None:
        return None
    images = read_idx(path)
    if images.ndim != 3:
        raise UserError(f"{path} is damaged: its shape is {tuple(images.shape)}, not (N, H, W). Replace or remove it.")
    return images.unsqueeze(1)


def read_folder(folder: Path, spec: InputSpec, count: int, seed: int) -> Tensor:
    """Read image files at any depth of a folder, decoded to the size and channels of the run's stored images.

    Raises:
        UserError: If the folder holds no images, or one of them cannot be read.
    """
    from fashion_tl.data.files import UnreadableImageError, decoded, image_files

    if not folder.is_dir():
        raise UserError(f"--ood {folder} is not a folder: give a folder of images.")
    files = image_files([folder])
    chosen = [files[i] for i in _choose(len(files), count, seed).tolist()]
    try:
        [(_, images)] = decoded(chosen, spec, len(chosen), skip=False)
    except UnreadableImageError as error:
        raise UserError(f"--ood {folder}: {error}") from error
    return to_bytes(images) if spec.channels == 1 else images


def take(images: Tensor, count: int, seed: int) -> Tensor:
    """Take at most ``count`` images (N, C, H, W) by seed, in their own order."""
    return images[_choose(len(images), count, seed)]


def _choose(available: int, count: int, seed: int) -> Tensor:
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


def as_stored(images: Tensor, spec: InputSpec) -> Tensor:
    """Bring images (N, C, H, W), uint8, to the size and channels of a run's stored images."""
    side = spec.stored
    values = resize_images(to_float(images), side, "bilinear")
    if spec.channels == 1 and values.shape[1] == 3:
        values = to_grey(values)
    return to_bytes(values.expand(-1, spec.channels, -1, -1))
