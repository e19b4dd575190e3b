"""Validation accuracy along the line between two runs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from fashion_tl.metrics.uncertainty import wilson_interval
from fashion_tl.plots.style import FAINT, colour, short


def interpolation_figure(
    shares: Sequence[float], accuracies: Sequence[float], best: int, names: Sequence[str], images: int
) -> Figure:
    """Draw accuracy over the share of the second run; call it inside ``style()``.

    Args:
        shares: Share of the second run at each point, 0 to 1, ascending.
        accuracies: Accuracy at each point, 0 to 1.
        best: The point that was chosen.
        names: The two runs.
        images: Number of images that the accuracies are measured on, for their 95 % intervals (Wilson).
    """
    figure = Figure(figsize=(5.6, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(visible=True)
    bounds = [wilson_interval(round(accuracy * images), images) for accuracy in accuracies]
    axes.fill_between(shares, [low for low, _ in bounds], [high for _, high in bounds], color=colour(0), alpha=0.12)
    axes.plot(shares, accuracies, color=colour(0), marker="o")
    axes.axvline(shares[best], color=FAINT, lw=0.8, ls=(0, (3, 2)))
    axes.annotate(
        f"chosen: {shares[best]:.3g}, accuracy {accuracies[best]:.4f}",
        (shares[best], accuracies[best]),
        xytext=(0, 10),
        textcoords="offset points",
        ha="left" if shares[best] < 0.5 else "right",
    )
    axes.set(xlabel=f"a: from {short(names[0])} (0) to {short(names[1])} (1)", ylabel="validation accuracy")
    return figure
