"""Splits: stratified, disjoint, complete, seeded; nested subsets per class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded
from fashion_tl.data.splits import divide, stratified_split, take_per_class

COUNTS = [100, 37, 10, 3, 2, 1]


@pytest.fixture
def labels() -> Tensor:
    every = torch.cat([torch.full((count,), label) for label, count in enumerate(COUNTS)])
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(7))]


@pytest.mark.parametrize("fraction", [0.01, 1 / 12, 0.25, 0.5, 0.99])
def test_each_class_gives_its_share(labels: Tensor, fraction: float) -> None:
    stay, held = stratified_split(labels, fraction, 0)
    assert torch.equal(torch.cat([stay, held]).sort().values, torch.arange(len(labels)))
    assert torch.equal(stay, stay.sort().values)
    assert torch.equal(held, held.sort().values)
    for label, count in enumerate(COUNTS):
        share = int((labels[held] == label).sum())
        if count == 1:
            assert share == 0
        else:
            assert 1 <= share <= count - 1
            assert abs(share - count * fraction) <= 0.5 or share in (1, count - 1)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_classes_of_a_few_images_have_one_in_each_split(fraction: float) -> None:
    sizes = (20, 3, 4, 5, 6, 7)
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    images = InMemoryImages(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)
    for part, indices in divide(Loaded(images, None, "few"), 1 / 12, fraction).items():
        assert set(labels[indices].tolist()) == set(range(len(sizes))), part


def test_nothing_to_hold_out(labels: Tensor) -> None:
    stay, held = stratified_split(labels, 0.0, 0)
    assert torch.equal(stay, torch.arange(len(labels)))
    assert len(held) == 0


def test_split_depends_on_its_seed_alone(labels: Tensor) -> None:
    torch.manual_seed(1)
    first = stratified_split(labels, 0.25, 3)
    torch.manual_seed(2)
    again = stratified_split(labels, 0.25, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(stratified_split(labels, 0.25, 4)[1], first[1])


def test_held_out_images_come_from_the_whole_class() -> None:
    held = stratified_split(torch.zeros(1000, dtype=torch.int64), 0.1, 0)[1]
    assert 400 < held.double().mean() < 600


def test_smaller_subsets_lie_in_larger_ones(labels: Tensor) -> None:
    indices = torch.arange(0, len(labels), 2)
    smaller: set[int] = set()
    for count in (1, 3, 10, 1000):
        taken = take_per_class(labels, indices, count, 5)
        assert torch.equal(taken, torch.unique(taken))
        chosen = set(taken.tolist())
        assert smaller <= chosen <= set(indices.tolist())
        for label in range(len(COUNTS)):
            available = int((labels[indices] == label).sum())
            assert int((labels[taken] == label).sum()) == min(count, available)
        smaller = chosen
    assert smaller == set(indices.tolist())


def test_subset_depends_on_its_seed_alone(labels: Tensor) -> None:
    indices = torch.arange(len(labels))
    first = take_per_class(labels, indices, 3, 5)
    torch.rand(1)
    assert torch.equal(take_per_class(labels, indices, 3, 5), first)
    assert not torch.equal(take_per_class(labels, indices, 3, 6), first)
