"""The seed of a run, and the random numbers that belong to one batch."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
