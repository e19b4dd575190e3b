"""Views of an image: which there are, and what they show."""

from __future__ import annotations

import pytest
import torch

from fashion_tl.combine.views import parse_views, view
from fashion_tl.errors import UserError

IMAGES = (torch.arange(2 * 3 * 16).view(2, 3, 4, 4) % 256).to(torch.uint8)


def test_names() -> None:
    assert parse_views([], 28) == ["identity"]
    assert parse_views(["shift:2", "hflip", "hflip"], 28) == [
        "identity",
        "up:2",
        "down:2",
        "left:2",
        "right:2",
        "hflip",
    ]


@pytest.mark.parametrize("wrong", ["turn", "shift", "shift:0", "shift:15", "shift:-1", "shift:1.5", "", "up:2"])
def test_others_are_refused(wrong: str) -> None:
    with pytest.raises(UserError, match=r"allowed are hflip and shift:N with N from 1 to 14"):
        parse_views([wrong], 28)


def test_what_they_show() -> None:
    assert view(IMAGES, "identity") is IMAGES
    assert torch.equal(view(IMAGES, "hflip"), IMAGES.flip(3))
    for name, kept, source in (
        ("up:1", (slice(0, 3), slice(None)), (slice(1, 4), slice(None))),
        ("down:1", (slice(1, 4), slice(None)), (slice(0, 3), slice(None))),
        ("left:2", (slice(None), slice(0, 2)), (slice(None), slice(2, 4))),
        ("right:2", (slice(None), slice(2, 4)), (slice(None), slice(0, 2))),
    ):
        moved = view(IMAGES, name)
        assert torch.equal(moved[(..., *kept)], IMAGES[(..., *source)].float() / 255)
        rest = moved.clone()
        rest[(..., *kept)] = 0
        assert rest.count_nonzero() == 0
