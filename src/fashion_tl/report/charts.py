"""The plots of a section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fashion_tl.metrics.metrics import Floats
from fashion_tl.plots import filters as filter_plots
from fashion_tl.plots import reliability as reliability_plots
from fashion_tl.plots.confusion import SHADE, confusion_figure
from fashion_tl.plots.style import INK, colour, marker, short
from fashion_tl.report.figures import Entry, front_of
from fashion_tl.report.svg import Plot, finish, inline, mark, svg_of
from fashion_tl.report.tables import Series

WIDTH, HEIGHT, LEGEND_ROW = 5.6, 3.1, 0.2  # inches
LEGEND_LETTERS, LEGEND_SIGN = 75, 8  # letters that a row of the legend holds, and that a line with its marker takes
LOG_FROM = 20.0  # a ratio of largest to smallest from which an axis is logarithmic
DIAGRAMS_ACROSS, DIAGRAM_INCHES = 4, 2.4
COSTS = {
    "seconds": ("wall-clock seconds of training", ("time", "fit_seconds")),
    "parameters": ("parameters", ("model", "parameters")),
}


def charts(entries: list[Entry], slug: str) -> Iterator[Plot]:
    """Draw every plot of a section for which there is something recorded."""
    curved = [entry for entry in entries if entry.run.history]
    for quantity in ("loss", "accuracy"):
        for axis in ("epoch", "seconds"):
            plot = _curves(curved, slug, quantity, axis)
            if plot is not None:
                yield plot
    scored = [entry for entry in entries if entry.figures is not None]
    if scored:
        yield _bars(scored, slug, "accuracy", "Test accuracy")
        yield _bars(scored, slug, "macro_f1", "Macro F1")
        for name in COSTS:
            plot = _cost(scored, slug, name)
            if plot is not None:
                yield plot
        yield _reliability(scored, slug)
        yield _confusion(scored, slug)
    filtered = [entry for entry in entries if entry.run.filters is not None]
    if filtered:
        yield _filters(filtered, slug)


def clock(entry: Entry) -> Floats | None:
    """Return the seconds at the end of each epoch (epochs,), the time that the cache took first; None if unknown."""
    seconds = entry.run.history.get("seconds")
    if seconds is None:
        return None
    # An epoch without its seconds leaves the clock of all later ones unknown: NaN spreads.
    return np.cumsum(seconds) + (entry.run.number("time", "cache_seconds") or 0.0)


def reliability_diagram(entry: Entry, name: str) -> Markup | None:
    """Draw the reliability diagram of one run for the page."""
    if entry.figures is None:
        return None
    figure = Figure(figsize=(DIAGRAM_INCHES, DIAGRAM_INCHES), layout="constrained")
    reliability_plots.draw_reliability(figure.add_subplot(), entry.figures.bins, colour(entry.number))
    alt = f"Reliability diagram of {entry.label}"
    return inline(svg_of(figure, alt), name, alt)


def labelled_axes(
    entries: Sequence[Series], more: Sequence[Line2D] = (), height: float = HEIGHT
) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes above a legend of runs and of ``more``."""
    handles = [Line2D([], [], color=colour(e.number), marker=marker(e.number), label=short(e.label)) for e in entries]
    labels = [str(handle.get_label()) for handle in (*handles, *more)]
    columns = min(5, LEGEND_LETTERS // (max(map(len, labels)) + LEGEND_SIGN))
    figure = Figure(figsize=(WIDTH, height + LEGEND_ROW * -(-len(labels) // columns)), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True)
    figure.legend([*handles, *more], labels, loc="outside lower left", ncols=columns)
    return figure, axes


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a plot of horizontal bars, from the top."""
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _curves(entries: list[Entry], slug: str, quantity: str, axis: str) -> Plot | None:
    drawn = []
    for entry in entries:
        x = clock(entry) if axis == "seconds" else entry.run.history["epoch"] + 1
        parts = {part: entry.run.history.get(f"{part}/{quantity}") for part in ("train", "val")}
        known = {part: y for part, y in parts.items() if y is not None and x is not None and np.isfinite(x + y).any()}
        if known and x is not None:
            drawn.append((entry, x, known))
    if not drawn:
        return None
    training: Any = {"lw": 1.0, "ls": (0, (3, 2)), "alpha": 0.75}
    kinds = [Line2D([], [], color=INK, label="validation"), Line2D([], [], color=INK, label="training", **training)]
    figure, axes = labelled_axes([entry for entry, _, _ in drawn], kinds)
    values: list[float] = []
    for entry, x, known in drawn:
        for part, y in known.items():
            look = training if part == "train" else {"marker": marker(entry.number)}
            for line in axes.plot(x, y, color=colour(entry.number), markevery=max(1, len(x) // 8), **look):
                mark(line, entry.number)
            values += y[np.isfinite(y)].tolist()
    ends = [float(np.nanmax(x)) for _, x, _ in drawn]
    if axis == "seconds" and min(ends) > 0 and max(ends) / min(ends) > LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_plain)
    elif axis == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if quantity == "loss" and min(values) > 0 and max(values) / min(values) > LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
    where = "epoch" if axis == "epoch" else "seconds of training, validation and cache"
    axes.set(xlabel=where, ylabel=quantity)
    last = "; ".join(
        f"{entry.label} ends at {known['val'][np.isfinite(known['val'])][-1]:.4f}"
        for entry, _, known in drawn
        if "val" in known and np.isfinite(known["val"]).any()
    )
    caption = f"{quantity.capitalize()} by {where}"
    return finish(figure, f"{slug}_{quantity}_by_{axis}", caption, f"{caption}. Validation {quantity}: {last}.")


def _plain(value: float, _: float) -> str:
    return f"{value:g}"


def _bars(entries: list[Entry], slug: str, key: str, what: str) -> Plot:
    interval = Line2D([], [], color=INK, lw=1.3, label="95 % interval")
    diamond = Line2D([], [], ls="", marker="D", ms=5, mfc="white", mec=INK, label="figure of the study")
    studied = any(entry.run.number("study", key) is not None for entry in entries)
    figure, axes = labelled_axes([], [interval, diamond] if studied else [interval], 0.6 + 0.3 * len(entries))
    told = []
    for row, entry in enumerate(entries):
        if entry.figures is None:
            continue
        value, (low, high) = entry.figures.values[key], entry.figures.intervals[key]
        (bar,) = axes.barh(row, value, 0.62, color=colour(entry.number))
        mark(bar, entry.number)
        axes.plot([low, high], [row, row], color=INK, lw=1.3, solid_capstyle="butt", marker="|", ms=6)
        study = entry.run.number("study", key)
        if study is not None:
            axes.plot(study, row, marker="D", ms=5, mfc="white", mec=INK, mew=1.0)
        text = f"{value:.4f}  ({low:.3f}\u2013{high:.3f})"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        told.append(f"{entry.label} {value:.4f} ({low:.4f} to {high:.4f})")
    name_rows(axes, [entry.label for entry in entries])
    axes.set(xlim=(0, 1), xlabel=f"{what[0].lower()}{what[1:]}")
    caption = f"{what} on the test images"
    return finish(figure, f"{slug}_{key}", caption, f"{caption}, with 95 % intervals: {'; '.join(told)}.")


def _cost(entries: list[Entry], slug: str, name: str) -> Plot | None:
    what, path = COSTS[name]
    known, costs, values, front = front_of(entries, path)
    if not known:
        return None
    dotted: Any = {"color": INK, "lw": 1, "ls": ":"}
    figure, axes = labelled_axes(known, [Line2D([], [], label="Pareto front", **dotted)])
    line = sorted(front, key=lambda place: costs[place])
    axes.plot([costs[i] for i in line], [values[i] for i in line], drawstyle="steps-post", **dotted)
    for place, (entry, cost, value) in enumerate(zip(known, costs, values, strict=True)):
        tone = colour(entry.number)
        low, high = entry.figures.intervals["accuracy"] if entry.figures is not None else (value, value)
        look: Any = {"ls": "", "marker": marker(entry.number), "ms": 7, "mec": tone}
        bar = axes.plot([cost, cost], [low, high], color=tone, lw=1.2)
        for part in (*bar, *axes.plot(cost, value, mfc=tone if place in front else "none", **look)):
            mark(part, entry.number)
    if max(costs) / min(costs) > 5:
        axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(counted)
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set(xlabel=what + (", logarithmic" if axes.get_xscale() == "log" else ""), ylabel="test accuracy")
    best = ", ".join(known[place].label for place in line)
    caption = f"Test accuracy against {what}; filled markers are on the Pareto front"
    alt = f"{caption}, by rising cost: {best}."
    return finish(figure, f"{slug}_accuracy_against_{name}", caption, alt)


def counted(value: float, _: float) -> str:
    """Write a tick in thousands, millions and so on."""
    for unit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"


def _grid(entries: Sequence[Entry]) -> tuple[Figure, Iterator[tuple[Axes, Entry]]]:
    """Lay out axes of the same size, one for each run, with its name above."""
    across = min(DIAGRAMS_ACROSS, len(entries))
    down = -(-len(entries) // across)
    figure = Figure(figsize=(across * DIAGRAM_INCHES, down * DIAGRAM_INCHES + 0.4))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes in grid[len(entries) :]:
        axes.set_axis_off()
    for axes, entry in zip(grid, entries, strict=False):
        axes.set_title(short(entry.label), fontsize=9)
    return figure, zip(grid, entries, strict=False)


def _reliability(entries: list[Entry], slug: str) -> Plot:
    figure, cells = _grid(entries)
    told: list[str] = []
    handles: list[Any] = []
    for axes, entry in cells:
        if entry.figures is not None:
            reliability_plots.draw_reliability(axes, entry.figures.bins, colour(entry.number))
            handles, _ = axes.get_legend_handles_labels()
            told.append(f"{entry.label} {entry.figures.values['calibration_error']:.4f}")
    figure.legend(handles=handles, loc="outside lower left", ncols=min(4, len(entries)))
    alt = f"{reliability_plots.CAPTION}. Calibration error: {'; '.join(told)}."
    return finish(figure, f"{slug}_reliability", reliability_plots.CAPTION, alt)


def _confusion(entries: list[Entry], slug: str) -> Plot:
    matrices = [(entry.label, entry.figures.matrix) for entry in entries if entry.figures is not None]
    figure = confusion_figure(matrices, entries[0].run.class_names)
    caption = f"Confusion matrices: true classes in rows, predicted ones in columns, {SHADE}"
    return finish(figure, f"{slug}_confusion", caption, f"{caption}: {', '.join(e.label for e in entries)}.", dpi=80)


def _filters(entries: list[Entry], slug: str) -> Plot:
    figure, cells = _grid(entries)
    for axes, entry in cells:
        axes.set_axis_off()
        if entry.run.filters is not None:
            axes.imshow(filter_plots.filter_grid(entry.run.filters), interpolation="nearest")
    caption = f"Filters of the first convolution after training, {filter_plots.CAPTION}"
    return finish(figure, f"{slug}_filters", caption, f"{caption}: {', '.join(e.label for e in entries)}.")
