"""Tables of predictions as CSV, JSON lines or Parquet: path, class and the probability of every class, a row a file."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fashion_tl import __version__
from fashion_tl.errors import UserError, shown
from fashion_tl.files import as_csv, replacing
from fashion_tl.imports import is_installed

CSV, JSON_LINES, PARQUET = ".csv", ".jsonl", ".parquet"
ALLOWED = ("", ".txt", CSV, JSON_LINES, PARQUET)  # other suffixes would promise what is not in the file
ROW_GROUP = 16_384  # rows that wait to be written
DECIMALS = 6

_MARK = b"fashion_tl.predictions"  # in the metadata of Parquet files
_FIRST = ("path", "class")
_FIGURE = re.compile(rf"[01]\.\d{{{DECIMALS}}}")

# Paths (B) and probabilities (B, K) of a batch.
WriteRows = Callable[[Sequence[str], np.ndarray], None]


def check_output(output: Path, checkpoint: Path, images: Sequence[Path]) -> None:
    """Refuse a file that cannot be written, or is there and was not written by ``predict``.

    Args:
        output: The file to write.
        checkpoint: The checkpoint that is read.
        images: The image files.

    Raises:
        UserError: If it is refused.
    """
    if output.is_dir():
        told = f"--output {output} cannot be written: it is a folder"
        raise UserError(f"{told}. Name a file, such as {output / 'predictions.csv'}.")
    if output.exists() and any(path.exists() and output.samefile(path) for path in (checkpoint, *images)):
        raise UserError(f"--output {output} is also given to be read. Name another file.")
    form = output.suffix.lower()
    if form not in ALLOWED:
        raise UserError(
            f"--output {output}: predictions are written as .csv, JSON lines (.jsonl) or Parquet (.parquet)."
        )
    if form == PARQUET:
        _check_parquet(output, images)
    if output.exists() and not (output.is_file() and _is_former(output)):
        raise UserError(_in_the_way(output))


def check_class_names(output: Path | None, class_names: Sequence[str]) -> None:
    """Refuse names of classes that a table cannot have as columns, and a heading alone of other classes.

    JSON lines have names of classes apart from others. Only the heading tells whether a table without rows is a former
    one of this command.

    Args:
        output: The file to write, see ``check_output``; CSV on standard output if None.
        class_names: Names of the K classes.

    Raises:
        UserError: If two columns would have one name, or the file is there and is of others.
    """
    if output is not None and output.suffix.lower() != PARQUET and output.is_file():
        head = _heading_alone(output)
        if head and head != [*_FIRST, *class_names]:
            raise UserError(_in_the_way(output))
    twice = [name for name, count in Counter([*_FIRST, *class_names]).items() if count > 1]
    if twice and not (output is not None and output.suffix.lower() == JSON_LINES):
        table = "the table" if output is None else f"--output {output}"
        name = Path("predicted.csv") if output is None else output
        raise UserError(
            f"{table}: two columns would be named {' and '.join(map(shown, twice))}, as a class of the checkpoint is. "
            f"Write JSON lines: --output {name.with_suffix(JSON_LINES)}."
        )


@contextmanager
def opened_table(output: Path, class_names: Sequence[str]) -> Iterator[WriteRows]:
    """Write a table, in the form that its suffix names; it takes the place of the file when it is whole.

    Args:
        output: The file to write; missing folders are made.
        class_names: Names of the K classes.

    Yields:
        What writes the rows of a batch.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        with replacing(output) as file:
            if output.suffix.lower() == PARQUET:
                with _parquet_rows(file, class_names) as write:
                    yield write
            else:

                def emit(text: str) -> None:
                    file.write(text.encode("utf-8", "surrogateescape"))  # names of files are bytes

                yield text_rows(emit, class_names, output.suffix.lower() == JSON_LINES)
    except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(f"--output {output} cannot be written: {error.strerror}.") from error


def text_rows(emit: Callable[[str], object], class_names: Sequence[str], json_lines: bool = False) -> WriteRows:
    """Begin a table of text.

    Args:
        emit: Is given the text, piece by piece.
        class_names: Names of the K classes.
        json_lines: Whether each row is a JSON object, else the table is CSV with a heading.

    Returns:
        What writes the rows of a batch.
    """

    def write_csv(paths: Sequence[str], probabilities: np.ndarray) -> None:
        rows = zip(paths, probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True)
        emit(as_csv([path, class_names[best], *(f"{p:.{DECIMALS}f}" for p in row)] for path, best, row in rows))

    def write_json(paths: Sequence[str], probabilities: np.ndarray) -> None:
        lines = []
        for path, best, row in zip(paths, probabilities.argmax(1).tolist(), probabilities.tolist(), strict=True):
            named = {name: round(p, DECIMALS) for name, p in zip(class_names, row, strict=True)}
            lines.append(json.dumps({"path": path, "class": class_names[best], "probabilities": named}) + "\n")
        emit("".join(lines))

    if json_lines:
        return write_json
    emit(as_csv([[*_FIRST, *class_names]]))
    return write_csv


