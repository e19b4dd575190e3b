"""Folds: every image is held out once, classes are shared out evenly, no group is divided; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fashion_tl.data.batches import fingerprint
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.folds import assign_folds
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded, Source
from fashion_tl.errors import UserError

Parts = dict[str, list[int]]


class Numbered(Source):
    """Images that are all different, of classes of given sizes."""

    channels, storage_size = 1, 4

    def __init__(self, sizes: tuple[int, ...], group_size: int | None = None, test: bool = False, val: bool = False):
        self.sizes, self.group_size, self.test, self.val = sizes, group_size, test, val
        self.class_names = tuple("abcdefgh"[: len(sizes)])

    def load(self) -> Loaded:
        labels = torch.cat([torch.full((size,), label) for label, size in enumerate(self.sizes)])
        numbers = torch.arange(len(labels))
        images = numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
        own = InMemoryImages(images[::2], labels[::2])
        return Loaded(
            InMemoryImages(images, labels),
            own if self.test else None,
            fingerprint(images, labels),
            val=own if self.val else None,
            groups=None if self.group_size is None else numbers // self.group_size,
        )


def divided(source: Source, **changes: Any) -> ImageDataModule:
    data = ImageDataModule(source, **{"batch_size": 4, "num_workers": 0, **changes})
    data.setup()
    return data


def parts(data: ImageDataModule) -> Parts:
    return {name: split.indices.tolist() for name, split in data.splits.items()}


def random_groups(count: int, groups: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, groups, count))


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
@pytest.mark.parametrize("sizes", [(40, 40), (60, 11, 10), (10, 10, 10, 10, 10, 13)])
def test_classes_and_folds_are_of_equal_sizes(sizes: tuple[int, ...], folds: int) -> None:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    found = assign_folds(labels, None, folds, 3)
    counts = torch.stack([labels[found == fold].bincount(minlength=len(sizes)) for fold in range(1, folds + 1)])
    assert counts.sum() == len(labels)
    for each in (counts.sum(1), *counts.T):
        assert each.max() - each.min() <= 1
    assert torch.equal(found, assign_folds(labels, None, folds, 3))
    assert not torch.equal(found, assign_folds(labels, None, folds, 4))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_whole_and_classes_about_as_even_as_scikit_learns(seed: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    rng, folds = np.random.default_rng(seed), 5
    groups = random_groups(600, 60, seed)
    usual, others = (torch.from_numpy(rng.integers(0, 4, n)) for n in (60, 600))  # most of a group is of one class
    labels = torch.where(torch.from_numpy(rng.random(600) < 0.8), usual[groups], others)
    found = assign_folds(labels, groups, folds, seed)
    for group in range(60):
        assert len(set(found[groups == group].tolist())) <= 1

    def uneven(held: list[np.ndarray]) -> float:
        counts = np.array([np.bincount(labels.numpy()[each], minlength=4) for each in held])
        return float(np.square(counts / counts.sum(0) - 1 / folds).sum())

    theirs = StratifiedGroupKFold(folds).split(np.zeros(600), labels.numpy(), groups.numpy())
    ours = [np.flatnonzero(found.numpy() == fold) for fold in range(1, folds + 1)]
    assert uneven(ours) <= 1.5 * uneven([held for _, held in theirs]) + 1e-3


@pytest.mark.parametrize("sizes", [(25, 25), (50, 5), (30, 12, 5)])
def test_groups_of_one_class_leave_no_fold_without_it(sizes: tuple[int, ...]) -> None:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    for seed in range(20):
        found = assign_folds(labels, torch.arange(len(labels)), 5, seed)
        for label, size in enumerate(sizes):
            counts = found[labels == label].bincount(minlength=6)[1:]
            assert counts.max() - counts.min() <= 1 <= counts.min() <= size


@pytest.mark.parametrize("group_size", [None, 1, 3])
@pytest.mark.parametrize("limits", [{}, {"label_budget": 10}, {"per_class": 5}, {"val_fraction": 0.3}])
@pytest.mark.parametrize("own", [{}, {"test": True}])
def test_every_image_tests_once_and_trains_where_it_does_not(
    group_size: int | None, limits: dict[str, Any], own: dict[str, bool]
) -> None:
    source = Numbered((60, 40, 21), group_size, **own)
    found = [parts(divided(source, folds=4, fold=fold, split_seed=2, **limits)) for fold in range(1, 5)]
    assert sorted(index for each in found for index in each["test"]) == list(range(121))
    groups = torch.arange(121) if group_size is None else torch.arange(121) // group_size
    for each in found:
        whole = [*each["train"], *each["val"], *each["test"]]
        assert len(set(whole)) == len(whole)
        assert limits.keys() & {"label_budget", "per_class"} or len(whole) == 121
        held = [set(groups[each[name]].tolist()) for name in each]
        assert len(set.union(*held)) == sum(map(len, held))


def test_own_validation_images_validate_in_every_fold() -> None:
    for fold in (1, 2, 3):
        data = divided(Numbered((9, 9), val=True), folds=3, fold=fold)
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "val": 9, "test": 6}
        assert data.splits["val"].images is not data.splits["train"].images


def test_a_test_set_of_the_source_is_another_than_every_fold() -> None:
    source = Numbered((20, 20), test=True)
    whole, first, second = divided(source), divided(source, folds=2, fold=1), divided(source, folds=2, fold=2)
    assert len({data.describe()["test_set"] for data in (whole, first, second)}) == 3
    assert len({data.splits["test"].fingerprint for data in (whole, first)}) == 2  # for cached features
    assert first.splits["test"].images is first.splits["train"].images
    told = second.describe()
    assert (told["folds"], told["fold"], told["class_counts"]["test"]) == (2, 2, [10, 10])
    assert (whole.describe()["folds"], whole.describe()["fold"]) == (None, None)


@pytest.mark.parametrize(
    ("sizes", "group_size", "folds", "told"),
    [
        ((20, 4), None, 5, "class 'b' has too few images, 4"),
        ((20, 3), None, 2, "class 'b' has too few images, 3"),  # two in one fold leave one for training and validation
        ((20, 20), 5, 5, "class 'a' has too few groups of images, 4"),
    ],
)
def test_folds_of_which_a_later_one_lacks_a_class_are_refused_in_the_first(
    sizes: tuple[int, ...], group_size: int | None, folds: int, told: str
) -> None:
    for fold in range(1, folds + 1):
        with pytest.raises(UserError, match=told):
            divided(Numbered(sizes, group_size), folds=folds, fold=fold)


class Grouped(Numbered):
    """Images of given labels and groups."""

    def __init__(self, labels: str, groups: str) -> None:
        super().__init__((1,) * (int(max(labels)) + 1))
        self.labels, self.groups = (torch.tensor([int(each) for each in text]) for text in (labels, groups))

    def load(self) -> Loaded:
        images = torch.zeros(len(self.labels), 1, 4, 4, dtype=torch.uint8)
        return Loaded(InMemoryImages(images, self.labels), None, "grouped", groups=self.groups)


HARD = [("02112101012", "10033034202", 3), ("0001100000111", "5352363163414", 2)]  # one by one they were refused
NO_DIVISION = [  # though each class has groups enough
    ("0101121202", "0011223344", 3, "class '.' has . groups .* there is no division of the groups of which"),
    ("22201000121111", "36155106301232", 2, "class '.' is left for .* in fold 2: .*no division of all groups leaves"),
]


@pytest.mark.parametrize(("labels", "groups", "folds"), HARD)
def test_folds_of_groups_are_found_where_there_are_any(labels: str, groups: str, folds: int) -> None:
    tested = []
    for fold in range(1, folds + 1):
        data = divided(Grouped(labels, groups), folds=folds, fold=fold)
        owned = [{groups[index] for index in split.indices.tolist()} for split in data.splits.values()]
        assert sum(map(len, owned)) == len(set.union(*owned))
        for split in data.splits.values():
            assert set(split.labels.tolist()) == {int(each) for each in labels}
        tested += data.splits["test"].indices.tolist()
    assert sorted(tested) == list(range(len(labels)))


@pytest.mark.parametrize(("labels", "groups", "folds", "told"), NO_DIVISION)
def test_groups_that_fold_by_fold_cannot_be_divided_are_refused_in_the_first(
    labels: str, groups: str, folds: int, told: str
) -> None:
    for fold in range(1, folds + 1):
        with pytest.raises(UserError, match=told) as caught:
            divided(Grouped(labels, groups), folds=folds, fold=fold)
        assert "seed" not in str(caught.value)


@pytest.mark.parametrize(("labels", "groups", "folds"), HARD)
def test_folds_that_a_search_gave_up_are_told_as_not_found(
    labels: str, groups: str, folds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gives_up(monkeypatch)
    for fold in range(1, folds + 1):
        with pytest.raises(
            UserError, match=r"has . groups of images, but no .* was found .*another --data\.split_seed"
        ):
            divided(Grouped(labels, groups), folds=folds, fold=fold)


def gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the search for divisions end with its first step."""
    monkeypatch.setattr("fashion_tl.data.groups.STEPS", 0)
    monkeypatch.setattr("fashion_tl.data.groups.ALL", 0)


