"""Out-of-distribution images: MNIST's file in both forms, folders, and what can be wrong with them."""

from __future__ import annotations

import gzip

import pytest
import torch
from PIL import Image

from fashion_tl.data.transforms import InputSpec
from fashion_tl.errors import UserError
from fashion_tl.inspection.ood import ood_sets

GREY = InputSpec(channels=1, storage_size=28, image_size=64)
COLOUR = InputSpec(channels=3, storage_size=40, image_size=64, crop=0.875)


def idx(count: int) -> tuple[bytes, torch.Tensor]:
    pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sizes = b"".join(value.to_bytes(4, "big") for value in (2051, count, 28, 28))
    return sizes + pixels.numpy().tobytes(), pixels.unsqueeze(1)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_read_packed_or_not(tmp_path, packed) -> None:
    data, pixels = idx(7)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    name = "t10k-images-idx3-ubyte" + (".gz" if packed else "")
    (raw / name).write_bytes(gzip.compress(data) if packed else data)
    grey, _ = ood_sets(GREY, tmp_path, "FashionMNIST", [], 7, 0)
    assert torch.equal(grey["MNIST"], pixels)
    sets, skipped = ood_sets(COLOUR, tmp_path, "FashionMNIST", [], 5, 0)
    assert sets["MNIST"].shape == (5, 3, 40, 40)
    assert sets["uniform noise"].shape == (5, 3, 40, 40)
    assert sets["SyntheticGarments"].dtype == torch.uint8
    assert skipped == []


@pytest.mark.parametrize("data", [b"", b"\0" * 40, idx(3)[0][:-1]])
def test_a_damaged_file_is_named(tmp_path, data) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for content in (gzip.compress(data), b"no gzip"):
        (raw / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
            ood_sets(GREY, tmp_path, "SyntheticGarments", [], 5, 0)


def test_what_is_not_there_or_not_ood_is_left_out_with_a_line(tmp_path) -> None:
    sets, skipped = ood_sets(GREY, tmp_path, "SyntheticGarments", [], 20, 0)
    assert list(sets) == ["uniform noise"]
    assert len(skipped) == 2
    assert "MNIST" in skipped[0]


def test_folders_are_sets_of_their_own(tmp_path) -> None:
    folder = tmp_path / "MNIST"
    (folder / "deep").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (50, 30), (255, 0, 10 * i)).save(folder / "deep" / f"{i}.png")
    sets, _ = ood_sets(GREY, tmp_path, "SyntheticGarments", [folder, folder], 3, 0)
    assert list(sets) == ["uniform noise", "MNIST", "MNIST'"]
    assert sets["MNIST"].shape == (3, 1, 28, 28)


def test_unusable_folders_are_one_clear_error(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.png").write_bytes(b"no image")
    for name, says in (("none", "not a folder"), ("empty", "holds no images"), ("broken", r"x\.png")):
        with pytest.raises(UserError, match=says):
            ood_sets(GREY, tmp_path, "SyntheticGarments", [tmp_path / name], 3, 0)