@contextmanager
def _parquet_rows(file: BinaryIO, class_names: Sequence[str]) -> Iterator[WriteRows]:
    """Write a Parquet file; its rows reach it by row groups, so that few of them are held in memory."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    text, number = pyarrow.string(), pyarrow.float64()
    columns = [*((name, text) for name in _FIRST), *((name, number) for name in class_names)]
    schema = pyarrow.schema(columns, metadata={_MARK: __version__})
    waiting: list[Any] = []

    with ParquetWriter(file, schema) as writer:

        def write_group() -> None:
            writer.write_table(pyarrow.Table.from_batches(waiting, schema), ROW_GROUP)
            waiting.clear()

        def write(paths: Sequence[str], probabilities: np.ndarray) -> None:
            best = [class_names[index] for index in probabilities.argmax(1).tolist()]
            rounded = probabilities.astype(np.float64).round(DECIMALS)  # the values of the other forms
            values = [pyarrow.array(paths, text), pyarrow.array(best, text), *map(pyarrow.array, rounded.T)]
            waiting.append(pyarrow.record_batch(values, schema=schema))
            if sum(batch.num_rows for batch in waiting) >= ROW_GROUP:
                write_group()

        yield write
        write_group()


def _check_parquet(output: Path, images: Sequence[Path]) -> None:
    """Refuse Parquet without its library, and paths that its text, UTF-8, cannot hold."""
    if not is_installed("pyarrow"):
        raise UserError(f"--output {output} needs the library `pyarrow`: pip install 'fashion-tl[hub]'.")
    odd = next((text for text in map(str, images) if not _is_utf8(text)), None)
    if odd is not None:
        raise UserError(
            f"--output {output}: Parquet needs names in UTF-8, {shown(odd)} is not. Rename it, or write .csv."
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_former(output: Path) -> bool:
    """Say whether a file is a table of this command; one without rows is empty as JSON lines."""
    with output.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    if not parquet:
        return _is_former_text(output)
    if not is_installed("pyarrow"):
        return False
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        return _MARK in (read_schema(output).metadata or {})
    except (ArrowException, OSError):
        return False


def _is_former_text(output: Path) -> bool:
    """Say whether every row of a file of text is as this command writes it: others may have the same columns.

    Of a heading alone, ``check_class_names`` says it.
    """
    with output.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        begins = file.read(1)
        file.seek(0)
        try:
            if begins == "{":
                return all(_is_json_row(json.loads(line)) for line in file)
            rows = csv.reader(file, strict=True)
            head = next(rows, [*_FIRST])
            return head[:2] == [*_FIRST] and all(_is_csv_row(row, head[2:]) for row in rows)
        except (csv.Error, ValueError, TypeError, AttributeError, IndexError):
            return False


def _heading_alone(output: Path) -> list[str]:
    """Return the heading of a table as CSV that has no rows; nothing of another file."""
    with output.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = [*itertools.islice(csv.reader(file), 2)]
    return rows[0] if len(rows) == 1 and rows[0][:2] == [*_FIRST] else []


def _in_the_way(output: Path) -> str:
    return f"--output {output} exists and is no table of predictions. Remove it, or name another file."


def _is_json_row(row: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    told = row["probabilities"] if list(row) == [*_FIRST, "probabilities"] else {}
    return row.get("class") in told and _is_row([*told.values()], told[row["class"]])


def _is_csv_row(row: Sequence[str], class_names: Sequence[str]) -> bool:
    figures = row[2:]
    if len(figures) != len(class_names) or not all(_FIGURE.fullmatch(figure) for figure in figures):
        return False
    values = [float(figure) for figure in figures]
    return _is_row(values, values[class_names.index(row[1])])


def _is_row(values: Sequence[float], best: float) -> bool:
    """Say whether values are the rounded probabilities of all classes, and one of them is the largest."""
    rounding = len(values) * 10.0**-DECIMALS
    return all(isinstance(each, float) for each in values) and best == max(values) and abs(sum(values) - 1) <= rounding
