"""The plots of a tournament or an ablation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from fashion_tl.plots.style import INK, colour, marker
from fashion_tl.report.charts import counted, labelled_axes, name_rows
from fashion_tl.report.svg import Plot, finish, mark
from fashion_tl.tournament.conclusion import SIGNIFICANT, cells_at

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A strategy in plots and tables: its colour and marker follow from its number."""

    number: int
    label: str


def lines_of(results: Results) -> dict[str, Line]:
    """Number the strategies in their order."""
    return {each["name"]: Line(i, each["name"]) for i, each in enumerate(results["strategies"])}


def charts(results: Results) -> Iterator[Plot]:
    """Draw every plot for which there are figures."""
    if results["kind"] == "ablation":
        if results["pairs"]:
            yield _differences(results)
        return
    lines = lines_of(results)
    if len({cell["labels"] for cell in results["cells"] if cell["mean"] is not None}) > 1:
        yield _by_labels(results, lines)
    for budget in results["budgets"]:
        if len(cells_at(results, budget)) > 1:
            yield _by_seconds(results, lines, budget)


def _by_labels(results: Results, lines: Mapping[str, Line]) -> Plot:
    shown = [cell for cell in results["cells"] if cell["mean"] is not None]
    drawn = [line for name, line in lines.items() if any(cell["strategy"] == name for cell in shown)]
    figure, axes = labelled_axes(drawn, [Line2D([], [], color=INK, lw=1.0, label="95 % interval")])
    told = []
    for line in drawn:
        own = sorted((c for c in shown if c["strategy"] == line.label), key=lambda cell: cell["labels"])
        labels, means = [cell["labels"] for cell in own], [cell["mean"] for cell in own]
        tone = colour(line.number)
        (curve,) = axes.plot(labels, means, color=tone, marker=marker(line.number))
        mark(curve, line.number)
        for cell in own:
            if cell["interval"]:
                # A little apart, so that the intervals of strategies do not hide each other.
                place = cell["labels"] * 1.012 ** (line.number - (len(lines) - 1) / 2)
                ends = [max(0.0, cell["interval"][0]), min(1.0, cell["interval"][1])]
                for bar in axes.plot([place, place], ends, color=tone, lw=1.0, alpha=0.6):
                    mark(bar, line.number)
        told.append(f"{line.label} {', '.join(f'{mean:.3f}' for mean in means)}")
    axes.set_xscale("log")
    ticks = sorted({cell["labels"] for cell in shown})
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.minorticks_off()
    low = min(cell["mean"] for cell in shown)
    axes.set_ylim(bottom=max(0.0, low - 0.1), top=min(1.0, axes.get_ylim()[1]))
    axes.set(xlabel="labelled images, logarithmic", ylabel="test accuracy")
    caption = "Test accuracy by labelled images: mean over seeds, with Student's interval"
    return finish(figure, "accuracy_by_labels", caption, f"{caption}. By rising labels: {'; '.join(told)}.")


def _by_seconds(results: Results, lines: Mapping[str, Line], budget: str) -> Plot:
    cells, front = cells_at(results, budget), results["fronts"][budget]
    dotted: Any = {"color": INK, "lw": 1, "ls": ":"}
    figure, axes = labelled_axes(
        [lines[cell["strategy"]] for cell in sorted(cells, key=lambda cell: lines[cell["strategy"]].number)],
        [Line2D([], [], label="Pareto front", **dotted)],
    )
    by_name = {cell["strategy"]: cell for cell in cells}
    steps = [by_name[name] for name in front]
    axes.plot([cell["seconds"] for cell in steps], [cell["mean"] for cell in steps], drawstyle="steps-post", **dotted)
    for cell in cells:
        number, tone = lines[cell["strategy"]].number, colour(lines[cell["strategy"]].number)
        look: Any = {"ls": "", "marker": marker(number), "ms": 7, "mec": tone}
        parts = axes.plot(cell["seconds"], cell["mean"], mfc=tone if cell["strategy"] in front else "none", **look)
        if cell["interval"]:
            parts += axes.plot([cell["seconds"]] * 2, cell["interval"], color=tone, lw=1.0, alpha=0.6)
        for part in parts:
            mark(part, number)
    costs = [cell["seconds"] for cell in cells]
    if min(costs) > 0 and max(costs) / min(costs) > 5:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(lambda *_: "")
    low, high = min(cell["mean"] for cell in cells), max(cell["mean"] for cell in cells)
    axes.set_ylim(max(0.0, low - 0.1), min(1.0, high + 0.1))
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(counted)
    scale = ", logarithmic" if axes.get_xscale() == "log" else ""
    axes.set(xlabel=f"seconds of one training{scale}", ylabel="test accuracy")
    at = {"": "", "all": ", all labels"}.get(budget, f", {budget} labels a class")
    caption = f"Test accuracy against seconds{at}; filled markers are on the Pareto front"
    name = f"accuracy_by_seconds{f'_{budget}' if budget else ''}"
    return finish(figure, name, caption, f"{caption}, by rising cost: {', '.join(front)}.")


def _differences(results: Results) -> Plot:
    """Draw the change in accuracy of each variant against the base, with its interval."""
    pairs: Sequence[Mapping[str, Any]] = results["pairs"]
    lines = lines_of(results)
    figure, axes = labelled_axes([], [Line2D([], [], color=INK, lw=1.3, label="95 % interval")], 0.7 + 0.3 * len(pairs))
    axes.axvline(0, color=INK, lw=0.8)
    told = []
    for row, pair in enumerate(pairs):
        change, tone = -pair["difference"], colour(lines[pair["b"]].number)
        ends = sorted(-end for end in pair["interval"])
        clear = pair["p_adjusted"] < SIGNIFICANT
        axes.plot(ends, [row, row], color=tone, lw=1.3, marker="|", ms=6)
        axes.plot(
            change, row, ls="", marker=marker(lines[pair["b"]].number), ms=7, mec=tone, mfc=tone if clear else "none"
        )
        told.append(f"{pair['b']} {change:+.4f} ({ends[0]:+.4f} to {ends[1]:+.4f})")
    name_rows(axes, [pair["b"] for pair in pairs])
    axes.set(xlabel="change in test accuracy against the base")
    caption = "Change in test accuracy of each variant; filled markers are significant"
    return finish(figure, "differences", caption, f"{caption}: {'; '.join(told)}.")
