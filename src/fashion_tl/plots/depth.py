"""Accuracy of probes by the depth of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from fashion_tl.plots.style import FAINT, INK, PALETTE, marker


def draw_depth(
    axes: Axes,
    stages: Sequence[str],
    series: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    boundary: int | None = None,
) -> None:
    """Draw accuracies behind each stage, and where a network is suggested to train from.

    Args:
        axes: Axes to draw on, about half an inch wide or more for each stage.
        stages: Names of the stages, the lowest first.
        series: Accuracies by what they are of, each as long as the stages.
        intervals: Lower and upper bounds of some of the series.
        boundary: Number of stages, counted from the lowest, that are suggested to stay frozen; None for no line.
    """
    places = list(range(len(stages)))
    for number, (name, values) in enumerate(series.items()):
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(places, values, color=colour, marker=marker(number), label=name)
        if name in intervals:
            low, high = zip(*intervals[name], strict=True)
            axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
    if boundary is not None:
        axes.axvline(boundary - 0.5, color=INK, lw=0.9, ls="--")
        left = boundary > len(stages) / 2
        axes.annotate(
            "suggested: train from here",
            (boundary - 0.5, 0.03),
            xytext=(-4 if left else 4, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            color=FAINT,
            fontsize=8,
        )
    axes.set_xticks(places, stages, rotation=30, ha="right")
    axes.set(xlabel="features behind stage", ylabel="accuracy", xlim=(-0.4, len(stages) - 0.4))
    axes.grid(axis="y")
    axes.legend(loc="best")
