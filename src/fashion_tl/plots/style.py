"""The style of all plots: one palette, one set of fonts and lines, text as it was written."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fashion_tl.plain_text import plain_text

# Okabe and Ito's palette, which colour-blind readers tell apart, without its yellow, which is too faint on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7280")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">")  # as many as share no factor with the colours
INK, FAINT, GREY = "#1b1f24", "#5b6470", "#b8bec6"
CORRECT, WRONG = "#0a7a4b", "#c2410c"  # of predictions
DPI = 120
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.facecolor": "none",  # the page has a ground of its own
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "fashion_tl",
    "axes.formatter.use_mathtext": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in this style; a figure has to be made and saved inside."""
    with mpl.rc_context(_STYLE), plain_text():
        yield


def colour(number: int) -> str:
    """Return the colour of a run or series by its number, the same in every plot."""
    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    """Return the marker of a run or series: with the colour it is unique for the first 70."""
    return MARKERS[number % len(MARKERS)]


def short(text: str, length: int = 26) -> str:
    """Shorten a long name in the middle.

    Example:
        >>> short("a name of many letters", 10)
        'a nam…ters'
    """
    if len(text) <= length:
        return text
    last = length - length // 2 - 1
    return f"{text[: length // 2]}\u2026{text[len(text) - last :]}"


def png(figure: Figure, dpi: float = DPI) -> bytes:
    """Save a figure as PNG on white."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """Draw a figure on white as pixels (height, width, 3) at its own resolution."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    drawn: npt.NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return drawn
