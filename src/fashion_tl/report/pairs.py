"""What the page says of two runs against each other: significance, differences, images, configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.records.record import CONFIG
from fashion_tl.report.figures import Comparison, Entry, Pair
from fashion_tl.report.tables import NOT_RECORDED, Cell, Row, Table, missing, named, shade, table
from fashion_tl.report.thumbnails import gallery, pictures

IDENTITY = ("name", "log_dir", "checkpoint_dir", "study")  # what a run is called, not what it does
MATRIX_CLASSES = 24  # up to so many classes a confusion matrix is a table of numbers
LARGEST = 20  # differences listed where a matrix of all classes would be too large
CORNER = "true \u2193 predicted \u2192"
SIGNIFICANT = 0.05


def p_text(p: float) -> str:
    """Return a p-value as text, such as "= 0.031" or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def signed(value: int) -> str:
    """Return a whole number with its sign, 0 without one."""
    return f"{value:+d}".replace("-", "\u2212") if value else "0"


def significance(compared: Comparison) -> Table | None:
    """Lay out McNemar's test of every two runs; None without a pair."""
    scored = compared.scored
    if not compared.pairs:
        return None
    by_pair = {(p.a.number, p.b.number): p for p in compared.pairs}
    rows = []
    for place, entry in enumerate(scored[1:], start=1):
        cells = [_test_cell(by_pair[other.number, entry.number]) for other in scored[:place]]
        rows.append(Row(named(entry), [*cells, *[Cell()] * (len(scored) - 1 - place)]))
    caption = (
        "McNemar\u2019s exact test of every two runs on the same images; p after Holm\u2019s correction for all "
        f"{len(compared.pairs):,} pairs. Below: images that only the run of the column classifies correctly, and only "
        "the run of the row. Bold and shaded: significant at 0.05."
    )
    return table(caption, ["Run", *map(named, scored[:-1])], rows, "tests")


def _test_cell(pair: Pair) -> Cell:
    attributes = {
        "class": "significant" if pair.p < SIGNIFICANT else None,
        "data-sort": repr(pair.p),
        "title": f"{pair.a.label} against {pair.b.label}: p {pair.test.p!r}, adjusted {pair.p!r}",
    }
    counts = f"{pair.test.only_a:,} : {pair.test.only_b:,}"
    return Cell(p_text(pair.p).removeprefix("= "), counts, attributes=attributes)


def two_runs(compared: Comparison, log_dir: Path) -> dict[str, Any] | None:
    """Set the best run against the second best, with the values for every other pair; None without a pair."""
    scored, names = compared.scored, compared.section.class_names
    predictions = next((entry.run.predictions for entry in scored if entry.run.predictions is not None), None)
    if len(scored) < 2 or predictions is None:
        return None
    folders = list(dict.fromkeys([log_dir, *(entry.run.folder.parent.parent for entry in scored)]))
    positions, shown = gallery(compared.pairs)
    shots, why = pictures(folders, compared.section.test_set, predictions.labels, positions)
    figures = [entry.figures for entry in scored if entry.figures is not None]
    pool = [
        {
            "index": int(predictions.index[position]),
            "label": int(predictions.labels[position]),
            "predicted": [int(found.predicted[position]) for found in figures],
            "picture": shots.get(position),
        }
        for position in positions
    ]
    first = compared.pairs[0]
    return {
        "why_no_pictures": why,
        "verdict": verdict(first),
        "difference": _difference(first.a, first.b, names),
        "directions": [
            {"better": better, "count": count, "images": [pool[i] for i in shown[f"{better.number}-{worse.number}"]]}
            for better, worse, count in (
                (first.a, first.b, first.test.only_a),
                (first.b, first.a, first.test.only_b),
            )
        ],
        # What the script of the page needs to set any two runs against each other.
        "data": {
            "runs": [entry.label for entry in scored],
            "classes": names,
            "matrices": [found.matrix.tolist() for found in figures],
            "tests": {
                f"{p.a.number}-{p.b.number}": [p.test.only_a, p.test.only_b, p_text(p.p)] for p in compared.pairs
            },
            "shown": shown,
            "pool": pool,
            "largest": 0 if len(names) <= MATRIX_CLASSES else LARGEST,
        },
    }


def verdict(pair: Pair) -> str:
    """Say what McNemar's test found, as the page's script says it for other pairs."""
    return (
        f"{pair.a.label} alone is correct on {pair.test.only_a:,} images, {pair.b.label} alone on "
        f"{pair.test.only_b:,}: McNemar\u2019s test gives p {p_text(pair.p)}, adjusted for all pairs."
    )


def _difference(a: Entry, b: Entry, names: list[str]) -> Table | None:
    """Show how often two runs predict each class for each: the first minus the second."""
    if a.figures is None or b.figures is None:
        return None
    first, second = a.figures.matrix, b.figures.matrix
    change = first - second
    caption = f"Confusions of {a.label} minus those of {b.label}"
    if len(names) <= MATRIX_CLASSES:
        top = max(1, int(np.abs(change).max()))
        rows = [
            Row(Cell(name), [_change_cell(value, top) for value in values])
            for name, values in zip(names, change.tolist(), strict=True)
        ]
        return table(caption, [CORNER, *names], rows, "matrix difference")
    flat = np.argsort(-np.abs(change), axis=None, kind="stable")[:LARGEST]
    cells = [divmod(int(place), len(names)) for place in flat]
    rows = [
        Row(
            Cell(names[i]),
            [Cell(t) for t in (names[j], str(first[i, j]), str(second[i, j]), signed(int(change[i, j])))],
        )
        for i, j in cells
        if change[i, j]
    ]
    return table(caption, ["true", "predicted", "first", "second", "difference"], rows, "difference")


def _change_cell(value: int, top: int) -> Cell:
    kind = "more" if value > 0 else "fewer" if value < 0 else "zero"
    return Cell(signed(value), attributes={"class": kind, "style": shade(abs(value) / top)})


def configurations(compared: Comparison) -> Table | str:
    """Lay out every setting in which the runs differ, or say why there is none."""
    known = [entry.run.config for entry in compared.entries if entry.run.config is not None]
    keys = list(dict.fromkeys(key for config in known for key in config))
    differing = [
        key for key in keys if key.partition(".")[0] not in IDENTITY and len({config.get(key) for config in known}) > 1
    ]
    if not differing:
        few = "This needs two runs with readable configurations."
        return "The configurations do not differ." if len(known) > 1 else few
    rows = [Row(Cell(key), [_setting(entry, key) for entry in compared.entries]) for key in differing]
    caption = (
        f"The {len(differing)} settings that are not the same in every run; a dash where a run has no such setting."
    )
    return table(caption, ["Setting", *map(named, compared.entries)], rows, "settings")


def _setting(entry: Entry, key: str) -> Cell:
    if entry.run.config is None:
        return missing(entry.run.gaps.get(CONFIG, NOT_RECORDED))
    value = entry.run.config.get(key)
    return missing("no such setting", "\u2013") if value is None else Cell(value)
