"""The folds of a cross-validation: which versions of a run belong together, and what they say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fashion_tl.metrics.cross_validation import SHARES, CrossValidation, cross_validation, interval_words
from fashion_tl.report.figures import Entry, point_figures
from fashion_tl.report.run_files import Run
from fashion_tl.report.tables import Cell, Row, Table, missing, named, number, table

CAPTION = (
    "Cross-validation: means over folds, each of which was tested by a network that was not trained on it, with Nadeau "
    "and Bengio\u2019s corrected 95 % interval (2003). Folds share training images, so they are not independent, and "
    "no unbiased estimate of that variance exists (Bengio and Grandvalet 2004). Pooled: the accuracy over all images, "
    "each tested once, with Wilson\u2019s interval, which tells nothing of other training images."
)


@dataclass(frozen=True)
class Folds:
    """The folds of a run with one seed.

    Attributes:
        entry: The run in its section.
        seed: The seed.
        count: Number of folds that there are to be.
        found: Their figures; None if some are missing.
        gap: Which are missing.
    """

    entry: Entry
    seed: Any
    count: int
    found: CrossValidation | None
    gap: str = ""


def folds_of(runs: Mapping[str, Sequence[Run]], entries: Iterable[Entry]) -> list[Folds]:
    """Compute the figures over folds of every run that is one of several.

    Args:
        runs: For the label of a run all completed versions that differ from it in fold and seed alone, itself among
            them, the newest of each; none if it is no fold.
        entries: The runs of a section.
    """
    told = []
    for entry in entries:
        by_seed: dict[Any, dict[int, Run]] = defaultdict(dict)
        for run in runs.get(entry.label, ()):
            by_seed[run.get("seed")][run.record["data"]["fold"]] = run
        for seed, several in sorted(by_seed.items(), key=lambda item: str(item[0])):
            told.append(_combined(entry, seed, several))
    return told


def _combined(entry: Entry, seed: object, several: Mapping[int, Run]) -> Folds:
    count = int(entry.run.record["data"]["folds"])
    tests, trained, lost = [], [], []
    for fold in range(1, count + 1):
        run = several.get(fold)
        images = None if run is None else run.number("data", "sizes", "train")
        if run is None or run.predictions is None or not images:
            lost.append(str(fold))
            continue
        tests.append(point_figures(run.predictions))
        trained.append(int(images))
    if lost:
        return Folds(entry, seed, count, None, f"no readable test of fold {', '.join(lost)} of {count}")
    return Folds(entry, seed, count, cross_validation(tests, trained))


def fold_table(folds: Sequence[Folds]) -> Table | None:
    """Lay out the figures over folds; None if no run is one of several folds."""
    rows = []
    for each in folds:
        cells = [Cell(f"{each.count}"), Cell(str(each.seed))]
        for name in (*SHARES, "pooled", "images"):
            cells.append(missing(each.gap) if each.found is None else _cell(each.found, name))
        rows.append(Row(named(each.entry), cells))
    heads = ["Run", "Folds", "Seed", *(words.capitalize() for words in SHARES.values()), "Pooled accuracy", "Images"]
    return table(CAPTION, heads, rows) if rows else None


def _cell(found: CrossValidation, name: str) -> Cell:
    if name == "images":
        return number(f"{found.images:,}", found.images)
    value, interval = found.pooled if name == "pooled" else found.means[name]
    return number(f"{value:.4f}", value, interval_words(interval))


def fold_rows(folds: Sequence[Folds]) -> tuple[list[str], list[list[str]]]:
    """Return heading and rows of the same table as text."""
    heads = ["Run", "Folds", "Seed", *SHARES.values(), "pooled accuracy", "images"]
    rows = []
    for each in folds:
        row = [each.entry.label, str(each.count), str(each.seed)]
        if each.found is None:
            row += [each.gap] + [""] * (len(SHARES) + 1)
        else:
            shown = [*(each.found.means[name] for name in SHARES), each.found.pooled]
            row += [f"{value:.4f} ({interval_words(interval)})" for value, interval in shown]
            row.append(f"{each.found.images:,}")
        rows.append(row)
    return heads, rows
