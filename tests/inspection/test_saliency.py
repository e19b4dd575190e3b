"""Saliency against computations by hand and by autograd."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
from tests.inspection.networks import classifier, transfer
from torch import Tensor, nn

from fashion_tl.inspection.explain import explain
from fashion_tl.inspection.layers import Target, choose_target, find_targets
from fashion_tl.inspection.saliency import METHODS, grad_cam, saliency_method, scaled
from fashion_tl.models.staged import StagedNetwork, divide_by_children


class Tiny(nn.Module):
    """Two channels, a and -b times a grey image, averaged over the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 2, 1, bias=False)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.body.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pool(self.body(images))
        return pooled


def tiny() -> StagedNetwork:
    body = Tiny()
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[3.0, 1.0], [-1.0, 4.0]])
    return StagedNetwork(body, head, divide_by_children(body)).eval()


def test_grad_cam_is_what_it_is_by_hand() -> None:
    network = tiny()
    network.freeze_below(2)
    target = find_targets(network, 1, 4)["body"]
    image = torch.arange(-8.0, 8.0).view(1, 1, 4, 4)
    # Gradient of logit k to each place of channel c: w[k, c] / 16. The map: relu of the sum of w[k, c] / 16 * A[c].
    maps = grad_cam(network, target, image.repeat(2, 1, 1, 1), torch.tensor([0, 1]))
    first = ((3 * 2 * image + 1 * -1 * image) / 16).clamp(min=0)
    second = ((-1 * 2 * image + 4 * -1 * image) / 16).clamp(min=0)
    torch.testing.assert_close(maps, torch.cat([first, second])[:, 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_grad_cam_of_a_frozen_network_is_what_autograd_gives(name: str) -> None:
    network = transfer(name, 64)
    target = choose_target(find_targets(network, 3, 64), network, None)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 2, 1])
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output.clone())
        return kept[-1]

    hook = target.module.register_forward_hook(keep)
    logits = network(images.clone().requires_grad_())
    (gradient,) = torch.autograd.grad(logits[torch.arange(3), classes].sum(), kept)
    hook.remove()
    activation, gradient = target.fold(kept[0]), target.fold(gradient)
    expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1).clamp(min=0).detach()
    network.freeze_below(len(network.stage_names))
    network.head.requires_grad_(False)
    found = grad_cam(network, target, images, classes)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_maps_from_0_to_1(method: str) -> None:
    module = classifier()
    target = choose_target(find_targets(module.network, 1, 28), module.network, None)
    images = module.preprocess(torch.rand(18, 1, 28, 28, generator=torch.Generator().manual_seed(2)))
    maps = saliency_method(method, module)(module.network, target, images, torch.arange(18) % 3)
    assert len(maps) == 18
    assert maps.min() >= 0
    assert set(maps.amax((1, 2)).round(decimals=5).tolist()) <= {0.0, 1.0}
    assert maps.amax() > 0


class Corner(nn.Module):
    """Logits that depend on the upper left quarter of the image alone."""

    def forward(self, images: Tensor) -> Tensor:
        seen = images[..., :8, :8].mean((1, 2, 3))
        return torch.stack([4 * seen, -4 * seen], 1)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_evidence_lies_where_it_lies(method: str) -> None:
    target = Target("s", "n", nn.Identity(), "NCHW", 1, 2)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(3)) * 0.2
    images[..., :8, :8] += 0.8
    maps = saliency_method(method, classifier())(Corner(), target, images, torch.tensor([0, 0]))  # type: ignore[arg-type]
    assert (maps[:, :8, :8].sum((1, 2)) / maps.sum((1, 2)) > 0.6).all()
    assert maps[:, 14:, 14:].max() == 0


def test_a_map_without_evidence_stays_zero() -> None:
    maps = scaled(torch.stack([torch.zeros(2, 2), torch.tensor([[0.0, 1e-30], [2e-30, 0]])]))
    assert maps.tolist() == [[[0, 0], [0, 0]], [[0, 0.5], [1, 0]]]


def test_the_command_line_offers_every_method() -> None:
    assert get_args(get_type_hints(explain)["method"]) == tuple(METHODS)
