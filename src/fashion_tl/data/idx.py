"""IDX files of unsigned bytes, the format of MNIST and Fashion-MNIST, compressed or not."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fashion_tl.errors import UserError


def find_idx(path: Path) -> Path | None:
    """Return ``path.gz`` or ``path``, whichever is there first; None if neither is."""
    return next((found for found in (path.with_name(f"{path.name}.gz"), path) if found.is_file()), None)


def read_idx(path: Path, sha256: str | None = None) -> Tensor:
    """Read a file: magic number, big-endian sizes, values.

    Args:
        path: The file; one that ends in ``.gz`` is decompressed in memory.
        sha256: What its content must have, decompressed.

    Returns:
        The values, uint8, in the shape that the file gives.

    Raises:
        UserError: If the file cannot be decompressed, is not a whole IDX file of unsigned bytes, or has other content.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}. Replace or remove it.") from error
    rank = data[3] if len(data) > 3 and data[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * rank
    sizes = [int.from_bytes(data[i : i + 4]) for i in range(4, start, 4)]
    if rank == 0 or len(data) - start != math.prod(sizes):
        raise UserError(f"{path} is damaged: it is not a whole IDX file. Replace or remove it.")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{path} is damaged: the SHA-256 of its content is not {sha256}. Replace or remove it.")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(sizes).copy())
