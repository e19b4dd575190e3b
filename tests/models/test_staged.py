"""Freezing, over eight families of networks: what is below the boundary stands still bit for bit, the rest trains."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.errors import UserError
from fashion_tl.models.backbones import create_backbone
from fashion_tl.models.split import split_network
from fashion_tl.models.staged import (
    BatchNormPolicy,
    StagedNetwork,
    count_parameters,
    divide_by_children,
    divide_timm,
    probe,
)

NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "mobilenetv2_035": {},
    "efficientnet_b0": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {},
    "regnety_002": {},
    "vgg11_bn": {"mlp_ratio": 0.01},  # its dense layers alone hold 100 M parameters otherwise
    "densenet121": {},
}
RATE = 0.5


@cache
def _made(name: str, arguments: tuple[tuple[str, Any], ...]) -> StagedNetwork:
    torch.manual_seed(0)
    made = create_backbone(name, pretrained=False, image_size=32, arguments=dict(arguments))
    return StagedNetwork(made.module, nn.Linear(made.features, 3), divide_timm(made.module))


def build(name: str, **arguments: Any) -> StagedNetwork:
    """Return a network of its own for each test."""
    return copy.deepcopy(_made(name, tuple((NETWORKS[name] | arguments).items())))


def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def step(network: StagedNetwork) -> None:
    """Train one step of SGD over all parameters; the gradients stay for the test to look at."""
    network.zero_grad()
    torch.autograd.backward(F.cross_entropy(network(images()), torch.tensor([0, 1, 2, 0])))
    torch.optim.SGD(network.parameters(), lr=RATE).step()


def snapshot(network: StagedNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def stages(network: StagedNetwork) -> dict[str, int]:
    """Return the stage of every tensor of the state; a statistic is where its module's weight is."""
    of = {name: stage for name, stage, _ in network.staged_parameters()}
    return {name: of.get(name, of.get(f"{name.rpartition('.')[0]}.weight", -1)) for name in network.state_dict()}


def index(network: StagedNetwork, boundary: str) -> int:
    count = len(network.stage_names)
    return {"head": count, "top": count - 1, "middle": count // 2, "all": 0}[boundary]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("resnet18", ("stem", "layer1", "layer2", "layer3", "layer4")),
        ("mobilenetv2_035", ("stem", *(f"blocks.{i}" for i in range(7)))),
        ("vit_tiny_patch16_224", ("stem", *(f"blocks.{i}" for i in range(12)))),
        ("densenet121", ("stem", *(f"features.denseblock{i}" for i in range(1, 5)))),
    ],
)
def test_stages_have_the_names_of_the_network(name: str, names: tuple[str, ...]) -> None:
    assert build(name).stage_names == names


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_partition_all_parameters_in_order(name: str) -> None:
    network = build(name)
    staged = [(member, parameter) for member, _, parameter in network.staged_parameters()]
    assert {member: id(parameter) for member, parameter in staged} == {
        member: id(parameter) for member, parameter in network.named_parameters()
    }
    assert len(staged) == len(list(network.parameters()))
    count = len(network.stage_names)
    assert 4 <= count <= 13
    assert {stage for _, stage, _ in network.staged_parameters()} == set(range(count + 1))
    assert min(stages(network).values()) == 0

    entered: list[int] = []
    of = stages(network)
    for member, module in network.named_modules():
        if f"{member}.weight" in of:
            module.register_forward_hook(lambda *_, stage=of[f"{member}.weight"]: entered.append(stage))
    network.eval()(images())
    assert entered == sorted(entered)


