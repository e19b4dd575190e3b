"""One optimizer over all parameters: which group each is in, and at which rate it trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fashion_tl.errors import UserError
from fashion_tl.models.backbones import create_backbone
from fashion_tl.models.staged import BatchNormPolicy, StagedNetwork, divide_by_children, divide_timm
from fashion_tl.training.optimizer import build_optimizer, group_rates, parameter_groups
from fashion_tl.training.plan import Phase, Plan

NAMES = ["00-low", "00-low-no_decay", "01-middle", "02-top", "02-top-no_decay", "03-head", "03-head-no_decay"]


@pytest.fixture
def network() -> StagedNetwork:
    body = nn.Sequential()
    body.add_module("low", nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    body.add_module("middle", nn.Linear(4, 4, bias=False))
    body.add_module("top", nn.Linear(4, 4))
    return StagedNetwork(body, nn.Linear(4, 2), divide_by_children(body))


def test_groups_are_named_and_ordered_by_stage(network: StagedNetwork) -> None:
    groups = parameter_groups(network, weight_decay=0.3)
    assert [group["name"] for group in groups] == NAMES
    assert [group["stage"] for group in groups] == [0, 0, 1, 2, 2, 3, 3]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0, 0.3, 0.3, 0.0, 0.3, 0.0]
    assert [[p.numel() for p in group["params"]] for group in groups] == [[16], [4, 4, 4], [16], [16], [4], [8], [2]]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_groups_partition_all_parameters(backbone: str, frozen: bool) -> None:
    made = create_backbone(backbone, pretrained=False, image_size=32)
    network = StagedNetwork(made.module, nn.Linear(made.features, 3), divide_timm(made.module))
    if frozen:
        network.freeze_below(len(network.stage_names))
    groups = parameter_groups(network, weight_decay=0.1)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(parameter) for parameter in network.parameters()}
    for group in groups:
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] > 0}


@pytest.mark.parametrize(
    ("phase", "rates"),
    [
        (Phase(0, "head"), [0, 0, 0, 1]),
        (Phase(0, "top"), [0, 0, 0.1, 1]),
        (Phase(0, "all"), [0.025, 0.05, 0.1, 1]),
        (Phase(0, 2, lr=3), [0, 0.05, 0.1, 3]),
        (Phase(0, "middle", backbone_lr=0.4), [0, 0.2, 0.4, 1]),
        (Phase(0, "top", lr=0, backbone_lr=0.4), [0, 0, 0.4, 0]),
        (Phase(0, ("middle", "head")), [0, 0.05, 0, 1]),
        (Phase(0, ("middle",)), [0, 0.05, 0, 0]),
    ],
)
def test_rates_fall_from_the_head_to_the_boundary(network: StagedNetwork, phase: Phase, rates: list[float]) -> None:
    groups = list(parameter_groups(network, weight_decay=0.1))
    made = group_rates(network, groups, Plan((phase,), lr=1, backbone_lr=0.1, layer_decay=0.5), 0)
    low, middle, top, head = rates
    assert made == pytest.approx([low, low, middle, top, top, head, head], rel=1e-12)


def test_a_group_in_which_nothing_trains_has_rate_0(network: StagedNetwork) -> None:
    groups = list(parameter_groups(network, weight_decay=0.1))
    plan = Plan((Phase(0, ("norms", "top.bias")),), lr=1, backbone_lr=0.1)
    trained = {"00-low-no_decay", "02-top-no_decay"}
    rates = group_rates(network, groups, plan, 0)
    assert {group["name"] for group, rate in zip(groups, rates, strict=True) if rate} == trained


@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("batch_norm", ["train", "affine", "eval"])
def test_a_group_has_a_rate_where_something_of_it_trains_by_the_policy_of_batch_norm(
    batch_norm: BatchNormPolicy, backbone: str
) -> None:
    made = create_backbone(backbone, pretrained=False, image_size=32)
    network = StagedNetwork(made.module, nn.Linear(made.features, 3), divide_timm(made.module))
    groups = parameter_groups(network, weight_decay=0.1)
    network.freeze_except(network.select("all"), batch_norm)
    rates = group_rates(network, list(groups), Plan((Phase(0, "all"),), lr=1, batch_norm=batch_norm), 0)
    trains = [any(parameter.requires_grad for parameter in group["params"]) for group in groups]
    assert [rate > 0 for rate in rates] == trains
    assert all(trains) == (batch_norm != "eval")


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_optimizers_by_name(network: StagedNetwork, name: str, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = build_optimizer(name, parameter_groups(network, 0.3), lr=0.2, momentum=0.7)
    assert isinstance(optimizer, kind)
    assert [group["name"] for group in optimizer.param_groups] == NAMES
    assert {group["lr"] for group in optimizer.param_groups} == {0.2}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3, 0.0}
    if name == "sgd":
        assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {(0.7, True)}


def test_sgd_without_momentum_works(network: StagedNetwork) -> None:
    assert not build_optimizer("sgd", parameter_groups(network, 0), lr=0.2, momentum=0).defaults["nesterov"]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_thawed_and_frozen_again_stage_stands_still(network: StagedNetwork, name: str) -> None:
    """Momentum of the thawed phase must not move it, nor may weight decay."""
    optimizer = build_optimizer(name, parameter_groups(network, 0.3), lr=0.2, momentum=0.7)
    weight = network.backbone.get_parameter("low.0.weight")

    def moves(boundary: int) -> bool:
        network.freeze_below(boundary)
        before = weight.detach().clone()
        optimizer.zero_grad()
        network(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(p.grad is None for p in network.parameters())
        return not torch.equal(weight, before)

    assert [moves(boundary) for boundary in (1, 0, 2, 2)] == [False, True, False, False]


@pytest.mark.parametrize(
    ("name", "lr", "message"),
    [
        ("adam w", 0.1, r"unknown optimizer 'adam w'; did you mean 'adamw' or 'adam'.*--model\.optimizer"),
        ("SGD", 0.1, "unknown optimizer 'SGD'.*Allowed: adamw, adam, sgd"),
        ("sgd", 0.0, r"model\.lr is 0\.0: .*above 0"),
        ("sgd", float("nan"), r"model\.lr is nan"),
    ],
)
def test_wrong_optimizers_tell_what_is_allowed(network: StagedNetwork, name: str, lr: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_optimizer(name, parameter_groups(network, 0.3), lr, momentum=0.9)
