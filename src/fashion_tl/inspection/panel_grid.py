"""A sheet to draw on by hand, and pictures made of images and maps."""

from __future__ import annotations

import io
import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fashion_tl.plain_text import plain_text

Picture = npt.NDArray[Any]

DPI = 120
GAP, MARGIN, LINE = 0.07, 0.15, 0.17  # inches
GREEN, RED, INK, FAINT = "#0a7a4b", "#c2410c", "#1b1f24", "#5b6470"


class Sheet:
    """A figure measured in inches from its top left corner, with cells placed by hand.

    Args:
        width: Its width in inches.
        height: Its height in inches, without the heading.
        title: Its heading.
        note: Smaller lines below the heading.
    """

    def __init__(self, width: float, height: float, title: str, note: str = "") -> None:
        width = max(width, 5.0)
        lines = textwrap.wrap(note, int(width * 14.5)) if note else []
        titles = textwrap.wrap(title, int(width * 10.5))
        self.top = MARGIN + 0.24 * len(titles) + 0.17 * len(lines) + 0.12
        self.width, self.height = width, height + self.top + MARGIN
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self.figure)
        for row, text in enumerate(titles):
            self._write(MARGIN, MARGIN + 0.2 + 0.24 * row, text, size=12, weight="bold")
        for row, text in enumerate(lines):
            self._write(MARGIN, MARGIN + 0.24 * len(titles) + 0.14 + 0.17 * row, text, size=8.5, color=FAINT)

    def _write(self, x: float, y: float, text: str, **style: Any) -> None:  # noqa: ANN401 - matplotlib's own arguments
        style = {"color": INK, "ha": "left", "va": "baseline", "parse_math": False, **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def text(self, x: float, y: float, text: str, width: float, **style: Any) -> None:  # noqa: ANN401 - as above
        """Write one line at its baseline, cut where it is wider than ``width`` inches."""
        size = float(style.setdefault("size", 8.5))
        room = int(width * 72 / (size * 0.56))
        self._write(x, self.top + y, text if len(text) <= room else text[: max(1, room - 1)] + "…", **style)

    def image(self, x: float, y: float, side: float, pixels: Picture, smooth: bool = False, **style: Any) -> Axes:  # noqa: ANN401
        """Place an image (H, W) or (H, W, 3) with its upper left corner at (x, y)."""
        place = (x / self.width, 1 - (self.top + y + side) / self.height, side / self.width, side / self.height)
        axes = self.figure.add_axes(place)
        axes.set_axis_off()
        axes.imshow(
            pixels,
            interpolation="bilinear" if smooth else "nearest",
            **{"vmin": 0, "vmax": 1, "cmap": "gray", "aspect": "auto", **style},
        )
        return axes

    def png(self) -> bytes:
        """Return the sheet as a PNG file."""
        content = io.BytesIO()
        with plain_text():
            self.figure.savefig(content, format="png", metadata={"Software": ""})
        return content.getvalue()


def overlay(image: Picture, heat: Picture) -> Picture:
    """Lay a map (h, w) over an image (H, W) or (H, W, 3): (size, size, 3), the larger size of both."""
    size = max(image.shape[0], heat.shape[0], 112)
    grey = image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])
    ground = np.repeat(resized(grey, size, smooth=False)[..., None], 3, axis=2) * 0.8 + 0.1
    strength = resized(heat, size, smooth=True)
    colours = np.asarray(mpl.colormaps["inferno"](strength))[..., :3]
    alpha = (0.75 * np.sqrt(strength))[..., None]
    laid: Picture = ground * (1 - alpha) + colours * alpha
    return laid


def resized(values: Picture, size: int, smooth: bool) -> Picture:
    """Resize (h, w) in 0 to 1 to (size, size), by bilinear interpolation between centres or by repetition."""
    from PIL import Image

    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    grown: Picture = np.asarray(picture.resize((size, size), how))
    return grown.clip(0, 1)


def outlined(image: Picture, heat: Picture, level: float = 0.5) -> Picture:
    """Darken an image where a map is below a share of its maximum, so that one sees what excites: (size, size, 3)."""
    size = max(image.shape[0], heat.shape[0], 112)
    colour = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    grown = np.stack([resized(colour[..., c], size, smooth=False) for c in range(3)], axis=2)
    inside = resized(heat, size, smooth=True) >= level
    edge = inside & ~_eroded(inside)
    lit: Picture = np.where(inside[..., None], grown, grown * 0.35)
    lit[edge] = (1.0, 0.65, 0.0)
    return lit


def _eroded(mask: Picture) -> Picture:
    padded = np.pad(mask, 1, constant_values=False)
    kept: Picture = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:] & mask
    return kept


def resized_colour(image: Picture, size: int) -> Picture:
    """Resize an image (H, W) or (H, W, 3) smoothly to (size, size) or (size, size, 3)."""
    if image.ndim == 2:
        return resized(image, size, smooth=True)
    return np.stack([resized(image[..., c], size, smooth=True) for c in range(image.shape[2])], axis=2)
