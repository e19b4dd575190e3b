"""The plot of accuracy by depth."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fashion_tl.plots.depth import draw_depth


def test_lines_intervals_and_the_boundary_are_where_they_belong() -> None:
    axes = Figure().subplots()
    draw_depth(axes, ["stem", "one", "two"], {"test": [0.5, 0.7, 0.6]}, {"test": [(0.4, 0.6)] * 3}, boundary=2)
    line, boundary = axes.lines
    assert np.asarray(line.get_ydata()).tolist() == [0.5, 0.7, 0.6]
    assert np.asarray(boundary.get_xdata()).tolist() == [
        1.5,
        1.5,
    ]  # between the second stage, which stays frozen, and the third
    assert [label.get_text() for label in axes.get_xticklabels()] == ["stem", "one", "two"]
    assert len(axes.collections) == 1
