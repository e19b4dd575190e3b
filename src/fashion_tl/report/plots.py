"""Drawing with matplotlib without a display: one style, files for others, SVG that takes on the page's colours."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fashion_tl.plain_text import plain_text
from fashion_tl.report.html import Html, tag

# Okabe and Ito's palette, which colour-blind readers tell apart, without its yellow, which is too faint on white.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b7280")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">")  # as many as share no factor with the colours
INK = "#1b1f24"  # stands for the page's text colour in an inlined plot
WIDTH, HEIGHT, LEGEND_ROW, LEGEND_COLUMNS = 5.4, 3.4, 0.2, 3
_POINTS = 72
_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "fashion_tl",
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Plot:
    """A finished plot.

    Attributes:
        name: Name of its files without suffix.
        caption: What it shows, in a few words.
        alt: What a reader who does not see it needs.
        svg: The file, on white, with a legend.
        png: The same as pixels.
        inline: The plot for the page, without legend, transparent, in the page's text colour.
    """

    name: str
    caption: str
    alt: str
    svg: str
    png: bytes
    inline: Html


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's style, text as it was written."""
    with mpl.rc_context(_STYLE), plain_text():
        yield


def colour(number: int) -> str:
    """Return the colour of a run, the same in every plot."""
    return PALETTE[number % len(PALETTE)]


def page_colour(number: int) -> str:
    """Return the colour of a run as the page's style sheet names it."""
    return f"var(--run-{number % len(PALETTE)})"


def marker(number: int) -> str:
    """Return the marker of a run: with the colour it is unique for the first 70 runs."""
    return MARKERS[number % len(MARKERS)]


def short(text: str, length: int = 26) -> str:
    """Shorten a long name in the middle."""
    return text if len(text) <= length else f"{text[: length // 2]}\u2026{text[len(text) - length // 2 + 1 :]}"


def canvas(
    labels: Sequence[tuple[int, str]],
    height: float = HEIGHT,
    left: float = 0.62,
    right: float = 0.15,
    top: float = 0.15,
) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes, with a legend below for its file.

    Args:
        labels: Number and label of the runs in the legend; none for no legend.
        height: Height without the legend, in inches.
        left: Space left of the axes, in inches.
        right: Space right of them.
        top: Space above them.
    """
    rows = -(-len(labels) // LEGEND_COLUMNS)
    below = rows * LEGEND_ROW + (0.15 if rows else 0)
    whole = height + below
    figure = Figure(figsize=(WIDTH, whole))
    figure.patch.set_alpha(0)
    bottom = 0.5
    axes = figure.add_axes(
        (left / WIDTH, (below + bottom) / whole, (WIDTH - left - right) / WIDTH, (height - bottom - top) / whole)
    )
    axes.patch.set_alpha(0)
    for place, (number, label) in enumerate(labels):
        row, column = divmod(place, LEGEND_COLUMNS)
        x = 0.02 + column * (0.98 / LEGEND_COLUMNS)
        y = (below - 0.1 - row * LEGEND_ROW) / whole
        step: Any = {"transform": figure.transFigure, "color": colour(number)}
        figure.add_artist(Line2D([x, x + 0.02, x + 0.04], [y] * 3, marker=marker(number), markevery=[1], **step))
        figure.text(x + 0.05, y, short(label), va="center_baseline", fontsize=8)
    return figure, axes


def mark(artist: Any, number: int) -> None:  # noqa: ANN401 - any of matplotlib's artists
    """Tell that an artist belongs to a run, so that the page can hide it."""
    artist.set_gid(f"run-{number}")


def finish(figure: Figure, name: str, caption: str, alt: str, height: float | None = None, dpi: int = 110) -> Plot:
    """Turn a figure into its files and its form on the page.

    Args:
        figure: The figure.
        name: Name of its files without suffix.
        caption: What it shows.
        alt: Text alternative.
        height: Height in inches that the page shows, from the top; all of it if None.
        dpi: Pixels per inch of the PNG.
    """
    text, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    figure.savefig(pixels, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    svg = text.getvalue()
    head = svg.index(">", svg.index("<svg")) + 1
    ground = f'<title>{html.escape(caption)}</title><rect width="100%" height="100%" fill="#fff"/>'
    return Plot(name, caption, alt, svg[:head] + ground + svg[head:], pixels.getvalue(), inline(svg, name, alt, height))


def inline(svg: str, name: str, alt: str, height: float | None = None) -> Html:
    """Turn matplotlib's SVG into an element for the page: transparent, in the page's colour and font, ids unique."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    wanted = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))

    def rewrite(match: re.Match[str]) -> str:
        element = match.group().replace(INK, "currentColor")
        for place, tone in enumerate(PALETTE):
            element = element.replace(tone, f"var(--run-{place})")  # the page has brighter ones for its dark theme
        element = re.sub(r"font: (?:(\d+) )?([\d.]+)px [^;\"]*", _font, element)
        element = re.sub(r' id="run-(\d+)"', r' class="run run-\1"', element)
        keep = [*re.findall(r' id="([^"]*)"', element)]
        if keep and keep[0] not in wanted and not keep[0].startswith("cell-"):
            element = element.replace(f' id="{keep[0]}"', "")
        return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", element)

    body = re.sub(r"<[^<>]+>", rewrite, body)
    width, full = (float(v) for v in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)[0])
    shown = full if height is None else height * _POINTS
    head = f'<svg class="plot" viewBox="0 0 {width:g} {shown:g}" role="img" aria-label="{html.escape(alt)}">'
    return Html(re.sub(r"\s*\n\s*", "\n", re.sub(r"<svg[^>]*>", lambda _: head, body, count=1)))


def crops(plot: Plot, across: int, labels: Sequence[str]) -> list[Html]:
    """Cut small multiples of one size out of an inlined plot, whose axes have the ids ``cell-0``, ``cell-1``, ...

    Returns:
        One element for each, which refers to the plot: that has to be somewhere on the page.
    """
    width, height = (float(v) for v in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot.inline)[0])
    wide, high = width / across, height / -(-len(labels) // across)
    found = []
    for place, label in enumerate(labels):
        row, column = divmod(place, across)
        box = f"{column * wide:g} {row * high:g} {wide:g} {high:g}"
        use = tag("use", href=f"#{plot.name}-cell-{place}")
        found.append(tag("svg", use, class_="plot", viewBox=box, role="img", aria_label=label))
    return found


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px; font-family: inherit"
