"""What each part of a section shows, as plain values for the page's templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.metrics.metrics import counted
from fashion_tl.plots.filters import filter_grid
from fashion_tl.report.analyses import analyses
from fashion_tl.report.charts import COSTS, reliability_diagram
from fashion_tl.report.columns import COLUMNS, Column, class_counts, interval_text, seconds
from fashion_tl.report.exports import spread_text
from fashion_tl.report.figures import SCALARS, Comparison, Entry, Spread
from fashion_tl.report.folds import fold_table, folds_of
from fashion_tl.report.pairs import CORNER, MATRIX_CLASSES, SIGNIFICANT, configurations, p_text, significance, two_runs
from fashion_tl.report.run_files import FILTERS
from fashion_tl.report.svg import Plot
from fashion_tl.report.tables import NOT_RECORDED, Cell, Row, Table, missing, named, number, shade, table
from fashion_tl.report.thumbnails import data_uri, png_of

CLASS_FIGURES = (  # of each class, their mean, a title
    ("f1", "macro_f1", "F1"),
    ("precision", "macro_precision", "Precision"),
    ("recall", "balanced_accuracy", "Recall"),
)
NOWHERE = "the class does not occur in the test and is not predicted: it counts in no mean"
ABSENT = {"f1": NOWHERE, "precision": NOWHERE, "recall": "the class does not occur in the test: it counts in no mean"}
LONG = 40  # letters from which a text has a wider column
SPREAD = {**SCALARS, "fit_seconds": "Seconds"}


def section(compared: Comparison, plots: dict[str, Plot], log_dir: Path) -> dict[str, Any]:
    """Prepare one section: everything its template lays out.

    Args:
        compared: The section with its numbers.
        plots: Plots of all sections by name.
        log_dir: Folder of the records, to find the test images in.
    """
    slug, entries = compared.section.slug, compared.entries

    def drawn(*names: str) -> list[Plot]:
        return [plots[f"{slug}_{name}"] for name in names if f"{slug}_{name}" in plots]

    confusion = next(iter(drawn("confusion")), None)
    devices = {entry.run.text("environment", "device") or NOT_RECORDED for entry in entries}
    return {
        "slug": slug,
        "title": compared.section.title,
        "about": compared.about,
        "lead": lead(compared),
        "runs": entries,
        "scored": compared.scored,
        "table": main_table(compared),
        "devices": sorted(devices) if len(devices) > 1 else [],
        "bars": drawn("accuracy", "macro_f1"),
        "curves": drawn(
            *(f"{quantity}_by_{axis}" for axis in ("epoch", "seconds") for quantity in ("loss", "accuracy"))
        ),
        "uncurved": [entry.label for entry in entries if not entry.run.history and not entry.run.derived],
        "cost": drawn(*(f"accuracy_against_{name}" for name in COSTS)),
        "significance": significance(compared),
        "seeds": seeds(compared.spreads),
        "folds": fold_table(folds_of(compared.section.folds, entries)),
        "classes": classes(compared),
        "confusion": confusion,
        "matrices": matrices(compared),
        "confusion_picture": data_uri(confusion.png) if confusion else None,
        "pair": two_runs(compared, log_dir),
        "reliability": next(iter(drawn("reliability")), None),
        "diagrams": diagrams(compared) if drawn("reliability") else [],
        "filters": next(iter(drawn("filters")), None),
        "grids": [grid(entry) for entry in entries if entry.run.filters is not None],
        "unfiltered": [
            (entry, entry.run.gaps.get(FILTERS, NOT_RECORDED))
            for entry in entries
            if entry.run.filters is None and not entry.run.derived
        ],
        "analyses": analyses(compared),
        "configuration": configurations(compared),
        "gaps": [(entry, text) for entry in entries for text in (*entry.run.notes, *entry.run.gaps.values())],
    }


def lead(compared: Comparison) -> tuple[str, str]:
    """Say in words which run is ahead, and by how much: names to emphasise, and the rest of the sentence."""
    scored = compared.scored
    if not scored:
        return "", "No test predictions can be read, so there is nothing to compare."
    best = scored[0]
    accuracies = [entry.figures.values["accuracy"] for entry in scored if entry.figures is not None]
    level = [entry.label for entry, accuracy in zip(scored, accuracies, strict=True) if accuracy == accuracies[0]]
    spent = best.run.number("time", "fit_seconds")
    after = f", after {seconds(spent)} s of training" if spent is not None else ""
    reached = f"{accuracies[0]:.4f} ({interval_text(best, 'accuracy')})"
    if len(level) > 1:
        return ", ".join(level), f" are equally accurate: {reached}."
    if len(scored) == 1:
        return best.label, f" has a test accuracy of {reached}{after}."
    pair = next(p for p in compared.pairs if p.a is best and p.b is scored[1])
    found = "a significant difference" if pair.p < SIGNIFICANT else "not a significant difference"
    return best.label, (
        f" is the most accurate: {reached}{after}. It alone is correct on {pair.test.only_a:,} images, "
        f"{scored[1].label}, the next, alone on {pair.test.only_b:,}: {found} (McNemar\u2019s exact test, "
        f"p {p_text(pair.p)} after Holm\u2019s correction for {len(compared.pairs):,} "
        f"comparison{'s' * (len(compared.pairs) > 1)})."
    )


def main_table(compared: Comparison) -> Table:
    """Lay out every column for every run, sortable; those of studies where a run belongs to one."""
    studied = any(entry.run.get("study") for entry in compared.entries)
    columns = [column for column in COLUMNS if studied or not column.study]
    head = [Cell("Run", attributes={"aria-sort": "none"})]
    for column in columns:
        kind = "study" if column.study else None
        sort = "descending" if column.key == "accuracy" else "none"
        head.append(Cell(column.heading, attributes={"aria-sort": sort, "class": kind}))
    rows = []
    for entry in compared.entries:
        about = entry.run.text("study", "system")
        first = Cell(detail=f"version {entry.run.version}{f', {about}' if about else ''}", run=entry)
        cells = [_column_cell(entry, column) for column in columns]
        rows.append(Row(first, cells, {"data-run": entry.label}))
    beside = ", beside the figures of the published studies" if studied else ""
    caption = (
        f"Test figures, computed from the stored predictions, with their 95 % intervals{beside}; training and its "
        "cost. Press a heading to sort."
    )
    return Table(caption, head, [("", rows)], "main", sortable=True)


def _column_cell(entry: Entry, column: Column) -> Cell:
    value = column.value(entry)
    if value is None:
        return missing(column.missing(entry), column.text(entry))
    if isinstance(value, str):
        width = "text long" if len(value) > LONG else "text"
        kind = f"study {width}" if column.study else width
        return Cell(value, attributes={"data-sort": value, "class": kind, "title": value}, clamped=True)
    interval = interval_text(entry, column.key) if column.interval else ""
    return number(column.shown(value), value, interval, data_key=column.key)


def seeds(spreads: list[Spread]) -> Table | None:
    """Lay out mean and standard deviation where there are several seeds."""
    rows = []
    for spread in spreads:
        cells = [Cell(", ".join(map(str, spread.seeds)))]
        for name in SPREAD:
            if name in spread.values:
                mean, deviation = spread.values[name]
                text = spread_text(spread, name, 1 if name == "fit_seconds" else 4)
                exact = {"class": "n", "data-mean": repr(mean), "data-deviation": repr(deviation)}
                cells.append(Cell(text, attributes=dict(exact)))
            else:
                cells.append(missing("a seed's record does not hold it"))
        rows.append(Row(named(spread.entry), cells))
    caption = (
        "Mean \u00b1 standard deviation (divisor n \u2212 1) over the completed versions that differ in the seed alone."
    )
    return table(caption, ["Run", "Seeds", *SPREAD.values()], rows) if rows else None


def classes(compared: Comparison) -> Table | None:
    """Lay out precision, recall and F1 of each class, one column a run, and the means that the record calls macro."""
    scored, figures = compared.scored, [e.figures for e in compared.scored if e.figures is not None]
    if not figures:
        return None
    support = figures[0].matrix.sum(axis=1)
    trained = _trained_on(compared)
    groups = []
    for key, mean, title in CLASS_FIGURES:
        values = [found.classes[key].tolist() for found in figures]
        there = [counted(found.matrix)[key].tolist() for found in figures]
        rows = []
        for place, name in enumerate(compared.section.class_names):
            known = [each[place] for each, counts in zip(values, there, strict=True) if counts[place]]
            cells = [
                number(
                    f"{each[place]:.4f}",
                    each[place],
                    style=shade(min(1.0, 2 * (1 - each[place])), 0.55),
                    data_best="1" if each[place] == max(known) and len(figures) > 1 else None,
                )
                if counts[place]
                else missing(ABSENT[key], "\u2013")
                for each, counts in zip(values, there, strict=True)
            ]
            images = [counts[place] for counts in (*trained, support.tolist())]
            rows.append(Row(Cell(name), [*(number(f"{count:,}", count) for count in images), *cells]))
        means = [number(f"{found.values[mean]:.4f}", found.values[mean]) for found in figures]
        sums = [sum(counts) for counts in (*trained, support.tolist())]
        rows.append(Row(Cell("mean"), [*(number(f"{count:,}", count) for count in sums), *means], {"class": "mean"}))
        groups.append((title, rows))
    caption = (
        "Classification reports: F1, precision and recall of each class, the best of each row bold; shaded by the "
        "distance from 1."
    )
    heads = [Cell("Class"), *(Cell("Training images") for _ in trained), Cell("Test images" if trained else "Images")]
    return Table(caption, [*heads, *map(named, scored)], groups, "report")


def _trained_on(compared: Comparison) -> list[list[int]]:
    """Return the training images of each class (K,) as the only item, if all runs were trained on as many."""
    found = [class_counts(entry.run) for entry in compared.scored]
    return [found[0]] if found[0] is not None and all(each == found[0] for each in found) else []


def matrices(compared: Comparison) -> list[Table]:
    """Lay out the confusion matrices as tables; none where there are too many classes."""
    names = compared.section.class_names
    if len(names) > MATRIX_CLASSES:
        return []
    return [
        table("", [CORNER, *names], _matrix_rows(entry.figures.matrix, names), "matrix", entry)
        for entry in compared.scored
        if entry.figures is not None
    ]


def _matrix_rows(matrix: np.ndarray, names: list[str]) -> list[Row]:
    shares = np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)).tolist()
    rows = []
    for i, (name, counts) in enumerate(zip(names, matrix.tolist(), strict=True)):
        kinds = ["zero" if not count else None if i == j else "fewer" for j, count in enumerate(counts)]
        cells = [
            Cell(str(count), attributes={"class": kind, "style": shade(share)})
            for count, share, kind in zip(counts, shares[i], kinds, strict=True)
        ]
        rows.append(Row(Cell(name), cells))
    return rows


def diagrams(compared: Comparison) -> list[dict[str, Any]]:
    """Draw the reliability diagram of each run, with its calibration error and the interval."""
    return [
        {
            "run": entry,
            "plot": reliability_diagram(entry, f"{compared.section.slug}_reliability-{entry.number}"),
            "error": entry.figures.values["calibration_error"],
            "interval": interval_text(entry, "calibration_error"),
        }
        for entry in compared.scored
        if entry.figures is not None
    ]


def grid(entry: Entry) -> dict[str, Any]:
    """Prepare the filters of a run's first convolution."""
    weight = np.asarray(entry.run.filters)
    count, inputs, height, width = weight.shape
    size = f"{count} filters, {height} \u00d7 {width}, {inputs} channel{'s' * (inputs > 1)}"
    return {"run": entry, "picture": data_uri(png_of(filter_grid(weight))), "size": size}
