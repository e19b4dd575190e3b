"""Image files that a table lists: a row has the path of an image, its label, and its split and group if wanted."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fashion_tl.data.file_list import FileList
from fashion_tl.data.folder_index import VALIDATION_NAMES, FolderIndex
from fashion_tl.data.image_folder import ImageFiles
from fashion_tl.data.sources import Loaded, data_root
from fashion_tl.errors import UserError, one_line, unknown_name

DELIMITERS = ",;\t"
SPLITS = {"train": "train", "test": "test", **dict.fromkeys(VALIDATION_NAMES, "val")}

_NAMED = 3  # lines of each problem


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        line: Its line in the file, from 1; the last one if it has several.
        path: The image file.
        label: The name of its class.
        split: "train", "val" or "test"; "train" where the table has no column of splits.
        group: Its group; "" where the table has no column of groups.
    """

    line: int
    path: Path
    label: str
    split: str = "train"
    group: str = ""


class CSV(ImageFiles):
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
        storage_size: Height and width that the files are decoded to, in pixels; the data module's ``image_size`` if not
            given.
        resize: How an image becomes square: crop (the centre), stretch, or pad (the whole image on black).
        crop: Side of the cropped square as a share of the shorter side, above 0 to 1.
        skip_unreadable: Whether to go on without files that are missing or cannot be read, and list them.
        keep_decoded: Whether the decoded images are kept in the cache, from where the next start reads them; also for
            more images than memory holds.

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
        storage_size: int | None = None,
        resize: str = "crop",
        crop: float = 0.875,
        skip_unreadable: bool = False,
        keep_decoded: bool = False,
    ) -> None:
        self.root = data_root(root)
        table = self.root / Path(file).expanduser()
        images = table.parent if folder is None else self.root / Path(folder).expanduser()
        columns = {"path": path_column, "label": label_column, "split": split_column, "group": group_column}
        rows = _read_rows(table, images, columns)
        if not skip_unreadable:
            missing = [f"{row.path} (line {row.line})" for row in rows if not os.path.isfile(row.path)]  # noqa: PTH113 - no error for a long name
            if missing:
                raise UserError(
                    f"{table} lists {_first(missing)}: no such files. Set --data.source.folder to the folder that the "
                    "paths start from, or go on without them: `--data.source.skip_unreadable true`."
                )
        super().__init__(_index(table, rows), storage_size, resize, crop, skip_unreadable, keep_decoded)
        self.owner = str(table.absolute())

    def load(self) -> Loaded:
        """Load the images; the fingerprint covers their splits, which their paths do not tell."""
        loaded = super().load()
        told = f"{loaded.fingerprint} {[(name, len(images)) for name, images in loaded.sets.items()]} {loaded.divided}"
        return replace(loaded, fingerprint=hashlib.sha256(told.encode()).hexdigest())


def _read_rows(table: Path, folder: Path, columns: dict[str, str | None]) -> list[Row]:
    """Read the rows of a table, each image once.

    Args:
        table: The file.
        folder: The folder that paths start from.
        columns: Heading of the columns "path", "label", "split" and "group"; None for one that is not used.
    """
    lines = _lines(table)
    _, header = next(lines, (0, []))
    if not header:
        raise UserError(f"{table} is empty. It needs a header, such as `path,label`, and a row for each image.")
    header = [heading.strip() for heading in header]
    used = {name: heading for name, heading in columns.items() if heading is not None}
    for name, heading in used.items():
        if heading not in header:
            raise unknown_name(f"column of {table}", heading, header, f"Set it with --data.source.{name}_column.")
        if header.count(heading) > 1:
            raise UserError(f"{table} has {header.count(heading)} columns {heading!r}. Give each a name of its own.")
    places = {name: header.index(heading) for name, heading in used.items()}
    rows: dict[str, Row] = {}
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
        path = Path(os.path.normpath(folder / values["path"]))
        row = Row(line, path, values["label"], split, values.get("group", ""))
        before = rows.setdefault(str(path), row)
        if replace(before, line=line) != row:
            told = f"{_difference(before, row)} in lines {before.line} and {line} for {values['path'][-60:]!r}"
            problems["images listed twice, differently"].append(told)
    if problems:
        told = "; ".join(f"{kind}: {_first(each)}" for kind, each in problems.items())
        raise UserError(f"{table} has {told}. Correct these rows, or remove them.")
    return list(rows.values())


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of the lines of a table that are not blank, beginning with the header."""
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
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        told = f"{table} cannot be read as a table at line {reader.line_num}: {one_line(error)}. Correct the line."
        raise UserError(told) from error


def _index(table: Path, rows: list[Row]) -> FolderIndex:
    """Sort rows into classes and splits; the order depends on labels and paths alone.

    Raises:
        UserError: If classes or splits are missing, or a group is in two splits.
    """
    class_names = tuple(sorted({row.label for row in rows}))
    if len(class_names) < 2:
        found = f"one class, {class_names[0]!r}" if class_names else "no rows"
        raise UserError(f"{table} has {found}; at least two classes are needed. Check --data.source.label_column.")
    splits = {split for split in ("train", "test", "val") if any(row.split == split for row in rows)}
    labels = _by(rows, lambda row: row.label, lambda row: row.split)
    lost = [f"{split!r} of {name!r}" for name in class_names for split in sorted({"train", *splits} - labels[name])]
    if lost:
        raise UserError(
            f"{table} has no rows for {_first(lost)}: each class needs images in each split. Add rows, or remove the "
            "class."
        )
    sides = _by([row for row in rows if row.group], lambda row: row.group, lambda row: row.split)
    if torn := [group for group, found in sides.items() if len(found) > 1]:
        told = []
        for group in torn[:_NAMED]:
            places = (f"{row.split} in line {row.line}" for row in _one_of_each_split(rows, group))
            told.append(f"{group[:40]!r} ({', '.join(places)})")
        raise UserError(
            f"{table} divides groups between splits: {_first([*told, *torn[_NAMED:]])}. Put each group into one split."
        )
    ordered = sorted(rows, key=lambda row: (row.label, row.path.as_posix()))
    numbers = {name: number for number, name in enumerate(class_names)}
    files = FileList.of((row.path, numbers[row.label]) for row in ordered)
    parts = {split: files.take(np.array([row.split == split for row in ordered])) for split in splits}
    groups = None
    if sides:
        group_numbers = {group: number for number, group in enumerate(sorted(sides))}
        groups = [group_numbers[row.group] for row in ordered if row.split == "train"]
    return FolderIndex(class_names, parts["train"], parts.get("test"), parts.get("val"), groups)


def _by(rows: Iterable[Row], key: Callable[[Row], str], value: Callable[[Row], Hashable]) -> dict[str, set[Hashable]]:
    """Collect a value of the rows by a key of theirs."""
    found: dict[str, set[Hashable]] = defaultdict(set)
    for row in rows:
        found[key(row)].add(value(row))
    return found


def _one_of_each_split(rows: list[Row], group: str) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        if row.group == group:
            first.setdefault(row.split, row)
    return list(first.values())


def _difference(one: Row, other: Row) -> str:
    """Name what differs between two rows of an image."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("label", "split", "group")]
    return next(f"{first[:40]!r} and {second[:40]!r}" for first, second in pairs if first != second)


def _first(told: list[str]) -> str:
    """List the first few."""
    return ", ".join(told[:_NAMED]) + (f", ... ({len(told)} in all)" if len(told) > _NAMED else "")
