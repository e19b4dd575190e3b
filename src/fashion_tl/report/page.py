"""The page: one file that needs nothing else, laid out by the templates beside this module."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_tl import __version__
from fashion_tl.plots.style import MARKERS, PALETTE
from fashion_tl.report.context import section
from fashion_tl.report.figures import Comparison
from fashion_tl.report.selection import LeftOut
from fashion_tl.report.svg import Plot

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = {"style": "page.css", "script": "page.js"}
FOLDED = 160  # letters of a reason that are shown; the rest is folded away


def page(sections: Sequence[Comparison], plots: dict[str, Plot], left_out: Sequence[LeftOut], log_dir: Path) -> str:
    """Write the whole page.

    Args:
        sections: Sections with their numbers.
        plots: Plots of all sections by name.
        left_out: Runs that are not compared.
        log_dir: Folder of the records, to find the test images in.
    """
    entries = [entry for compared in sections for entry in compared.entries]
    newest = max((entry.run.text("finished") or "" for entry in entries), default="")
    written = (
        environment()
        .get_template("page.html.j2")
        .render(
            version=__version__,
            count=len(entries),
            log_dir=log_dir,
            newest=newest[:16].replace("T", " "),
            **assets(),
            sections=[section(compared, plots, log_dir) for compared in sections],
            alarms=[f"{entry.label}: {text}." for entry in entries for text in entry.run.alarms],
            left_out=left_out,
            folded=FOLDED,
            colours=len(PALETTE),
            markers=len(MARKERS),
        )
    )
    return "\n".join(line.rstrip() for line in written.splitlines() if line.strip()) + "\n"


def environment() -> Environment:
    """Return what fills in the templates: everything is escaped, and a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("fashion_tl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return made


def assets() -> dict[str, str]:
    """Return what each page holds beside its contents: its style and its script."""
    folder = files("fashion_tl.report") / "templates"
    return {name: (folder / file).read_text(encoding="utf-8") for name, file in ASSETS.items()}
