"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fashion_tl.plots.style import short

COUNTED_CLASSES, NAMED_CLASSES, LONGEST_NAME = 25, 100, 24
CELL_INCHES, NAME_INCHES, LARGEST_INCHES, ACROSS_INCHES = 0.55, 2.5, 17.5, 19.5
CELL_OF_MANY = 0.3  # of the size of a cell, in a matrix of more classes than have their counts written in
OF_SEVERAL = 0.6  # of the size of a single matrix, where several are side by side
LIGHT_INK_FROM = 0.65  # of the shade
SHADE = "shaded by the root of the share of the row"


def draw_confusion(axes: Axes, matrix: npt.NDArray[np.int64], class_names: Sequence[str], size: float = 10) -> None:
    """Draw a confusion matrix, true classes in rows, shaded by the root of the share, so that rare ones are seen.

    Up to 25 classes have their counts written in. Up to 100 classes are all named, of more every k-th.

    Args:
        axes: Axes to draw on.
        matrix: Counts (K, K).
        class_names: Names of the K classes.
        size: Size of the names in points, where the counts are written in; less where they are not.
    """
    count = len(class_names)
    shades = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.grid(visible=False)
    named = range(0, count, -(-count // NAMED_CLASSES))
    names = [short(class_names[place], LONGEST_NAME) for place in named]
    written = count <= COUNTED_CLASSES
    axes.set_xticks(named, names, rotation=90, fontsize=size if written else 0.7 * size)
    axes.set_yticks(named, names, fontsize=size if written else 0.7 * size)
    axes.set(xlabel="predicted", ylabel="true")
    if written:
        for row, column in np.argwhere(matrix > 0).tolist():
            ink = "white" if shades[row, column] > LIGHT_INK_FROM else "black"
            text = str(matrix[row, column])
            points = (0.8 if len(text) < 5 else 0.6) * size
            cell = axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=points)
            cell.set_in_layout(False)  # it lies within its cell, and asking every one takes seconds


def confusion_figure(matrices: Sequence[tuple[str, npt.NDArray[np.int64]]], class_names: Sequence[str]) -> Figure:
    """Draw confusion matrices over the same classes side by side.

    Args:
        matrices: Title, empty for none, and counts (K, K) of each.
        class_names: Names of the K classes.

    Returns:
        A figure that grows with the classes: a matrix with its names takes up to 20 inches.
    """
    count, scale = len(class_names), 1 if len(matrices) == 1 else OF_SEVERAL
    cells = count if count <= COUNTED_CLASSES else max(CELL_OF_MANY * count, COUNTED_CLASSES)
    side = scale * (min(LARGEST_INCHES, max(CELL_INCHES * cells, NAME_INCHES)) + NAME_INCHES)
    across = min(len(matrices), max(1, int(ACROSS_INCHES / side)))
    down = -(-len(matrices) // across)
    figure = Figure(figsize=(across * side, down * side), dpi=100)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.12)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, (title, matrix) in zip(grid, matrices, strict=False):
        draw_confusion(axes, matrix, class_names, 10 * scale)
        axes.set_title(short(title))
    for axes in grid[len(matrices) :]:
        axes.set_axis_off()
    return figure