@pytest.mark.parametrize("boundary", ["head", "top", "middle", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_stands_still_and_thawed_moves(name: str, boundary: str) -> None:
    network = build(name)
    of, lowest = stages(network), index(network, boundary)
    network.freeze_below(lowest)
    network.train()
    before = snapshot(network)
    step(network)
    after = snapshot(network)
    assert all(torch.equal(before[member], after[member]) for member in of if of[member] < lowest)
    assert moved_stages(network, before, after) == set(range(lowest, len(network.stage_names) + 1))

    network.freeze_below(0)
    step(network)
    assert moved_stages(network, after, snapshot(network)) == set(range(len(network.stage_names) + 1))


def moved_stages(network: StagedNetwork, before: dict[str, Tensor], after: dict[str, Tensor]) -> set[int]:
    """Return the stages that moved; in them, all statistics and all with a gradient worth the name must have."""
    of, moved = stages(network), set()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    for name, stage in of.items():
        gradient = gradients.get(name)
        changed = not torch.equal(before[name], after[name])
        if changed:
            moved.add(stage)
        if stage >= network.boundary:
            assert name not in gradients or gradient is not None, f"{name} has no gradient"
            assert changed or (gradient is not None and gradient.abs().max() < 1e-6), f"{name} did not move"
    return moved


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_modules_stay_in_eval_mode(name: str) -> None:
    network = build(name)
    boundary = index(network, "middle")
    network.freeze_below(boundary)
    of = {member: stage for member, stage, _ in network.staged_parameters()}

    def modes(frozen: bool) -> set[bool]:
        return {
            module.training
            for member, module in network.named_modules()
            if (inside := {stage for name, stage in of.items() if name.startswith(f"{member}.")})
            and (max(inside) < boundary) == frozen
        }

    for mode in (True, False, True):
        network.train(mode)
        assert modes(frozen=True) == {False}
        assert modes(frozen=False) == {mode}
    network.freeze_below(0)
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize("policy", get_args(BatchNormPolicy))
def test_batch_norm_of_trained_stages_follows_the_policy(policy: BatchNormPolicy) -> None:
    network = build("resnet18")
    boundary = network.resolve("layer3")
    network.freeze_below(boundary, policy)
    network.train()
    before = snapshot(network)
    step(network)
    after, of = snapshot(network), stages(network)
    statistics = {name for name, _ in network.named_buffers()}
    affine = {
        f"{name}.{kind}"
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm)
        for kind in ("weight", "bias")
    }
    moved = {name for name in of if not torch.equal(before[name], after[name])}
    trained = {name for name in of if of[name] >= boundary}
    assert (trained & statistics <= moved) == (policy == "train")
    assert bool(moved & statistics) == (policy == "train")
    assert bool(moved & affine) == (policy != "eval")
    assert "backbone.layer4.0.bn1.bias" in affine
    assert "backbone.layer4.0.downsample.0.weight" in moved
    assert moved <= trained

    network.freeze_below(0)
    assert all(parameter.requires_grad for parameter in network.parameters())


DROPOUT = {"drop_rate": 0.5, "drop_path_rate": 0.5}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"proj_drop_rate": 0.5, "pos_drop_rate": 0.5, "attn_drop_rate": 0.5, **DROPOUT}),
        ("efficientnet_b0", DROPOUT),
        ("resnet18", DROPOUT),
        ("densenet121", {"drop_rate": 0.5}),
    ],
)
def test_dropout_of_frozen_stages_is_off(name: str, arguments: dict[str, Any]) -> None:
    network = build(name, **arguments)
    network.freeze_below(len(network.stage_names))
    network.train()
    features = network.backbone(images())
    assert torch.equal(features, network.backbone(images()))
    assert torch.equal(features, network.eval().backbone(images()))
    network.freeze_below(0)
    network.train()
    assert not torch.equal(network.backbone(images()), network.backbone(images()))


def test_dropout_below_a_boundary_in_the_middle_is_off() -> None:
    network = build("vit_tiny_patch16_224", proj_drop_rate=0.5, pos_drop_rate=0.5, drop_path_rate=0.5)
    network.freeze_below(network.resolve("blocks.6"))
    network.train()
    seen: dict[str, list[Tensor]] = {"blocks.5": [], "blocks.6": []}
    for name, outputs in seen.items():
        network.backbone.get_submodule(name).register_forward_hook(lambda *a, to=outputs: to.append(a[2]))
    for _ in range(2):
        network(images())
    assert torch.equal(*seen["blocks.5"])
    assert not torch.equal(*seen["blocks.6"])


