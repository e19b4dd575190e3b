"""Filters and test images that a report shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fashion_tl import ImageDataModule, SyntheticGarments, SyntheticObjects
from fashion_tl.callbacks.pictures import keep_filters, keep_test_images


def test_filters_of_the_first_convolution(tmp_path: Path) -> None:
    network = nn.ModuleDict({"network": nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(1, 3, 5), nn.Conv2d(3, 2, 1))})
    keep_filters(network, tmp_path)
    with np.load(tmp_path / "filters.npz") as file:
        assert str(file["layer"]) == "1"
        np.testing.assert_array_equal(file["weight"], next(iter(network.parameters())).detach().numpy())
    assert [p.name for p in tmp_path.iterdir()] == ["filters.npz"]


def test_a_network_without_convolutions_leaves_nothing(tmp_path: Path) -> None:
    keep_filters(nn.Linear(2, 2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_test_images_are_kept_once_in_their_order(tmp_path: Path) -> None:
    data = ImageDataModule(SyntheticGarments(60, 30))
    data.setup()
    keep_test_images(data, tmp_path)
    (path,) = (tmp_path / "test_sets").iterdir()
    assert path.stem == data.describe()["test_set"]
    split = data.splits["test"]
    images, labels = split.images.__getitems__(split.indices.tolist())
    with np.load(path) as file:
        np.testing.assert_array_equal(file["images"], images[:, 0].numpy())
        np.testing.assert_array_equal(file["label"], labels.numpy())
    before = path.stat().st_mtime_ns
    keep_test_images(data, tmp_path)
    assert path.stat().st_mtime_ns == before


def test_large_colour_images_become_thumbnails(tmp_path: Path) -> None:
    data = ImageDataModule(SyntheticObjects(96, 24), image_size=96)
    data.setup()
    split = data.splits["test"]
    split.images.images = torch.full((120, 3, 96, 96), 200, dtype=torch.uint8)  # type: ignore[attr-defined]
    keep_test_images(data, tmp_path)
    with np.load(next((tmp_path / "test_sets").iterdir())) as file:
        assert file["images"].shape == (24, 64, 64, 3)
        assert set(np.unique(file["images"])) == {200}


def test_images_of_four_channels_are_kept_as_their_mean(tmp_path: Path) -> None:
    data = ImageDataModule(SyntheticObjects(96, 24))
    data.setup()
    split = data.splits["test"]
    images = torch.tensor([0, 40, 80, 120], dtype=torch.uint8).view(1, 4, 1, 1).expand(120, 4, 28, 28)
    split.images.images = images  # type: ignore[attr-defined]
    keep_test_images(data, tmp_path)
    with np.load(next((tmp_path / "test_sets").iterdir())) as file:
        assert file["images"].shape == (24, 28, 28)
        assert set(np.unique(file["images"])) == {60}


def test_without_this_packages_data_nothing_is_kept(tmp_path: Path) -> None:
    keep_test_images(None, tmp_path)
    keep_test_images(ImageDataModule(SyntheticGarments(60)), tmp_path)
    assert list(tmp_path.iterdir()) == []
