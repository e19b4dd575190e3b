"""Adapters: nothing at the start, the paper's formula afterwards, and equal when merged."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.errors import UserError
from fashion_tl.features.keys import function_hash
from fashion_tl.models.backbones import create_backbone
from fashion_tl.models.lora import LoRA, adapted_stages, add_adapters, merge_adapters
from fashion_tl.models.split import split_network
from fashion_tl.models.staged import StagedNetwork, divide_timm

BACKBONES = ("test_resnet", "mobilenetv2_035", "test_vit", "tf_efficientnet_lite0")


def size_of(name: str) -> int:
    return 160 if name == "test_vit" else 32


def images(name: str) -> Tensor:
    return torch.randn(3, 3, size_of(name), size_of(name), generator=torch.Generator().manual_seed(1))


def staged(name: str, **settings: Any) -> tuple[StagedNetwork, nn.Module]:
    """Return a network with adapters, and its backbone as it was without."""
    torch.manual_seed(0)
    backbone = create_backbone(name, pretrained=False, image_size=size_of(name))
    plain, stages = copy.deepcopy(backbone.module), divide_timm(backbone.module)
    add_adapters(backbone.module, settings)
    head = nn.Linear(backbone.features, 3)
    return StagedNetwork(backbone.module, head, adapted_stages(backbone.module, stages)), plain.eval()


def disturb(network: StagedNetwork) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_start_is_the_network_itself(backbone: str) -> None:
    network, plain = staged(backbone)
    with torch.no_grad():
        assert torch.equal(network.eval().backbone(images(backbone)), plain(images(backbone)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_merged_equals_and_has_the_names_of_the_network(backbone: str) -> None:
    network, plain = staged(backbone, rank=2, alpha=3.0)
    disturb(network)
    network.eval()
    with torch.no_grad():
        adapted = network.backbone(images(backbone))
        assert not torch.allclose(adapted, plain(images(backbone)), atol=1e-3)
        merge_adapters(network.backbone)
        assert torch.equal(network.backbone(images(backbone)), adapted)
    assert list(network.backbone.state_dict()) == list(plain.state_dict()) or set(network.backbone.state_dict()) == set(
        plain.state_dict()
    )


def test_a_linear_layer_and_a_convolution_compute_the_formula() -> None:
    """Against two matrices one after the other, and two convolutions one after the other."""
    torch.manual_seed(0)
    for layer in (nn.Linear(6, 5), nn.Conv2d(6, 4, 3, stride=2, padding=1)):
        plain, body = copy.deepcopy(layer), nn.Sequential(layer)
        add_adapters(body, {"rank": 2, "alpha": 3})
        adapter: Any = dict(body.named_modules())["0.parametrizations.weight.0"]
        nn.init.normal_(adapter.lora_b)
        a, b = adapter.lora_a, adapter.lora_b
        if isinstance(layer, nn.Linear):
            inputs = torch.randn(7, 6)
            expected = plain(inputs) + 3 / 2 * (inputs @ a.T) @ b.T
        else:
            inputs = torch.randn(7, 6, 9, 9)
            inner = F.conv2d(inputs, a.view(2, 6, 3, 3), stride=2, padding=1)
            expected = plain(inputs) + 3 / 2 * F.conv2d(inner, b.view(4, 2, 1, 1))
        torch.testing.assert_close(body(inputs), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_and_head_train_and_nothing_else(backbone: str) -> None:
    network, plain = staged(backbone, rank=2)
    selection = network.select("lora")
    layers = [m.weight for m in plain.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    inner = [min(2, len(weight), weight[0].numel()) for weight in layers]
    adapters = sum(r * (len(weight) + weight[0].numel()) for r, weight in zip(inner, layers, strict=True))
    head = sum(parameter.numel() for parameter in network.head.parameters())
    assert network.count_trained(selection) == adapters + head

    disturb(network)
    network.freeze_except(selection)
    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.autograd.backward(F.cross_entropy(network(images(backbone)), torch.tensor([0, 1, 2])))
    torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1).step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == selection.names


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_belong_to_the_stage_of_their_layer(backbone: str) -> None:
    network, plain = staged(backbone)
    expected = StagedNetwork(plain, nn.Linear(1, 1), divide_timm(plain))
    of = {name: stage for name, stage, _ in expected.staged_parameters()}
    assert network.stage_names == expected.stage_names
    found = {name: stage for name, stage, _ in network.staged_parameters() if name.startswith("backbone.")}
    assert set(found) == {name for name, _ in network.named_parameters() if name.startswith("backbone.")}
    for name, stage in found.items():
        layer = name.partition(".parametrizations")[0]
        assert stage == of.get(name, of.get(f"{layer}.weight")), name


@pytest.mark.parametrize("backbone", BACKBONES[:3])
def test_what_is_below_the_lowest_adapter_can_be_split_off(backbone: str) -> None:
    top = {"test_resnet": "layer4.*", "mobilenetv2_035": "blocks.6.*", "test_vit": "blocks.5.*"}[backbone]
    network, _ = staged(backbone, layers=top)
    disturb(network)
    selection = network.select("lora")
    assert selection.boundary > 0
    network.freeze_except(selection)
    parts = split_network(network.eval(), selection.boundary, size_of(backbone))
    with torch.no_grad():
        logits = parts.upper(*parts.lower(images(backbone)))
        torch.testing.assert_close(logits, network(images(backbone)), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(name, str) and "lora" in name for name, _ in parts.lower.named_parameters())


def test_patterns_go_by_the_names_that_layers_have_without_adapters() -> None:
    network, _ = staged("test_resnet", layers=["layer2.*"])
    assert network.select(["layer1.0.conv1.weight"]).names == {"backbone.layer1.0.conv1.weight"}
    found = network.select(["layer2.0.conv1.weight"]).names
    assert found == {"backbone.layer2.0.conv1.parametrizations.weight.original"}
    adapter = {f"backbone.layer2.0.conv1.parametrizations.weight.0.lora_{letter}" for letter in "ab"}
    assert network.select(["layer2.0.conv1.*"]).names == found | adapter


def test_features_below_adapters_that_add_nothing_are_those_of_any_seed() -> None:
    network, _ = staged("test_resnet")
    adapters = [module for module in network.modules() if isinstance(module, LoRA)]
    before = function_hash(network.backbone)
    with torch.no_grad():
        for adapter in adapters:
            nn.init.normal_(adapter.lora_a)
        assert function_hash(network.backbone) == before
        adapters[0].lora_b[0, 0] = 1
        moved = function_hash(network.backbone)
        adapters[0].lora_a[0, 0] += 1
    assert len({before, moved, function_hash(network.backbone)}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rnak": 4}, r"unknown setting of model\.lora 'rnak'; did you mean 'rank'"),
        ({"rank": 0}, r"model\.lora\.rank is 0, allowed is 1 to 4096"),
        ({"rank": 2.5}, r"model\.lora\.rank is 2\.5"),
        ({"alpha": 0}, r"model\.lora\.alpha is 0"),
        ({"alpha": float("nan")}, r"model\.lora\.alpha is nan"),
        ({"alpha": "x"}, r"model\.lora\.alpha is 'x'"),
        ({"layers": "layer2.0.conv9"}, r"unknown layer in model\.lora\.layers 'layer2\.0\.conv9'; did you mean"),
        ({"layers": []}, r"model\.lora\.layers is \[\]"),
        ({"layers": 3}, r"model\.lora\.layers is 3"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        staged("test_resnet", **settings)
