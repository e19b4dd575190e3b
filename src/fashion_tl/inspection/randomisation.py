"""Model randomisation test: whether saliency depends on what the network has learned (Adebayo et al. 2018)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.inspection.layers import Target
from fashion_tl.inspection.saliency import Saliency
from fashion_tl.models.staged import HEAD, StagedNetwork


@dataclass(frozen=True)
class Step:
    """Maps of a network that is random from the top down to a stage.

    Attributes:
        stage: The lowest stage that is random; the ones above it and the head are as well.
        maps: Saliency (B, h, w), 0 to 1.
        correlations: Rank correlation of each with the trained network's map, -1 to 1, or None where one is constant.
    """

    stage: str
    maps: Tensor
    correlations: list[float | None]

    @property
    def mean(self) -> float | None:
        """Mean correlation over the images that have one."""
        known = [value for value in self.correlations if value is not None]
        return float(np.mean(known)) if known else None


def randomise_downwards(
    network: StagedNetwork, target: Target, images: Tensor, classes: Tensor, saliency: Saliency, seed: int = 0
) -> tuple[Tensor, list[Step]]:
    """Make a copy of the network random, stage by stage from the head down, and compute the maps anew each time.

    A tensor of parameters is made random by shuffling its values, which keeps their scale; BatchNorm's statistics
    are then taken anew from the images.

    Args:
        network: The trained network, in eval mode; it stays as it is.
        target: The layer that maps are taken from.
        images: Preprocessed images (B, C, H, W).
        classes: A class for each image (B,), the same for all steps.
        saliency: Computes the maps.
        seed: Seed of the shuffling.

    Returns:
        The trained network's maps (B, h, w), and the steps, head first.
    """
    trained = saliency(network, target, images, classes)
    changed = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(seed)
    names = [*network.stage_names, HEAD]
    norms = {name: layer for name, layer in changed.backbone.named_modules() if isinstance(layer, _BatchNorm)}
    steps, random_norms = [], []
    for stage in reversed(range(len(names))):
        here = [(name, parameter) for name, index, parameter in changed.staged_parameters() if index == stage]
        for name, parameter in here:
            _shuffle(parameter, generator)
            layer = norms.get(name.removeprefix("backbone.").rpartition(".")[0])
            if layer is not None and layer not in random_norms:
                random_norms.append(layer)
        _take_statistics(changed, random_norms, images)
        maps = saliency(changed, target.within(changed), images, classes)
        found = [rank_correlation(a.cpu().numpy(), b.cpu().numpy()) for a, b in zip(trained, maps, strict=True)]
        steps.append(Step(names[stage], maps, found))
    return trained, steps


def rank_correlation(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Compute Spearman's rank correlation of two arrays of one shape; None if one of them is constant."""
    from scipy.stats import spearmanr

    a, b = np.ravel(first), np.ravel(second)
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else None


@torch.no_grad()
def _shuffle(parameter: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))


@torch.no_grad()
def _take_statistics(network: StagedNetwork, norms: list[_BatchNorm], images: Tensor) -> None:
    """Set the running statistics of some BatchNorm layers to those of the images."""
    if not norms:
        return
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.training, layer.momentum = True, 1.0
    try:
        # Twice each, since a plane of one pixel of one image has no variance.
        network(torch.cat([images, images]))
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.training, layer.momentum = False, momentum
