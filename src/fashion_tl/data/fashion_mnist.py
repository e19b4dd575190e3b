"""Fashion-MNIST (Xiao et al. 2017), by torchvision's class: its addresses, its download, its checksums."""

from __future__ import annotations

import gzip
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fashion_tl.errors import UserError

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIZE = 28


def load_fashion_mnist(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    """Read one part of Fashion-MNIST, downloading it first if it is not there.

    Compressed files are checked against torchvision's checksums and read in place: a folder that cannot be written
    to is enough.

    Args:
        root: Folder that holds, or will hold, ``FashionMNIST/raw``.
        train: Whether to read the 60,000 training images or the 10,000 test images.

    Returns:
        Images (N, 1, 28, 28) uint8 and labels (N,) int64.

    Raises:
        UserError: If a file is damaged, or missing and cannot be downloaded.
    """
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import check_integrity

    raw = root / "FashionMNIST" / "raw"
    part = "train" if train else "t10k"
    sums: dict[str, str] = {name: md5 for name, md5 in FashionMNIST.resources if name.startswith(part)}
    if not all(_present(raw / name) for name in sums):
        _download(root)
    arrays = []
    for name, md5 in sorted(sums.items()):
        path = raw / name
        if path.is_file() and not check_integrity(str(path), md5):
            raise UserError(
                f"{path} is damaged: its MD5 is not {md5}. Delete it and run the same command again to download it, "
                "or set --data.root (or FASHION_TL_DATA_DIR) to a folder with good files."
            )
        unpacked = path.with_suffix("")
        data = gzip.decompress(path.read_bytes()) if path.is_file() else unpacked.read_bytes()
        arrays.append(_parse_idx(data, path if path.is_file() else unpacked))
    images, labels = arrays
    if images.shape != (*labels.shape[:1], SIZE, SIZE) or labels.ndim != 1 or labels.max(initial=0) >= len(CLASS_NAMES):
        raise UserError(
            f"the {part} files in {raw} are damaged or do not belong together: images of shape {images.shape}, labels "
            f"of shape {labels.shape} up to {labels.max(initial=0)}. Delete them to have them downloaded again."
        )
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def _present(path: Path) -> bool:
    return path.is_file() or path.with_suffix("").is_file()


def _download(root: Path) -> None:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raw = root / "FashionMNIST" / "raw"
        for made in (raw, raw.parent, root):
            with suppress(OSError):  # not empty, or never made
                made.rmdir()
        reason = " ".join(str(error).split()).rstrip(":")
        raise UserError(
            f"Fashion-MNIST is not in {raw} and cannot be downloaded ({reason}). Put the four "
            "files *-ubyte.gz there, or name the folder that holds FashionMNIST/raw with --data.root, DATA_DIR (make) "
            "or FASHION_TL_DATA_DIR. `--data.source garments` needs no download."
        ) from error


def _parse_idx(data: bytes, path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes: magic number, big-endian sizes, values."""
    rank = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * rank
    sizes = [int.from_bytes(data[i : i + 4]) for i in range(4, start, 4)]
    if rank == 0 or len(data) - start != math.prod(sizes):
        raise UserError(f"{path} is damaged: it is not a whole IDX file. Delete it to have it downloaded again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(sizes).copy()
