"""Affine transforms of a batch, each image by numbers of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def warp(
    images: Tensor,
    degrees: Tensor | None = None,
    slant: Tensor | None = None,
    factor: Tensor | None = None,
    down: Tensor | None = None,
    right: Tensor | None = None,
) -> Tensor:
    """Scale, slant, rotate (counter-clockwise), then shift square images, in one bilinear resampling.

    Args:
        images: Float images (B, C, H, W); what comes in is black.
        degrees: Angles (B,).
        slant: Shears (B,) as a share of the height: positive moves the upper half to the left.
        factor: Factors (B,) of the size, above 0.
        down: Shifts (B,) in pixels.
        right: Shifts (B,) in pixels.
    """
    zero = torch.zeros(len(images), device=images.device, dtype=images.dtype)
    angle = (zero if degrees is None else degrees) * (math.pi / 180)
    lean, size = zero if slant is None else slant, zero + 1 if factor is None else factor
    cos, sin = angle.cos(), angle.sin()
    # affine_grid maps where a pixel goes to where it comes from: the inverse, with rows and columns from -1 to 1.
    turned = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    sheared = torch.stack([zero + 1, -lean, zero, zero + 1], 1).view(-1, 2, 2)
    inverse = (sheared @ turned) / size.view(-1, 1, 1)
    height, width = images.shape[2:]
    moved = torch.stack(
        [zero if right is None else right * (2 / width), zero if down is None else down * (2 / height)], 1
    )
    theta = torch.cat([inverse, -(inverse @ moved.unsqueeze(2))], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
