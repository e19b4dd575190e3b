"""The seed of a run, and the random numbers that belong to one batch."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def run_seed() -> int | None:
    """Return the seed that ``seed_everything`` was given for this run, or None if the run has none."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed else None


def seed_batch(seed: int, rank: int, epoch: int, batch: int, device: torch.device) -> None:
    """Seed what augmentation and dropout draw from, for one batch of one process.

    Every batch has random numbers of its own, so a run that goes on in the middle of an epoch draws what it would
    have drawn. Generators of other devices, NumPy's and Python's are left alone.
    """
    # torch's generator on a CPU takes 32 bits of a seed.
    value = zlib.crc32(struct.pack("<4q", seed, rank, epoch, batch))
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


def generator_state(device: torch.device) -> Tensor:
    """Return the state of the generators that ``seed_batch`` seeds: bytes (S,), on the CPU."""
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.default_generators[device.index or 0].get_state())
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return torch.cat(states)


def set_generator_state(state: Tensor, device: torch.device) -> None:
    """Have the generators go on from a ``generator_state``."""
    size = len(torch.default_generator.get_state())
    torch.default_generator.set_state(state[:size].clone())
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].set_state(state[size:].clone())
    elif device.type == "mps":
        torch.mps.set_rng_state(state[size:].clone())


@contextmanager
def seeded(seed: bool | int) -> Iterator[int | None]:
    """Seed Python, NumPy and torch for a run, and forget the run's seed afterwards.

    Args:
        seed: The seed; True draws one, False is for a run without.

    Yields:
        The seed, or None.
    """
    from lightning.pytorch import seed_everything

    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.pop(name, None) for name in names}
    try:
        yield None if seed is False else seed_everything(None if seed is True else seed, workers=True, verbose=False)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
