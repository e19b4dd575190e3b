"""Randomisation of the model, and rank correlation against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from tests.inspection.networks import transfer

from fashion_tl.inspection.layers import choose_target, find_targets
from fashion_tl.inspection.saliency import Step, grad_cam, randomise_downwards, rank_correlation


def test_rank_correlation_is_spearmans_with_ties() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = random.integers(0, 5, (2, 6, 6)) / 4
        expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
        assert rank_correlation(first, second) == pytest.approx(expected, abs=1e-12)


def test_a_constant_map_has_no_correlation() -> None:
    assert rank_correlation(np.zeros((3, 3)), np.arange(9).reshape(3, 3)) is None
    assert rank_correlation([[5]], [[5]]) is None
    assert Step("head", torch.zeros(2, 2, 2), [None, None]).mean is None
    assert Step("head", torch.zeros(2, 2, 2), [None, 0.5]).mean == 0.5


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_maps_change_when_the_network_is_made_random(name: str) -> None:
    network = transfer(name, 64)
    network.freeze_below(len(network.stage_names))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    target = choose_target(find_targets(network, 3, 64), network, None)
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    trained, steps = randomise_downwards(network, target, images, torch.arange(6) % 3, grad_cam)
    assert [step.stage for step in steps] == ["head", *reversed(network.stage_names)]
    assert torch.equal(trained, grad_cam(network, target, images, torch.arange(6) % 3))
    last = steps[-1].mean
    assert last is not None
    assert last < 0.9
    assert all(not torch.equal(step.maps, trained) for step in steps)
    assert all(torch.isfinite(step.maps).all() for step in steps)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    again = randomise_downwards(network, target, images, torch.arange(6) % 3, grad_cam)[1]
    assert torch.equal(again[-1].maps, steps[-1].maps)


def test_a_method_that_looks_at_the_image_alone_is_found_out() -> None:
    network = transfer("test_resnet", 64)
    target = choose_target(find_targets(network, 3, 64), network, None)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    steps = randomise_downwards(network, target, images, torch.zeros(3).long(), lambda *a: a[2].mean(1))[1]
    assert [step.mean for step in steps] == [pytest.approx(1)] * len(steps)
