"""The filters of a network's first layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import nn


class Convolution(NamedTuple):
    """A convolution by its name, with its weights (O, I, h, w)."""

    name: str
    weight: np.ndarray


def first_convolution(module: nn.Module) -> Convolution | None:
    """Find the first two-dimensional convolution of a network."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            return Convolution(name.removeprefix("network."), layer.weight.detach().float().cpu().numpy())
    return None
