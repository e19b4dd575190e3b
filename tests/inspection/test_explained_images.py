"""Explained images: what is said of them, and how they are drawn."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.inspection.explained_images import ExplainedImage
from fashion_tl.inspection.run import picture
from fashion_tl.inspection.saliency_analysis import draw_explained, draw_side_by_side

HEAT = np.zeros((4, 4))
HEAT[0, 0] = 1
ITEM = ExplainedImage("test image 1", np.full((28, 28), 0.5), HEAT, "$Bag_1$", "Coat", 0.5, 1)


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def test_verdicts_say_more_than_their_colour() -> None:
    assert ITEM.verdict == "✗ Coat 0.50"
    assert replace(ITEM, truth="Coat").verdict == "✓ Coat 0.50"
    assert replace(ITEM, truth=None).verdict == "Coat 0.50"


@pytest.mark.parametrize("count", [1, 5])
def test_panels_are_large_enough_to_read(count: int) -> None:
    items = [ITEM] * count
    for png in (
        draw_explained(items, "title", "note " * 60),
        draw_explained(items, "title", "note", against=items),
        draw_side_by_side([items] * 2, ["run $1"] * count, "title", "note"),
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
