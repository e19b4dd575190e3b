"""Images packed as people have them: Parquet files and shards, written from the bytes of image files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet

from fashion_tl.data.datamodule import ImageDataModule

Column = Sequence[Any]
ENCODED = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def png(seed: int) -> bytes:
    """Draw an image of noise, as the content of a file."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


PHOTOS = [png(seed) for seed in range(16)]


def write_parquet(path: Path, images: Column, more: Mapping[str, Column], column: str = "image") -> Path:
    """Write images, bytes or pairs of bytes and the path that they carry, and further columns, with Arrow's types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = [{"bytes": each[0], "path": each[1]} if isinstance(each, tuple) else each for each in images]
    kind = ENCODED if any(isinstance(each, dict) for each in packed) else pyarrow.binary()
    table = {
        column: pyarrow.array(packed, kind),
        **{name: pyarrow.array(values, None if len(values) else pyarrow.string()) for name, values in more.items()},
    }
    parquet.write_table(pyarrow.table(table), path)
    return path


def write_shard(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Write files, by name, into a tar archive in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def key_of(path: Path) -> str:
    """Return the key of a sample for an image file: a key has no dots."""
    return path.stem.replace(".", "_")


def pixels(data: ImageDataModule, part: str = "train") -> torch.Tensor:
    """Return all images of a split, as stored."""
    return torch.cat(list(data.in_order(part, 16)))
