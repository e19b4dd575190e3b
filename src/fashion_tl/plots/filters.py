"""Filters of a convolution as pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

GAP = 3  # pixels between two filters
CAPTION = "each filter scaled to its own range; those of neither 1 nor 3 input channels are the mean over them"


def filter_grid(
    weight: npt.NDArray[np.floating[Any]], columns: int | None = None, most: int = 64, side: int = 24
) -> npt.NDArray[np.uint8]:
    """Lay filters out in rows, each scaled to its own range.

    Filters of one or three input channels are shown in grey or colour, of others as the mean over their channels.

    Args:
        weight: Weights (O, I, h, w).
        columns: Filters in a row; about as many as rows by default.
        most: How many are shown at most.
        side: Pixels that a filter takes, up to a whole number for each weight.

    Returns:
        Pixels (height, width, 4), clear between the filters.
    """
    kept = np.asarray(weight[:most], dtype=np.float64)
    if kept.shape[1] != 3:
        kept = kept.mean(axis=1, keepdims=True).repeat(3, axis=1)
    low, high = kept.min(axis=(1, 2, 3), keepdims=True), kept.max(axis=(1, 2, 3), keepdims=True)
    scaled = np.rint(255 * (kept - low) / np.maximum(high - low, 1e-12)).astype(np.uint8)
    count, _, height, width = scaled.shape
    scale = max(1, side // max(height, width))
    across = columns or math.ceil(math.sqrt(count))
    down = -(-count // across)
    cells = np.zeros((down * across, scale * height + GAP, scale * width + GAP, 4), dtype=np.uint8)
    cells[:count, :-GAP, :-GAP, :3] = scaled.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    cells[:count, :-GAP, :-GAP, 3] = 255
    rows = cells.reshape(down, across, *cells.shape[1:]).swapaxes(1, 2)
    return rows.reshape(down * cells.shape[1], across * cells.shape[2], 4)[:-GAP, :-GAP]
