"""Pieces of the page that every part uses: tables that scroll, figures, the sign of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fashion_tl.report.columns import NOT_RECORDED
from fashion_tl.report.figures import Entry
from fashion_tl.report.html import Child, Html, tag
from fashion_tl.report.plots import MARKERS, Plot, marker, page_colour

# Matplotlib's markers as paths in a box of 10 by 10.
_SHAPES = dict(
    zip(
        MARKERS,
        (
            "M5 .8a4.2 4.2 0 1 1 0 8.4a4.2 4.2 0 1 1 0-8.4z",
            "M1.2 1.2h7.6v7.6h-7.6z",
            "M5 .6 9.4 9H.6z",
            "M5 .2 9.8 5 5 9.8.2 5z",
            "M5 9.4.6 1h8.8z",
            "M3.4.6h3.2v2.8h2.8v3.2H6.6v2.8H3.4V6.6H.6V3.4h2.8z",
            "M2.8.6 5 2.8 7.2.6 9.4 2.8 7.2 5l2.2 2.2-2.2 2.2L5 7.2 2.8 9.4.6 7.2 2.8 5 .6 2.8z",
            "M.6 5 9 .6v8.8z",
            "M5 .4 9.6 3.7 7.8 9.2H2.2L.4 3.7z",
            "M9.4 5 1 9.4V.6z",
        ),
        strict=True,
    )
)


def sign(entry: Entry) -> Html:
    """Draw the marker of a run in its colour."""
    path = tag("path", d=_SHAPES[marker(entry.number)], style=f"fill:{page_colour(entry.number)}")
    return tag("svg", path, class_="sign", viewBox="0 0 10 10", aria_hidden="true")


def named(entry: Entry) -> Html:
    """Write the name of a run after its sign."""
    return tag("span", sign(entry), entry.label, class_="run-name")


def table(
    caption: Child, head: Iterable[Child], body: Iterable[Child], name: str = "", **attributes: str | bool
) -> Html:
    """Build a table in a box of its own that scrolls sideways where there is no room.

    Args:
        caption: What the table shows.
        head: Rows of the head.
        body: Rows, or whole row groups.
        name: Name of the scrolling box for screen readers; the caption if empty.
        attributes: Attributes of the table.
    """
    rows = list(body)
    grouped = bool(rows) and isinstance(rows[0], Html) and rows[0].startswith("<tbody")
    inner = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", head),
        rows if grouped else tag("tbody", rows),
        **attributes,
    )
    label = name or (caption if isinstance(caption, str) and not isinstance(caption, Html) else "table")
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


def row(head: Child, cells: Iterable[Child], **attributes: str | bool | None) -> Html:
    """Build a row with its heading."""
    return tag("tr", tag("th", head, scope="row"), cells, **attributes)


def heads(names: Iterable[Child], first: Child = "", **attributes: str) -> Html:
    """Build a row of column headings, after that of the rows' own headings."""
    return tag("tr", tag("th", first, scope="col"), [tag("th", name, scope="col", **attributes) for name in names])


def run_heads(entries: Iterable[Entry], first: Child = "") -> Html:
    """Build a row of column headings with a column for each run."""
    return heads(map(named, entries), first)


def missing(why: str, text: str = NOT_RECORDED) -> Html:
    """Build the cell of a value that is not there."""
    return tag("td", text, class_="missing", title=why)


def number(text: str, value: float, interval: str | None = None, **attributes: str) -> Html:
    """Build the cell of a number, with the exact value to sort by."""
    small = tag("small", interval) if interval else None
    return tag("td", text, small, class_="n", data_sort=repr(value), title=repr(value), **attributes)


def file_links(plot: Plot) -> Html:
    """Build the links to the files of a plot."""
    links = [tag("a", kind.upper(), href=f"plots/{plot.name}.{kind}") for kind in ("svg", "png")]
    return tag("span", links, class_="files")


def plot_figure(plot: Plot) -> Html:
    """Build the figure of one plot, with links to its files."""
    return tag("figure", plot.inline, tag("figcaption", plot.caption, " ", file_links(plot)))


def part(anchor: str, title: str, *children: Child) -> Html:
    """Build one part of a section, with its heading."""
    return tag("section", tag("h3", title, id=anchor), children, aria_labelledby=anchor, class_="part")


def paragraph(*children: Child, class_: str | None = None) -> Html:
    """Build a paragraph."""
    return tag("p", children, class_=class_)


def items(texts: Sequence[Child]) -> Html:
    """Build a list."""
    return tag("ul", [tag("li", text) for text in texts])
