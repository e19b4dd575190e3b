"""A tiny generated Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.data import fashion_mnist
from fashion_tl.data.images import EncodedImages, InMemoryImages

Arrays = dict[str, np.ndarray[Any, Any]]


def idx(values: np.ndarray[Any, Any]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(30, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(20, dtype=np.uint8)[::-1] % 10,
    }


@pytest.fixture
def root(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four generated files, which stand for the real ones."""
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, values in arrays.items():
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(values), mtime=0))
    contents = {name: hashlib.sha256(idx(values)).hexdigest() for name, values in arrays.items()}
    monkeypatch.setattr(fashion_mnist, "CONTENTS", contents)
    return tmp_path / "data"


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type:
    """Where images of files are: decoded in memory, or where they were."""
    if request.param == "disk":
        monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    return InMemoryImages if request.param == "memory" else EncodedImages
