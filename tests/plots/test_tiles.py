"""Tiles: pictures in rows and columns, and what is laid over what."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fashion_tl.plots import tiles
from fashion_tl.plots.tiles import Tile

GREY = np.full((28, 28), 0.5)
HEAT = np.zeros((4, 4))
HEAT[0, 0] = 1


def test_a_map_is_laid_over_the_image_where_it_is_strong() -> None:
    plain = tiles.overlay(GREY, np.zeros((4, 4)))
    laid = tiles.overlay(GREY, HEAT)
    assert laid.shape == (112, 112, 3)
    np.testing.assert_allclose(plain, 0.5, atol=1e-6)  # grey throughout
    assert np.abs(laid - plain)[:10, :10].max() > 0.2
    np.testing.assert_allclose(laid[60:, 60:], plain[60:, 60:])
    colour = np.random.default_rng(0).random((224, 224, 3))
    assert tiles.overlay(colour, HEAT).shape == (224, 224, 3)


def test_an_outline_darkens_what_does_not_excite() -> None:
    lit = tiles.outlined(np.ones((28, 28)), HEAT)
    assert lit[2, 2].tolist() == [1, 1, 1]
    np.testing.assert_allclose(lit[100, 100], 0.35)


@pytest.mark.parametrize("count", [1, 5])
def test_tiles_are_large_enough_to_read(count: int) -> None:
    tile = Tile(GREY, "channel $1\n" + "long name " * 20, "b")
    for png in (
        tiles.draw_tiles([[tile] * 3] * count, ["channel 1\nBag"] * count, "title", "note " * 60),
        tiles.draw_tiles([[tile] * 3, [tile]], smooth=True),
    ):
        picture = Image.open(io.BytesIO(png))
        assert min(picture.size) >= 200
        assert picture.width >= 590
        assert np.asarray(picture.convert("L")).std() > 5


def test_rows_are_broken() -> None:
    assert [len(row) for row in tiles.in_rows([Tile(GREY)] * 5, 2)] == [2, 2, 1]
