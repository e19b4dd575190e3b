"""The comparison as CSV, in full precision, and as Markdown."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fashion_tl.files import as_csv
from fashion_tl.plots.style import style
from fashion_tl.report.columns import COLUMNS, interval_text
from fashion_tl.report.figures import SCALARS, Comparison, Spread
from fashion_tl.report.folds import fold_rows, folds_of
from fashion_tl.report.selection import LeftOut
from fashion_tl.report.svg import Plot

HEADLINE = {name: SCALARS[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "loss")}
PAGE, RESULTS, MARKDOWN = "index.html", "results.json", "table.md"  # of a study


def csv_text(sections: Sequence[Comparison]) -> str:
    """Write one row a run: identity, every column of the main table, intervals, spread over seeds, and what is amiss.

    Numbers have full precision; an empty cell is a value that is missing, and ``notes`` says why.
    """
    header = ["test_set", "fashion_tl", "run", "version", "seed", "study_system"]
    for column in COLUMNS:
        header += [column.key, *((f"{column.key}_low", f"{column.key}_high") if column.interval else ())]
    header += ["seeds", *(f"{name}_{part}" for name in (*SCALARS, "fit_seconds") for part in ("mean", "deviation"))]
    rows: list[list[object]] = [[*header, "notes"]]
    for compared in sections:
        spreads = {spread.entry: spread for spread in compared.spreads}
        for entry in compared.entries:
            run = entry.run
            row: list[object] = [compared.section.test_set, compared.section.library, run.name, run.version]
            row += [run.get("seed"), run.text("study", "system")]
            for column in COLUMNS:
                row.append(column.value(entry))
                if column.interval:
                    row += entry.figures.intervals.get(column.key, (None, None)) if entry.figures else (None, None)
            spread = spreads.get(entry)
            row.append(len(spread.seeds) if spread else 1)
            for name in (*SCALARS, "fit_seconds"):
                row += spread.values.get(name, (None, None)) if spread else (None, None)
            rows.append([*row, "; ".join([*run.alarms, *run.notes, *run.gaps.values()])])
    return as_csv(rows)


def markdown_text(sections: Sequence[Comparison], left_out: Sequence[LeftOut]) -> str:
    """Write the main table, the spread over seeds, the tests between runs, and what was left out."""
    parts = ["# Comparison of runs"]
    for compared in sections:
        parts += [f"## {_cell(compared.section.title)}", f"{_cell(compared.about)}."]
        header = ["Run", *(c.heading + (" (95 % interval)" if c.interval else "") for c in COLUMNS)]
        rows = []
        for entry in compared.entries:
            row = [entry.label]
            for column in COLUMNS:
                interval = f" ({interval_text(entry, column.key)})" if column.interval and entry.figures else ""
                row.append(column.text(entry) + interval)
            rows.append(row)
        parts.append(markdown_table(header, rows))
        if compared.spreads:
            rows = [
                [s.entry.label, str(len(s.seeds)), *(spread_text(s, name) for name in HEADLINE)]
                for s in compared.spreads
            ]
            parts.append("Mean and standard deviation over seeds:")
            parts.append(markdown_table(["Run", "Seeds", *HEADLINE.values()], rows))
        folds = folds_of(compared.section.folds, compared.entries)
        if folds:
            parts += ["Mean over folds, and pooled over their images, with 95 % intervals:"]
            parts.append(markdown_table(*fold_rows(folds)))
        if compared.pairs:
            rows = [
                [p.a.label, p.b.label, str(p.test.only_a), str(p.test.only_b), f"{p.test.p:.3g}", f"{p.p:.3g}"]
                for p in compared.pairs
            ]
            parts.append("McNemar's exact test of every two runs, adjusted for their number (Holm):")
            parts.append(markdown_table(["A", "B", "only A correct", "only B correct", "p", "p adjusted"], rows))
        notes = [
            f"- {_cell(e.label)}: {_cell(text)}"
            for e in compared.entries
            for text in (*e.run.alarms, *e.run.notes, *e.run.gaps.values())
        ]
        if notes:
            parts += ["What is missing or amiss:", "\n".join(notes)]
    if left_out:
        parts += ["## Left out", "\n".join(f"- {_cell(item.run)}: {_cell(item.why)}" for item in left_out)]
    return "\n\n".join(parts) + "\n"


def spread_text(spread: Spread, name: str, digits: int = 4) -> str:
    """Return mean and deviation as text, such as "0.9371 ± 0.0012"."""
    if name not in spread.values:
        return "not recorded"
    mean, deviation = spread.values[name]
    return f"{mean:.{digits}f}" + (f" \u00b1 {deviation:.{digits}f}" if deviation is not None else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, its cells escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Escape what Markdown or HTML would take for markup."""
    escaped = html.escape(text, quote=False)
    for character in "\\`*_[]|":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped


def plot_files(plots: Iterable[Plot]) -> dict[str, str | bytes]:
    """Return the files of plots by path."""
    return {f"plots/{plot.name}.{kind}": getattr(plot, kind) for plot in plots for kind in ("svg", "png")}


def study_contents(
    results: Mapping[str, Any],
    charts: Callable[[Mapping[str, Any]], Iterable[Plot]],
    page: Callable[[Mapping[str, Any], Sequence[Plot]], str],
    markdown: Callable[[Mapping[str, Any]], str],
) -> dict[str, str | bytes]:
    """Write the files of a study's report: page, table in Markdown, results, plots.

    Args:
        results: The results, as plain values.
        charts: Draws its plots.
        page: Writes its page, with the plots.
        markdown: Writes its table.

    Returns:
        Contents by path.
    """
    with style():
        plots = list(charts(results))
        whole = page(results, plots)
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    return {RESULTS: text, **plot_files(plots), MARKDOWN: markdown(results), PAGE: whole}
