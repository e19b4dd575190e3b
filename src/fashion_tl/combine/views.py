"""Views of an image for test-time augmentation: what a classifier sees beside the image as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.transforms import to_float
from fashion_tl.errors import UserError, shown

IDENTITY, HFLIP = "identity", "hflip"
_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def parse_views(wanted: Sequence[str], storage_size: int) -> list[str]:
    """Turn what a user asks for into names of views, the image as it is first.

    Args:
        wanted: "hflip", the mirror image; "shift:N", the image moved by N pixels to each of the four sides.
        storage_size: Height and width of the images as stored, in pixels.

    Raises:
        UserError: If there is no such view, or a shift is not from 1 to half of the image.
    """
    views = [IDENTITY]
    for one in wanted:
        found = re.fullmatch(r"shift:(\d{1,6})", one)
        if one == HFLIP:
            views.append(HFLIP)
        elif found and 1 <= int(found[1]) <= storage_size // 2:
            views += [f"{side}:{int(found[1])}" for side in _STEPS]
        else:
            raise UserError(
                f"--tta {shown(one)}: allowed are hflip and shift:N with N from 1 to {storage_size // 2}, pixels of "
                "the stored image, as in `--tta hflip shift:2`."
            )
    return list(dict.fromkeys(views))


def view(images: Tensor, name: str) -> Tensor:
    """Return one view of images (B, C, H, W), uint8 or float in 0 to 1; the border of a shift is black."""
    if name == IDENTITY:
        return images
    if name == HFLIP:
        return images.flip(-1)
    side, _, pixels = name.partition(":")
    down, right = (step * int(pixels) for step in _STEPS[side])
    return F.pad(to_float(images), [right, -right, down, -down])
