"""What later commands left in the ``analysis`` folder of a run: tables and pictures, side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fashion_tl.plain_text import clean
from fashion_tl.report.elements import heads, items, paragraph, part, sign, table
from fashion_tl.report.exports import Compared
from fashion_tl.report.figures import Entry
from fashion_tl.report.html import Html, tag
from fashion_tl.report.pictures import data_uri
from fashion_tl.report.run_files import ANALYSIS

PNG = b"\x89PNG\r\n\x1a\n"


def analyses(compared: Compared) -> Html | None:
    """Show every analysis that a run of the section holds, the same kind of all runs together."""
    kinds: dict[str, list[tuple[Entry, Html]]] = {}
    damaged: list[str] = []
    for entry in compared.entries:
        for kind, shown in _of_run(entry, damaged):
            kinds.setdefault(kind, []).append((entry, shown))
    if not kinds and not damaged:
        return None
    blocks = [
        tag(
            "div",
            [tag("article", tag("h5", sign(entry), entry.label), shown) for entry, shown in found],
            class_="analysis",
            data_kind=kind,
        )
        for kind, found in kinds.items()
    ]
    titled = [(tag("h4", clean(kind)), block) for kind, block in zip(kinds, blocks, strict=True)]
    note = tag("div", paragraph("Damaged, and not shown:"), items(damaged), class_="note") if damaged else None
    return part(f"{compared.section.slug}-analyses", "Further analyses", titled, note)


def _of_run(entry: Entry, damaged: list[str]) -> Iterable[tuple[str, Html]]:
    folder = entry.run.folder / ANALYSIS
    used: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            title, shown = _document(content, folder, used, f"{entry.label}, {ANALYSIS}/{path.name}", damaged)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            damaged.append(clean(f"{entry.label}, {ANALYSIS}/{path.name}: {error or type(error).__name__}"))
            continue
        yield title, shown
    for path in sorted(folder.glob("*.png")):
        if path.name not in used:
            picture = _picture(folder, path.name, path.stem, f"{entry.label}, {ANALYSIS}/{path.name}", damaged)
            if picture is not None:
                yield path.stem, picture


def _document(
    content: dict[str, Any], folder: Path, used: set[str], where: str, damaged: list[str]
) -> tuple[str, Html]:
    parts: list[Html | None] = []
    if content.get("note"):
        parts.append(paragraph(str(content["note"])))
    for item in content.get("tables") or []:
        columns, rows = list(item["columns"]), [list(row) for row in item["rows"]]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"a row of the table {item.get('caption')!r} does not have {len(columns)} cells")
        body = [tag("tr", [_cell(value, place) for place, value in enumerate(row)]) for row in rows]
        head = heads([str(c) for c in columns[1:]], str(columns[0]) if columns else "")
        parts.append(table(str(item.get("caption") or ""), [head], body, str(item.get("caption") or content["title"])))
    for item in content.get("pictures") or []:
        name = str(item["file"])
        used.add(name)
        parts.append(_picture(folder, name, str(item.get("alt") or name), where, damaged))
    return str(content["title"]), tag("div", parts)


def _cell(value: Any, place: int) -> Html:  # noqa: ANN401 - any JSON value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        text = "not recorded"
    elif isinstance(value, float):
        text = f"{value:.3g}" if 0 < abs(value) < 1e-3 else f"{value:,.{4 if abs(value) < 10 else 1}f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if place == 0:
        return tag("th", text, scope="row")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return tag("td", text, class_="n" if is_number else None, title=repr(value) if is_number else None)


def _picture(folder: Path, name: str, alt: str, where: str, damaged: list[str]) -> Html | None:
    if Path(name).name != name:
        damaged.append(clean(f"{where}: the picture {name!r} is not a file beside it"))
        return None
    try:
        content = (folder / name).read_bytes()
    except (OSError, ValueError) as error:
        damaged.append(clean(f"{where}: the picture {name!r} cannot be read ({getattr(error, 'strerror', error)})"))
        return None
    if not content.startswith(PNG):
        damaged.append(clean(f"{where}: the picture {name!r} is not a PNG file"))
        return None
    return tag("figure", tag("img", src=data_uri(content), alt=alt, class_="wide"), tag("figcaption", alt))
