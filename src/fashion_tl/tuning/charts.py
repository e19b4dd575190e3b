"""The plots of a study: its history, the importance of settings, parallel coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fashion_tl.plots.style import FAINT, INK, colour, short
from fashion_tl.report.charts import labelled_axes, name_rows
from fashion_tl.report.svg import Plot, finish
from fashion_tl.runs.parser import written

Results = Mapping[str, Any]
LABELS = 8  # choices of an axis whose names are shown


def charts(results: Results) -> Iterator[Plot]:
    """Draw every plot for which there are figures."""
    done = [row for row in results["trials"] if row["value"] is not None]
    if not done:
        return
    yield _history(results, done)
    if results["importance"]:
        yield _importance(results["importance"])
    if len(done) > 1 and len(results["space"]) > 1:
        yield _coordinates(results, done)


def _history(results: Results, done: Sequence[Mapping[str, Any]]) -> Plot:
    tone, best_tone = colour(0), colour(1)
    pruned = [row for row in results["trials"] if row["value"] is None and row["last"] is not None]
    look: Any = {"ls": "", "marker": "o", "ms": 5, "mec": tone}
    handles = [Line2D([], [], mfc=tone, label="trial", **look), Line2D([], [], color=best_tone, label="best so far")]
    if pruned:
        handles.insert(1, Line2D([], [], mfc="none", label="pruned: its last epoch", **look))
    figure, axes = labelled_axes([], handles)
    for rows, key, face in ((done, "value", tone), (pruned, "last", "none")):
        axes.plot([row["trial"] for row in rows], [row[key] for row in rows], mfc=face, **look)
    values = [row["value"] for row in done]
    best = np.minimum.accumulate(values) if results["minimises"] else np.maximum.accumulate(values)
    axes.plot([row["trial"] for row in done], best, color=best_tone, drawstyle="steps-post")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="trial", ylabel=results["monitor"])
    caption = "Figure of each trial, and the best so far"
    return finish(figure, "history", caption, f"{caption}: the best is {best[-1]:.4f}, of trial {results['best']}.")


def _importance(importance: Mapping[str, float]) -> Plot:
    figure, axes = labelled_axes(
        [], [Line2D([], [], color=colour(0), lw=5, label="share of all settings")], 0.6 + 0.3 * len(importance)
    )
    ranked = sorted(importance.items(), key=lambda item: -item[1])
    for row, (_, share) in enumerate(ranked):
        axes.barh(row, share, 0.62, color=colour(0))
        axes.text(1.02, row, f"{share:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    name_rows(axes, [key for key, _ in ranked])
    axes.set(xlim=(0, 1), xlabel="importance")
    caption = "Importance of the settings for a good figure (PED-ANOVA)"
    told = "; ".join(f"{key} {share:.2f}" for key, share in ranked)
    return finish(figure, "importance", caption, f"{caption}: {told}.")


def _coordinates(results: Results, done: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw a line for each trial over one axis for each setting, and the figure last."""
    keys, best = list(results["space"]), results["best"]
    handles = [Line2D([], [], color=colour(1), label="best trial"), Line2D([], [], color=FAINT, label="other trials")]
    figure, axes = labelled_axes([], handles)
    columns = [_axis(results, key, [row["settings"][key] for row in done]) for key in keys]
    columns.append(_numbers([row["value"] for row in done], log=False))
    heights = np.array([places for places, _ in columns])  # (axes, trials)
    order = np.argsort([row["trial"] == best for row in done], kind="stable")  # the best one above all others
    for trial in order:
        look: Any = {"color": FAINT, "lw": 0.9, "alpha": 0.5}
        if done[trial]["trial"] == best:
            look = {"color": colour(1), "lw": 1.8}
        axes.plot(range(len(columns)), heights[:, trial], **look)
    for place, (_, ticks) in enumerate(columns):
        axes.axvline(place, color=INK, lw=0.7)
        for height, text in ticks:
            axes.text(place + 0.03, height, short(text, 14), fontsize=7, va="center")
    names = [short(key.rpartition(".")[2], 16) for key in (*keys, results["monitor"])]
    low = "\n" if len(names) > 4 else ""  # every second name a line lower, so that none hides another
    axes.set_xticks(range(len(names)), [low * (place % 2) + name for place, name in enumerate(names)], fontsize=8)
    axes.set(xlim=(-0.15, len(columns) - 0.5), ylim=(-0.08, 1.08))
    axes.set_yticks([])
    axes.grid(visible=False)
    caption = "Parallel coordinates: the settings of each trial, and its figure"
    return finish(figure, "parallel_coordinates", caption, f"{caption}. The best one is trial {best}.")


Axis = tuple[list[float], list[tuple[float, str]]]  # heights of the trials, from 0 to 1, and ticks


def _axis(results: Results, key: str, values: Sequence[Any]) -> Axis:
    choices = results["space"][key].get("choices")
    if choices is None:
        return _numbers(values, key in results["logarithmic"])
    labels = [written(choice) for choice in choices]
    heights = np.linspace(0, 1, len(labels))
    ticks = [(float(height), text) for height, text in zip(heights, labels, strict=True)]
    return [float(heights[labels.index(written(value))]) for value in values], ticks if len(labels) <= LABELS else []


def _numbers(values: Sequence[float], log: bool) -> Axis:
    scaled = np.log(values) if log else np.asarray(values, dtype=float)
    low, high = float(scaled.min()), float(scaled.max())
    heights = (scaled - low) / (high - low) if high > low else np.full(len(scaled), 0.5)
    ends = [(0.0, min(values)), (1.0, max(values))] if high > low else [(0.5, values[0])]
    return heights.tolist(), [
        (height, str(value) if isinstance(value, int) else f"{value:.3g}") for height, value in ends
    ]
