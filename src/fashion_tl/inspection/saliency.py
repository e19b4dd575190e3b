"""Saliency maps: where in an image the evidence for a class lies, and whether they depend on what was learned."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.inspection.inference import progress
from fashion_tl.inspection.layers import Target
from fashion_tl.models.batch_norm import estimating
from fashion_tl.models.staged import HEAD, StagedNetwork
from fashion_tl.training.classifier import ImageClassifier

METHODS = {
    "grad_cam": "Grad-CAM (Selvaraju et al. 2017)",
    "integrated_gradients": "integrated gradients (Sundararajan et al. 2017)",
    "occlusion": "occlusion (Zeiler and Fergus 2014)",
}
BATCH = 16
STEPS = 32  # of the integral from black to the image
PATCHES = 6  # an occluding square is this part of the image's side

Saliency = Callable[[StagedNetwork, Target, Tensor, Tensor], Tensor]


def saliency_method(name: str, module: ImageClassifier) -> Saliency:
    """Return a function of network, target, preprocessed images (B, C, H, W) and classes (B,).

    It gives maps (B, h, w), 0 where nothing speaks for the class and 1 at an image's strongest place; a map on which
    nothing does is 0 everywhere.

    Args:
        name: One of ``METHODS``.
        module: The classifier, whose preprocessing says what a black image is.
    """
    methods: dict[str, Saliency] = {
        "grad_cam": grad_cam,
        "integrated_gradients": partial(_integrated_gradients, _black(module)),
        "occlusion": _occlusion,
    }

    def maps(network: StagedNetwork, target: Target, images: Tensor, classes: Tensor) -> Tensor:
        found = []
        with progress("saliency maps", len(images)) as advance:
            for some, their in zip(torch.split(images, BATCH), torch.split(classes, BATCH), strict=True):
                found.append(scaled(methods[name](network, target, some, their)))
                advance(len(some))
        return torch.cat(found)

    return maps


def grad_cam(network: nn.Module, target: Target, images: Tensor, classes: Tensor) -> Tensor:
    """Compute Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the logits of some classes.

    Args:
        network: Maps preprocessed images to logits; its parameters may be frozen.
        target: The layer whose channels are weighted.
        images: Preprocessed images (B, C, H, W).
        classes: A class for each image (B,).

    Returns:
        Maps (B, side, side), 0 or above, on the scale of the logits.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what comes later may change it in place

    handle = target.module.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            # A gradient must flow although all parameters may be frozen: so the images take one.
            logits = network(images.detach().requires_grad_())
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept)
    finally:
        handle.remove()
    weights = target.fold(gradient).mean((2, 3), keepdim=True)
    return (weights * target.fold(kept[0].detach())).sum(1).clamp(min=0)


def _integrated_gradients(
    black: Tensor, network: StagedNetwork, target: Target, images: Tensor, classes: Tensor
) -> Tensor:
    from captum.attr import IntegratedGradients

    images = images.detach().requires_grad_()
    baseline = black.to(images.device).expand_as(images)
    with torch.enable_grad():
        found: Tensor = IntegratedGradients(network).attribute(
            images, baseline, target=classes, n_steps=STEPS, internal_batch_size=4 * BATCH
        )
    return found.detach().sum(1).clamp(min=0)


def _occlusion(network: StagedNetwork, target: Target, images: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import Occlusion

    side = max(2, images.shape[-1] // PATCHES)
    step = max(1, side // 2)
    with torch.no_grad():
        found: Tensor = Occlusion(lambda given: network(given).softmax(1)).attribute(
            images,
            (images.shape[1], side, side),
            strides=(images.shape[1], step, step),
            baselines=images.mean((2, 3), keepdim=True).expand_as(images),
            target=classes,
            perturbations_per_eval=4,
        )
    return found.sum(1).clamp(min=0)


def scaled(maps: Tensor) -> Tensor:
    """Divide maps (B, h, w) by their own maxima; a map of zeros stays one."""
    largest = maps.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, maps / largest.clamp(min=torch.finfo(maps.dtype).tiny), 0)


def _black(module: ImageClassifier) -> Tensor:
    spec = module.input_spec
    with torch.no_grad():
        black: Tensor = module.preprocess(
            torch.zeros(1, spec.channels, spec.image_size, spec.image_size, device=module.preprocess.mean.device)
        )
    return black


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
    network: StagedNetwork, target: Target, images: Tensor, classes: Tensor, saliency: Saliency
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

    Returns:
        The trained network's maps (B, h, w), and the steps, head first.
    """
    trained = saliency(network, target, images, classes)
    changed = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(0)
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
        if random_norms:
            with torch.no_grad(), estimating(changed, random_norms):
                # Twice each, since a plane of one pixel of one image has no variance.
                changed(torch.cat([images, images]))
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
