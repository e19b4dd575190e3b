"""Pictures: their sizes, and what is laid over what."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.inspection import tiles
from fashion_tl.inspection.explained_images import ExplainedImage
from fashion_tl.inspection.run import picture
from fashion_tl.inspection.saliency_analysis import draw_explained, draw_side_by_side
from fashion_tl.inspection.tiles import Tile

HEAT = np.zeros((4, 4))
HEAT[0, 0] = 1
ITEM = ExplainedImage("test image 1", np.full((28, 28), 0.5), HEAT, "$Bag_1$", "Coat", 0.5, "Coat", 1)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_a_map_is_laid_over_the_image_where_it_is_strong() -> None:
    plain = tiles.overlay(ITEM.image, np.zeros((4, 4)))
    laid = tiles.overlay(ITEM.image, HEAT)
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


def test_verdicts_say_more_than_their_colour() -> None:
    assert ITEM.verdict == "✗ Coat 0.50"
    assert replace(ITEM, truth="Coat").verdict == "✓ Coat 0.50"
    assert replace(ITEM, truth=None).verdict == "Coat 0.50"


@pytest.mark.parametrize("count", [1, 5])
def test_panels_are_large_enough_to_read(count: int) -> None:
    items = [ITEM] * count
    tile = Tile(ITEM.image, "channel $1\n" + "long name " * 20, "b")
    for png in (
        draw_explained(items, "title", "note " * 60),
        draw_explained(items, "title", "note", against=items),
        draw_side_by_side([items] * 2, ["run $1"] * count, "title", "note"),
        tiles.draw_tiles([[tile] * 3] * count, ["channel 1\nBag"] * count, "title", "note"),
        tiles.draw_tiles([[tile] * 3, [tile]], smooth=True),
    ):
        picture = opened(png)
        assert min(picture.size) >= 200
        assert picture.width >= 590
        assert np.asarray(picture.convert("L")).std() > 5


@pytest.mark.parametrize(("channels", "shape"), [(1, (5, 4)), (2, (5, 4)), (3, (5, 4, 3)), (6, (5, 4))])
def test_images_of_any_number_of_channels_can_be_drawn(channels: int, shape: tuple[int, ...]):
    drawn = picture(torch.full((channels, 5, 4), 51, dtype=torch.uint8))
    assert drawn.shape == shape
    assert np.allclose(drawn, 0.2)
