"""The random views of training images: what augmentation draws in each epoch, drawn again outside of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.batches import Batch, BatchLoader, CachedFeatures, Split
from fashion_tl.data.sampling import RANDOM
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
        sampler: As for ``BatchLoader``.
    """

    split: Split
    augment: Callable[[Tensor], Tensor]
    batch_size: int
    shuffle: bool
    seed: int
    processes: int
    sampler: str = RANDOM

    def batches(self, epoch: int) -> list[tuple[int, int, Tensor]]:
        """List the batches of an epoch as process, number and positions (B,), one process after the other.

        The samples that no process sees in this epoch come last, in batches of a process that does not exist, so that
        each sample is there: once, or as often as the sampler draws it.
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
        """Return the positions (R,) of all samples in the order in which ``draw`` yields them; R is N or more."""
        return torch.cat([positions for *_, positions in self.batches(epoch)])

    def draw(
        self, epoch: int, device: torch.device, workers: int = 0, only: slice = slice(None)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Draw the views of an epoch again; torch's generators are left as the last batch leaves them.

        Args:
            epoch: The epoch, from 0.
            device: The device on which training augments.
            workers: Processes that read image files.
            only: Which of the epoch's batches.

        Yields:
            For each batch the augmented images (B, C, H, W) on the device, float in 0 to 1, and the state (S,) of the
            generators after that, from which dropout goes on.
        """
        batches = self.batches(epoch)[only]
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
        loader = BatchLoader(split, size, self.shuffle, self.seed, rank, self.processes, workers, sampler=self.sampler)
        loader.set_epoch(epoch)
        return loader


class DrawnView(CachedFeatures):
    """Features of the one view of each sample that an epoch draws, in the order of the epoch's batches.

    Args:
        arrays: The arrays of R rows that the upper stages take.
        order: The position (R,) of the sample in each row; each of the N samples has one row, or several.
        states: States of the generators after each batch of this process was augmented (batches, S).
        dtype: As for ``CachedFeatures``.
        first: The row (batches,) of the first sample of each batch of this process; needed where samples have several.

    Attributes:
        own_epoch: Whether training is in the epoch that draws this view: a sample that it draws several times is then
            in each of its views in turn, and dropout draws what it would draw after the augmentation. In later epochs
            other samples make up a batch: one of a sample's views is drawn, and dropout draws, by the batch's own seed.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        order: Tensor,
        states: np.ndarray,
        dtype: torch.dtype | None = torch.float32,
        first: Sequence[int] = (),
    ) -> None:
        super().__init__([arrays], dtype=dtype)
        self.rows = order.argsort(stable=True)  # of the first sample, of the second, ...
        self.counts = torch.bincount(order)
        self.starts = self.counts.cumsum(0) - self.counts
        self.several = len(order) > len(self.counts)
        self.states, self.first, self.own_epoch = states, first, False

    def to(self, device: torch.device) -> DrawnView:
        """Move all rows to a device, once, where the caller knows that they fit."""
        super().to(device)
        self.rows, self.counts, self.starts = (each.to(device) for each in (self.rows, self.counts, self.starts))
        return self

    def fetch(self, batch: Batch, training: bool) -> tuple[Tensor, ...]:
        """Gather a batch: one tensor of B rows for each array; images (B, C, H, W) are channels_last."""
        device = batch.labels.device
        if training and self.own_epoch and batch.number is not None:
            set_generator_state(torch.from_numpy(self.states[batch.number].copy()), device)
            if self.several:
                start = self.first[batch.number]
                return self.gather(torch.arange(start, start + len(batch), device=self.device), device)
        positions = batch.positions.to(self.device)
        rows = self.starts[positions]
        if self.several:
            counts = self.counts[positions]
            draws = torch.rand(len(rows), device=device, dtype=torch.float32).to(self.device)
            rows = rows + (draws * counts).long().minimum(counts - 1)
        return self.gather(self.rows[rows], device)
