"""Finished plots: files for others, and SVG that takes on the colours of the page."""

from __future__ import annotations

import html
import io
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from fashion_tl.plots.style import INK, PALETTE, png

_DROPPED = re.compile(r"<metadata>.*?</metadata>|<title>.*?</title>|<style.*?</style>|<!--.*?-->", re.DOTALL)


@dataclass(frozen=True)
class Plot:
    """A finished plot.

    Attributes:
        name: Name of its files without suffix.
        caption: What it shows, in a few words.
        alt: What a reader who does not see it needs.
        svg: The file, on white.
        png: The same as pixels.
    """

    name: str
    caption: str
    alt: str
    svg: str
    png: bytes

    @property
    def inline(self) -> Markup:
        """The plot for the page: transparent, in the colours and the font of the page."""
        return inline(self.svg, self.name, self.alt)


def mark(artist: Any, number: int) -> None:  # noqa: ANN401 - any of matplotlib's artists
    """Tell that an artist belongs to a run, so that the page can hide it."""
    artist.set_gid(f"run-{number}")


def finish(figure: Figure, name: str, caption: str, alt: str, dpi: float = 110) -> Plot:
    """Turn a figure into its files.

    Args:
        figure: The figure.
        name: Name of its files without suffix.
        caption: What it shows.
        alt: Text alternative.
        dpi: Pixels per inch of the PNG.
    """
    svg = svg_of(figure, caption)
    figure.set_layout_engine("none")  # it is laid out; once more takes as long as drawing it
    return Plot(name, caption, alt, svg, png(figure, dpi))


def svg_of(figure: Figure, title: str) -> str:
    """Save a figure as SVG on white."""
    text = io.StringIO()
    about: Any = {"Title": title, "Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", facecolor="white", metadata=about)
    return text.getvalue()


def inline(svg: str, name: str, alt: str) -> Markup:
    """Turn matplotlib's SVG into an element for the page, with ids of its own and the page's colours.

    The style sheet of the page clears the ground and sets the font.
    """
    body = re.sub(r"<[^<>]+>", lambda found: _on_page(found[0], name), _DROPPED.sub("", svg[svg.index("<svg") :]))
    box = re.findall(r'viewBox="([^"]+)"', body)[0]
    head = f'<svg class="plot" viewBox="{box}" role="img" aria-label="{html.escape(alt)}">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, body, count=1))  # noqa: S704 - matplotlib escapes its texts


def _on_page(element: str, name: str) -> str:
    """Give an element the page's variables for colours, the class of its run, and ids that begin with the plot's."""
    element = element.replace(INK, "currentColor")
    for place, tone in enumerate(PALETTE):
        element = element.replace(tone, f"var(--run-{place})")  # brighter in the dark theme
    element = re.sub(r' id="run-(\d+)"', r' class="run run-\1"', element)
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", element)
