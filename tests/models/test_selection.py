"""What trains by name: over four families of networks the rest stands still bit for bit, statistics included."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.errors import UserError
from fashion_tl.models.backbones import create_backbone
from fashion_tl.models.staged import BatchNormPolicy, StagedNetwork, divide_by_children, divide_timm

BACKBONES = ("test_resnet", "mobilenetv2_035", "test_vit", "test_convnext")
NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


@cache
def _made(name: str) -> StagedNetwork:
    torch.manual_seed(0)
    arguments = {"drop_path_rate": 0.1} if name == "test_vit" else {}
    made = create_backbone(name, pretrained=False, image_size=160 if name == "test_vit" else 32, arguments=arguments)
    with torch.no_grad():
        for parameter in made.module.parameters():  # some are 0 at the start, and what they multiply has no gradient
            parameter.add_(0.02 * torch.randn_like(parameter))
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(made.features, 3))
    return StagedNetwork(made.module, head, divide_timm(made.module))


def build(name: str) -> StagedNetwork:
    return copy.deepcopy(_made(name))


def of_norms(network: StagedNetwork) -> set[str]:
    return {
        f"{name}.{own}"
        for name, module in network.named_modules()
        if isinstance(module, NORMS)
        for own, _ in module.named_parameters(recurse=False)
    }


def stage_of(network: StagedNetwork) -> dict[str, int]:
    return {name: stage for name, stage, _ in network.staged_parameters()}


def head_of(network: StagedNetwork) -> set[str]:
    return {name for name in stage_of(network) if name.startswith("head.")}


def in_stages(network: StagedNetwork, *indices: int) -> set[str]:
    return {name for name, stage in stage_of(network).items() if stage in indices}


# By name: what a user writes, and what is meant by it, found in another way.
Case = tuple[Callable[[StagedNetwork], Any], Callable[[StagedNetwork], set[str]]]
CASES: dict[str, Case] = {
    "a stage": (lambda n: [n.stage_names[1], "head"], lambda n: in_stages(n, 1) | head_of(n)),
    "a stage without the head": (lambda n: [n.stage_names[-1]], lambda n: in_stages(n, len(n.stage_names) - 1)),
    "two stages": (lambda n: [n.stage_names[0], n.stage_names[2]], lambda n: in_stages(n, 0, 2)),
    "norms and head": (lambda n: "norms", lambda n: of_norms(n) | head_of(n)),
    "norms alone": (lambda n: ["norms"], of_norms),
    "biases and head": (lambda n: "biases", lambda n: {p for p in stage_of(n) if p.endswith(".bias")} | head_of(n)),
    "a pattern": (
        lambda n: [f"{n.stage_names[2]}.*.weight"],
        lambda n: {p for p in in_stages(n, 2) if re.search(r"\.weight$", p) and f".{n.stage_names[2]}." in p},
    ),
    "the top and norms": (
        lambda n: [1, "norms"],
        lambda n: in_stages(n, len(n.stage_names) - 1) | of_norms(n) | head_of(n),
    ),
    "the head": (lambda n: ["head"], head_of),
    "all": (lambda n: ["all"], lambda n: set(stage_of(n))),
}


def step(network: StagedNetwork, size: int) -> None:
    """Train one step of SGD with weight decay over all parameters."""
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, weight_decay=0.1)
    torch.autograd.backward(F.cross_entropy(network(images), torch.tensor([0, 1, 2, 0])))
    optimizer.step()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("case", CASES)
def test_what_is_selected_moves_and_the_rest_stands_still(case: str, backbone: str) -> None:
    network = build(backbone)
    written, meant = CASES[case]
    selection, expected = network.select(written(network)), meant(network)
    assert selection.names == expected
    assert selection.boundary == min(stage_of(network)[name] for name in expected)
    assert network.resolve(written(network)) == selection.boundary

    network.freeze_except(selection)
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step(network, 160 if backbone == "test_vit" else 32)
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {
        f"{name}.{own}"
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and any(f"{name}.{p}" in expected for p, _ in module.named_parameters())
        for own, _ in module.named_buffers(recurse=False)
    }
    assert moved == expected | statistics
    assert network.count_trained(selection) == sum(
        p.numel() for name, p in network.named_parameters() if name in expected
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("policy", ["train", "affine", "eval"])
def test_a_boundary_is_frozen_as_the_list_of_what_is_above_it(backbone: str, policy: BatchNormPolicy) -> None:
    one, other = build(backbone), build(backbone)
    one.freeze_below(2, policy)
    other.freeze_except(other.select([*other.stage_names[2:], "head"]), policy)
    one.train(), other.train()
    assert [m.training for m in one.modules()] == [m.training for m in other.modules()]
    assert [p.requires_grad for p in one.parameters()] == [p.requires_grad for p in other.parameters()]


def test_the_policy_of_batch_norm_holds_where_it_is_selected() -> None:
    policies: dict[BatchNormPolicy, tuple[bool, bool]] = {
        "train": (True, True),
        "affine": (False, True),
        "eval": (False, False),
    }
    for policy, moves in policies.items():
        network = build("test_resnet")
        network.freeze_except(network.select(["layer2", "head"]), policy)
        network.train()
        norm: Any = network.backbone.get_submodule("layer2.0.bn1")
        mean, weight = norm.running_mean.clone(), norm.weight.detach().clone()
        step(network, 32)
        assert (not torch.equal(norm.running_mean, mean), not torch.equal(norm.weight, weight)) == moves, policy


def test_dropout_is_off_in_what_is_frozen_above_the_boundary() -> None:
    network = build("test_vit")
    network.train()
    for spec, stage, head in (
        (["blocks.0"], True, False),
        (["blocks.1", "head"], False, True),
        (["norms"], True, False),
    ):
        network.freeze_except(network.select(spec))
        paths = [m for n, m in network.named_modules() if n.startswith("backbone.blocks.0.drop_path")]
        assert paths
        assert {module.training for module in paths} == {stage}, spec
        assert network.head.get_submodule("0").training == head, spec


def test_gradients_flow_through_what_is_frozen() -> None:
    network = build("test_resnet")
    network.freeze_except(network.select(["stem"]))
    network.train()
    step(network, 32)
    with_gradient = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert with_gradient == in_stages(network, 0)


def test_words() -> None:
    network = build("test_resnet")
    specs: tuple[Any, ...] = ("head", "layer3", "norms", ["layer1", "head"], ["*.bn*"], [1, "norms", "head"])
    told = ("head", "layer3 and above", "norms and head", "layer1 and head", "*.bn*", "1, norms and head")
    assert tuple(network.select(spec).words for spec in specs) == told


def test_a_module_by_name_stands_for_all_in_it_and_the_heads_names_are_its_own() -> None:
    network = build("test_convnext")  # whose backbone has a module called head
    inside = {name for name in stage_of(network) if name.startswith("backbone.stages.1.blocks.0.")}
    assert network.select(["stages.1.blocks.0"]).names == inside
    assert network.select(["backbone.stages.1.blocks.0"]).names == inside
    assert network.select(["head.*"]).names == head_of(network)
    assert any(name.startswith("backbone.head.") for name in stage_of(network))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["layre1", "head"], r"nothing .* called 'layre1'; did you mean 'layer1'"),
        (["*.bnn1.*"], r"called '\*\.bnn1\.\*'; did you mean '\*\.bn1\.\*'"),
        (["layer1.0.cnv1"], r"did you mean 'layer1\.0\.conv1'"),
        (
            ["qqq"],
            r"called 'qqq'\. Allowed in a list: a stage \(stem, layer1, .*norms, biases, lora, or a shell pattern",
        ),
        (["lora", "head"], r"no adapters: set --model\.lora"),
        ("lora", r"no adapters: set --model\.lora"),
        ([], "an empty list"),
        ([9, "head"], "cannot train the top 9 stages"),
        ("*.bn*", r"unknown stage '\*\.bn\*'.*a list selects by name"),
    ],
)
def test_what_is_not_there_is_told_with_near_names(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("test_resnet").select(spec)


def test_a_stage_of_that_name_comes_before_a_shortcut() -> None:
    body = nn.Sequential()
    body.add_module("low", nn.Linear(4, 4))
    body.add_module("norms", nn.Linear(4, 4))
    network = StagedNetwork(body, nn.Linear(4, 2), divide_by_children(body))
    assert network.resolve("norms") == 1
    assert network.select(["norms"]).names == {"backbone.norms.weight", "backbone.norms.bias"}


def test_a_parameterless_module_goes_with_its_stage() -> None:
    """A parameterless module at the top of the backbone goes with its stage."""
    body = nn.Sequential()
    body.add_module("low", nn.Linear(4, 4))
    body.add_module("drop", nn.Dropout(0.5))
    body.add_module("top", nn.Linear(4, 4))
    members = {"low.weight": "low", "low.bias": "low", "drop": "low", "top.weight": "top", "top.bias": "top"}
    network = StagedNetwork(body, nn.Linear(4, 2), members)
    network.train()
    drop = body.get_submodule("drop")
    seen: list[bool] = []
    for spec in (["low"], ["top"], ["low", "head"], "all", "top"):
        network.freeze_except(network.select(spec))
        seen.append(drop.training)
    assert seen == [True, False, True, True, False]
