"""Random numbers that depend on a seed and an image's index alone, whatever the batch and the device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class RandomNumbers:
    """A stream of random numbers for each image of a batch.

    A number is a hash of the seed, the stream, the image's index and its own position; nothing is kept in between.

    Attributes:
        seed: The same seed gives the same numbers.
        stream: Number of the stream; different streams are independent.
        index: Index (B,) of each image in its set, on the device where the numbers are needed.
    """

    seed: int
    stream: int
    index: Tensor

    def uniform(self, *shape: int, part: int = 0) -> Tensor:
        """Draw numbers (B, *shape) above 0 and below 1, float32; different parts are independent."""
        key = (self.seed * 0x9E3779B1 + self.stream * 0x85EBCA77 + part * 0xC2B2AE3D) & _MASK
        count = math.prod(shape)
        each = _scramble(self.index.long() ^ key)
        place = _scramble(torch.arange(count, device=self.index.device) + (key ^ 0x5BD1E995))
        bits = _scramble(each.unsqueeze(1) ^ place)
        return ((bits >> 9).float() + 0.5).mul_(2.0**-23).view(-1, *shape)

    def normal(self, *shape: int, part: int = 0) -> Tensor:
        """Draw standard normal numbers (B, *shape), float32."""
        return torch.erfinv(self.uniform(*shape, part=part) * 2 - 1) * math.sqrt(2)

    def sign(self) -> Tensor:
        """Draw -1 or 1 for each image (B,)."""
        return torch.where(self.uniform(1)[:, 0] < 0.5, -1.0, 1.0)


def _scramble(values: Tensor) -> Tensor:
    """Hash integers to 32 bits, all of them depending on each: two multiplications between three xor-shifts."""
    # Constants of C. Wellons's lowbias32; a product of 64 bits overflows, but its lower 32 bits are right.
    values = values & _MASK
    values = values ^ (values >> 16)
    values = (values * 0x7FEB352D) & _MASK
    values = values ^ (values >> 15)
    values = (values * 0x846CA68B) & _MASK
    return values ^ (values >> 16)
