"""Folds of the images of a source: each of K runs holds another one out, and each image is held out once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from fashion_tl.data.groups import Part, complete, divisible
from fashion_tl.data.sources import Loaded
from fashion_tl.errors import UserError

MOST = 1000  # folds


def assign_folds(labels: Tensor, groups: Tensor | None, folds: int, seed: int, others: int = 1) -> Tensor:
    """Divide images into folds, stratified, so that no group is divided.

    Without groups, the images of each class are dealt to the folds in turn, in an order drawn by seed: counts of a
    class, and sizes of folds, differ by at most one. Groups are dealt one by one, those first whose rarest class is in
    the fewest groups and among them the largest, each to the fold where it keeps the shares of its classes most equal
    (least squares). Where a class would be lost, another division is searched for (``groups.complete``).

    Args:
        labels: Integer labels (N,).
        groups: Integer groups (N,), or None if each image stands for itself.
        folds: Number of folds K, at least 2.
        seed: The same seed gives the same folds.
        others: Parts that groups outside each fold can be divided into, each with every class.

    Returns:
        The fold (N,) of each image, 1 to K.
    """
    generator = torch.Generator().manual_seed(seed)
    if groups is None:
        order = torch.randperm(len(labels), generator=generator)
        dealt = order[labels[order].argsort(stable=True)]
        found = torch.empty_like(dealt)
        found[dealt] = torch.arange(len(labels)) % folds + 1
        return found
    names, members = torch.unique(groups, return_inverse=True)
    counts: dict[int, Counter[int]] = defaultdict(Counter)  # images of each class, by group
    for group, label in zip(members.tolist(), labels.tolist(), strict=True):
        counts[group][label] += 1
    total = Counter(labels.tolist())
    holding = Counter(label for each in counts.values() for label in each)
    order = torch.randperm(len(names), generator=generator)
    ordered = sorted(order.tolist(), key=lambda g: (min(holding[label] for label in counts[g]), -counts[g].total()))
    held: list[Counter[int]] = [Counter() for _ in range(folds)]
    fold_of = torch.empty(len(names), dtype=torch.int64)
    for group in ordered:
        added = [
            (sum(n * (2 * own[label] + n) / total[label] ** 2 for label, n in counts[group].items()), own.total())
            for own in held
        ]
        chosen = min(range(folds), key=added.__getitem__)
        held[chosen].update(counts[group])
        fold_of[group] = chosen
    parts = [Part(1 / folds, parts_needed(folds, others) // folds)] * folds
    return complete(labels, groups, fold_of[members], parts, seed) + 1


def parts_needed(folds: int, others: int) -> int:
    """Return how many parts groups must allow, each with every class, for all of the runs.

    Of three folds or more one may validate while the others train; of two the other one has to do both.

    Args:
        folds: Number of folds K.
        others: Parts that what is left of each fold is divided into.
    """
    return folds * -(-others // (folds - 1))


def check_folds(loaded: Loaded, folds: int, seed: int, class_names: Sequence[str]) -> None:
    """Refuse folds of which any run would lack a class: before the first run, not in a later one.

    Each fold needs an image of every class (or a group with one), and so does what is left: one to train on, and one
    to validate on if that is split off.

    Args:
        loaded: The images of a source, without a test set.
        folds: Number of folds K.
        seed: Seed of the folds.
        class_names: Names of the classes, for the message.

    Raises:
        UserError: If a class has too few, or too few in a fold.
    """
    labels, others = loaded.train.labels, len(loaded.divided) - 1
    owners = torch.arange(len(labels)) if loaded.groups is None else loaded.groups
    assigned = assign_folds(labels, loaded.groups, folds, seed, others)
    counts = torch.zeros(len(class_names), folds + 1, dtype=torch.int64)  # images or groups, by class and fold
    found = torch.unique(torch.stack([labels, assigned, owners], 1), dim=0)
    counts.index_put_((found[:, 0], found[:, 1]), torch.ones(len(found), dtype=torch.int64), accumulate=True)
    inside, total = counts[:, 1:], counts.sum(1)
    short = (total > 0) & ((inside == 0) | (total[:, None] - inside < others)).any(1)
    if short.any():
        rarest = int(torch.where(short, total, len(labels) + 1).argmin())
        name, count = class_names[rarest], int(total[rarest])
        units = "images" if loaded.groups is None else "groups of images"
        largest = -(-count // folds)  # if each fold has as many
        if count >= folds and count - largest >= others:
            none = divisible(labels, owners, parts_needed(folds, others)) is False
            raise UserError(
                f"data.folds is {folds}: class {name!r} has {count} {units}, but "
                f"{'there is no division of the groups' if none else 'no division of the groups was found'} "
                f"of which each fold has one of every class, and what is left {others}. "
                f"{'Give' if none else 'Try another --data.split_seed, or give'} fewer folds."
            )
        raise UserError(
            f"data.folds is {folds}: class {name!r} has too few {units}, {count}. Each fold needs one of every class, "
            f"and what is left {others}. Give fewer folds, or remove the class."
        )
