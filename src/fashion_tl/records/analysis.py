"""The analysis of a run: one document with its pictures, written whole, shown in TensorBoard too."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.files import write_bytes, write_json

FOLDER = "analysis"


@dataclass
class Analysis:
    """A document in the form that a report over records shows, and its pictures.

    Attributes:
        title: Its heading.
        note: What one must know to read it.
        tables: Tables with "caption", "columns" and "rows" of text, numbers or None.
        pictures: Pictures as PNG by name of their files, with the words that stand for them.
        figures: Any other plain values.
    """

    title: str
    note: str = ""
    tables: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def add_table(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; NaN becomes None, which is shown as not recorded."""
        self.tables.append({"caption": caption, "columns": list(columns), "rows": [list(row) for row in rows]})

    def add_picture(self, name: str, picture: bytes, alt: str) -> None:
        """Add a picture as PNG under the name of its file."""
        self.pictures[name] = (picture, alt)

    def document(self) -> dict[str, Any]:
        """Return the document as plain values."""
        pictures = [{"file": name, "alt": alt} for name, (_, alt) in self.pictures.items()]
        shown = {"title": self.title, "note": self.note, "tables": self.tables, "pictures": pictures}
        whole: dict[str, Any] = plain({**shown, "figures": self.figures})
        return whole

    def write(self, logs: Path, name: str, arrays: dict[str, np.ndarray] | None = None) -> Path:
        """Write ``analysis/<name>.json`` with the pictures, and the arrays if any, below a run's log folder.

        Returns:
            Path of the document.
        """
        return self.write_into(logs / FOLDER, name, arrays)

    def write_into(self, folder: Path, name: str, arrays: dict[str, np.ndarray] | None = None) -> Path:
        """Write ``<name>.json`` with the pictures, and the arrays if any, into a folder.

        The document is written last, so that it never names what is not there; pictures of the same command that it
        no longer names are removed.

        Returns:
            Path of the document.
        """
        document = self.document()
        for file, (picture, _) in self.pictures.items():
            write_bytes(folder / file, picture)
        if arrays is not None:
            write_arrays(folder / f"{name}.npz", arrays)
        write_json(folder / f"{name}.json", document)
        for path in folder.glob(f"{name}-*.png"):
            if path.name not in self.pictures:
                path.unlink()
        return folder / f"{name}.json"

    def log(self, logs: Path, name: str, scalars: dict[str, float | None] | None = None) -> None:
        """Show pictures and scalars in TensorBoard, in the run's own folder."""
        from PIL import Image

        from fashion_tl.events import EventWriter

        with EventWriter(logs, f".{name}") as writer:
            for file, (picture, _) in self.pictures.items():
                pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
                tag = Path(file).stem.removeprefix(f"{name}-")
                writer.add_image(f"{name}/{tag}", pixels, dataformats="HWC")
            for tag, value in (scalars or {}).items():
                if value is not None and math.isfinite(value):
                    writer.add_scalar(f"{name}/{tag}", value)


def plain(value: Any) -> Any:  # noqa: ANN401 - any tree of values
    """Turn arrays, NumPy's numbers and tuples into plain values, and what is not finite into None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed NPZ file."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())
