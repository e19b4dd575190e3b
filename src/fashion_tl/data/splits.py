"""Stratified, seeded splits by index."""

from __future__ import annotations

from collections import Counter, defaultdict

import torch
from torch import Tensor

from fashion_tl.data.folds import assign_folds
from fashion_tl.data.groups import Part, complete
from fashion_tl.data.sources import Loaded

_ROUNDS = 4  # of the groups, in which those taken early may be put back


def divide(
    loaded: Loaded,
    val_fraction: float,
    test_fraction: float,
    label_budget: int | None = None,
    per_class: int | None = None,
    seed: int = 0,
    fold: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Choose the images of train, val and test; what the source has not divided itself is split off its train images.

    Args:
        loaded: The images of a source.
        val_fraction: Share of each class that validates, where it is split off; share of a label budget that validates.
        test_fraction: Share of each class that tests, where it is split off.
        label_budget: Labelled images of each class, to train and to validate on; all if None.
        per_class: Most training images of each class; all if None.
        seed: The same seed gives the same choice.
        fold: Which fold tests, from 1, and how many there are, in the place of ``test_fraction``.

    Returns:
        Sorted indices of each split into its set of ``loaded.sets``.
    """
    labels, groups = loaded.train.labels, loaded.groups
    val_labels = loaded.sets["val"].labels

    def hold_out(indices: Tensor, fraction: float, keep: int) -> tuple[Tensor, Tensor]:
        if groups is None:
            kept, held = stratified_split(labels[indices], fraction, seed, keep)
        else:
            kept, held = grouped_split(labels[indices], groups[indices], fraction, seed, keep)
        return indices[kept], indices[held]

    train, test = torch.arange(len(labels)), torch.arange(len(loaded.sets["test"]))
    if loaded.test is None and fold is not None:
        held = assign_folds(labels, groups, fold[1], seed, len(loaded.divided) - 1) == fold[0]
        train, test = train[~held], train[held]
    elif loaded.test is None:
        train, test = hold_out(train, test_fraction, 1 if loaded.val is not None else 2)
    if label_budget is not None and loaded.val is None and groups is None:
        train, val = budget_split(labels, train, label_budget, val_fraction, seed)
    else:
        val = torch.arange(len(val_labels))
        if loaded.val is None:
            train, val = hold_out(train, val_fraction, 1)
        if label_budget is not None:
            validating = len(range(label_budget)[1 :: _every(val_fraction)])
            train = take_per_class(labels, train, label_budget - validating, seed)
            val = take_per_class(val_labels, val, validating, seed)
    if per_class is not None:
        train = take_per_class(labels, train, per_class, seed)
    return {"train": train, "val": val, "test": test}


def stratified_split(labels: Tensor, fraction: float, seed: int, keep: int = 1) -> tuple[Tensor, Tensor]:
    """Split indices so that each class gives the same share.

    Args:
        labels: Integer labels (N,).
        fraction: Share of each class that is held out, 0 to 1; above 0, a class of more than ``keep`` images gives at
            least one.
        seed: The same seed gives the same split.
        keep: Images of each class that stay at least.

    Returns:
        Sorted indices that stay, and sorted indices that are held out.
    """
    generator = torch.Generator().manual_seed(seed)
    stay, held = [], []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(round(len(members) * fraction), 1), max(len(members) - keep, 0)) if fraction > 0 else 0
        held.append(members[:count])
        stay.append(members[count:])
    return torch.cat(stay).sort().values, torch.cat(held).sort().values


def grouped_split(labels: Tensor, groups: Tensor, fraction: float, seed: int, keep: int = 1) -> tuple[Tensor, Tensor]:
    """Split indices so that no group is divided and each class gives about the same share.

    Groups come in an order drawn by seed, a few times; one changes sides if that brings the shares of its classes
    nearer to the fraction (least squares). A class of which nothing was held out then gives its smallest group. Where
    a class would still be lost, another division is searched for (``groups.complete``).

    Args:
        labels: Integer labels (N,).
        groups: Integer groups (N,), such as of the patient, the scene or the film that an image comes from.
        fraction: Share of each class that is held out, above 0 and below 1.
        seed: The same seed gives the same split.
        keep: Parts that what stays can be divided into, each with every class.

    Returns:
        Sorted indices that stay, and sorted indices that are held out.
    """
    names = torch.unique(groups)
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))].tolist()
    counts: dict[int, dict[int, int]] = defaultdict(dict)  # images of each class, by group
    for (group, label), count in Counter(zip(groups.tolist(), labels.tolist(), strict=True)).items():
        counts[group][label] = count
    total = Counter(labels.tolist())
    staying = Counter(label for each in counts.values() for label in each)
    held, chosen = Counter[int](), set[int]()

    def move(group: int) -> None:
        sign = -1 if group in chosen else 1
        chosen.symmetric_difference_update([group])
        for label, count in counts[group].items():
            held[label] += sign * count
            staying[label] -= sign

    def may(group: int) -> bool:
        return group in chosen or all(staying[label] > keep for label in counts[group])

    def change(group: int) -> float:
        """Return by how much a move would change the sum of squared errors of the shares."""
        sign = -1 if group in chosen else 1
        return sum(
            count * (count + 2 * sign * (held[label] - fraction * total[label])) / total[label] ** 2
            for label, count in counts[group].items()
        )

    for group in order * _ROUNDS:
        if change(group) < 0 and may(group):
            move(group)
    for label in sorted(total):
        left = [group for group in order if group not in chosen and label in counts[group] and may(group)]
        if left and not held[label]:
            move(min(left, key=lambda group: sum(counts[group].values())))
    assigned = torch.isin(groups, torch.tensor(sorted(chosen), dtype=groups.dtype)).long()
    mask = complete(labels, groups, assigned, [Part(1 - fraction, keep), Part(fraction)], seed) == 1
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def budget_split(labels: Tensor, indices: Tensor, budget: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose labelled images of each class, to train and to validate on, within a budget.

    A smaller budget takes a subset of a larger one, of the images to train on and of those to validate on alike.

    Args:
        labels: Integer labels (N,) of the whole set.
        indices: The indices to choose from.
        budget: Labelled images of each class in all, at least 2.
        fraction: Share of them that validates, above 0 to 0.5; one in every ``round(1 / fraction)``, beginning with
            the second.
        seed: The same seed gives the same choice.

    Returns:
        Sorted indices to train on, and sorted indices to validate on.
    """
    generator = torch.Generator().manual_seed(seed)
    every = _every(fraction)
    train, val = [], []
    for label in torch.unique(labels[indices]).tolist():
        members = indices[labels[indices] == label]
        members = members[torch.randperm(len(members), generator=generator)][:budget]
        validates = torch.arange(len(members)) % every == 1
        train.append(members[~validates])
        val.append(members[validates])
    return torch.cat(train).sort().values, torch.cat(val).sort().values


def _every(fraction: float) -> int:
    """Say that one in how many labelled images of a budget validates."""
    return max(2, round(1 / fraction))


def take_per_class(labels: Tensor, indices: Tensor, count: int, seed: int) -> Tensor:
    """Keep at most ``count`` indices of each class, drawn by seed; a smaller count takes a subset of a larger one.

    Args:
        labels: Integer labels (N,) of the whole set.
        indices: The indices to choose from.
        count: Images a class.
        seed: The same seed gives the same choice.
    """
    order = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]
    kept = [order[labels[order] == label][:count] for label in torch.unique(labels).tolist()]
    return torch.cat(kept).sort().values
