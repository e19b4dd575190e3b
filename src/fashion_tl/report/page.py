"""The page: one file that needs nothing else, laid out by the templates beside this module."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fashion_tl import __version__
from fashion_tl.plots.style import MARKERS, PALETTE
from fashion_tl.report.context import section
from fashion_tl.report.figures import Comparison
from fashion_tl.report.selection import LeftOut
from fashion_tl.report.svg import Plot

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
    return render(
        "page.html.j2",
        version=__version__,
        count=len(entries),
        log_dir=log_dir,
        newest=newest[:16].replace("T", " "),
        sections=[section(compared, plots, log_dir) for compared in sections],
        alarms=[f"{entry.label}: {text}." for entry in entries for text in entry.run.alarms],
        left_out=left_out,
        folded=FOLDED,
        colours=len(PALETTE),
        markers=len(MARKERS),
    )


def render(template: str, **values: Any) -> str:  # noqa: ANN401 - what the template names
    """Write a page from a template, with its style and its script in it, without empty lines.

    Everything is escaped, and a name that is missing is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("fashion_tl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    folder = files("fashion_tl.report") / "templates"
    assets = {name: (folder / file).read_text(encoding="utf-8") for name, file in ASSETS.items()}
    written = made.get_template(template).render(**assets, **values)
    return "\n".join(line.rstrip() for line in written.splitlines() if line.strip()) + "\n"