def test_a_class_that_is_lost_though_it_has_groups_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"'\w' is left for \w+: the class has \d groups of images, but no division of all groups"
    with pytest.raises(UserError, match=rf"{told} leaves each class one .* or remove the class\.$"):
        divided(Grouped("0101121202", "0011223344"))
    gives_up(monkeypatch)
    with pytest.raises(UserError, match=rf"{told} was found that leaves .*another --data\.split_seed"):
        divided(Grouped("01220201102111", "20004641261150"))


@pytest.mark.parametrize(("sizes", "folds", "own"), [((20, 5), 5, {}), ((20, 4), 2, {}), ((20, 3), 3, {"val": True})])
def test_as_few_images_as_folds_are_enough(sizes: tuple[int, ...], folds: int, own: dict[str, bool]) -> None:
    for fold in range(1, folds + 1):
        data = divided(Numbered(sizes, **own), folds=folds, fold=fold)
        assert all(set(split.labels.tolist()) == {0, 1} for split in data.splits.values())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"folds": 5}, "data.folds is 5 and data.fold None"),
        ({"fold": 1}, "data.folds is None and data.fold 1"),
        ({"folds": 1, "fold": 1}, "data.folds is 1, allowed is 2"),
        ({"folds": 5, "fold": 0}, "data.fold is 0, allowed is 1 to 5"),
        ({"folds": 5, "fold": 6}, "data.fold is 6, allowed is 1 to 5"),
    ],
)
def test_numbers_that_name_no_fold_are_refused(given: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ImageDataModule(Numbered((20, 20)), **given)  # type: ignore[arg-type]
