"""The order in which an epoch draws training images: every one once, or classes equally often."""

from __future__ import annotations

import struct
import zlib

import torch
from torch import Tensor

SAMPLERS = RANDOM, BALANCED = "random", "balanced"


def random_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return every position once (count,), in an order that depends on seed and epoch alone."""
    return torch.randperm(count, generator=_of_epoch(seed, epoch))


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Draw as many positions as there are samples, classes equally often and the samples of a class evenly.

    Samples are dealt in rounds of one of each class, in an order drawn anew for each round; the last round may deal to
    a part of the classes, to others in the next epoch. So the counts of two classes differ by at most one in an epoch,
    and in any first part of it. A class hands out its samples in an order drawn by seed, and in another one once all
    are out, from epoch to epoch without a break: none comes a second time before all others of its class came once
    (sampling without replacement). The order depends on labels, seed and epoch alone.

    Args:
        labels: Classes (N,) of the samples; a class without samples is not drawn.
        seed: Seed of the run.
        epoch: The epoch, from 0.

    Returns:
        Positions (N,), those of small classes several times.
    """
    classes, sizes = torch.unique(labels, return_counts=True)
    number = len(classes)
    rounds, rest = divmod(len(labels), number)
    generator = _of_epoch(seed, epoch)
    turns = torch.rand(rounds, number, generator=generator).argsort(1)
    late = (epoch * rest + torch.arange(rest)) % number  # the classes that the last round deals to
    dealt = torch.cat([turns.flatten(), late[torch.randperm(rest, generator=generator)]])
    counts = torch.bincount(dealt, minlength=number).tolist()
    members = torch.split(labels.argsort(stable=True), sizes.tolist())
    order = torch.empty_like(dealt)
    for place, turns_of in enumerate(torch.split(dealt.argsort(stable=True), counts)):
        # What the epochs before have dealt to this class: whole rounds, and its turns in their last ones.
        before = epoch * rounds - max(epoch * rest - place, 0) // -number
        order[turns_of] = _dealt(members[place], before, counts[place], seed, place)
    return order


def _dealt(members: Tensor, start: int, count: int, seed: int, place: int) -> Tensor:
    """Return a part (count,) of the endless row of a class's samples, which is one permutation after the other."""
    size = len(members)
    turns = range(start // size, (start + count - 1) // size + 1)
    row = [members[torch.randperm(size, generator=_of_class(seed, place, turn))] for turn in turns]
    return torch.cat([*row, members[:0]])[start % size :][:count]


def _of_epoch(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def _of_class(seed: int, place: int, turn: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(struct.pack("<3q", seed % 2**63, place, turn)))
