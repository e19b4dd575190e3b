"""The verb ``compare``: records of runs in, a report out."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from fashion_tl.errors import UserError
from fashion_tl.files import draft_beside, existing_above, naming, write_bytes, write_text
from fashion_tl.plots.style import style
from fashion_tl.report.charts import charts
from fashion_tl.report.exports import PAGE, csv_text, markdown_text, plot_files
from fashion_tl.report.figures import compare_section
from fashion_tl.report.page import page
from fashion_tl.report.sections import collect

MANIFEST = "manifest.json"
LAST = (PAGE, MANIFEST)


def compare(*runs: str, log_dir: Path = Path("lightning_logs"), output: Path = Path("reports")) -> None:
    """Compare recorded runs: one page, a table as CSV and as Markdown, every plot as PNG and SVG.

    Args:
        runs: Names of runs (their newest completed version), globs over names, or folders of versions; all if empty.
        log_dir: Folder of all records.
        output: Folder of the report; an earlier report in it is replaced, other files stay, and none of them may have
            the name of a file of the report.

    Raises:
        UserError: If a run is unknown, none can be compared, or the report cannot be written.
    """
    check_folder(output)
    sections, left_out = collect(list(runs), log_dir)
    compared = [compare_section(section) for section in sections]
    with style():
        plots = {plot.name: plot for c in compared for plot in charts(c.entries, c.section.slug)}
        whole_page = page(compared, plots, left_out, log_dir)
    texts = {"comparison.csv": csv_text(compared), "comparison.md": markdown_text(compared, left_out), PAGE: whole_page}
    write_report(output, {**plot_files(plots.values()), **texts})

    for item in left_out:
        print(f"left out {item.run}: {item.why}", file=sys.stderr)
    for entry in (e for c in compared for e in c.entries):
        for text in entry.run.alarms:
            print(f"WARNING {entry.label}: {text}", file=sys.stderr)
    count = sum(len(c.entries) for c in compared)
    print(f"{count} run{'s' * (count != 1)} compared: {output / PAGE}")


def check_folder(output: Path) -> None:
    """Refuse a folder in whose place, or above which, a file lies."""
    existing = existing_above(output)
    if not existing.is_dir():
        raise UserError(f"--output {output} cannot be written: {existing} is not a folder. Name another one.")


def write_report(output: Path, contents: dict[str, str | bytes]) -> None:
    """Write the files of a report beside the old ones, rename them when all are whole, page and manifest last.

    The manifest lists the files; before the first is renamed it lists old and new ones. Plots of an earlier report that
    this one does not have are removed; files that no report wrote stay.

    Args:
        output: Folder of the report.
        contents: Contents by path below the folder.

    Raises:
        UserError: If the folder cannot be written, or a file is in the way that no report wrote.
    """
    old = _files_of(output / MANIFEST)
    known, contents = old | contents.keys(), {**contents, MANIFEST: _manifest(contents)}
    made = not output.exists()
    blocked = [name for name in contents if (output / name).is_dir()]
    if blocked:
        raise UserError(f"--output {output}: {blocked[0]} is a folder there. Remove it, or name another folder.")
    for folder in sorted({(output / name).parent for name in contents}):
        check_folder(folder)
    foreign = [name for name in contents if name not in old and (output / name).exists()]
    if foreign:
        raise UserError(
            f"--output {output}: {foreign[0]} is there, and no report wrote it. Remove it, or name another folder."
        )
    draft = draft_beside(output / PAGE)
    try:
        with naming(output):
            draft.mkdir(parents=True)
            for name, content in contents.items():
                write_bytes(draft / name, content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
            stale = {name for name in old if re.fullmatch(r"plots/[a-z0-9_-]+\.(png|svg)", name)} - contents.keys()
            write_text(draft / "all", _manifest(known))
            (draft / "all").replace(output / MANIFEST)
            for name in sorted(contents, key=lambda name: (name in LAST, name)):
                (output / name).parent.mkdir(exist_ok=True)
                (draft / name).replace(output / name)
            for name in stale:
                (output / name).unlink(missing_ok=True)
    except (NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(
            f"--output {output} cannot be written: {error.strerror} ({error.filename}). Name another folder."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if made and output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def _manifest(names: Iterable[str]) -> str:
    return json.dumps({"files": sorted(names)}, indent=1) + "\n"


def _files_of(path: Path) -> set[str]:
    """List the files of an earlier report by its manifest, itself included."""
    try:
        return {MANIFEST, *map(str, json.loads(path.read_text(encoding="utf-8"))["files"])}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
