"""The networks to train from scratch: size, shapes, and arguments that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fashion_tl.errors import UserError
from fashion_tl.models.scratch import LightCNN, PlainCNN
from fashion_tl.training.scratch import ScratchClassifier


def scratch(image_size: int = 28, **arguments: Any) -> ScratchClassifier:
    spec = {"channels": 1, "storage_size": 28, "image_size": image_size}
    return ScratchClassifier([str(i) for i in range(10)], input_spec=spec, **arguments)


def test_the_default_network_is_below_half_a_million_parameters() -> None:
    network = scratch().network
    assert 100_000 < sum(parameter.numel() for parameter in network.parameters()) < 500_000
    assert network.stage_names == ("stem", "middle", "top")


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (LightCNN, {"dropout": 0.1}),
        (LightCNN, {"widths": (4, 6, 8), "blocks": (1, 0, 2)}),
        (PlainCNN, {}),
        (PlainCNN, {"widths": (8, 16), "convs": 2, "norm": False, "dropout": 0.1, "hidden": 12}),
    ],
)
def test_features_have_the_promised_shape(kind: Any, arguments: dict[str, Any], channels: int, size: int) -> None:
    network = kind(channels, **arguments, **({"image_size": size} if kind is PlainCNN else {}))
    assert network(torch.zeros(2, channels, size, size)).shape == (2, network.features)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "ligth"}, r"unknown network 'ligth'; did you mean 'light'.*--model\.network"),
        ({"network_args": {"droput": 0.1}}, "unknown argument of network 'light' 'droput'; did you mean 'dropout'"),
        ({"network_args": {"hidden": 8}}, "argument of network 'light' 'hidden'. Allowed: blocks, dropout, widths"),
        ({"network_args": {"in_channels": 3}}, "unknown argument of network 'light' 'in_channels'"),
        ({"network_args": {"widths": [8, 8]}}, r"network_args\.widths has 2 values; network 'light' needs 3"),
        ({"network_args": {"blocks": [1]}}, r"network_args\.blocks has 1 values; network 'light' needs 3"),
        ({"network_args": {"blocks": [0, -1, 101]}}, r"blocks\[1\] is -1, allowed is 0 to 100; .*blocks\[2\] is 101"),
        ({"network_args": {"blocks": [1, 1.5, 1]}}, "cannot build network 'light'"),
        ({"network": "plain", "network_args": {"widths": [8] * 5}}, "5 blocks.*28 px allow 1 to 4"),
        ({"network": "plain", "network_args": {"widths": []}}, "0 blocks"),
        ({"network": "plain", "network_args": {"widths": 8}}, "cannot build network 'plain' with {'widths': 8}"),
        ({"network_args": {"dropout": 1.5}}, r"cannot build network 'light'.*between 0 and 1"),
    ],
)
def test_wrong_arguments_tell_what_is_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scratch(**arguments)


def test_the_most_blocks_that_an_image_allows_work() -> None:
    network = scratch(network="plain", network_args={"widths": [4] * 4, "hidden": 5}).eval()
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
