"""Splitting at a boundary, over twenty families: the parts compute, learn and draw what the whole network does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.models.backbones import create_backbone
from fashion_tl.models.split import SplitError, SplitNetwork, chain_network, split_network
from fashion_tl.models.staged import StagedNetwork, divide_timm

DROPOUT = {"drop_rate": 0.3, "drop_path_rate": 0.3}
FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {  # image size, arguments: fewer layers, more dropout
    "resnet18": (32, DROPOUT),
    "mobilenetv2_035": (32, {}),
    "efficientnet_b0": (32, DROPOUT),
    "convnext_atto": (32, {}),
    "vit_tiny_patch16_224": (32, {"depth": 4, "proj_drop_rate": 0.3, "pos_drop_rate": 0.3, **DROPOUT}),
    "vit_small_patch16_dinov3": (32, {"depth": 3}),  # decides by the size of the images
    "regnety_002": (32, {}),
    "vgg11_bn": (32, {"mlp_ratio": 0.01}),
    "densenet121": (32, {"drop_rate": 0.3}),
    "swin_tiny_patch4_window7_224": (56, {"embed_dim": 24, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8)}),
    "efficientformerv2_s0": (64, {}),
    "mobilevit_xxs": (64, {}),
    "xcit_nano_12_p16_224": (32, {"depth": 3}),
    "eva02_tiny_patch14_224": (28, {"depth": 3}),
    "inception_v3": (75, {}),
    "mixer_s32_224": (32, {}),
    "hrnet_w18_small": (32, {}),  # lists of tensors between stages
    "fastvit_t8": (64, {}),
    "ghostnet_050": (32, {}),  # dropout in the forward of the network itself
    "coat_tiny": (32, {"serial_depths": (1, 1, 1, 1), "parallel_depth": 2}),  # blocks that share modules
    "tnt_s_patch16_224": (32, {"depth": 2}),  # folds images into rows
}
# Networks with frozen parameters outside of modules, such as a token: both parts read them.
READ_ABOVE = {
    "vit_tiny_patch16_224",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "xcit_nano_12_p16_224",
    "coat_tiny",
    "tnt_s_patch16_224",
}


@cache
def _made(name: str) -> StagedNetwork:
    torch.manual_seed(0)
    size, arguments = FAMILIES[name]
    made = create_backbone(name, pretrained=False, image_size=size, arguments=arguments)
    return StagedNetwork(made.module, nn.Linear(made.features, 3), divide_timm(made.module))


def build(name: str) -> StagedNetwork:
    """Return a network of its own for each test."""
    return copy.deepcopy(_made(name))


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def boundaries(network: StagedNetwork) -> list[int]:
    count = len(network.stage_names)
    return list(range(1, count + 1)) if count <= 5 else [1, count // 2, count - 1, count]


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def whole(split: SplitNetwork, given: Tensor) -> Tensor:
    logits: Tensor = split.upper(*split.lower(given))
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.thorough(keep=3)
def test_parts_compute_what_the_network_computes(name: str) -> None:
    network, size = build(name), FAMILIES[name][0]
    before = snapshot(network)
    for boundary in boundaries(network):
        network.freeze_below(boundary)
        network.train()
        modes, attributes = [m.training for m in network.modules()], set(vars(network)) | set(vars(network.backbone))
        state = torch.get_rng_state()
        split = split_network(network, boundary, size)
        assert torch.equal(torch.get_rng_state(), state)
        assert [m.training for m in network.modules()] == modes
        assert set(vars(network)) | set(vars(network.backbone)) == attributes

        lower, upper = ({id(p) for p in part.parameters()} for part in (split.lower, split.upper))
        stages = {id(parameter): stage for _, stage, parameter in network.staged_parameters()}
        assert lower | upper == set(stages)
        assert lower <= {member for member, stage in stages.items() if stage < boundary}
        assert name in READ_ABOVE or not lower & upper
        assert name in READ_ABOVE or upper == {member for member, stage in stages.items() if stage >= boundary}

        network.eval()
        for count in (1, 5):
            given = images(count, size)
            with torch.no_grad():
                activations = split.lower(given)
                assert [len(activation) for activation in activations] == [count] * len(activations)
                assert torch.equal(split.upper(*activations), network(given))
    assert same(snapshot(network), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.thorough(keep=3)
def test_parts_learn_what_the_network_learns(name: str) -> None:
    network, size = build(name), FAMILIES[name][0]
    boundary = boundaries(network)[-2]
    network.freeze_below(boundary)
    network.train()
    split = split_network(network, boundary, size)
    before = snapshot(network)

    def step(forward: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        network.zero_grad()
        network.load_state_dict(before)
        torch.manual_seed(1)
        torch.autograd.backward(F.cross_entropy(forward(images(4, size)), torch.tensor([0, 1, 2, 0])))
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}, snapshot(network)

    gradients, after = step(network)
    assert gradients.keys() == {name for name, stage, _ in network.staged_parameters() if stage >= boundary}
    of_split, after_split = step(lambda given: whole(split, given))
    assert same(of_split, gradients)
    assert same(after_split, after)

    below = snapshot(split.lower)
    activations = split.lower(images(4, size))
    assert not any(activation.requires_grad for activation in activations)
    assert same(snapshot(split.lower), below)
    split.lower.train()
    split.lower(images(4, size))
    assert same(snapshot(split.lower), below)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.thorough(keep=3)
def test_a_chain_gives_at_each_boundary_what_a_split_there_gives(name: str) -> None:
    network, size = build(name), FAMILIES[name][0]
    found = boundaries(network)[-3:]
    network.freeze_below(found[-1])
    network.eval()
    chain, given = chain_network(network, found, size), images(3, size)
    with torch.no_grad():
        activations: tuple[Tensor, ...] = (given,)
        for boundary, part in zip(found, chain[:-1], strict=True):
            activations = part(*activations)
            alone = split_network(network, boundary, size).lower(given)
            assert len(activations) == len(alone)
            assert all(torch.equal(*pair) for pair in zip(activations, alone, strict=True))
        assert torch.equal(chain[-1](*activations), network(given))


def test_activations_of_a_head_alone_are_its_features() -> None:
    network = build("resnet18")
    network.freeze_below(5)
    split = split_network(network, 5, 32)
    (features,) = split.lower(images(2, 32))
    assert torch.equal(features, network.backbone(images(2, 32)))
    assert [id(parameter) for parameter in split.upper.parameters()] == [id(p) for p in network.head.parameters()]


@pytest.mark.parametrize("boundary", [-1, 0, 6])
def test_a_boundary_where_there_is_nothing_to_split_is_an_error(boundary: int) -> None:
    with pytest.raises(ValueError, match=f"cannot split at boundary {boundary}: allowed are 1 to 5"):
        split_network(build("resnet18"), boundary, 32)


def test_a_network_that_trains_below_the_boundary_is_refused() -> None:
    network = build("resnet18")
    network.freeze_below(2)
    with pytest.raises(SplitError, match=r"ResNet below 'layer3': \d+ parameters below it train, such as .*layer2"):
        split_network(network, 3, 32)


def test_parts_follow_the_modes_of_the_network() -> None:
    network = build("efficientnet_b0")
    boundary = len(network.stage_names) - 1
    network.freeze_below(boundary, batch_norm="eval")
    split = split_network(network, boundary, 32)
    activations = split.lower(images(4, 32))

    def draws() -> bool:
        return not torch.equal(split.upper(*activations), split.upper(*activations))

    for set_mode in (network.train, split.upper.train):
        set_mode()
        split.lower.train()
        assert draws()
        assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
        set_mode(False)
        assert not draws()


def test_a_copy_of_the_parts_is_a_network_of_its_own() -> None:
    network = build("resnet18")
    network.freeze_below(4)
    network.eval()
    copied = copy.deepcopy(split_network(network, 4, 32))
    expected = network(images(3, 32))
    network.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()})
    assert torch.equal(whole(copied, images(3, 32)), expected)


Forward = Callable[[Any, Tensor], Any]


class Body(nn.Module):
    """Two stages, and a forward that a test gives."""

    scale: Tensor

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.low = nn.Conv2d(3, 4, 1)
        self.lower = nn.Conv2d(4, 4, 1)
        self.top = nn.Conv2d(4, 4, 1)
        self.rgb = nn.Conv2d(3, 4, 1)
        self.token = nn.Parameter(torch.ones(1, 4))
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]), persistent=False)
        self._forward = forward

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self._forward(self, images)
        return features


def custom(forward: Forward) -> StagedNetwork:
    torch.manual_seed(0)
    body = Body(forward)
    stages = {name: "low" if name.startswith("low") else "top" for name, _ in body.named_parameters()}
    network = StagedNetwork(body, nn.Linear(4, 2), dict(sorted(stages.items(), key=lambda item: item[1])))
    network.freeze_below(1)
    return network


def odd(body: Any, given: Tensor) -> Any:
    """Numbers, sizes, buffers, new tensors and containers cross the boundary, and a module is called twice."""
    low, again = body.low(given), body.low(given.flip(-1))
    count, channels, *sides = low.shape
    grid = torch.arange(channels) if max(sides) == 8 else None
    first, rest = {"a": low, "b": [again[:, :2], low.shape]}, []
    for item in first["b"][:1]:
        rest.append(item)
    top = body.top(first["a"] * body.scale[:, None, None]).mean((2, 3)) + grid
    return top + body.token.expand(count, -1) + rest[0].reshape(count, -1)[:, : len(low.shape)] + torch.ones(count, 1)


def test_whatever_crosses_the_boundary_is_carried() -> None:
    network = custom(odd)
    for dtype in (torch.float32, torch.float64):
        split = split_network(network.to(dtype), 1, 8)
        for count in (1, 2, 7):
            given = images(count, 8).to(dtype)
            assert len(split.lower(given)) == 2
            assert torch.equal(whole(split, given), network(given))


def dropped(body: Any, given: Tensor) -> Any:
    return body.top(F.dropout(body.low(given), training=body.training)).mean((2, 3))


def other_way_in_training(body: Any, given: Tensor) -> Any:
    features = body.top(body.low(given)).mean((2, 3))
    return features * 2 if body.training else features


def decides_by_content(body: Any, given: Tensor) -> Any:
    low = body.low(given)
    return body.top(low if low.sum() > 0 else -low).mean((2, 3))


def mixes(body: Any, given: Tensor) -> Any:
    low = body.low(given)
    return body.top(low - low.mean(0)).mean((2, 3)) * low.numel()


@pytest.mark.parametrize("forward", [dropped, other_way_in_training, decides_by_content, mixes])
def test_what_happens_above_the_boundary_is_free(forward: Forward) -> None:
    network = custom(forward)
    split = split_network(network, 1, 8)
    for mode in (True, False):
        network.train(mode)
        features = split.lower(images(5, 8))
        torch.manual_seed(0)
        expected = network(images(5, 8))
        torch.manual_seed(0)
        assert torch.equal(split.upper(*features), expected)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda b, x: (b.top(b.low(x)) + b.rgb(x)).mean((2, 3)), "reads more than .* the images themselves"),
        (lambda b, x: b.rgb(x).mean((2, 3)), "what trains reads nothing of what is frozen"),
        (lambda b, x: b.top(b.lower(b.low(x) - b.low(x).mean(0))).mean((2, 3)), "mixes the images of a batch"),
        (lambda b, x: b.top(b.low(x.flatten(0, 1)[:3][None]).expand(len(x), -1, -1, -1)).mean((2, 3)), "reads nothing"),
        (lambda b, x: b.top(b.lower(torch.rand_like(b.low(x)))).mean((2, 3)), "draws random numbers"),
        (
            lambda b, x: b.top(b.lower(F.dropout(b.low(x), training=b.training))).mean((2, 3)),
            "depends on training mode",
        ),
        (lambda b, x: b.top(b.low(x))[9].mean((1, 2)), "do not run .index 9 is out of bounds"),
    ],
)
def test_what_cannot_be_split_is_refused_with_a_reason(forward: Forward, reason: str) -> None:
    network = custom(forward)
    network.train()
    attributes = set(vars(network))
    with pytest.raises(SplitError, match=f"^cannot split Body below 'top': .*{reason}"):
        split_network(network, 1, 8)
    assert network.training
    assert set(vars(network)) == attributes
