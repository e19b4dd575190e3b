"""What later commands left in the ``analysis`` folder of a run: documents of tables and pictures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from fashion_tl.files import read_json
from fashion_tl.plain_text import clean
from fashion_tl.report.figures import Comparison, Entry
from fashion_tl.report.run_files import ANALYSIS
from fashion_tl.report.tables import NOT_RECORDED, Cell, Row, Table, number, table
from fashion_tl.report.thumbnails import data_uri

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False)
class Document:
    """One document of a run: a note, tables, and pictures as data URIs with their words."""

    run: Entry
    note: str = ""
    tables: list[Table] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


def analyses(compared: Comparison) -> dict[str, Any] | None:
    """Collect the documents of all runs of a section by title, and what is damaged; None if there is nothing."""
    kinds: dict[str, list[Document]] = {}
    damaged: list[str] = []
    for entry in compared.entries:
        for title, document in _of_run(entry, damaged):
            kinds.setdefault(clean(title), []).append(document)
    return {"kinds": kinds, "damaged": damaged} if kinds or damaged else None


def _of_run(entry: Entry, damaged: list[str]) -> Iterator[tuple[str, Document]]:
    folder = entry.run.folder / ANALYSIS
    used: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        where = f"{entry.label}, {ANALYSIS}/{path.name}"
        try:
            content = read_json(path)
            title, tables = str(content["title"]), [_table(item) for item in content.get("tables") or []]
            named = [
                (str(item["file"]), str(item.get("alt") or item["file"])) for item in content.get("pictures") or []
            ]
            note = str(content.get("note") or "")
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            damaged.append(clean(f"{where}: {error or type(error).__name__}"))
            continue
        used.update(name for name, _ in named)
        yield title, Document(entry, note, tables, _pictures(folder, named, where, damaged))
    for path in sorted(folder.glob("*.png")):
        if path.name not in used:
            where = f"{entry.label}, {ANALYSIS}/{path.name}"
            pictures = _pictures(folder, [(path.name, path.stem)], where, damaged)
            if pictures:
                yield path.stem, Document(entry, pictures=pictures)


def _table(item: dict[str, Any]) -> Table:
    columns, rows = [str(column) for column in item["columns"]], [list(row) for row in item["rows"]]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"a row of the table {item.get('caption')!r} does not have {len(columns)} cells")
    body = [Row(_cell(first), [_cell(value) for value in rest]) for first, *rest in rows]
    return table(str(item.get("caption") or ""), columns, body)


def _cell(value: Any) -> Cell:  # noqa: ANN401 - any JSON value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(NOT_RECORDED)
    if isinstance(value, float):
        text = f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:,.{4 if abs(value) < 10 else 1}f}"
        return number(text, value)
    if isinstance(value, int) and not isinstance(value, bool):
        return number(f"{value:,}", value)
    return Cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _pictures(folder: Path, named: list[tuple[str, str]], where: str, damaged: list[str]) -> list[tuple[str, str]]:
    found = []
    for name, alt in named:
        why, content = "", b""
        if Path(name).name != name:
            why = "is not a file beside it"
        else:
            try:
                content = (folder / name).read_bytes()
                why = "" if content.startswith(PNG) else "is not a PNG file"
                if not why:
                    Image.open(io.BytesIO(content)).verify()  # the checksums of its chunks
            except (OSError, ValueError, SyntaxError) as error:
                why = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        if why:
            damaged.append(clean(f"{where}: the picture {name!r} {why}"))
        else:
            found.append((data_uri(content), alt))
    return found