@pytest.mark.parametrize(
    ("boundary", "expected", "words"),
    [
        ("head", 5, "head"),
        (0, 5, "head"),
        ("layer4", 4, "layer4 and head"),
        ("1", 4, "layer4 and head"),
        (3, 2, "layer2 and above"),
        ("stem", 0, "all"),
        (5, 0, "all"),
        ("all", 0, "all"),
    ],
)
def test_boundaries_as_a_user_writes_them(boundary: str | int, expected: int, words: str) -> None:
    network = build("resnet18")
    assert network.resolve(boundary) == expected
    assert network.describe(expected) == words


@pytest.mark.parametrize(
    ("boundary", "message"),
    [
        ("layer5", "unknown stage 'layer5'; did you mean 'layer4'.*A number from 0 to 5"),
        ("heads", "did you mean 'head'"),
        (6, "cannot train the top 6 stages: this network has 5.*'head', 'all', or a stage: stem, layer1"),
        ("-1", "cannot train the top -1 stages"),
    ],
)
def test_unknown_boundaries_tell_what_is_allowed(boundary: str | int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("resnet18").resolve(boundary)


@pytest.mark.parametrize(
    ("name", "size", "names"),
    [
        ("poolformer_s12", 32, ("stem", *(f"stages.{i}" for i in range(4)))),
        ("pit_ti_224", 64, ("stem", *(f"transformers.{i}" for i in range(3)))),
        ("rdnet_tiny", 32, ("stem", *(f"dense_stages.{i}" for i in (0, 1, 5, 6)))),
    ],
)
def test_a_network_without_group_matcher_is_divided_by_its_features(
    name: str, size: int, names: tuple[str, ...]
) -> None:
    made = create_backbone(name, pretrained=False, image_size=size)
    network = StagedNetwork(made.module, nn.Linear(made.features, 3), divide_timm(made.module))
    assert network.stage_names == names
    staged = [id(parameter) for _, _, parameter in network.staged_parameters()]
    assert sorted(staged) == sorted(id(parameter) for parameter in network.parameters())
    network.freeze_below(2)
    split = split_network(network, 2, size)
    network.eval()
    given = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(split.upper(*split.lower(given)), network(given))


def test_a_network_that_timm_does_not_describe_is_divided_into_its_children() -> None:
    body = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    body.register_parameter("token", nn.Parameter(torch.zeros(2)))
    assert divide_timm(body) == {"token": "0", "0.weight": "0", "0.bias": "0", "1": "1", "2.weight": "2", "2.bias": "2"}


def test_children_become_stages_in_order() -> None:
    body = nn.Sequential()
    for name in ("z", "a", "drop"):
        body.add_module(name, nn.Dropout() if name == "drop" else nn.Linear(2, 2))
    assert divide_by_children(body) == {"z.weight": "z", "z.bias": "z", "a.weight": "a", "a.bias": "a", "drop": "drop"}


def test_a_backbone_without_children_is_one_stage() -> None:
    body = nn.Linear(4, 3)
    network = StagedNetwork(body, nn.Linear(3, 2), divide_by_children(body))
    assert network.stage_names == ("backbone",)
    for train, trained in (("head", 8), ("backbone", 23), (1, 23), ("all", 23)):
        network.freeze_except(network.select(train))
        assert count_parameters(network, trained_only=True) == trained
    assert divide_by_children(nn.Flatten()) == {}


def test_count_and_probe_leave_the_network_alone() -> None:
    network = build("resnet18")
    network.freeze_below(len(network.stage_names))
    before = snapshot(network)
    assert count_parameters(network, trained_only=True) == 512 * 3 + 3
    assert count_parameters(network) == 11_176_512 + 512 * 3 + 3
    network.train()
    assert probe(network, 3, 32) == (1, 3)
    assert network.training
    assert not network.backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(network).items())
