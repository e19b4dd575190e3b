"""Reliability diagrams."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from fashion_tl.metrics.calibration import Reliability
from fashion_tl.plots.style import INK, PALETTE

CAPTION = (
    "Accuracy by confidence; hatched, the gap to the mean confidence; in grey, the share of images; dashed, perfect "
    "calibration"
)


def draw_reliability(axes: Axes, diagram: Reliability, colour: str = PALETTE[0]) -> None:
    """Draw accuracy by confidence, the gap to the mean confidence and the share of images in each bin.

    The artists carry labels for a legend.

    Args:
        axes: Axes to draw on, about 2 inches wide or more.
        diagram: The bins.
        colour: Colour of the accuracies.
    """
    full = diagram.counts > 0
    lefts, widths = diagram.edges[:-1][full], 0.94 * np.diff(diagram.edges)[full]
    accuracy = diagram.accuracy[full]
    axes.bar(lefts, accuracy, widths, align="edge", color=colour, label="accuracy")
    axes.bar(
        lefts,
        diagram.confidence[full] - accuracy,
        widths,
        bottom=accuracy,
        align="edge",
        color="none",
        edgecolor=INK,
        hatch="/////",
        linewidth=0.5,
        label="gap to the confidence",
    )
    shares = diagram.counts[full] / diagram.counts.sum()
    axes.bar(lefts, shares, widths / 2, align="edge", color=INK, alpha=0.35, label="share of images")
    axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--", label="calibrated")
    ticks = [0, 0.5, 1]
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", xticks=ticks, yticks=ticks)
    axes.set_aspect("equal")
