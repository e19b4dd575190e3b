"""Pictures of a diagnosis, drawn by matplotlib without a display, as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fashion_tl.metrics.calibration import Reliability
from fashion_tl.metrics.selective import RiskCoverage
from fashion_tl.plain_text import plain_text

# Okabe and Ito's palette, which colour-blind readers tell apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = "#1b1f24"
GREY = "#b8bec6"
DPI = 130
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in the style of all pictures, text as it was written."""
    with mpl.rc_context(_STYLE), plain_text():
        yield


def png(figure: Figure) -> bytes:
    """Turn a figure into PNG."""
    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return file.getvalue()


@dataclass(frozen=True)
class Captioned:
    """An image (H, W) or (H, W, 3), uint8, with the lines of text under it."""

    image: np.ndarray
    caption: str


def image_grid(images: Sequence[Captioned], columns: int = 6) -> bytes:
    """Lay images in rows, each with its caption."""
    rows = -(-len(images) // columns)
    lines = max(image.caption.count("\n") + 1 for image in images)
    with drawing():
        figure = Figure(figsize=(1.55 * columns, (1.3 + 0.16 * lines) * rows), layout="constrained")
        grid: Any = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, shown in zip(grid.flat, images, strict=False):
            show_image(axes, shown.image)
            axes.text(0.5, -0.05, shown.caption, transform=axes.transAxes, ha="center", va="top", fontsize=7.5)
        return png(figure)


def pair_rows(rows: Sequence[tuple[str, Sequence[Captioned]]], columns: int) -> bytes:
    """Lay rows of images, each row with a title on its left."""
    with drawing():
        figure = Figure(figsize=(1.35 + 1.05 * columns, 1.3 * len(rows)), layout="constrained")
        shares = [1.25, *[1.0] * columns]
        grid: Any = figure.subplots(len(rows), columns + 1, squeeze=False, width_ratios=shares)
        for axes in grid.flat:
            axes.axis("off")
        for line, (title, images) in zip(grid, rows, strict=True):
            line[0].text(1.0, 0.5, title, transform=line[0].transAxes, ha="right", va="center", fontsize=8.5)
            for axes, shown in zip(line[1:], images, strict=False):
                show_image(axes, shown.image)
                axes.set_title(shown.caption, fontsize=7, pad=2)
        return png(figure)


def show_image(axes: Axes, image: np.ndarray) -> None:
    """Show one uint8 image, pixel for pixel, without axes."""
    smooth = "nearest" if max(image.shape[:2]) <= 96 else "antialiased"
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    axes.axis("off")


def reliability_diagrams(diagrams: Sequence[tuple[str, Reliability]]) -> bytes:
    """Draw reliability diagrams side by side, each above the number of images by confidence."""
    with drawing():
        figure = Figure(figsize=(3.5 * len(diagrams), 4.4), layout="constrained")
        grid: Any = figure.subplots(2, len(diagrams), squeeze=False, height_ratios=[3, 1], sharex=True, sharey="row")
        for column, (title, found) in enumerate(diagrams):
            upper, lower = grid[0, column], grid[1, column]
            width = float(found.edges[1])
            middle, full = found.edges[:-1] + width / 2, found.counts > 0
            upper.bar(middle[full], found.accuracy[full], 0.92 * width, color=PALETTE[0], label="accuracy in the bin")
            gap = found.confidence[full] - found.accuracy[full]
            upper.bar(
                middle[full],
                gap,
                0.92 * width,
                bottom=found.accuracy[full],
                color="none",
                edgecolor=PALETTE[1],
                hatch="////",
                linewidth=0.8,
                label="gap to the confidence",
            )
            upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle="--", label="calibrated")
            upper.set(title=title, xlim=(0, 1), ylim=(0, 1))
            upper.grid(visible=True)
            lower.bar(middle, found.counts, 0.92 * width, color=GREY)
            lower.set(xlabel="confidence (highest probability)")
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("images")
        grid[0, 0].legend(loc="upper left", fontsize=7.5, frameon=False)
        return png(figure)


def risk_coverage_picture(curves: Sequence[tuple[str, RiskCoverage]], best: RiskCoverage, coverage: float) -> bytes:
    """Draw risk-coverage curves, the best possible one of the same accuracy, and one coverage marked."""
    with drawing():
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for (label, curve), colour, line in zip(curves, PALETTE, ("-", "--", ":"), strict=False):
            axes.plot(curve.coverage, curve.risk, color=colour, linestyle=line, label=label, linewidth=1.6)
        axes.plot(best.coverage, best.risk, color=GREY, linewidth=1.2, label="best possible: errors last")
        axes.axvline(coverage, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{coverage:.0%} answered",
            (coverage, 1),
            (-4, -8),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
        )
        axes.set(
            xlabel="coverage: share of the images answered, the most confident first", ylabel="risk: share of errors"
        )
        axes.set(xlim=(0, 1.005), ylim=(0, None))
        axes.grid(visible=True)
        axes.legend(loc="upper left", fontsize=8, frameon=False)
        return png(figure)
