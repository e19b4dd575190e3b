"""Image files that a table lists: a row has the path of an image, its label, and its split and group if wanted."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fashion_tl.data.folder_index import VALIDATION_NAMES
from fashion_tl.data.rows import ListedImages, Row, first, index_rows
from fashion_tl.data.sources import data_root
from fashion_tl.errors import UserError, check_known, one_line

DELIMITERS = ",;\t"
_SEPARATOR_LINE = re.compile(r"""\A(\s*)"?sep=[^\r\n]"?[ \t]*(?=[\r\n])""", re.IGNORECASE)  # Excel's, not a row
SPLITS = {"train": "train", "test": "test", **dict.fromkeys(VALIDATION_NAMES, "val")}


class CSV(ListedImages):
    """Image files listed in a table of UTF-8 text with a header, separated by commas, semicolons or tabs.

    Args:
        file: The table, below ``root``; an absolute path stands for itself.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".
        folder: Folder that the paths of the table start from, below ``root``; the table's own if not given.
        path_column: Heading of the column with the paths of the images.
        label_column: Heading of the column with the names of the classes.
        split_column: Heading of a column with train, test and val (or validation, valid); what no row has is split off
            the training images. Without such a column all rows train, and both are.
        group_column: Heading of a column with what images have in common, such as a patient: a group never straddles
            two splits.
        **decoding: How images are decoded: the other arguments of ``ImageFiles``.

    Raises:
        UserError: If the table cannot be read, lacks a column, or rows contradict each other; all in one message.
    """

    def __init__(
        self,
        file: str | Path,
        root: str | Path | None = None,
        folder: str | Path | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str | None = None,
        group_column: str | None = None,
        **decoding: Any,  # noqa: ANN401 - the arguments of ImageFiles, checked there
    ) -> None:
        self.root = data_root(root)
        table = self.root / Path(file).expanduser()
        images = table.parent if folder is None else self.root / Path(folder).expanduser()
        columns = {"path": path_column, "label": label_column, "split": split_column, "group": group_column}
        rows = _read_rows(table, images, columns)
        if not decoding.get("skip_unreadable"):
            missing = [f"{row.key} ({row.place})" for row in rows if not os.path.isfile(row.key)]  # noqa: PTH113 - no error for a long name
            if missing:
                raise UserError(
                    f"{table} lists {first(missing)}: no such files. Set --data.source.folder to the folder that the "
                    "paths start from, or go on without them: `--data.source.skip_unreadable true`."
                )
        index = index_rows(rows, str(table), "rows", "Check --data.source.label_column.")
        super().__init__(index, **decoding)
        self.owner = str(table.absolute())


def _read_rows(table: Path, folder: Path, columns: dict[str, str | None]) -> list[Row]:
    """Read the rows of a table, each image once.

    Args:
        table: The file.
        folder: The folder that paths start from.
        columns: Heading of the columns "path", "label", "split" and "group"; None for one that is not used.
    """
    used = {name: heading for name, heading in columns.items() if heading is not None}
    lines = _lines(table, set(used.values()))
    _, header = next(lines, (0, []))
    if not header:
        raise UserError(f"{table} is empty. It needs a header, such as `path,label`, and a row for each image.")
    header = [heading.strip() for heading in header]
    for name, heading in used.items():
        check_known(f"column of {table}", heading, header, f"Set it with --data.source.{name}_column.")
        if header.count(heading) > 1:
            raise UserError(f"{table} has {header.count(heading)} columns {heading!r}. Give each a name of its own.")
    places = {name: header.index(heading) for name, heading in used.items()}
    rows: dict[Path, Row] = {}
    problems: dict[str, list[str]] = defaultdict(list)
    for line, cells in lines:
        if len(cells) != len(header):
            problems[f"rows of other than {len(header)} cells"].append(f"line {line} has {len(cells)}")
            continue
        values = {name: cells[place].strip() for name, place in places.items()}
        if empty := [used[name] for name, value in values.items() if not value]:
            problems["empty cells"].append(f"{', '.join(map(repr, empty))} in line {line}")
            continue
        split = SPLITS.get(values.get("split", "train").lower())
        if split is None:
            allowed = ", ".join(SPLITS)
            problems[f"splits other than {allowed}"].append(f"{values['split'][:40]!r} in line {line}")
            continue
        path = Path(os.path.abspath(folder / values["path"]))  # one spelling; links are not followed
        row = Row(path, values["label"], split, values.get("group"), path.as_posix(), f"line {line}")
        before = rows.setdefault(path, row)
        if difference := _difference(before, row):
            told = f"{difference} in {before.place} and {row.place} for {values['path'][-60:]!r}"
            problems["images listed twice, differently"].append(told)
    if problems:
        told = "; ".join(f"{kind}: {first(each)}" for kind, each in problems.items())
        raise UserError(f"{table} has {told}. Correct these rows, or remove them.")
    return list(rows.values())


def _lines(table: Path, headings: set[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of the lines of a table that are not blank, beginning with the header.

    Args:
        table: The file.
        headings: Those that the header should have: they tell the delimiter.
    """
    if table.exists() and not table.is_file():  # to open a pipe would wait for someone to write
        raise UserError(f"{table} is not a file. Give a table of text with a header and rows.")
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"the table {table} does not exist. Name it with --data.source.file, absolute or below --data.source.root."
        ) from error
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror}. Allow it, or give another table.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{table} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    source = io.StringIO(_SEPARATOR_LINE.sub(r"\1", text), newline="")
    delimiter = max(DELIMITERS, key=lambda each: _headings_found(source, each, headings))
    source.seek(0)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        told = f"{table} cannot be read as a table at line {reader.line_num}: {one_line(error)}. Correct the line."
        raise UserError(told) from error


def _headings_found(source: io.StringIO, delimiter: str, headings: set[str]) -> tuple[int, int]:
    """Return how many of the headings a header has that is read with a delimiter, and its number of cells."""
    source.seek(0)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    try:
        header = next((cells for cells in reader if any(cell.strip() for cell in cells)), [])
    except csv.Error:
        return 0, 0
    return len(headings & {cell.strip() for cell in header}), len(header)


def _difference(one: Row, other: Row) -> str:
    """Name what differs between two rows of an image; empty if nothing does."""
    pairs = ((one.label, other.label), (one.split, other.split), (one.group or "", other.group or ""))
    return next((f"{before[:40]!r} and {now[:40]!r}" for before, now in pairs if before != now), "")
