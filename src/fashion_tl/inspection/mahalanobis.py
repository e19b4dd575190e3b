"""Mahalanobis distances in the features of every stage (Lee 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fashion_tl.inspection.inference import Reader
from fashion_tl.metrics.detection import Gaussians, fit_gaussians, mahalanobis_score
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.models.staged import HEAD, StagedNetwork

Features = dict[str, np.ndarray]
RIDGES = (1e-6, 1e-4, 1e-2, 1e-1)
SMALLEST = 1e-12


def stage_readers(network: StagedNetwork) -> dict[str, Reader]:
    """Return readers of features (B, D) of every stage but the last, and under "head" of the input of the head."""
    channels_last = str(getattr(network.backbone, "output_fmt", "")).upper().endswith("NHWC")
    modules = dict(network.backbone.named_modules())
    readers: dict[str, Reader] = {
        name: (modules[name], lambda output: pooled(output, channels_last))
        for name in network.stage_names[:-1]
        if name in modules
    }
    return {**readers, HEAD: (network.backbone, lambda output: output.flatten(1).clone())}


def pooled(features: Tensor, channels_last: bool = False) -> Tensor:
    """Average features over places (B, C, H, W), or (B, H, W, C), or over tokens (B, T, C); returns (B, C)."""
    if features.ndim == 4:
        return features.mean((1, 2) if channels_last else (2, 3))
    return features.mean(1) if features.ndim == 3 else features.clone()


@dataclass(frozen=True)
class Distances:
    """Class-conditional Gaussians of every stage, fitted to training images alone.

    Attributes:
        gaussians: Gaussians by stage, "head" the last.
        centre: Mean of the log distance of validation images, by stage.
        spread: Its standard deviation, by stage.
        ridges: The ridge chosen for each stage.
    """

    gaussians: dict[str, Gaussians]
    centre: dict[str, float]
    spread: dict[str, float]
    ridges: dict[str, float]

    def head(self, features: Features) -> Floats:
        """Score the input of the head: minus the squared distance to the nearest class mean (N,)."""
        return mahalanobis_score(features[HEAD], self.gaussians[HEAD])

    def ensemble(self, features: Features) -> Floats:
        """Score all stages: minus the largest of their standardised log distances (N,).

        Lee weighs the stages by a regression on OOD images; here validation images standardise each stage, so that no
        OOD image is used. The logarithm makes distances nearly normal.
        """
        parts = [
            (_log_distance(features[name], found) - self.centre[name]) / self.spread[name]
            for name, found in self.gaussians.items()
        ]
        result: Floats = -np.max(parts, axis=0)
        return result


def fit_distances(features: Features, labels: Ints, validation: Features) -> Distances:
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
    """Mean log likelihood of features under the nearest Gaussian, up to a constant."""
    volume = float(np.log(np.diag(gaussians.whitening)).sum())
    return volume + float(mahalanobis_score(features, gaussians).mean()) / 2


def _log_distance(features: np.ndarray, gaussians: Gaussians) -> Floats:
    result: Floats = np.log(np.maximum(-mahalanobis_score(features, gaussians), SMALLEST))
    return result
