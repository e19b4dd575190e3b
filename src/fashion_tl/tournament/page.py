"""The page and the tables of a tournament or an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fashion_tl.report.exports import markdown_table, study_contents
from fashion_tl.report.page import render
from fashion_tl.report.pairs import p_text
from fashion_tl.report.svg import Plot
from fashion_tl.report.tables import Cell, Row, Table, missing, named, number, sortable_table, table
from fashion_tl.runs.search import words
from fashion_tl.tournament.charts import Line, charts, lines_of
from fashion_tl.tournament.conclusion import MINUS, SIGNIFICANT, cells_at

Results = Mapping[str, Any]


def contents_of(results: Results) -> dict[str, str | bytes]:
    """Write the files of a report; see ``study_contents``."""
    return study_contents(results, charts, page, markdown)


def page(results: Results, plots: Sequence[Plot]) -> str:
    """Write the page, with the plots."""
    lines = lines_of(results)
    return render(
        "tournament.html.j2",
        results=results,
        about=about(results),
        runs=list(lines.values()),
        overview=_overview(results, lines) if len(results["budgets"]) > 1 else None,
        tables=[_table(results, budget, lines) for budget in results["budgets"]],
        tests=[_tests(results, budget, lines) for budget in results["budgets"] if _pairs(results, budget)],
        strategies=[(lines[each["name"]], words(each["changes"]), each) for each in results["strategies"]],
        crossings=crossing_texts(results),
        plots=plots,
        words=words,
    )


def markdown(results: Results) -> str:
    """Write the conclusion and the tables as Markdown."""
    parts = [f"# {title(results)}", about(results), *results["conclusion"]]
    for budget in results["budgets"]:
        if heading := at(budget):
            parts.append(f"## {heading}")
        searched = results["trials"] > 1
        rows = [
            [
                *(cell["strategy"], _mean(cell), _interval(cell["interval"])),
                "" if cell["seconds"] is None else f"{cell['seconds']:.1f}",
                *((f"{cell['search_seconds']:.1f}", words(cell["chosen"] or {})) if searched else ()),
            ]
            for cell in _ordered(results, budget)
        ]
        head = [_what(results), "Accuracy", "95 % interval", "Seconds"]
        head += ["Seconds of trials", "Chosen by validation"] if searched else []
        parts.append(markdown_table(head, rows))
        parts.append(_markdown_of_pairs(results, budget))
    parts += crossing_texts(results)
    return "\n\n".join(parts) + "\n"


def _markdown_of_pairs(results: Results, budget: str) -> str:
    """Lay out the comparisons of a budget; those of an ablation as changes against its base."""
    ablation = results["kind"] == "ablation"
    rows = []
    for pair in _pairs(results, budget):
        names = (pair["b"],) if ablation else (pair["a"], pair["b"])
        low, high = _ends(pair, -1 if ablation else 1)
        difference = signed(-pair["difference"] if ablation else pair["difference"])
        tests = (f"{pair['p']:.3g}", f"{pair['p_adjusted']:.3g}")
        rows.append([*names, difference, f"{signed(low)} to {signed(high)}", *tests])
    what = ["Variant", "Change"] if ablation else ["A", "B", "A - B"]
    return markdown_table([*what, "95 % interval", "p", "p adjusted"], rows)


def title(results: Results) -> str:
    """Name the study."""
    return f"{results['kind'].capitalize()} {results['name']}"


def about(results: Results) -> str:
    """Say in one sentence what was run on what."""
    data, seeds = results["data"], results["seeds"]
    trials = f", {results['trials']} trials of each strategy on validation" if results["trials"] > 1 else ""
    return (
        f"{data['source']} at {data['image_size']} px, {data['classes']} classes, {data['test_images']:,} test images; "
        f"{results['backbone']}; {len(seeds)} seed{'s' * (len(seeds) > 1)}{trials}; {results['device']}."
    )


def at(budget: str) -> str:
    """Name a label budget."""
    return {"": "", "all": "All labels"}.get(budget, f"{budget} labels a class")


def signed(value: float) -> str:
    """Write a difference of accuracies with its sign."""
    return f"{MINUS if value < 0 else '+'}{abs(value):.4f}"


def crossing_texts(results: Results) -> list[str]:
    """Say where training from scratch is more accurate than a pretrained start, by the means alone."""
    told = []
    for each in results["crossings"]:
        own, other, level = each["scratch"], each["strategy"], " and ".join(f"{count:,.0f}" for count in each["level"])
        if each["changes"]:
            told.append(f"{own} is ahead of {other} {_spans(each)} labelled images.")
        elif each["ahead"] is None:
            told.append(f"{own} is as accurate as {other} at every budget.")
        elif level:
            side = "ahead of" if each["ahead"] else "behind"
            told.append(f"{own} is {side} {other}, but as accurate at {level} labelled images.")
        elif each["ahead"]:
            told.append(f"{own} is ahead of {other} at every budget.")
        else:
            told.append(f"{own} does not reach {other} within these budgets.")
    return told


def _spans(crossing: Mapping[str, Any]) -> str:
    """Say from how many labels up to how many training from scratch is ahead."""
    spans, begun = [], ""
    for change in crossing["changes"]:
        about = f"about {change['labels']:,.0f}"
        if change["ahead"]:
            begun = f"from {about}"
        else:
            spans.append(f"{begun} to {about}" if begun else f"up to {about}")
            begun = ""
    return " and ".join([*spans, begun] if begun else spans)


def _ordered(results: Results, budget: str) -> list[Mapping[str, Any]]:
    """Return all cells of a budget: the most accurate first in a tournament, as given in an ablation."""
    cells = [cell for cell in results["cells"] if cell["budget"] == budget]
    return cells if results["kind"] == "ablation" else sorted(cells, key=lambda cell: -(cell["mean"] or 0.0))


def _pairs(results: Results, budget: str) -> list[Mapping[str, Any]]:
    """Return the comparisons of a budget; none if the base of an ablation has diverged."""
    return [pair for pair in results["pairs"] if pair["budget"] == budget]


def _overview(results: Results, lines: Mapping[str, Line]) -> Table:
    """Lay out the mean accuracies: strategies by budgets, the best of each budget bold."""
    found = {(cell["strategy"], cell["budget"]): cell for cell in results["cells"]}
    rows = []
    for name, line in lines.items():
        cells = []
        for budget in results["budgets"]:
            cell = found[name, budget]
            if cell["mean"] is None:
                cells.append(missing("its runs diverged", "diverged"))
                continue
            best = cell is cells_at(results, budget)[0]
            interval = _interval(cell["interval"])
            cells.append(number(_mean(cell), cell["mean"], interval, data_best="1" if best else None))
        rows.append(Row(named(line), cells))
    caption = "Test accuracy: mean over seeds with Student\u2019s 95 % interval, the highest mean of each budget bold."
    return table(caption, [_what(results), *(at(budget) for budget in results["budgets"])], rows, "report")


def _table(results: Results, budget: str, lines: Mapping[str, Line]) -> Table:
    cells = _ordered(results, budget)
    head = [_what(results), "Accuracy", "Deviation", "Seconds", "Trained parameters"]
    if results["trials"] > 1:
        head += ["Trials, s", "Chosen by validation"]
    rows = [Row(named(lines[cell["strategy"]]), _columns(results, cell)) for cell in cells]
    labels = next((cell["labels"] for cell in cells if cell["labels"]), None)
    caption = (at(budget) or "Test accuracy") + (f", {labels:,} labelled images" if labels else "")
    return sortable_table(f"{caption}: mean over seeds, Student\u2019s 95 % interval.", head, rows)


def _columns(results: Results, cell: Mapping[str, Any]) -> list[Cell]:
    tried: list[Cell] = []
    if results["trials"] > 1:
        chosen = words(cell["chosen"] or {})
        about: dict[str, str | None] = {"class": "text", "data-sort": chosen, "title": chosen}
        spent = number(f"{cell['search_seconds']:,.1f}", cell["search_seconds"])
        tried = [spent, Cell(chosen or "\u2013", attributes=about, clamped=True)]
    if cell["mean"] is None:
        why = f"{cell['diverged']} of {len(cell['runs'])} runs diverged"
        return [missing(why, "diverged"), *[missing(why, "\u2013")] * 3, *tried]
    deviation = missing("one seed has no deviation", "\u2013")
    if cell["deviation"] is not None:
        deviation = number(f"{cell['deviation']:.4f}", cell["deviation"])
    return [
        number(_mean(cell), cell["mean"], _interval(cell["interval"])),
        deviation,
        number(f"{cell['seconds']:,.1f}", cell["seconds"]),
        number(f"{cell['trained_parameters']:,}", cell["trained_parameters"]),
        *tried,
    ]


def _tests(results: Results, budget: str, lines: Mapping[str, Line]) -> Table:
    """Lay out the comparisons of a budget: rows minus columns."""
    pairs = _pairs(results, budget)
    found = {(pair["a"], pair["b"]): (pair, 1) for pair in pairs} | {
        (pair["b"], pair["a"]): (pair, -1) for pair in pairs
    }
    names = [cell["strategy"] for cell in _ordered(results, budget) if cell["mean"] is not None]
    columns = names[:1] if results["kind"] == "ablation" else names[:-1]
    rows = []
    for place, name in enumerate(names[1:], start=1):
        cells = [_test(*found[name, other], lines) for other in columns[:place]]
        rows.append(Row(named(lines[name]), [*cells, *[Cell()] * (len(columns) - len(cells))]))
    caption = (
        f"{at(budget) + ': a' if budget else 'A'}ccuracy of the row minus that of the column, and p after Holm\u2019s "
        f"correction for all {len(pairs)} comparisons. Bold and shaded: significant at 0.05."
    )
    return table(caption, [_what(results), *(named(lines[each]) for each in columns)], rows, "tests")


def _test(pair: Mapping[str, Any], sign: int, lines: Mapping[str, Line]) -> Cell:
    low, high = _ends(pair, sign)
    attributes = {
        "class": "significant" if pair["p_adjusted"] < SIGNIFICANT else None,
        "data-sort": repr(pair["p_adjusted"]),
        "title": f"95 % interval {signed(low)} to {signed(high)}; p {pair['p']!r}, adjusted {pair['p_adjusted']!r}",
    }
    return Cell(signed(sign * pair["difference"]), f"p {p_text(pair['p_adjusted'])}", attributes=attributes)


def _what(results: Results) -> str:
    return "Variant" if results["kind"] == "ablation" else "Strategy"


def _mean(cell: Mapping[str, Any]) -> str:
    return "diverged" if cell["mean"] is None else f"{cell['mean']:.4f}"


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f"{max(0.0, ends[0]):.4f} to {min(1.0, ends[1]):.4f}"


def _ends(pair: Mapping[str, Any], sign: int) -> list[float]:
    """Return the interval of a difference, or of the difference the other way round (sign -1)."""
    return sorted(sign * end for end in pair["interval"])
