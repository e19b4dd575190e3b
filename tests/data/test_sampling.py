"""The balanced sampler: classes equally often, samples of a class evenly, the same draw wherever it is asked for."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from fashion_tl.data.batches import BatchLoader, Split
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sampling import balanced_order, random_order

SIZES = [(50, 3, 1), (7, 7, 7), (1,), (1, 40), (2, 3, 5, 0, 11)]  # images of each class


def labels_of(sizes: tuple[int, ...]) -> Tensor:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]


def split_of(sizes: tuple[int, ...]) -> Split:
    labels = labels_of(sizes)
    return Split(InMemoryImages(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels))


@pytest.mark.parametrize("sizes", SIZES)
def test_classes_come_equally_often_in_any_first_part_of_an_epoch(sizes: tuple[int, ...]) -> None:
    labels, present = labels_of(sizes), [label for label, size in enumerate(sizes) if size]
    for epoch in range(5):
        drawn = labels[balanced_order(labels, 3, epoch)]
        assert len(drawn) == len(labels)
        for end in range(1, len(drawn) + 1):
            counts = drawn[:end].bincount(minlength=len(sizes))[present]
            assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("sizes", SIZES)
def test_the_samples_of_a_class_come_equally_often_over_epochs(sizes: tuple[int, ...]) -> None:
    labels, epochs = labels_of(sizes), 9
    drawn = torch.cat([balanced_order(labels, 0, epoch) for epoch in range(epochs)])
    totals = drawn.bincount(minlength=len(labels))
    assert len(drawn) == epochs * len(labels)
    by_class = []
    for label, size in enumerate(sizes):
        own = totals[labels == label]
        if size:
            assert own.max() - own.min() <= 1  # a break in the row of a class would show as 2
            by_class.append(int(own.sum()))
        # Without replacement: each whole turn of a class is all of its samples.
        row = drawn[labels[drawn] == label]
        for turn in torch.split(row, max(size, 1)):
            assert len(set(turn.tolist())) == len(turn)
    assert max(by_class) - min(by_class) <= 1


def test_orders_differ_between_seeds_epochs_turns_and_classes() -> None:
    labels = labels_of((6, 6, 30))
    orders = {tuple(balanced_order(labels, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    drawn = torch.cat([balanced_order(labels, 0, epoch) for epoch in range(4)])
    turns = [
        (turn[:, None] > turn).sum(1)  # the order alone, whatever the class
        for label in (0, 1)
        for turn in torch.split(drawn[labels[drawn] == label], 6)
        if len(turn) == 6
    ]
    assert len({tuple(turn.tolist()) for turn in turns}) > 14  # of 18, each one of 720


def test_a_class_meets_the_others_in_another_order_in_each_round() -> None:
    drawn = labels_of((20,) * 4)[balanced_order(labels_of((20,) * 4), 0, 0)]
    assert len({tuple(turn.tolist()) for turn in torch.split(drawn, 4)}) > 8


def test_the_random_order_is_every_position_once() -> None:
    assert torch.equal(random_order(30, 1, 2).sort().values, torch.arange(30))
    expected = torch.randperm(30, generator=torch.Generator().manual_seed(1_000_003 + 2))
    assert torch.equal(random_order(30, 1, 2), expected)


@pytest.mark.parametrize("sampler", ["random", "balanced"])
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_share_the_draw_of_one(sampler: str, world: int) -> None:
    split = split_of((50, 5, 3, 2))
    alone = BatchLoader(split, 4 * world, True, seed=5, sampler=sampler)
    several = [BatchLoader(split, 4, True, 5, rank, world, sampler=sampler) for rank in range(world)]
    for epoch in range(2):
        for loader in (alone, *several):
            loader.set_epoch(epoch)
        shares = zip(*(loader.batches() for loader in several), strict=True)
        for whole, parts in zip(alone.batches(), shares, strict=True):
            assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_loader_goes_on_within_an_epoch_with_the_batches_that_are_left(stop: int) -> None:
    split = split_of((50, 5, 3, 2))

    def loader() -> BatchLoader:
        made = BatchLoader(split, 7, True, 5, sampler="balanced")
        made.set_epoch(1)
        return made

    first = loader()
    taken = [batch.positions for batch in itertools.islice(first, stop)]
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    rest = [batch.positions for batch in resumed]
    for ours, expected in zip([*taken, *rest], loader().batches(), strict=True):
        assert torch.equal(ours, expected)


def test_an_epoch_has_as_many_batches_as_without_and_another_batch_size_the_same_order() -> None:
    split = split_of((50, 5, 3, 2))
    order = torch.cat(BatchLoader(split, 10, True, 5, sampler="balanced").batches())
    for size in (1, 7, 60):
        loader = BatchLoader(split, size, True, 5, sampler="balanced")
        assert len(loader.batches()) == len(loader) == len(BatchLoader(split, size, True, 5))
        assert torch.equal(torch.cat(loader.batches()), order[: len(loader) * size])
    assert split.labels[order].bincount().tolist() == [15] * 4
