"""Finding the runs that a user asks for: by name, by glob, by folder; the newest completed version of each name."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.plain_text import clean
from fashion_tl.records.record import COMPLETED, FAILED, INTERRUPTED, PRUNED, RUNNING, TRAINED, versions
from fashion_tl.report.run_files import Run, open_run

VERSION_FOLDER = r"version_(\d+)"


@dataclass(frozen=True)
class LeftOut:
    """A run that is not part of the comparison, and why."""

    run: str
    why: str


def find(wanted: list[str], log_dir: Path) -> tuple[list[tuple[Path, list[Path]]], list[LeftOut]]:
    """Find the runs to compare.

    Args:
        wanted: Names, globs over names, or folders of versions; all names if empty.
        log_dir: Folder of all records.

    Returns:
        The folder of each run with those of the other completed versions of its name, and what was passed over.

    Raises:
        UserError: If there are no records, or a name is unknown.
    """
    if not log_dir.is_dir():
        raise UserError(
            f"--log_dir {log_dir} is no folder. `fashion-tl fit` makes it; name another one with --log_dir."
        )
    names = sorted(p.name for p in log_dir.iterdir() if p.is_dir() and versions(log_dir, p.name))
    found: dict[Path, tuple[Path, list[Path]]] = {}
    left_out: list[LeftOut] = []
    # Candidates of a search have no test figures.
    for given in wanted or [name for name in names if not name.endswith(".search")]:
        folder = next(
            (p for p in (Path(given), log_dir / given) if re.fullmatch(VERSION_FOLDER, p.name) and p.is_dir()), None
        )
        if folder is not None:
            completed = _completed(folder.parent, [])
            found.setdefault(folder.resolve(), (folder, [p for p in completed if p.name != folder.name]))
            continue
        name = Path(given).name if Path(given).resolve().parent == log_dir.resolve() else given
        matches = [name] if name in names else fnmatch.filter(names, name) if re.search(r"[*?\[]", name) else []
        if not names:
            raise UserError(
                f"no run at all is in {log_dir}: make one with `fashion-tl fit`, or give another --log_dir."
            )
        if not matches:
            raise unknown_name(
                "run", given, names, f"These are in {log_dir}; a version's folder or a glob will do too."
            )
        for match in matches:
            completed = _completed(log_dir / match, left_out)
            if completed:
                found.setdefault(completed[0].resolve(), (completed[0], completed[1:]))
    return list(found.values()), list(dict.fromkeys(left_out))


def _completed(folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """List the completed versions of a name, newest first; tell of all others."""
    done = []
    for version in reversed(versions(folder.parent, folder.name)):
        path = folder / f"version_{version}"
        if open_completed(path, left_out) is not None:
            done.append(path)
    return done


def open_completed(folder: Path, left_out: list[LeftOut]) -> Run | None:
    """Open a run if it was completed; else say why not."""
    label = clean(f"{folder.parent.name}/{folder.name}")
    try:
        run = open_run(folder)
    except (UserError, RecursionError) as error:
        left_out.append(LeftOut(label, clean(error)))
        return None
    status, reason = run.get("status"), run.text("reason")
    if status == COMPLETED:
        return run
    why = {
        FAILED: f"failed: {reason or 'no reason recorded'}",
        PRUNED: f"{reason or 'pruned'}: a trial that its study has ended early",
        INTERRUPTED: f"interrupted: {reason or 'no reason recorded'}",
        TRAINED: "trained, but not tested",
        RUNNING: f"still running, or killed: started {run.text('started') or 'at an unknown time'}, no end recorded",
    }.get(str(status), f"its status is {status!r}")
    left_out.append(LeftOut(label, clean(why)))
    return None
