"""The views of images whose features are cached, and the order in which their rows are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.augment_ops import blend
from fashion_tl.data.batches import VIEWS, BatchLoader, Split
from fashion_tl.data.policies import trivial_augment
from fashion_tl.data.sampling import balanced_order
from fashion_tl.data.views import DrawnViews
from fashion_tl.features.keys import object_hash
from fashion_tl.seeds import generator_state, seed_batch

Made = tuple[Mapping[str, Tensor], Mapping[str, np.ndarray]]  # images (B, C, H, W) by view, rows of other arrays

# What images of drawn views come from beside the augmentation: a class or a function counts with its whole file.
_CODE = (DrawnViews, BatchLoader, balanced_order, seed_batch, blend, trivial_augment)


class Views(ABC):
    """Views of all images of a split.

    Attributes:
        names: The names of the views.
        label: What a line about them adds to the name of the split.
    """

    names: Sequence[str]
    label = ""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Return what the views depend on beside the images, as plain values."""

    @abstractmethod
    def made(self, split: Split, batch_size: int, workers: int, device: torch.device) -> Iterator[Made]:
        """Yield the images of each view by batches of one size, and the rows of other arrays that came with them."""

    @abstractmethod
    def some(self, split: Split, count: int, device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return a few rows (C,), not the first ones alone, and their images (C, ...) in each view, made once more."""

    def others(self, split: Split, device: torch.device) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Return dtype and shape of the other arrays."""
        return {}

    def rows(self, split: Split) -> int:
        """Return how many images each view is made of: every one of the split once."""
        return len(split)


class FixedViews(Views):
    """Deterministic views, such as the image itself and its horizontal flip, in the order of the split."""

    def __init__(self, names: Sequence[str] = ("identity",)) -> None:
        self.names = names

    def about(self) -> dict[str, Any]:
        """Return the names: their code is that of this version."""
        return {"views": list(self.names)}

    def made(self, split: Split, batch_size: int, workers: int, device: torch.device) -> Iterator[Made]:
        """Yield the images, each in all views."""
        for images in split.in_order(batch_size, workers):
            yield {name: VIEWS[name](images) for name in self.names}, {}

    def some(self, split: Split, count: int, device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return rows from the first to the last, evenly spread."""
        count = min(count, len(split))
        rows = torch.arange(count) * (len(split) - 1) // max(count - 1, 1)
        images = split.reading.read(rows).to(device)
        return rows, {name: VIEWS[name](images) for name in self.names}


class DrawnEpoch(Views):
    """The one view of each image that augmentation draws in an epoch, in the order of the epoch's batches.

    Args:
        views: What the run draws.
        epoch: The epoch, from 0.
    """

    names = ("drawn",)

    def __init__(self, views: DrawnViews, epoch: int) -> None:
        self.views, self.epoch = views, epoch
        self.label = f" as drawn in epoch {epoch + 1}"
        # Once: an augmentation may make a part of itself, such as a kernel, when it is called.
        self.hash = object_hash([views.augment, *_CODE])

    def about(self) -> dict[str, Any]:
        """Return all that decides which image is drawn how: code and strengths, seeds, and the order of batches."""
        views = self.views
        return {
            "drawn": self.hash,
            "epoch": self.epoch,
            "seed": views.seed,
            "batch_size": views.batch_size,
            "shuffle": views.shuffle,
            "processes": views.processes,
            "sampler": views.sampler,
        }

    def made(self, split: Split, batch_size: int, workers: int, device: torch.device) -> Iterator[Made]:
        """Yield the augmented images, and with them the states of the generators after each batch of the epoch."""
        held: list[Tensor] = []
        states: list[np.ndarray] = []
        for images, state in self.views.draw(self.epoch, device, workers):
            held.append(images)
            states.append(state.numpy())
            while sum(map(len, held)) >= batch_size:
                whole = torch.cat(held)
                held = [whole[batch_size:]]
                yield {"drawn": whole[:batch_size]}, {"generators": np.stack(states)} if states else {}
                states = []
        if states or any(map(len, held)):
            yield {"drawn": torch.cat(held)}, {"generators": np.stack(states)} if states else {}

    def some(self, split: Split, count: int, device: torch.device) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return rows of the batch in the middle of the epoch."""
        batches = self.views.batches(self.epoch)
        middle = len(batches) // 2
        ((images, _),) = self.views.draw(self.epoch, device, only=slice(middle, middle + 1))
        first = sum(len(positions) for *_, positions in batches[:middle])
        rows = torch.arange(first, first + min(count, len(images)))
        return rows, {"drawn": images[: len(rows)]}

    def others(self, split: Split, device: torch.device) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Return the array of the generators' states."""
        shape = (len(self.views.batches(self.epoch)), len(generator_state(device)))
        return {"generators": (np.dtype(np.uint8), shape)}

    def rows(self, split: Split) -> int:
        """Return how many images the epoch draws, and those besides that it does not."""
        return len(self.views.order(self.epoch))
