"""Averages of weights, their exact ends, and BatchNorm statistics against plain means over batches."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fashion_tl.combine.averaging import averaged, differing_norms, estimate_batch_norm, interpolated
from fashion_tl.models.staged import StagedNetwork, divide_by_children
from fashion_tl.training.classifier import ImageClassifier


class Small(ImageClassifier):
    """Two convolutions with BatchNorm, and dropout."""

    def __init__(self) -> None:
        super().__init__(["a", "b"], input_spec={"channels": 1, "storage_size": 8, "image_size": 8})
        layers = {"conv": nn.Conv2d(1, 3, 3), "norm": nn.BatchNorm2d(3, momentum=0.3), "drop": nn.Dropout(0.5)}
        more = {"conv2": nn.Conv2d(3, 4, 3), "norm2": nn.BatchNorm2d(4), "pool": nn.AdaptiveAvgPool2d(1)}
        body = nn.Sequential(OrderedDict({**layers, **more, "flat": nn.Flatten()}))
        self.parts: dict[str, Any] = dict(body.named_children())
        self.build(StagedNetwork(body, nn.Linear(4, 2), divide_by_children(body)), 1, (0.0,), (1.0,))
        self.architecture = "small"


@pytest.fixture
def module() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def state(module: Small, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(one.shape, generator=generator) if one.is_floating_point() else one + seed
        for name, one in module.state_dict().items()
    }


def test_the_ends_of_an_interpolation_are_exact_and_its_middle_is_the_mean(module: Small) -> None:
    one, two = state(module, 1), state(module, 2)
    for share, end in ((0.0, one), (1.0, two)):
        mixed = interpolated(one, two, share)
        assert all(torch.equal(mixed[name], end[name]) for name in end)
    middle, mean = interpolated(one, two, 0.5), averaged([one, two])
    for name, value in mean.items():
        if value.is_floating_point():
            expected = (one[name].double().numpy() + two[name].double().numpy()) / 2
            assert value.numpy() == pytest.approx(expected, abs=1e-6)
            assert middle[name].numpy() == pytest.approx(expected, abs=1e-6)
        assert value.dtype == one[name].dtype


def test_a_mean_of_one_is_that_one(module: Small) -> None:
    one = state(module, 1)
    assert all(torch.equal(averaged([one])[name], value) for name, value in one.items())


def test_batch_norm_is_estimated_as_the_mean_over_batches(module: Small) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(6, 1, 8, 8, generator=generator) for _ in range(3)]
    untouched = module.parts["norm2"].running_mean.clone()
    estimate_batch_norm(module, ["network.backbone.norm"], batches)
    with torch.no_grad():
        outputs = [module.parts["conv"](batch).double().numpy() for batch in batches]
    norm = module.parts["norm"]
    means = np.mean([out.mean(axis=(0, 2, 3)) for out in outputs], axis=0)
    variances = np.mean([out.transpose(1, 0, 2, 3).reshape(3, -1).var(axis=1, ddof=1) for out in outputs], axis=0)
    assert norm.running_mean.numpy() == pytest.approx(means, abs=1e-6)
    assert norm.running_var.numpy() == pytest.approx(variances, abs=1e-6)
    assert norm.momentum == 0.3
    assert torch.equal(module.parts["norm2"].running_mean, untouched)
    assert not any(layer.training for layer in module.network.modules())


def test_only_norms_whose_statistics_differ_are_named(module: Small) -> None:
    one = module.state_dict()
    two = {name: value.clone() for name, value in one.items()}
    assert differing_norms(module, [one, two]) == []
    two["network.backbone.norm2.running_var"] += 1
    two["network.backbone.norm.weight"] += 1
    assert differing_norms(module, [one, two]) == ["network.backbone.norm2"]
