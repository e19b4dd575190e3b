"""Fashion-MNIST's files: read in place, checked, downloaded; a tiny generated set stands for the real one."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fashion_tl.data import download, fashion_mnist
from fashion_tl.data.fashion_mnist import FashionMNIST
from fashion_tl.data.images import InMemoryImages
from fashion_tl.errors import UserError

from .conftest import Arrays, idx


def raw(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


def unpack(root: Path) -> None:
    for path in raw(root).glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()


def load(root: Path, train: bool) -> tuple[Tensor, Tensor]:
    loaded = FashionMNIST(root).load()
    part = loaded.train if train else loaded.test
    assert isinstance(part, InMemoryImages)
    return part.images, part.labels


def assert_loads(root: Path, arrays: Arrays) -> None:
    for train, part in ((True, "train"), (False, "t10k")):
        images, labels = load(root, train)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.shape[1] == 1
        assert np.array_equal(images[:, 0].numpy(), arrays[f"{part}-images-idx3-ubyte"])
        assert np.array_equal(labels.numpy(), arrays[f"{part}-labels-idx1-ubyte"])


def listing(root: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [root, *root.rglob("*")]}


def test_compressed_files_are_read_in_place(root: Path, arrays: Arrays) -> None:
    folders = [path for path in [root, *root.rglob("*")] if path.is_dir()]
    for path in root.rglob("*.gz"):
        path.chmod(0o444)
    for path in folders:
        path.chmod(0o555)
    before = listing(root)
    try:
        assert_loads(root, arrays)
        assert listing(root) == before
    finally:
        for path in folders:
            path.chmod(0o755)


def test_unpacked_files(root: Path, arrays: Arrays) -> None:
    unpack(root)
    assert_loads(root, arrays)


def test_images_can_be_changed(root: Path) -> None:
    load(root, True)[0].fill_(0)
    assert load(root, True)[0].any()


def assert_named_as_wrong(root: Path, path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(root, True)
    message = str(caught.value)
    for part in (f"{path} is damaged", "Replace or remove it", "--data.source.root", "--data.source ImageFolder"):
        assert part in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"])
@pytest.mark.parametrize("position", [12, 20, -1])
def test_one_changed_bit(root: Path, packed: bool, name: str, position: int) -> None:
    if not packed:
        unpack(root)
    path = raw(root) / (f"{name}.gz" if packed else name)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    assert_named_as_wrong(root, path)


@pytest.mark.parametrize("packed", [True, False])
def test_wrong_labels(root: Path, arrays: Arrays, packed: bool) -> None:
    labels = idx((arrays["train-labels-idx1-ubyte"] + 1) % 10)
    path = raw(root) / f"train-labels-idx1-ubyte{'.gz' if packed else ''}"
    if not packed:
        unpack(root)
    path.write_bytes(gzip.compress(labels) if packed else labels)
    assert_named_as_wrong(root, path)


def test_files_compressed_in_another_way(root: Path, arrays: Arrays) -> None:
    for path in raw(root).iterdir():
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    assert_loads(root, arrays)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:3],
        lambda data: b"",
        lambda data: b"\0\0\x0d" + data[3:],
        lambda data: data[:3] + b"\xff" + data[4:],
        lambda data: data[:3] + b"\0" + data[4:],
    ],
    ids=["truncated", "too long", "only a few bytes", "empty", "floats", "255 axes", "no axes"],
)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_damaged_unpacked_file(root: Path, name: str, damage: Any) -> None:
    unpack(root)
    path = raw(root) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as caught:
        load(root, True)
    assert f"{path} is damaged: it is not a whole IDX file" in str(caught.value)


# The download, from this machine


@pytest.fixture
def served(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Move the files to a folder that a local server offers in place of the real one."""
    offered = tmp_path / "offered"
    raw(root).rename(offered)
    shutil.rmtree(root)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES", (0.01, 0.01))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(offered))) as server:
        monkeypatch.setattr(fashion_mnist, "ADDRESS", f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield offered
        server.shutdown()
        thread.join()


def test_missing_files_are_downloaded(served: Path, root: Path, arrays: Arrays) -> None:
    assert not root.exists()
    assert_loads(root, arrays)
    for path in served.iterdir():
        assert (raw(root) / path.name).read_bytes() == path.read_bytes()
        path.unlink()
    assert_loads(root, arrays)


def test_one_missing_file_is_downloaded(served: Path, root: Path, arrays: Arrays) -> None:
    shutil.copytree(served, raw(root))
    (raw(root) / "t10k-labels-idx1-ubyte.gz").unlink()
    before = listing(raw(root) / "train-images-idx3-ubyte.gz")
    assert_loads(root, arrays)
    assert listing(raw(root) / "train-images-idx3-ubyte.gz") == before


def assert_says_what_to_do(error: UserError, root: Path) -> None:
    for part in (
        str(raw(root)),
        "*-ubyte.gz",
        "--data.source.root",
        "FASHION_TL_DATA_DIR",
        "--data.source SyntheticGarments",
    ):
        assert part in str(error)


def test_wrong_download(served: Path, root: Path) -> None:
    (served / "train-images-idx3-ubyte.gz").write_bytes(b"a page that says please log in")
    with pytest.raises(UserError, match=r"cannot be downloaded \([^)]*train-images") as caught:
        load(root, True)
    assert_says_what_to_do(caught.value, root)


def test_no_connection(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(fashion_mnist, "ADDRESS", f"http://127.0.0.1:{port}/")
    shutil.rmtree(root)
    with pytest.raises(UserError, match="refused") as caught:
        load(root, True)
    assert_says_what_to_do(caught.value, root)
    assert len(str(caught.value).splitlines()) == 1
    assert not root.exists()


@pytest.mark.skipif(os.name == "nt", reason="a file in the way is another error there")
def test_folder_that_cannot_be_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Not a directory") as caught:
        load(tmp_path / "file", True)
    assert_says_what_to_do(caught.value, tmp_path / "file")


# The real files


@pytest.mark.slow
def test_official_sizes_balance_and_statistics(real_data: Path) -> None:
    for train, each in ((True, 6000), (False, 1000)):
        images, labels = load(real_data, train)
        assert images.shape == (10 * each, 1, 28, 28)
        assert labels.bincount().tolist() == [each] * 10
        if train:
            scaled = images.float() / 255
            assert float(scaled.mean()) == pytest.approx(0.2860, abs=5e-5)
            assert float(scaled.std()) == pytest.approx(0.3530, abs=5e-5)
