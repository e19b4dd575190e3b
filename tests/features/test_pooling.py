"""Pooling of whatever crosses a boundary."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fashion_tl.errors import UserError
from fashion_tl.features.pooling import Pooling

MAP = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["mean", "max", "both"])
def test_maps_tokens_and_vectors_are_pooled_side_by_side(name: str) -> None:
    def expected(rows: torch.Tensor) -> list[torch.Tensor]:  # (B, places, C)
        kinds = {"mean": rows.mean(1), "max": rows.max(1).values}
        return list(kinds.values()) if name == "both" else [kinds[name]]

    found = Pooling(name)([MAP, TOKENS, MAP[:, :, 0, 0], torch.ones(2, 3, dtype=torch.int64)])
    parts = [*expected(MAP.flatten(2).transpose(1, 2)), *expected(TOKENS), MAP[:, :, 0, 0]]
    torch.testing.assert_close(found, torch.cat(parts, 1))


def test_maps_with_channels_last_are_told_by_their_shape_or_by_the_network() -> None:
    last = MAP.permute(0, 2, 3, 1)
    torch.testing.assert_close(Pooling("mean")([last]), MAP.mean((2, 3)))
    cube = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(Pooling("max")([cube]), cube.amax((2, 3)))
    network = nn.Identity()
    network.output_fmt = "NHWC"  # type: ignore[assignment]
    torch.testing.assert_close(Pooling.of("max", network)([cube]), cube.amax((1, 2)))


def test_half_precision_is_pooled_in_single() -> None:
    assert Pooling("mean")([MAP.bfloat16()]).dtype == torch.float32


def test_another_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown pooling 'men'; did you mean 'mean'"):
        Pooling("men")
