"""What is drawn, read back from artists and pixels."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fashion_tl.metrics.calibration import reliability
from fashion_tl.plots.confusion import confusion_figure, draw_confusion
from fashion_tl.plots.filters import filter_grid
from fashion_tl.plots.reliability import draw_reliability
from fashion_tl.plots.style import colour, marker, pixels, png, short, style


def test_style_ends_with_its_block() -> None:
    before = mpl.rcParams["axes.spines.top"]
    with style():
        assert not mpl.rcParams["axes.spines.top"]
    assert mpl.rcParams["axes.spines.top"] == before


def test_colours_and_markers_are_unique_together() -> None:
    assert len({(colour(i), marker(i)) for i in range(70)}) == 70


@pytest.mark.parametrize("length", [2, 3, 10, 26])
def test_short_names_fit(length: int) -> None:
    assert len(short("x" * 100, length)) == length
    assert short("x" * length, length) == "x" * length


def test_a_figure_as_file_and_as_pixels() -> None:
    with style():
        figure = Figure(figsize=(2, 1), dpi=50)
        with Image.open(io.BytesIO(png(figure, 50))) as image:
            assert image.size == (100, 50)
        assert pixels(figure).shape == (50, 100, 3)


def test_confusion_counts_and_shades() -> None:
    matrix = np.array([[4, 0, 0], [1, 3, 0], [0, 0, 0]])
    with style():
        axes = Figure().add_subplot()
        draw_confusion(axes, matrix, ["a", "b", "c"])
    assert {t.get_text() for t in axes.texts} == {"4", "1", "3"}
    (image,) = axes.images
    shares = np.array([[1, 0, 0], [0.25, 0.75, 0], [0, 0, 0]])
    assert np.asarray(image.get_array()) == pytest.approx(np.sqrt(shares))
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("count", [1, 5, 12])
def test_confusion_matrices_side_by_side(count: int) -> None:
    names = [f"class {k}" for k in range(10)]
    with style():
        figure = confusion_figure([(f"run {i}", np.eye(10, dtype=int)) for i in range(count)], names)
    assert [a.get_title() for a in figure.axes if a.axison] == [f"run {i}" for i in range(count)]
    assert figure.get_figwidth() <= 20


def test_reliability_bars_are_the_bins() -> None:
    first = np.array([0.55, 0.65, 0.95, 0.95])
    bins = reliability(np.stack([first, 1 - first], 1), [0, 1, 0, 0], 10)
    with style():
        axes = Figure().add_subplot()
        draw_reliability(axes, bins)
    accuracy, gap, shares = axes.containers
    assert [bar.get_height() for bar in accuracy] == [1, 0, 1]
    assert [bar.get_height() for bar in gap] == pytest.approx([-0.45, 0.65, -0.05])
    assert [bar.get_height() for bar in shares] == [0.25, 0.25, 0.5]
    assert [bar.get_x() for bar in accuracy] == pytest.approx([0.5, 0.6, 0.9])


def test_filters_are_scaled_one_by_one() -> None:
    weight = np.stack([np.linspace(-5, 5, 12).reshape(3, 2, 2), np.full((3, 2, 2), 7.0)])
    grid = filter_grid(weight)
    assert grid.shape == (24, 24 + 3 + 24, 4)
    assert grid[0, 0, :3].tolist() == [0, 93, 185]  # 0, 4 and 8 of 11 steps, of 255
    assert grid[12, 12, :3].tolist() == [70, 162, 255]
    assert (grid[:, 24:27, 3] == 0).all()
    assert (grid[:, 27:, :3] == 0).all()


@pytest.mark.parametrize(("inputs", "grey"), [(1, True), (2, True), (3, False), (5, True)])
def test_channels_of_filters(inputs: int, grey: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((100, inputs, 5, 5))
    grid = filter_grid(weight)
    assert grid.shape[:2] == (8 * (20 + 3) - 3, 8 * (20 + 3) - 3)
    assert (grid[..., 0] == grid[..., 1]).all() == grey
    assert filter_grid(weight, columns=16, most=100, side=5).shape[:2] == (7 * 8 - 3, 16 * 8 - 3)
