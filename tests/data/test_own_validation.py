"""Validation images that a source brings along, and groups that no split divides."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fashion_tl.data.batches import fingerprint
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded, Source, load, loading_once
from fashion_tl.data.splits import grouped_split
from fashion_tl.errors import UserError

TRAIN, VAL, TEST = 40, 15, 12  # images of each of two classes


def numbered(per_class: int, first: int) -> tuple[Tensor, Tensor]:
    """Images that are all different, and their labels in turn."""
    numbers = torch.arange(first, first + 2 * per_class)
    return (numbers % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous(), torch.arange(
        2 * per_class
    ) % 2


class Divided(Source):
    """Images that come with a validation set."""

    class_names = ("even", "odd")
    channels, storage_size = 1, 8

    def __init__(self, test: bool = True, group_size: int | None = None, val: bool = True) -> None:
        self.test, self.group_size, self.val = test, group_size, val

    def load(self) -> Loaded:
        train, validation, test = numbered(TRAIN, 0), numbered(VAL, 2 * TRAIN), numbered(TEST, 2 * (TRAIN + VAL))
        return Loaded(
            InMemoryImages(*train),
            InMemoryImages(*test) if self.test else None,
            fingerprint(*train, *validation, *test),
            val=InMemoryImages(*validation) if self.val else None,
            groups=None if self.group_size is None else torch.arange(2 * TRAIN) // self.group_size,
        )


def divided(source: Source, **changes: Any) -> ImageDataModule:
    data = ImageDataModule(source, **{"batch_size": 8, "num_workers": 0, **changes})
    data.setup()
    return data


def counts(data: ImageDataModule) -> dict[str, list[int]]:
    return {name: split.labels.bincount(minlength=2).tolist() for name, split in data.splits.items()}


def test_own_validation_images_are_used_and_nothing_is_split_off() -> None:
    data = divided(Divided())
    assert counts(data) == {"train": [TRAIN] * 2, "val": [VAL] * 2, "test": [TEST] * 2}
    images = torch.cat(list(data.in_order("val", 4)))
    assert images[:, 0, 0, 0].tolist() == list(range(2 * TRAIN, 2 * (TRAIN + VAL)))
    validation = torch.cat([images for images, _ in data.val_dataloader()])
    assert torch.equal(validation, images)


def test_a_test_set_is_split_off_the_training_images() -> None:
    data = divided(Divided(test=False), test_fraction=0.25)
    assert counts(data) == {"train": [30] * 2, "val": [VAL] * 2, "test": [10] * 2}
    both = [*data.splits["train"].indices.tolist(), *data.splits["test"].indices.tolist()]
    assert sorted(both) == list(range(2 * TRAIN))


@pytest.mark.parametrize("test", [True, False])
def test_cached_features_of_one_set_are_not_those_of_another(test: bool) -> None:
    data = divided(Divided(test=test))
    tags = [split.fingerprint for split in data.splits.values()]
    assert len(set(tags)) == 3
    without = ImageDataModule(Divided(val=False), num_workers=0)
    without.setup()
    assert without.splits["val"].fingerprint == without.splits["train"].fingerprint  # of one set


def test_label_budgets_count_validation_images_and_are_nested() -> None:
    def chosen(budget: int) -> dict[str, set[int]]:
        data = divided(Divided(), label_budget=budget)
        found = counts(data)
        assert [a + b for a, b in zip(found["train"], found["val"], strict=True)] == [budget] * 2
        assert found["test"] == [TEST] * 2
        return {name: set(split.indices.tolist()) for name, split in data.splits.items()}

    budgets = [chosen(budget) for budget in (2, 3, 5, 10, 40)]
    assert [len(each["val"]) for each in budgets] == [2, 2, 2, 4, 16]
    for smaller, larger in itertools.pairwise(budgets):
        assert smaller["train"] < larger["train"]
        assert smaller["val"] <= larger["val"]


def test_per_class_leaves_validation_whole() -> None:
    assert counts(divided(Divided(), per_class=3)) == {"train": [3] * 2, "val": [VAL] * 2, "test": [TEST] * 2}


@pytest.mark.parametrize("budget", [None, 4])
def test_a_share_to_split_off_is_refused(budget: int | None) -> None:
    with pytest.raises(UserError, match=r"data\.val_fraction is 0\.1, but Divided has validation images of its own"):
        divided(Divided(), val_fraction=0.1, label_budget=budget)


def test_identity_and_description_know_the_splits() -> None:
    one, other = divided(Divided()), divided(Divided(), label_budget=10)
    assert one.identity == divided(Divided()).identity
    assert one.identity["val_images"] != other.identity["val_images"]
    assert one.describe()["sizes"] == {"train": 2 * TRAIN, "val": 2 * VAL, "test": 2 * TEST}
    assert one.describe()["test_set"] == other.describe()["test_set"]
    assert divided(Divided(), split_seed=1).identity == one.identity  # nothing is drawn


def test_equal_sources_are_loaded_once() -> None:
    with loading_once():
        assert load(Divided()) is load(Divided())
        assert load(Divided()) is not load(Divided(test=False))


def test_a_class_that_is_lost_to_the_test_set() -> None:
    class Rare(Divided):
        def load(self) -> Loaded:
            loaded = super().load()
            loaded.train.labels[:] = 0
            loaded.train.labels[0] = 1
            return loaded

    with pytest.raises(UserError, match=r"'odd' is left for test: a class needs at least 2 images, for train, test"):
        divided(Rare(test=False))


# Groups


@pytest.mark.parametrize("changes", [{}, {"label_budget": 10}, {"per_class": 4}, {"split_seed": 3}])
@pytest.mark.parametrize(("test", "val"), [(True, False), (False, False), (False, True)])
def test_no_group_is_divided(test: bool, val: bool, changes: dict[str, Any]) -> None:
    data = divided(Divided(test=test, val=val, group_size=6), **changes)
    assert data.loaded is not None
    assert data.loaded.groups is not None
    seen = [set(data.loaded.groups[data.splits[name].indices].tolist()) for name in data.loaded.divided]
    assert all(len(each) >= 1 for each in seen)
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_smaller_budgets_of_groups_lie_in_larger_ones() -> None:
    found = [divided(Divided(val=False, group_size=4), label_budget=budget) for budget in (2, 5, 10)]
    for smaller, larger in itertools.pairwise(found):
        for name in ("train", "val"):
            assert set(smaller.splits[name].indices.tolist()) <= set(larger.splits[name].indices.tolist())


def test_groups_that_are_too_few() -> None:
    with pytest.raises(UserError, match="left for test: a class needs at least 3 groups of images"):
        divided(Divided(test=False, val=False, group_size=40))

    class Rare(Divided):
        def load(self) -> Loaded:
            loaded = super().load()
            loaded.train.labels[:] = 0
            loaded.train.labels[:8] = 1
            return loaded

    with pytest.raises(UserError, match=r"'odd' is left for test: a class needs at least 3 groups of images, for"):
        divided(Rare(test=False, val=False, group_size=4))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_grouped_splits_are_about_stratified_and_complete(fraction: float) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 80, (1000,), generator=generator) * 7
    labels = (torch.rand(1000, generator=generator) < 0.2).long() + 2 * (groups % 3 == 0).long()
    stay, held = grouped_split(labels, groups, fraction, 0)
    assert torch.equal(torch.cat([stay, held]).sort().values, torch.arange(1000))
    assert not set(groups[stay].tolist()) & set(groups[held].tolist())
    for label in range(4):
        share = float((labels[held] == label).float().sum() / (labels == label).sum())
        assert abs(share - fraction) < 0.08


def test_groups_of_one_image_are_drawn_by_seed_alone() -> None:
    labels, groups = torch.arange(60) % 3, torch.arange(60)
    first = grouped_split(labels, groups, 0.25, 0)[1]
    torch.rand(1)
    assert torch.equal(grouped_split(labels, groups, 0.25, 0)[1], first)
    assert labels[first].bincount().tolist() == [5, 5, 5]
    assert not torch.equal(grouped_split(labels, groups, 0.25, 1)[1], first)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_few_large_groups_gives_its_smallest_and_keeps_as_many_as_told(seed: int) -> None:
    labels = torch.cat([torch.zeros(25, dtype=torch.int64), torch.ones(40, dtype=torch.int64)])
    groups = torch.cat([torch.arange(25) // 10, 100 + torch.arange(40) // 2])
    stay, held = grouped_split(labels, groups, 1 / 12, seed, keep=2)
    assert set(groups[held][labels[held] == 0].tolist()) == {2}
    assert set(groups[stay][labels[stay] == 0].tolist()) == {0, 1}
    assert (labels[grouped_split(labels, groups, 1 / 12, seed, keep=3)[1]] == 0).sum() == 0
