"""The plots of a section with a small picture for each run: reliability, confusion, filters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fashion_tl.report.figures import Entry
from fashion_tl.report.pictures import filter_grid
from fashion_tl.report.plots import INK, Plot, colour, finish, short

RELIABILITY_COLUMNS, FILTER_COLUMNS, CONFUSION_WIDTH = 4, 4, 40
NUMBERED_CLASSES, NAMED_CLASSES, WRITTEN_SHARE = 12, 40, 0.01


def _cells(
    entries: Sequence[Entry], columns: int, side: float, box: tuple[float, float, float, float]
) -> tuple[Figure, Iterator[tuple[Axes, Entry]]]:
    """Lay out axes of the same size in squares; ``box`` is left, bottom, width and height as shares of a square."""
    across = min(columns, len(entries))
    down = -(-len(entries) // across)
    figure = Figure(figsize=(across * side, down * side))
    figure.patch.set_alpha(0)

    def made() -> Iterator[tuple[Axes, Entry]]:
        left, bottom, width, height = box
        for place, entry in enumerate(entries):
            row, column = divmod(place, across)
            where = ((column + left) / across, (down - 1 - row + bottom) / down, width / across, height / down)
            axes = figure.add_axes(where, gid=f"cell-{place}")
            axes.patch.set_alpha(0)
            axes.set_title(short(entry.label, 22), fontsize=9)
            yield axes, entry

    return figure, made()


def reliability(entries: list[Entry], slug: str) -> Plot:
    """Draw a reliability diagram of each run: accuracy by confidence, and how many images are in each bin."""
    figure, cells = _cells(entries, RELIABILITY_COLUMNS, 1.95, (0.28, 0.22, 0.67, 0.66))
    told = []
    for axes, entry in cells:
        if entry.figures is None:
            continue
        bins = entry.figures.bins
        full = bins.counts > 0
        lefts, width = bins.edges[:-1][full], np.diff(bins.edges)[full] * 0.94
        axes.bar(lefts, bins.accuracy[full], width, align="edge", color=colour(entry.number))
        axes.bar(lefts, bins.counts[full] / bins.counts.sum(), width, align="edge", color=INK, alpha=0.28)
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--")
        ticks = [0, 0.5, 1]
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", xticks=ticks, yticks=ticks)
        told.append(f"{entry.label} {entry.figures.values['calibration_error']:.4f}")
    caption = "Accuracy by confidence, in 15 bins; on the diagonal is perfect calibration; in grey, the share of images"
    alt = f"{caption}. Calibration error: {'; '.join(told)}."
    return finish(figure, f"{slug}_reliability", caption, alt)


def confusion(entries: list[Entry], slug: str) -> Plot:
    """Draw the confusion matrices in one mosaic, so that they share one pair of axes."""
    names = [short(name, 14) for name in entries[0].run.class_names]
    count = len(names)
    gap = max(2, round(0.2 * count))
    across = min(len(entries), max(1, CONFUSION_WIDTH // (count + gap)))
    down = -(-len(entries) // across)
    step = count + gap
    mosaic = np.full((down * step - gap, across * step - gap), np.nan)
    margin, unit = 1.0, 0.2 if count <= NUMBERED_CLASSES else 0.12
    height, width = mosaic.shape[0] * unit + 1.4 * margin, mosaic.shape[1] * unit + 1.2 * margin
    figure = Figure(figsize=(width, height))
    box = (margin / width, margin / height, 1 - 1.2 * margin / width, 1 - 1.4 * margin / height)
    axes = figure.add_axes(box)
    axes.set_axis_off()
    label: Any = {"fontsize": 7 if count <= NUMBERED_CLASSES else 4.5}
    for place, entry in enumerate(entries):
        if entry.figures is None:
            continue
        top, left = place // across * step, place % across * step
        matrix = entry.figures.matrix
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        mosaic[top : top + count, left : left + count] = np.sqrt(shares)
        axes.text(left - 0.5, top - 0.8, short(entry.label, 22), fontsize=9)
        if count <= NAMED_CLASSES:
            for i, name in enumerate(names):
                if left == 0:
                    axes.text(-0.8, top + i, name, ha="right", va="center", **label)
                if place + across >= len(entries):
                    axes.text(left + i, top + count, name, ha="center", va="top", rotation=90, **label)
        if count <= NUMBERED_CLASSES:
            for i, j in np.argwhere(shares >= WRITTEN_SHARE).tolist():
                ink = "white" if shares[i, j] > 0.4 else "black"
                axes.text(left + j, top + i, str(matrix[i, j]), ha="center", va="center", color=ink, fontsize=5)
    axes.imshow(mosaic, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    caption = "Confusion matrices: rows true, columns predicted, shaded by the root of the share of the row"
    return finish(figure, f"{slug}_confusion", caption, f"{caption}: {', '.join(e.label for e in entries)}.")


def filters(entries: list[Entry], slug: str) -> Plot:
    """Draw the filters of each run's first convolution."""
    figure, cells = _cells(entries, FILTER_COLUMNS, 2.2, (0.05, 0.02, 0.9, 0.85))
    for axes, entry in cells:
        axes.set_axis_off()
        if entry.run.filters is not None:
            axes.imshow(filter_grid(entry.run.filters), interpolation="nearest")
    caption = "Filters of the first convolution after training, each scaled to its own range"
    return finish(figure, f"{slug}_filters", caption, f"{caption}: {', '.join(e.label for e in entries)}.")
