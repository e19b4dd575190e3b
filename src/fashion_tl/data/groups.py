"""Groups of images divided among splits or folds so that each gets every class, wherever such a division is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS = 50_000  # of the search; those of up to 15 groups and two parts, or 11 and three, are fewer
ALL = 500_000  # counts of classes in all divisions, up to which each is looked at
_KEPT = 5_000_000  # counts of groups in states without a way on, 4 bytes each
_ROUNDS = 4  # in which groups change places for the sake of the shares
_PAIRS = 1000  # groups, of which two may change places with each other

Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A part of the images.

    Attributes:
        share: Its share of each class, above 0 and below 1.
        splits: How many parts it must itself allow to be divided into, each with every class.
    """

    share: float
    splits: int = 1


def complete(labels: Tensor, groups: Tensor, assigned: Tensor, parts: Sequence[Part], seed: int) -> Tensor:
    """Return a division in which each part has every class: the one that is given if it has, else one that is found.

    Of few groups it is the one whose shares are nearest to those wanted (least squares). Of more, a search
    (``divisible``) gives each part every class, the other groups go where they bring the shares nearest, and groups
    move, or change places, as long as that helps.

    Args:
        labels: Integer labels (N,).
        groups: Integer groups (N,).
        assigned: The part (N,) of each image, by its position in ``parts``; the same within a group.
        parts: The parts.
        seed: The same seed gives the same division.

    Returns:
        The part (N,) of each image; as given if there is no such division, or if none was found.
    """
    counts, members = _count(labels, groups)
    given = np.zeros(len(counts), np.int64)
    given[members] = assigned.numpy()
    masks = _masks(counts)
    held = [[mask for mask, own in zip(masks, given, strict=True) if own == part] for part in range(len(parts))]
    classes = Counter(label for mask in masks for label in mask)
    if all(
        set().union(*own) == set(classes) and _Search(own, part.splits).run() is not False
        for own, part in zip(held, parts, strict=True)
    ):
        return assigned
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed)).numpy()
    places = sum(part.splits for part in parts)
    if len(classes) * places ** len(counts) <= ALL:
        best = _best(counts[order], parts)
    else:
        found = _Search([masks[group] for group in order], places).run()
        best = _balanced(counts[order], parts, found) if isinstance(found, dict) else None
    if best is None:
        return assigned
    part_of = np.empty_like(best)
    part_of[order] = best
    return torch.from_numpy(part_of[members])


def divisible(labels: Tensor, groups: Tensor, parts: int) -> bool | None:
    """Say whether groups can be divided into parts that each have every class; None if that was not found out.

    Args:
        labels: Integer labels (N,).
        groups: Integer groups (N,).
        parts: Number of parts.
    """
    found = _Search(_masks(_count(labels, groups)[0]), parts).run()
    return None if found is None else found is not False


def _count(labels: Tensor, groups: Tensor) -> tuple[Groups, Groups]:
    """Return the images of each class in each group (G, C), and the number of its group (N,) of each image."""
    names, members = torch.unique(groups, return_inverse=True)
    classes, own = torch.unique(labels, return_inverse=True)
    flat = torch.bincount(members * len(classes) + own, minlength=len(names) * len(classes))
    return flat.view(len(names), len(classes)).numpy(), members.numpy()


def _masks(counts: Groups) -> list[frozenset[int]]:
    """Return the classes of each group."""
    return [frozenset(row.nonzero()[0].tolist()) for row in counts]


class _Search:
    """A search, with bounded steps, for groups that give every part every class.

    The class that has the fewest groups to spare comes first; its group with most classes that are missing goes to a
    part that misses some. Only differences that matter are tried: groups of the same classes are alike, and so are
    parts that miss the same. A part without use for a group is none to try, for moving the group does no harm.
    """

    def __init__(self, masks: Sequence[frozenset[int]], parts: int) -> None:
        self.groups: dict[frozenset[int], list[int]] = {}
        for number, mask in enumerate(masks):
            self.groups.setdefault(mask, []).append(number)
        self.left = {mask: len(numbers) for mask, numbers in self.groups.items()}
        have = Counter(label for mask in masks for label in mask)
        self.having = {label: [mask for mask in self.left if label in mask] for label in have}
        self.spare = {label: count - parts for label, count in have.items()}
        self.missing = [frozenset(have)] * parts
        self.failed: set[tuple[bytes, tuple[frozenset[int], ...]]] = set()

    def run(self) -> dict[int, int] | bool | None:
        """Return the part of those groups that are needed, False if there is no such division, None if unknown."""
        taken: list[tuple[frozenset[int], int, frozenset[int]]] = []
        untried: list[list[tuple[frozenset[int], int]]] = []
        steps = 0
        while any(self.missing):
            untried.append(self._options())
            while untried and not untried[-1]:
                untried.pop()
                if taken:
                    if len(self.failed) * len(self.left) < _KEPT:
                        self.failed.add(self._state())
                    mask, part, before = taken.pop()
                    self._change(mask, part, before, 1)
            if not untried:
                return False
            if steps == STEPS:
                return None
            steps += 1
            mask, part = untried[-1].pop()
            taken.append((mask, part, self.missing[part]))
            self._change(mask, part, self.missing[part] - mask, -1)
        numbers = {mask: iter(members) for mask, members in self.groups.items()}
        return {next(numbers[mask]): part for mask, part, _ in taken}

    def _state(self) -> tuple[bytes, tuple[frozenset[int], ...]]:
        left = np.fromiter(self.left.values(), np.int32, len(self.left)).tobytes()
        return left, tuple(sorted(self.missing, key=sorted))

    def _options(self) -> list[tuple[frozenset[int], int]]:
        """List what a group may be given to, the best last; nothing where there is no way on."""
        wanted = Counter(label for own in self.missing for label in own)
        scarce = min(wanted, key=lambda label: (self.spare[label], -wanted[label]))
        if self.spare[scarce] < 0 or (self.failed and self._state() in self.failed):
            return []
        useful = [mask for mask in self.having[scarce] if self.left[mask]]
        chosen = max(useful, key=lambda mask: sum(wanted[label] for label in mask))
        alike: dict[frozenset[int], int] = {}
        for part, own in enumerate(self.missing):
            if own & chosen:
                alike.setdefault(own, part)
        return [(chosen, alike[own]) for own in sorted(alike, key=lambda own: (len(own & chosen), len(own)))]

    def _change(self, mask: frozenset[int], part: int, missing: frozenset[int], sign: int) -> None:
        """Give a group to a part, or take it back; a class has groups to spare beyond the parts that miss it."""
        self.left[mask] += sign
        for label in mask:
            self.spare[label] += sign
        for label in self.missing[part] ^ missing:
            self.spare[label] -= sign
        self.missing[part] = missing


