"""Groups are divided wherever they can be, as evenly as they can be, by seed; compared with all divisions there are."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fashion_tl.data import groups as module
from fashion_tl.data.csv_table import CSV
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.groups import Part, complete, divisible

# Each class has three groups or more; taken one by one they lose a class.
HARD = ("01220201102111", "20004641261150")


def numbers(text: str) -> Tensor:
    return torch.tensor([int(each) for each in text])


@pytest.mark.parametrize("seed", range(3))
def test_a_table_of_groups_is_divided_where_a_division_exists(tmp_path: Path, seed: int) -> None:
    lines = ["path,label,patient"]
    for number, (label, group) in enumerate(zip(*HARD, strict=True)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,class {label},patient {group}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = CSV(tmp_path / "t.csv", group_column="patient", storage_size=4)
    data = ImageDataModule(source, num_workers=0, split_seed=seed)
    data.setup()
    assert data.loaded is not None
    assert data.loaded.groups is not None
    for split in data.splits.values():
        assert set(split.labels.tolist()) == {0, 1, 2}
    owned = [set(data.loaded.groups[split.indices].tolist()) for split in data.splits.values()]
    assert sum(map(len, owned)) == len(set.union(*owned)) == 6
    assert sum(len(split) for split in data.splits.values()) == 14


def drawn(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw the labels and groups of a few images: of 4 to 7 groups, and 1 to 4 classes of which each has some."""
    has = rng.random((rng.integers(4, 8), rng.integers(1, 5))) < rng.choice([0.4, 0.6, 0.8])
    has[0] |= ~has.any(0)
    owners, classes = (torch.from_numpy(each) for each in np.repeat(np.nonzero(has), rng.integers(1, 6, has.sum()), 1))
    return classes, owners


def best_error(labels: Tensor, groups: Tensor, parts: list[Part]) -> float | None:
    """Return the least sum of squared errors of the shares over all divisions with every class; None without any."""
    pairs = list(zip(groups.tolist(), labels.tolist(), strict=True))
    masks = [
        sum(1 << label for label in {label for own, label in pairs if own == group}) for group in set(groups.tolist())
    ]
    places = [number for number, part in enumerate(parts) for _ in range(part.splits)]
    found = []
    for chosen in product(range(len(places)), repeat=len(masks)):
        covered = [0] * len(places)
        for place, mask in zip(chosen, masks, strict=True):
            covered[place] |= mask
        if len(set(covered)) == 1:
            numbers = dict(zip(set(groups.tolist()), chosen, strict=True))
            found.append(error(pairs, [places[numbers[group]] for group, _ in pairs], parts))
    return min(found, default=None)


def error(pairs: list[tuple[int, int]], assigned: list[int], parts: list[Part]) -> float:
    total = Counter(label for _, label in pairs)
    held = Counter((part, label) for part, (_, label) in zip(assigned, pairs, strict=True))
    return sum(
        (held[number, label] / total[label] - part.share) ** 2 for number, part in enumerate(parts) for label in total
    )


@pytest.mark.parametrize("parts", [[Part(0.75), Part(0.25)], [Part(0.8, 2), Part(0.2)]], ids=["two", "three"])
@pytest.mark.parametrize("search", [False, True], ids=["all", "search"])
def test_every_division_that_exists_is_found(parts: list[Part], search: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if search:
        monkeypatch.setattr(module, "ALL", 0)
    rng, ratios = np.random.default_rng(0), []
    for seed in range(30):
        labels, groups = drawn(rng)
        best = best_error(labels, groups, parts)
        assert divisible(labels, groups, sum(part.splits for part in parts)) == (best is not None)
        nothing = torch.zeros(len(labels), dtype=torch.int64)
        found = complete(labels, groups, nothing, parts, seed)
        assert all(len(set(found[groups == group].tolist())) == 1 for group in torch.unique(groups))
        if best is None:
            assert torch.equal(found, nothing)
            continue
        assert all(set(labels[found == part].tolist()) == set(labels.tolist()) for part in range(len(parts)))
        for number, part in enumerate(parts):
            assert divisible(labels[found == number], groups[found == number], part.splits)
        pairs = list(zip(groups.tolist(), labels.tolist(), strict=True))
        ratios.append((error(pairs, found.tolist(), parts) + 0.01) / (best + 0.01))
    assert len(ratios) > 5
    assert max(ratios) < 1 + 1e-9 or search
    assert np.median(ratios) < 1.5


def test_a_division_with_every_class_stays_as_it_is() -> None:
    labels, groups = torch.arange(12) % 2, torch.arange(12) // 2
    for lost in (0, 1, 2):
        assigned = (groups <= lost).long()
        assert torch.equal(complete(labels, groups, assigned, [Part(0.9, 2), Part(0.1)], 0), assigned)
    # The two that are left could not be divided into three.
    assigned = (groups < 4).long()
    assert not torch.equal(complete(labels, groups, assigned, [Part(0.9, 3), Part(0.1)], 0), assigned)


@pytest.mark.parametrize("limit", [0, module.ALL])
def test_divisions_depend_on_their_seed_alone(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALL", limit)
    labels, groups = torch.arange(40) % 2, torch.arange(40) // 2
    if limit:
        labels, groups = labels[:20], groups[:20]
    nothing, parts = torch.zeros_like(labels), [Part(0.8), Part(0.2)]
    found = [complete(labels, groups, nothing, parts, seed) for seed in (0, 0, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert len({tuple(each.tolist()) for each in found}) == 3
    assert {int(each.sum()) for each in found} == {len(labels) // 5}


def test_many_groups_of_many_classes_are_searched_in_bounded_steps() -> None:
    rng = np.random.default_rng(0)
    owners, classes = np.nonzero(rng.random((300, 50)) < 0.15)
    labels, groups = torch.from_numpy(classes), torch.from_numpy(owners)
    parts = [Part(0.1)] * 10
    found = complete(labels, groups, torch.zeros_like(labels), parts, 0)
    assert all(len(torch.unique(labels[found == part])) == 50 for part in range(10))
    assert np.bincount(found.numpy()).std() < 0.1 * len(labels) / 10
    assert divisible(labels, groups, 300) is False
