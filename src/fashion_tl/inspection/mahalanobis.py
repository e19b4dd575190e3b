"""Features of every stage of a network, and Mahalanobis distances in them (Lee 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.inspection.predictions import classify
from fashion_tl.metrics.detection import Gaussians, fit_gaussians, mahalanobis_score
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.models.staged import HEAD, StagedNetwork
from fashion_tl.records.findings import progress_bar

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier

RIDGES = (1e-6, 1e-4, 1e-2, 1e-1)
SMALLEST = 1e-12


def read_features(
    module: ImageClassifier, images: Tensor, batch_size: int, what: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Classify images and keep what every stage gives.

    Args:
        module: The classifier.
        images: Images (N, C, H, W), uint8, as held.
        batch_size: Images in a batch.
        what: What they are, for the progress bar.

    Returns:
        Logits (N, K), and features (N, D) of each stage but the last, averaged over places or tokens, and under "head"
        the input of the head.
    """
    logits, kept = [], []
    with progress_bar() as bar, _watched(module.network) as seen:
        task = bar.add_task(what, total=len(images))
        for start in range(0, len(images), batch_size):
            seen.clear()
            batch = images[start : start + batch_size]
            logits.append(classify(module, batch).cpu())
            kept.append({name: value.float().cpu() for name, value in seen.items()})
            bar.advance(task, len(batch))
    names = [name for name in kept[0] if name != HEAD] + [HEAD]
    return torch.cat(logits).numpy(), {name: torch.cat([row[name] for row in kept]).numpy() for name in names}


@contextmanager
def _watched(network: StagedNetwork) -> Iterator[dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}
    channels_last = str(getattr(network.backbone, "output_fmt", "")).upper().endswith("NHWC")

    def keep(name: str) -> Any:  # noqa: ANN401 - a forward hook
        def hook(_module: object, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and output.ndim in (2, 3, 4):
                seen[name] = pooled(output, channels_last)

        return hook

    modules = dict(network.backbone.named_modules())
    hooks = [modules[n].register_forward_hook(keep(n)) for n in network.stage_names[:-1] if n in modules]
    hooks.append(network.head.register_forward_pre_hook(lambda _, inputs: seen.update({HEAD: inputs[0].flatten(1)})))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def pooled(features: Tensor, channels_last: bool = False) -> Tensor:
    """Average features over places (B, C, H, W), or (B, H, W, C), or over tokens (B, T, C); returns (B, C)."""
    if features.ndim == 4:
        return features.mean((1, 2) if channels_last else (2, 3))
    return features.mean(1) if features.ndim == 3 else features


@dataclass(frozen=True)
class Distances:
    """Class-conditional Gaussians of every stage, fitted to training images alone.

    Attributes:
        gaussians: Gaussians by stage, "head" the last.
        centre: Mean of the log distance of validation images, by stage.
        spread: Its standard deviation, by stage.
        ridges: What was chosen for each stage.
    """

    gaussians: dict[str, Gaussians]
    centre: dict[str, float]
    spread: dict[str, float]
    ridges: dict[str, float]

    def head(self, features: dict[str, np.ndarray]) -> Floats:
        """Score the input of the head: minus the squared distance to the nearest class mean (N,)."""
        return mahalanobis_score(features[HEAD], self.gaussians[HEAD])

    def ensemble(self, features: dict[str, np.ndarray]) -> Floats:
        """Score all stages: minus the standardised log distance in the stage that finds an image oddest (N,).

        Lee weighs the stages by a regression on images from outside; here each counts as it spreads on validation
        images, so that no image from outside is looked at. The logarithm makes distances nearly normal.
        """
        parts = [
            (_log_distance(features[name], found) - self.centre[name]) / self.spread[name]
            for name, found in self.gaussians.items()
        ]
        result: Floats = -np.max(parts, axis=0)
        return result


def fit_distances(features: dict[str, np.ndarray], labels: Ints, validation: dict[str, np.ndarray]) -> Distances:
    """Fit the Gaussians of every stage; validation images choose the ridges and give the scales.

    Args:
        features: Features (N, D) of training images by stage.
        labels: Their classes (N,).
        validation: Features (M, D) of validation images by stage.
    """
    gaussians, centre, spread, ridges = {}, {}, {}, {}
    for name, values in features.items():
        found = {ridge: fit_gaussians(values, labels, ridge) for ridge in RIDGES}
        ridges[name] = max(RIDGES, key=lambda ridge: _likelihood(found[ridge], validation[name]))
        gaussians[name] = found[ridges[name]]
        logs = _log_distance(validation[name], gaussians[name])
        centre[name], spread[name] = float(logs.mean()), max(float(logs.std()), SMALLEST)
    return Distances(gaussians, centre, spread, ridges)


def _likelihood(gaussians: Gaussians, features: np.ndarray) -> float:
    """Mean log likelihood of features under the nearest Gaussian, up to a constant; the ridge cannot cheat on it."""
    volume = float(np.log(np.diag(gaussians.whitening)).sum())
    return volume + float(mahalanobis_score(features, gaussians).mean()) / 2


def _log_distance(features: np.ndarray, gaussians: Gaussians) -> Floats:
    result: Floats = np.log(np.maximum(-mahalanobis_score(features, gaussians), SMALLEST))
    return result
