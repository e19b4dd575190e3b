"""Which layer maps are taken from, in every kind of network, and how its output is folded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.inspection.networks import scratch, transfer
from torch import nn

from fashion_tl.errors import UserError
from fashion_tl.inspection.layers import Target, choose_target, find_targets
from fashion_tl.models.scratch import LightCNN, PlainCNN


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "size", "expected"),
    [
        ("test_resnet", {}, 64, ("layer3", "layer3", "NCHW", 4, 0)),
        ("resnetv2_50", {"layers": (1, 1, 1, 1)}, 64, ("stages.2", "stages.2", "NCHW", 4, 0)),
        ("mobilenetv2_035", {}, 64, ("blocks.4", "blocks.4", "NCHW", 4, 0)),
        ("mobilenetv2_035", {}, 128, ("blocks.6", "bn2", "NCHW", 4, 0)),
        ("test_efficientnet", {}, 128, ("blocks.4", "bn2", "NCHW", 4, 0)),
        ("test_convnext", {}, 64, ("stages.2", "stages.2", "NCHW", 4, 0)),
        ("densenet121", {"block_config": (2, 2, 2, 2), "growth_rate": 4}, 128,
         ("features.denseblock4", "features.norm5", "NCHW", 4, 0)),
        ("vgg11_bn", {}, 64, ("features.22", "features.27", "NCHW", 4, 0)),  # what its last pooling takes
        ("test_vit", {}, 64, ("blocks.5", "blocks.5.norm1", "tokens", 4, 1)),  # the class token is classified
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "embed_dim": 24, "num_heads": 2}, 56,
         ("blocks.1", "blocks.1.norm1", "tokens", 4, 5)),
        ("test_vit2", {}, 64, ("blocks.7", "blocks.7", "tokens", 4, 1)),  # patches are averaged
        ("swin_tiny_patch4_window7_224", {}, 64, ("layers.2", "norm", "NHWC", 4, 0)),
    ],
)  # fmt: skip
def test_the_last_map_of_every_kind_of_backbone_is_found(
    name: str, arguments: dict[str, Any], size: int, expected: tuple[str, str, str, int, int]
) -> None:
    network = transfer(name, size, arguments)
    target = choose_target(find_targets(network, 3, size), network, None)
    assert (target.stage, target.name, target.layout, target.side, target.prefix) == expected
    assert network.backbone.get_submodule(target.name) is target.module


def test_of_scratch_networks_what_is_pooled_last_is_taken() -> None:
    assert [t.name for t in find_targets(scratch(LightCNN(1)), 1, 28).values()] == ["stem.0", "middle.1", "top.1"]
    plain = find_targets(scratch(PlainCNN(1, widths=(4, 8), hidden=6, dropout=0.5)), 1, 28)
    assert {stage: (t.name, t.side) for stage, t in plain.items()} == {
        "block1": ("block1.2", 28),
        "block2": ("block2.2", 14),
    }


def test_looking_changes_nothing() -> None:
    network = transfer("test_resnet", 64)
    network.freeze_below(len(network.stage_names))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_targets(network, 3, 64)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in network.backbone.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_tokens_fold_row_by_row_without_the_class_token() -> None:
    target = Target("s", "n", nn.Identity(), "tokens", channels=1, side=2, prefix=1)
    output = torch.tensor([9.0, 1, 2, 3, 4]).view(1, 5, 1)
    folded = target.fold(output)
    assert folded.tolist() == [[[[1, 2], [3, 4]]]]


def test_a_stage_that_is_not_there_or_has_no_map_is_named() -> None:
    network = scratch(PlainCNN(1, widths=(4, 8), hidden=6))
    targets = find_targets(network, 1, 28)
    assert choose_target(targets, network, "block1").stage == "block1"
    with pytest.raises(UserError, match="did you mean 'block1'"):
        choose_target(targets, network, "blok1")
    with pytest.raises(UserError, match=r"'dense' is no map over the image\. Stages with one: block1, block2"):
        choose_target(targets, network, "dense")
    with pytest.raises(UserError, match="too small"):
        choose_target({}, network, None)
