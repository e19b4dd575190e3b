"""Pictures of images, maps and filters, drawn from arrays alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fashion_tl.inspection.panel_grid import FAINT, GAP, GREEN, INK, LINE, MARGIN, RED, Picture, Sheet, overlay, resized

SCALE_NOTE = "Bright: strongest evidence for the class in this image; dark: none."


@dataclass(frozen=True)
class Explained:
    """An image, what a classifier makes of it, and where it sees that.

    Attributes:
        name: What to call the image, such as "test image 17".
        image: Grey (H, W) or colour (H, W, 3), 0 to 1.
        heat: Relevance (h, w), 0 to 1, of the class ``shown``.
        truth: Name of the true class, if known.
        predicted: Name of the predicted class.
        confidence: Its probability, 0 to 1.
        shown: Class that the heat is for.
        index: Position in the test set, if it is of it.
    """

    name: str
    image: Picture
    heat: Picture
    truth: str | None
    predicted: str
    confidence: float
    shown: str
    index: int | None = None

    @property
    def verdict(self) -> str:
        """Prediction and confidence, with a sign where the truth is known."""
        sign = "" if self.truth is None else "✓ " if self.truth == self.predicted else "✗ "
        return f"{sign}{self.predicted} {self.confidence:.2f}"

    @property
    def colour(self) -> str:
        """Colour of the verdict."""
        return INK if self.truth is None else GREEN if self.truth == self.predicted else RED


def draw_triples(
    items: Sequence[Explained],
    title: str,
    note: str,
    against: Sequence[Explained] = (),
    per_row: int = 2,
    side: float = 1.25,
) -> bytes:
    """Draw image, map and overlay of each item, with its true class and the prediction above.

    With ``against``, the same images with maps of another class, overlays of both follow the image.
    """
    per_row = max(1, min(per_row, len(items)))
    width, height = 3 * side + 2 * GAP, side + 2 * LINE + 0.14
    rows = -(-len(items) // per_row)
    sheet = Sheet(2 * MARGIN + per_row * width + (per_row - 1) * 0.35, rows * height, title, note)
    for place, item in enumerate(items):
        x, y = MARGIN + place % per_row * (width + 0.35), place // per_row * height
        head = item.name if item.truth is None else f"{item.truth}"
        sheet.text(x, y + LINE - 0.03, head, width * 0.58, weight="bold")
        if item.truth is not None:
            sheet.text(x + width, y + LINE - 0.03, item.name, width * 0.4, ha="right", size=7.5, color=FAINT)
        sheet.text(x, y + 2 * LINE - 0.03, item.verdict, width, color=item.colour)
        y += 2 * LINE + 0.02
        sheet.image(x, y, side, item.image)
        if against:
            sheet.image(x + side + GAP, y, side, overlay(item.image, item.heat))
            sheet.image(x + 2 * (side + GAP), y, side, overlay(item.image, against[place].heat))
        else:
            sheet.image(x + side + GAP, y, side, resized(item.heat, 112, smooth=True), cmap="inferno")
            sheet.image(x + 2 * (side + GAP), y, side, overlay(item.image, item.heat))
    return sheet.png()


def draw_columns(
    rows: Sequence[Sequence[Explained]], heads: Sequence[str], title: str, note: str, side: float = 1.35
) -> bytes:
    """Draw one image a row, then its overlay in each column with the verdict below: runs or classes side by side."""
    columns, height = len(heads), side + 2 * LINE + 0.1
    label = 0.2 + side
    width = 2 * MARGIN + label + columns * (max(side, 1.5) + 0.15)
    sheet = Sheet(width, 0.3 + len(rows) * height, title, note)
    for column, head in enumerate(heads):
        sheet.text(MARGIN + label + column * (max(side, 1.5) + 0.15), 0.17, head, 1.6, weight="bold")
    for row, items in enumerate(rows):
        y = 0.3 + row * height
        sheet.image(MARGIN, y, side, items[0].image)
        sheet.text(MARGIN, y + side + LINE - 0.02, items[0].truth or items[0].name, side + 0.15, weight="bold")
        if items[0].truth is not None:
            sheet.text(MARGIN, y + side + 2 * LINE - 0.04, items[0].name, side, size=7.5, color=FAINT)
        for column, item in enumerate(items):
            x = MARGIN + label + column * (max(side, 1.5) + 0.15)
            sheet.image(x, y, side, overlay(item.image, item.heat))
            sheet.text(x, y + side + LINE - 0.02, item.verdict, 1.6, color=item.colour)
            if item.shown != item.predicted:
                sheet.text(x, y + side + 2 * LINE - 0.04, f"map for {item.shown}", 1.6, size=7.5, color=FAINT)
    return sheet.png()


def draw_table(
    cells: Sequence[Sequence[Picture]],
    row_heads: Sequence[str],
    column_heads: Sequence[tuple[str, str]],
    title: str,
    note: str,
    side: float = 1.15,
) -> bytes:
    """Draw pictures in rows and columns; a column's head has two lines, a row's head is wrapped at its left."""
    label = 1.15 if any(row_heads) else 0.0
    columns = max(len(row) for row in cells)
    top = 0.4 if column_heads else 0.05
    height = side + GAP
    sheet = Sheet(2 * MARGIN + label + columns * (side + GAP), top + len(cells) * height, title, note)
    for column, (first, second) in enumerate(column_heads):
        x = MARGIN + label + column * (side + GAP)
        sheet.text(x, 0.14, first, side + GAP, size=8, weight="bold")
        sheet.text(x, 0.30, second, side + GAP, size=7.5, color=FAINT)
    for row, (pictures, head) in enumerate(zip(cells, row_heads, strict=True)):
        for line, text in enumerate(head.split("\n")):
            sheet.text(
                MARGIN, top + row * height + 0.3 + 0.16 * line, text, label, weight="bold" if line == 0 else None
            )
        for column, picture in enumerate(pictures):
            sheet.image(MARGIN + label + column * (side + GAP), top + row * height, side, picture)
    return sheet.png()


def draw_captioned(
    pictures: Sequence[Picture],
    captions: Sequence[tuple[str, str]],
    title: str,
    note: str,
    columns: int = 4,
    side: float = 1.9,
) -> bytes:
    """Draw pictures in rows of some columns, each with two lines below."""
    width, height = max(side, 4.7 / columns) + 0.15, side + 2 * LINE + 0.1
    sheet = Sheet(2 * MARGIN + columns * width, -(-len(pictures) // columns) * height, title, note)
    for place, (pixels, (first, second)) in enumerate(zip(pictures, captions, strict=True)):
        x, y = MARGIN + place % columns * width, place // columns * height
        sheet.image(x, y, side, pixels, smooth=True)
        sheet.text(x, y + side + LINE - 0.02, first, width, weight="bold")
        sheet.text(x, y + side + 2 * LINE - 0.04, second, width, size=8, color=FAINT)
    return sheet.png()
