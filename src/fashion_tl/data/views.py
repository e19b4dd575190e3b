"""The random views of training images: what augmentation draws in each epoch, drawn again outside of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.batches import Batch, BatchLoader, CachedFeatures, Split
from fashion_tl.seeds import generator_state, seed_batch, set_generator_state


@dataclass(frozen=True)
class DrawnViews:
    """What a run draws of its training images, epoch by epoch.

    A run seeds every batch by its seed, process, epoch and number, and augmentation draws first. The same seeds in the
    same order of batches give the same images again.

    Attributes:
        split: The training images.
        augment: The augmentation of a batch (B, C, H, W) on its device.
        batch_size: Images in a batch of one process.
        shuffle: Whether the order of the images changes with the epoch.
        seed: Seed of the run.
        processes: Number of processes that train.
    """

    split: Split
    augment: Callable[[Tensor], Tensor]
    batch_size: int
    shuffle: bool
    seed: int
    processes: int

    def batches(self, epoch: int) -> list[tuple[int, int, Tensor]]:
        """List the batches of an epoch as process, number and positions (B,), one process after the other.

        The samples that no process sees in this epoch come last, in batches of a process that does not exist, so that
        each sample is there once.
        """
        found = [
            (rank, number, positions)
            for rank in range(self.processes)
            for number, positions in enumerate(self._loader(rank, epoch).batches())
        ]
        seen = torch.zeros(len(self.split), dtype=torch.bool)
        seen[torch.cat([positions for *_, positions in found])] = True
        rest = torch.split((~seen).nonzero().flatten(), self.batch_size)
        return found + [(self.processes, number, positions) for number, positions in enumerate(rest) if len(positions)]

    def order(self, epoch: int) -> Tensor:
        """Return the positions (N,) of all samples in the order in which ``draw`` yields them."""
        return torch.cat([positions for *_, positions in self.batches(epoch)])

    def draw(self, epoch: int, device: torch.device, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw the views of an epoch again; torch's generators are left as the last batch leaves them.

        Args:
            epoch: The epoch, from 0.
            device: The device on which training augments.
            workers: Processes that read image files.

        Yields:
            For each batch the augmented images (B, C, H, W) on the device, float in 0 to 1, and the state (S,) of the
            generators after that, from which dropout goes on.
        """
        batches = self.batches(epoch)
        loader = self._loader(0, epoch, workers)
        try:
            read = loader.read([positions for *_, positions in batches])
            for (rank, number, _), batch in zip(batches, read, strict=True):
                images = self.split.reading.fetch(batch, False).to(device)
                seed_batch(self.seed, rank, epoch, number, device)
                images = self.augment(images)
                yield images, generator_state(device)
        finally:
            loader.close()

    def _loader(self, rank: int, epoch: int, workers: int = 0) -> BatchLoader:
        split, size = self.split, self.batch_size
        loader = BatchLoader(split, size, self.shuffle, self.seed, rank, self.processes, workers)
        loader.set_epoch(epoch)
        return loader


class DrawnView(CachedFeatures):
    """Features of the one view of each sample that an epoch draws, in the order of the epoch's batches.

    Args:
        arrays: The arrays of N rows that the upper stages take.
        order: The position (N,) of the sample in each row.
        states: States of the generators after each batch of this process was augmented (batches, S).
        dtype: As for ``CachedFeatures``.

    Attributes:
        own_epoch: Whether training is in the epoch that draws this view: dropout then draws what it would draw after
            the augmentation. In later epochs other samples make up a batch, and it draws from the batch's own seed.
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], order: Tensor, states: np.ndarray, dtype: torch.dtype | None = torch.float32
    ) -> None:
        super().__init__([arrays], dtype=dtype)
        self.row_of = torch.empty_like(order)
        self.row_of[order] = torch.arange(len(order))
        self.states, self.own_epoch = states, False

    def to(self, device: torch.device) -> DrawnView:
        """Move all rows to a device, once, where the caller knows that they fit."""
        super().to(device)
        self.row_of = self.row_of.to(device)
        return self

    def fetch(self, batch: Batch, training: bool) -> tuple[Tensor, ...]:
        """Gather a batch: one tensor of B rows for each array; images (B, C, H, W) are channels_last."""
        device = batch.labels.device
        if training and self.own_epoch and batch.number is not None:
            set_generator_state(torch.from_numpy(self.states[batch.number].copy()), device)
        return self.gather(self.row_of[batch.positions.to(self.row_of.device)], device)
