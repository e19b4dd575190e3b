"""Rows of cached activations, read like images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Activations:
    """What frozen stages give for every image of a split, in one view or several.

    Args:
        views: For each view (the image itself, its mirror image) the arrays of N rows that the upper stages take.
        mirror: Probability of the second view in training, 0 to 1.
    """

    def __init__(self, views: Sequence[Sequence[np.ndarray]], mirror: float = 0.0) -> None:
        with warnings.catch_warnings():
            # The arrays are maps of a file that nobody writes to; rows are copied out of them.
            warnings.filterwarnings("ignore", ".*not writable.*")
            self.views = [[torch.from_numpy(array) for array in view] for view in views]
        self.mirror = mirror

    def to(self, device: torch.device) -> Activations:
        """Move the rows to a device, once, where the caller knows that they fit."""
        self.views = [[array.to(device) for array in view] for view in self.views]
        return self

    @property
    def nbytes(self) -> int:
        """Size of all rows in bytes."""
        return sum(array.nbytes for view in self.views for array in view)

    def rows(self, positions: Tensor, device: torch.device, training: bool) -> tuple[Tensor, ...]:
        """Gather a batch.

        Args:
            positions: Positions (B,) in the split.
            device: Where the rows are to lie.
            training: Whether to draw a view for each image, as augmentation would; else the image itself.

        Returns:
            One tensor of B rows for each array of a view; images (B, C, H, W) are channels_last.
        """
        positions = positions.to(self.views[0][0].device)
        if not training or len(self.views) == 1:
            return tuple(_finish(array.index_select(0, positions), device) for array in self.views[0])
        mirrored = (torch.rand(len(positions), device=device) < self.mirror).to(positions.device)
        gathered = []
        for plain, flipped in zip(*self.views, strict=True):
            rows = plain.index_select(0, positions)
            rows[mirrored] = flipped.index_select(0, positions[mirrored])
            gathered.append(_finish(rows, device))
        return tuple(gathered)


def _finish(rows: Tensor, device: torch.device) -> Tensor:
    moved = rows.to(device)
    moved = moved.float() if moved.dtype == torch.float16 else moved
    return moved.permute(0, 3, 1, 2) if moved.ndim == 4 else moved
