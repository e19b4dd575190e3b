"""The page and the table of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fashion_tl.report.exports import markdown_table, study_contents
from fashion_tl.report.page import render
from fashion_tl.report.svg import Plot
from fashion_tl.report.tables import Cell, Row, Table, missing, number, sortable_table
from fashion_tl.runs.parser import written
from fashion_tl.tuning.charts import charts
from fashion_tl.tuning.results import DONE
from fashion_tl.tuning.space import brief

Results = Mapping[str, Any]


def contents_of(results: Results) -> dict[str, str | bytes]:
    """Write the files of a report; see ``study_contents``."""
    return study_contents(results, charts, page, markdown)


def page(results: Results, plots: Sequence[Plot]) -> str:
    """Write the page, with the plots."""
    return render(
        "tuning.html.j2",
        results=results,
        about=about(results),
        conclusion=conclusion(results),
        trials=_table(results),
        plots=plots,
        space=[(key, json.dumps(value)) for key, value in results["space"].items()],
    )


def markdown(results: Results) -> str:
    """Write the conclusion and the trials, the best first, as Markdown."""
    rows = [
        [str(row["trial"]), brief(row["settings"]), _figure(row), str(row["epochs"]), _seconds(row)]
        for row in ordered(results)
    ]
    head = ["Trial", "Settings", results["monitor"], "Epochs", "Seconds"]
    parts = [f"# Study {results['name']}", about(results), *conclusion(results), markdown_table(head, rows)]
    return "\n\n".join(parts) + "\n"


def about(results: Results) -> str:
    """Say in one sentence what was searched on what."""
    data, count = results["data"], len(results["trials"])
    where = ""
    if data is not None:
        where = f"{data['source']} at {data['image_size']} px, {data['classes']} classes; {results['device']}; "
    return (
        f"{where}{count} trials over {len(results['space'])} settings, sampler {results['sampler']} "
        f"(seed {results['sampler_seed']}), pruner {results['pruner']}."
    )


def conclusion(results: Results) -> list[str]:
    """Say which trial is best, what its test gave, and what pruning has saved."""
    if results["best"] is None:
        return ["No trial has a finite validation figure: try lower learning rates."]
    best = next(row for row in results["trials"] if row["trial"] == results["best"])
    told = [f"Trial {best['trial']} is best: {results['monitor']} {best['value']:.4f} with {brief(best['settings'])}."]
    tested = results["tested"]
    if tested["accuracies"]:
        several = len(tested["accuracies"]) > 1
        spread = f", mean of {len(tested['accuracies'])} seeds, deviation {tested['deviation']:.4f}" if several else ""
        told.append(f"Its test accuracy is {tested['mean']:.4f}{spread} ({', '.join(tested['versions'])}).")
    pruned = sum(str(row["why"] or "").startswith("pruned") for row in results["trials"])
    told.append(
        f"{pruned} of {len(results['trials'])} trials were pruned; that saved {results['saved_epochs']:,} of "
        f"{results['saved_epochs'] + results['epochs']:,} epochs. All trials took {results['seconds']:,.1f} s to train."
    )
    return told


def ordered(results: Results) -> list[Mapping[str, Any]]:
    """Return the trials, the best first, then those without a figure."""
    sign = 1 if results["minimises"] else -1
    done = [row for row in results["trials"] if row["value"] is not None]
    return sorted(done, key=lambda row: sign * row["value"]) + [row for row in results["trials"] if row not in done]


def _table(results: Results) -> Table:
    heads = ["Trial", results["monitor"], *results["space"], "Epochs", "Seconds"]
    rows = []
    for row in ordered(results):
        figure = missing(row["why"] or "", row["why"] or "\u2013")
        if row["state"] == DONE:
            figure = number(f"{row['value']:.4f}", row["value"])
        seconds = missing("not recorded") if row["seconds"] is None else number(_seconds(row), row["seconds"])
        settings = [_setting(row["settings"].get(key)) for key in results["space"]]
        cells = [figure, *settings, number(str(row["epochs"]), row["epochs"]), seconds]
        rows.append(Row(Cell(str(row["trial"]), attributes={"data-sort": str(row["trial"])}), cells))
    order = "ascending" if results["minimises"] else "descending"
    return sortable_table("All trials, the best first.", heads, rows, order)


def _setting(value: Any) -> Cell:  # noqa: ANN401 - any YAML value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(str(value) if isinstance(value, int) else f"{value:.4g}", value)
    text = written(value)
    return Cell(text, attributes={"class": "text", "data-sort": text, "title": text}, clamped=True)


def _figure(row: Mapping[str, Any]) -> str:
    return str(row["why"]) if row["value"] is None else f"{row['value']:.4f}"


def _seconds(row: Mapping[str, Any]) -> str:
    return "" if row["seconds"] is None else f"{row['seconds']:.1f}"
