"""The table of a soak: printed, and written between the marks of ``docs/reliability.md``."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.soak.results import SKIPPED, Result

BEGIN, END = "<!-- what follows is written by `make soak` -->", "<!-- end of what `make soak` has written -->"


def table(results: Sequence[Result]) -> str:
    """Return the counts of each row as Markdown, and the seconds from a signal to the end."""
    lines = ["| what was done | cases | as promised | against the promise |", "| --- | ---: | --- | --- |"]
    for row in dict.fromkeys(result.row for result in sorted(results, key=lambda result: result.row)):
        own = [result for result in results if result.row == row and result.outcome != SKIPPED]
        good = Counter(result.outcome for result in own if result.good)
        bad = Counter(result.outcome for result in own if not result.good)
        lines.append(f"| {row} | {len(own)} | {_counts(good)} | {_counts(bad) or '0'} |")
    early = sum(result.outcome == SKIPPED and not result.commands for result in results)
    late = sum(result.outcome == SKIPPED for result in results) - early
    unheard = f"Not counted: {late} runs that had ended before the signal, {early} cases that could not be made."
    return "\n".join([*lines, "", unheard, "", *_seconds(results)])


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.most_common())


def _seconds(results: Sequence[Result]) -> list[str]:
    lines = ["| from the signal to the end, in seconds | cases | median | 95th percentile | longest |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    kills = [result for result in results if result.row.startswith("kills")]
    rows = {
        "Ctrl-C at random moments": ([result for result in results if result.row == "Ctrl-C"], "SIGINT"),
        "Ctrl-C among the kills": (kills, "SIGINT"),
        "SIGTERM among the kills": (kills, "SIGTERM"),
    }
    for name, (own, signal) in rows.items():
        took = sorted(result.figures[signal] for result in own if signal in result.figures)
        if len(took) > 1:
            high = statistics.quantiles(took, n=20, method="inclusive")[-1]
            lines.append(f"| {name} | {len(took)} | {statistics.median(took):.2f} | {high:.2f} | {took[-1]:.2f} |")
    stuck = sum(result.figures.get("stuck", 0) > 0 for result in kills)
    if stuck:
        lines += ["", f"Runs by two processes of which one was killed as it waited for the other: {stuck}."]
    return lines


def circumstances(seed: int, root: Path) -> str:
    """Say when, on what and of which commit a soak is run."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    changed = " with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else ""
    return (
        f"Seed {seed}, on {datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores of "
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, torch {version('torch')}; "
        f"commit {git('rev-parse', '--short', 'HEAD')}{changed}."
    )


def write(page: Path, text: str) -> None:
    """Put a text between the marks of a page.

    Raises:
        ValueError: If the page has no marks.
    """
    content = page.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no marks of the soak")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
