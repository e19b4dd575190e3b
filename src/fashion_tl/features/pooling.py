"""Features of a boundary as one vector an image, pooled over the places of maps and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from fashion_tl.errors import check_known

Pool = Literal["mean", "max", "both"]
POOLS: tuple[str, ...] = get_args(Pool)


@dataclass(frozen=True)
class Pooling:
    """Pools the tensors that cross a boundary of a network.

    Attributes:
        name: "mean", "max", or "both", one after the other.
        channels_last: Whether the network's maps are (B, H, W, C) where their shape does not tell.

    Raises:
        UserError: If there is no pooling of the name.
    """

    name: str
    channels_last: bool = False

    def __post_init__(self) -> None:
        check_known("pooling", self.name, POOLS, "Set it with --pool.")

    @classmethod
    def of(cls, name: str, backbone: nn.Module) -> Pooling:
        """Pool as a backbone lays out its maps, as timm's ``output_fmt`` says it."""
        return cls(name, str(getattr(backbone, "output_fmt", "NCHW")) == "NHWC")

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """Pool maps (B, C, H, W) or (B, H, W, C) and tokens (B, T, C); vectors (B, C) stay as they are.

        Returns:
            All of them side by side, float32 (B, F).
        """
        floating = [tensor.float() for tensor in tensors if tensor.is_floating_point()]
        return torch.cat([self._pooled(tensor) for tensor in floating], 1)

    def _pooled(self, tensor: Tensor) -> Tensor:
        if tensor.ndim == 2:
            return tensor
        channel = self._channel_axis(tensor)
        places = [axis for axis in range(1, tensor.ndim) if axis != channel % tensor.ndim]
        kinds = ("mean", "max") if self.name == "both" else (self.name,)
        return torch.cat([tensor.mean(places) if kind == "mean" else tensor.amax(places) for kind in kinds], 1)

    def _channel_axis(self, tensor: Tensor) -> int:
        """Find the axis of channels: the places of a map are a square."""
        if tensor.ndim == 3:
            return -1
        first, second, third = tensor.shape[-3:]
        last = first == second and (second != third or self.channels_last)
        return -1 if last else -3