def _places(parts: Sequence[Part]) -> Groups:
    """Return the part of each place: a part has as many as it must allow to be divided into."""
    return np.repeat(np.arange(len(parts)), [part.splits for part in parts])


def _best(counts: Groups, parts: Sequence[Part]) -> Groups | None:
    """Look at all divisions of groups, and return the part (G,) of each in the one with the best shares."""
    shares, has, part_of = counts / counts.sum(0), counts > 0, _places(parts)
    everyone = np.indices((len(part_of),) * len(counts), np.int8).reshape(len(counts), -1).T  # the place of each group
    valid = np.ones(len(everyone), np.bool_)
    for place in range(len(part_of)):
        valid &= ((everyone == place).astype(np.float32) @ has > 0).all(1)
    divisions: Groups = part_of[everyone[valid]]
    if not len(divisions):
        return None
    errors = np.zeros(len(divisions))
    for number, part in enumerate(parts):
        errors += (((divisions == number).astype(np.float64) @ shares - part.share) ** 2).sum(1)
    found: Groups = divisions[errors.argmin()]
    return found


def _balanced(counts: Groups, parts: Sequence[Part], found: dict[int, int]) -> Groups:
    """Place the groups that were not needed, bring the shares nearer, and return the part (G,) of each group."""
    balance = _Balance(counts, parts)
    for group, place in found.items():
        balance.put(group, place)
    for group in range(len(counts)):
        balance.settle(group)
    balance.improve()
    result: Groups = balance.part_of[balance.places]
    return result


class _Balance:
    """Groups in places, each of which keeps every class."""

    def __init__(self, counts: Groups, parts: Sequence[Part]) -> None:
        self.shares = counts / counts.sum(0)  # of each class, by group
        self.has = (counts > 0).astype(np.int64)
        self.part_of = _places(parts)
        self.places = np.full(len(counts), -1)
        self.beyond = np.repeat([[-part.share] for part in parts], counts.shape[1], axis=1)  # the share that is wanted
        self.groups_with = np.zeros((len(self.part_of), counts.shape[1]), np.int64)

    def put(self, group: int, place: int) -> None:
        """Put a group into a place, out of the one where it is."""
        for own, sign in ((self.places[group], -1), (place, 1)):
            if own >= 0:
                self.beyond[self.part_of[own]] += sign * self.shares[group]
                self.groups_with[own] += sign * self.has[group]
        self.places[group] = place

    def settle(self, group: int) -> None:
        """Put a group that has no place into the part that it suits best."""
        if self.places[group] < 0:
            self.put(group, int((self.beyond[self.part_of] @ self.shares[group]).argmin()))

    def improve(self) -> None:
        """Let groups move, or two of them change places, while the squared errors of the shares become less."""
        for _ in range(_ROUNDS):
            changed = False
            for group in range(len(self.places)):
                while self._improve(group):
                    changed = True
            if not changed:
                return

    def _improve(self, group: int) -> bool:
        here = self.places[group]
        gain, other, there = -1e-12, -1, -1
        apart = self.beyond[self.part_of] - self.beyond[self.part_of[here]]
        # To another part alone: the sum of squares changes by 2 d (error there - error here) + 2 d d.
        moved = 2 * apart @ self.shares[group] + 2 * (self.shares[group] ** 2).sum()
        keeps = (self.groups_with[here] - self.has[group] > 0)[self.has[group] > 0].all()
        moved[(self.part_of == self.part_of[here]) | (not keeps)] = np.inf
        if moved.min() < gain:
            gain, there = float(moved.min()), int(moved.argmin())
        if len(self.places) <= _PAIRS:
            given = self.shares[group] - self.shares
            swapped = 2 * (given * apart[self.places]).sum(1) + 2 * (given**2).sum(1)
            brought = self.has[group] - self.has
            allowed = (self.groups_with[here] - brought > 0).all(1)
            allowed &= (self.groups_with[self.places] + brought > 0).all(1)
            swapped[~allowed | (self.part_of[self.places] == self.part_of[here])] = np.inf
            if swapped.min() < gain:
                gain, other = float(swapped.min()), int(swapped.argmin())
                there = self.places[other]
        if there < 0:
            return False
        self.put(group, there)
        if other >= 0:
            self.put(other, here)
        return True
