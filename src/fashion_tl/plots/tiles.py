"""Pictures in rows and columns, and saliency laid over images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fashion_tl.plain_text import clean
from fashion_tl.plots.style import INK, png, style

Picture = npt.NDArray[Any]

POINTS = 7.5  # size of the text at a tile
NATIVE = 112  # pixels on a side, at least, of an image with saliency on it
LIGHTNESS = (0.299, 0.587, 0.114)  # of red, green and blue


@dataclass(frozen=True)
class Tile:
    """A picture with text around it.

    Attributes:
        image: Grey (H, W) or colour (H, W, 3), 0 to 1.
        above: Lines above it.
        below: Lines below it.
        ink: Colour of the lines below.
    """

    image: Picture
    above: str = ""
    below: str = ""
    ink: str = INK


def draw_tiles(
    rows: Sequence[Sequence[Tile]],
    row_heads: Sequence[str] = (),
    title: str = "",
    note: str = "",
    side: float = 1.25,
    smooth: bool = False,
) -> bytes:
    """Draw tiles in rows, as PNG.

    Args:
        rows: Tiles; rows may differ in length.
        row_heads: Lines to the left of each row.
        title: Heading of the picture.
        note: Smaller lines below the picture.
        side: Height and width of a tile in inches.
        smooth: Whether to interpolate between pixels.
    """
    columns = max(len(row) for row in rows)
    margin = 1.1 if any(row_heads) else 0.1
    size = max(columns * side * 1.06 + margin, 5), sum(side * 1.06 * _shape(row) + 0.14 * _lines(row) for row in rows)
    with style():
        heading, footing = textwrap.wrap(title, int(size[0] * 10)), textwrap.wrap(note, int(size[0] * 15))
        height = 0.2 + size[1] + 0.25 * len(heading) + 0.17 * len(footing)
        figure = Figure(figsize=(size[0], height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr,call-arg]
        figure.suptitle("\n".join(heading), fontsize=11, fontweight="bold")
        figure.supxlabel("\n".join(footing), fontsize=8)
        grid: Any = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            for axes, tile in zip(line, row, strict=False):
                _draw(axes, tile, int(side * 72 / (POINTS * 0.58)), smooth)
            for axes in line[len(row) :]:
                axes.set_axis_off()
        for line, head in zip(grid, row_heads, strict=False):
            line[0].set_ylabel(head, rotation=0, ha="right", va="center", fontsize=8)
        return png(figure)


def in_rows(tiles: Sequence[Tile], columns: int) -> list[Sequence[Tile]]:
    """Break tiles into rows."""
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def _draw(axes: Axes, tile: Tile, room: int, smooth: bool) -> None:
    large = max(tile.image.shape[:2]) > NATIVE
    how = "bilinear" if smooth else "antialiased" if large else "nearest"
    axes.imshow(tile.image, cmap="gray", vmin=0, vmax=1, interpolation=how)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    above, below = (
        "\n".join(line if len(line) <= room else f"{line[: room - 1]}\u2026" for line in map(clean, text.split("\n")))
        for text in (tile.above, tile.below)
    )
    axes.set_title(above, fontsize=POINTS, pad=2)
    axes.set_xlabel(below, fontsize=POINTS, labelpad=2, color=tile.ink)


def _shape(row: Sequence[Tile]) -> float:
    """Return height by width of the highest picture of a row."""
    shapes: list[tuple[int, ...]] = [tile.image.shape for tile in row]
    return max(height / width for height, width, *_ in shapes)


def _lines(row: Sequence[Tile]) -> int:
    return max(sum(text.count("\n") + bool(text) for text in (tile.above, tile.below)) for tile in row)


def heat_map(saliency: Picture) -> Picture:
    """Colour saliency (h, w), 0 to 1, from black to yellow: (size, size, 3)."""
    return _coloured(_resized(saliency, NATIVE))


def overlay(image: Picture, saliency: Picture) -> Picture:
    """Lay saliency (h, w) over an image (H, W) or (H, W, 3): (size, size, 3), the larger size of both."""
    size = max(image.shape[0], saliency.shape[0], NATIVE)
    grey = image if image.ndim == 2 else image @ np.array(LIGHTNESS)
    ground = _enlarged(grey, size) * 0.8 + 0.1
    strength = _resized(saliency, size)
    alpha = (0.75 * np.sqrt(strength))[..., None]
    laid: Picture = ground * (1 - alpha) + _coloured(strength) * alpha
    return laid


def outlined(image: Picture, saliency: Picture) -> Picture:
    """Darken an image where saliency is below 0.5, and outline the rest: (size, size, 3)."""
    from scipy.ndimage import binary_erosion

    size = max(image.shape[0], saliency.shape[0], NATIVE)
    grown = _enlarged(image, size)
    inside = _resized(saliency, size) >= 0.5
    lit: Picture = np.where(inside[..., None], grown, grown * 0.35)
    lit[inside & ~binary_erosion(inside)] = (1.0, 0.65, 0.0)
    return lit


def _coloured(values: Picture) -> Picture:
    colours: Picture = np.asarray(mpl.colormaps["inferno"](values))[..., :3]
    return colours


def _resized(values: Picture, size: int) -> Picture:
    """Resize (h, w) in 0 to 1 to (size, size), bilinearly."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    grown: Picture = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return grown.clip(0, 1)


def _enlarged(image: Picture, size: int) -> Picture:
    """Enlarge an image (H, W) or (H, W, 3) to colour (size, size, 3), pixel by pixel."""
    places = np.arange(size) * image.shape[0] // size, np.arange(size) * image.shape[1] // size
    grown = image[np.ix_(*places)]
    colour: Picture = grown if grown.ndim == 3 else np.repeat(grown[..., None], 3, axis=2)
    return colour
