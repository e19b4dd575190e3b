"""The plots of a section that show all runs in one pair of axes: curves, bars, cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from fashion_tl.metrics.metrics import Floats
from fashion_tl.report.figures import Entry, front_of
from fashion_tl.report.multiples import confusion, filters, reliability
from fashion_tl.report.plots import HEIGHT, INK, Plot, canvas, colour, finish, mark, marker, short

LOG_FROM = 20.0  # a ratio of largest to smallest from which an axis is logarithmic


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
        for name, what, path in (
            ("seconds", "wall-clock seconds of training", ("time", "fit_seconds")),
            ("parameters", "parameters", ("model", "parameters")),
        ):
            plot = _cost(scored, slug, name, what, path)
            if plot is not None:
                yield plot
        yield reliability(scored, slug)
        yield confusion(scored, slug)
    filtered = [entry for entry in entries if entry.run.filters is not None]
    if filtered:
        yield filters(filtered, slug)


def clock(entry: Entry) -> Floats | None:
    """Return the seconds at the end of each epoch (epochs,), the time that the cache took first; None if unknown."""
    seconds = entry.run.history.get("seconds")
    if seconds is None:
        return None
    # An epoch without its seconds leaves the clock of all later ones unknown: NaN spreads.
    return np.cumsum(seconds) + (entry.run.number("time", "cache_seconds") or 0.0)


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
    figure, axes = canvas([(entry.number, entry.label) for entry, _, _ in drawn])
    values: list[float] = []
    for entry, x, known in drawn:
        for part, y in known.items():
            look = (
                {"lw": 1.0, "ls": (0, (3, 2)), "alpha": 0.75} if part == "train" else {"marker": marker(entry.number)}
            )
            every = max(1, len(x) // 8)
            for line in axes.plot(x, y, color=colour(entry.number), markevery=every, **look):
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
    axes.set_xlabel(where)
    axes.set_ylabel(quantity)
    last = "; ".join(
        f"{entry.label} ends at {known['val'][np.isfinite(known['val'])][-1]:.4f}"
        for entry, _, known in drawn
        if "val" in known and np.isfinite(known["val"]).any()
    )
    caption = f"{quantity.capitalize()} by {where}: validation solid, training dashed"
    return finish(figure, f"{slug}_{quantity}_by_{axis}", caption, f"{caption}. Validation {quantity}: {last}.", HEIGHT)


def _plain(value: float, _: float) -> str:
    return f"{value:g}"


def _bars(entries: list[Entry], slug: str, key: str, what: str) -> Plot:
    names = [short(entry.label) for entry in entries]
    height = 0.75 + 0.3 * len(entries)
    left = 0.25 + 0.075 * max(map(len, names))
    figure, axes = canvas([], height, left, right=1.4, top=0.1)
    told, studied = [], False
    for row, entry in enumerate(entries):
        if entry.figures is None:
            continue
        value, (low, high) = entry.figures.values[key], entry.figures.intervals[key]
        (bar,) = axes.barh(row, value, 0.62, color=colour(entry.number))
        mark(bar, entry.number)
        # A percentile interval need not hold the value itself.
        axes.plot([low, high], [row, row], color=INK, lw=1.3, solid_capstyle="butt")
        for end in (low, high):
            axes.plot([end, end], [row - 0.14, row + 0.14], color=INK, lw=1.0)
        study = entry.run.number("study", key)
        if study is not None:
            axes.plot(study, row, marker="D", ms=5, mfc="white", mec=INK, mew=1.0)
            studied = True
        text = f"{value:.4f}  ({low:.3f}\u2013{high:.3f})"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
        told.append(f"{entry.label} {value:.4f} ({low:.4f} to {high:.4f})")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{what[0].lower()}{what[1:]}, 95 % interval")
    caption = (
        f"{what} on the test images, with 95 % intervals{'; diamonds are figures of the studies' if studied else ''}"
    )
    return finish(figure, f"{slug}_{key}", caption, f"{caption}: {'; '.join(told)}.")


def _cost(entries: list[Entry], slug: str, name: str, what: str, path: tuple[str, ...]) -> Plot | None:
    known, costs, values, front = front_of(entries, path)
    if not known:
        return None
    figure, axes = canvas([(entry.number, entry.label) for entry in known])
    line = sorted(front, key=lambda place: costs[place])
    axes.plot([costs[i] for i in line], [values[i] for i in line], color=INK, lw=1, ls=":", drawstyle="steps-post")
    for place, (entry, cost, value) in enumerate(zip(known, costs, values, strict=True)):
        low, high = entry.figures.intervals["accuracy"] if entry.figures is not None else (value, value)
        for part in axes.plot([cost, cost], [low, high], color=colour(entry.number), lw=1.2):
            mark(part, entry.number)
        face = colour(entry.number) if place in front else "none"
        look: Any = {"ls": "", "marker": marker(entry.number), "ms": 7, "mec": colour(entry.number), "mfc": face}
        for part in axes.plot(cost, value, **look):
            mark(part, entry.number)
    if max(costs) / min(costs) > 5:
        axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(_counted)
    axes.xaxis.set_minor_formatter(_nothing)
    axes.set_xlabel(what + (", logarithmic" if axes.get_xscale() == "log" else ""))
    axes.set_ylabel("test accuracy")
    best = ", ".join(known[place].label for place in line)
    caption = f"Test accuracy against {what}; filled markers and the dotted line are the Pareto front"
    alt = f"{caption}. On the front, by rising cost: {best}."
    return finish(figure, f"{slug}_accuracy_against_{name}", caption, alt, HEIGHT)


def _counted(value: float, _: float) -> str:
    for unit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{suffix}"
    return f"{value:g}"


def _nothing(_: float, __: float) -> str:
    return ""
