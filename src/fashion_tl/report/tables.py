"""Tables of the page as plain values, which its template lays out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

NOT_RECORDED = "not recorded"


class Series(Protocol):
    """A run, or several that belong together: what a table names and a plot draws in one colour."""

    @property
    def number(self) -> int:
        """Its place, from 0; it decides colour and marker."""

    @property
    def label(self) -> str:
        """Its name."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell.

    Attributes:
        text: What it says; the label of the run if it names one.
        detail: A smaller line below.
        run: The run that it names.
        attributes: Attributes of its element; those that are None are left out.
        clamped: Whether no more than two lines are shown, so that a long text makes no tall row.
    """

    text: str = ""
    detail: str = ""
    run: Series | None = None
    attributes: dict[str, str | None] = field(default_factory=dict)
    clamped: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """A row with its heading."""

    head: Cell
    cells: list[Cell]
    attributes: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Table:
    """A table.

    Attributes:
        caption: What it shows; None where ``run`` is named instead.
        head: Headings of all columns, the rows' own heading first.
        groups: Rows in groups, each with a title; a single group has an empty one.
        kind: Its class in the style sheet.
        run: The run that it is about.
        sortable: Whether a press on a heading sorts it.
    """

    caption: str
    head: list[Cell]
    groups: list[tuple[str, list[Row]]]
    kind: str = ""
    run: Series | None = None
    sortable: bool = False


def table(
    caption: str, head: Iterable[Cell | str], rows: list[Row], kind: str = "", run: Series | None = None
) -> Table:
    """Make a table of one group of rows; headings may be plain text."""
    cells = [Cell(cell) if isinstance(cell, str) else cell for cell in head]
    return Table(caption, cells, [("", rows)], kind, run)


def sortable_table(caption: str, head: Iterable[str], rows: list[Row], order: str = "descending") -> Table:
    """Make the main table of a page, which a press on a heading sorts; it comes sorted by its first figure."""
    cells = [Cell(text, attributes={"aria-sort": order if i == 1 else "none"}) for i, text in enumerate(head)]
    return Table(f"{caption} Press a heading to sort.", cells, [("", rows)], "main", sortable=True)


def named(entry: Series) -> Cell:
    """Name a run after its sign."""
    return Cell(run=entry)


def number(text: str, value: float, detail: str = "", **attributes: str | None) -> Cell:
    """Show a number, with the exact value to sort by and as a tooltip."""
    exact: dict[str, str | None] = {"class": "n", "data-sort": repr(value), "title": repr(value)}
    return Cell(text, detail, attributes=exact | {key.replace("_", "-"): item for key, item in attributes.items()})


def missing(why: str, text: str = NOT_RECORDED) -> Cell:
    """Show that a value is not there, and why as a tooltip."""
    return Cell(text, attributes={"class": "missing", "title": why})


def shade(share: float, most: float = 0.8) -> str | None:
    """Return the style that shades a cell by a share of 0 to 1, None for none."""
    return f"--a:{most * share:.3f}" if share else None
