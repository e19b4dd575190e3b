"""Telling a run's own test images from images of other kinds, by several scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fashion_tl.inspection.mahalanobis import Distances, fit_distances, read_features
from fashion_tl.inspection.ood_images import INSIDE
from fashion_tl.metrics.detection import detection, energy_score, max_softmax_score
from fashion_tl.metrics.metrics import Floats

if TYPE_CHECKING:
    from fashion_tl.inspection.scaling import Calibration
    from fashion_tl.training.classifier import ImageClassifier

SOFTMAX, ENERGY = "maximum softmax", "energy"
HEAD_DISTANCE, ALL_DISTANCES = "Mahalanobis, input of the head", "Mahalanobis, all stages"
SCALED = ", temperature-scaled"


@dataclass(frozen=True)
class Fitting:
    """Images that the Gaussians are fitted to.

    Attributes:
        train: Training images (N, C, H, W), uint8, as held, without augmentation.
        labels: Their classes (N,).
        validation: Validation images (M, C, H, W).
    """

    train: Tensor
    labels: np.ndarray
    validation: Tensor


def detect(
    module: ImageClassifier,
    fitting: Fitting,
    inside: Tensor,
    outside: dict[str, Tensor],
    batch_size: int,
    calibration: Calibration | None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Score test images and images from outside, and measure how well each score separates them.

    Args:
        module: The classifier.
        fitting: Images that the Gaussians are fitted to; none of them is from outside.
        inside: Test images (N, C, H, W), uint8, as held.
        outside: Other images by name of their set, likewise.
        batch_size: Images in a batch.
        calibration: The checkpoint's calibration; its temperature gives two more scores.

    Returns:
        Plain values: "sets" of figures (auroc, aupr_inside, aupr_outside, fpr95) by set and score, "best" score of each
        set, "ridges" and the number of images; and all scores, float64, as "<set>/<score>" with the set "inside".
    """
    _, features = read_features(module, fitting.train, batch_size, "training features")
    _, validation = read_features(module, fitting.validation, batch_size, "validation features")
    distances = fit_distances(features, fitting.labels, validation)
    temperature = None if calibration is None else calibration.temperature
    scores: dict[str, dict[str, Floats]] = {}
    for name, images in {INSIDE: inside, **outside}.items():
        logits, found = read_features(module, images, batch_size, f"scores of {name}")
        scores[name] = _scores(logits, found, distances, temperature)
    sets = {
        name: {score: asdict(detection(scores[INSIDE][score], own)) for score, own in scores[name].items()}
        for name in outside
    }
    figures = {
        "images": {name: len(next(iter(own.values()))) for name, own in scores.items()},
        "training_images": len(fitting.labels),
        "stages": list(distances.gaussians),
        "ridges": distances.ridges,
        "temperature": temperature,
        "sets": sets,
        "best": {name: max(own, key=lambda s, own=own: own[s]["auroc"]) for name, own in sets.items()},  # type: ignore[misc]
    }
    return figures, {f"{name}/{score}": v for name, own in scores.items() for score, v in own.items()}


def _scores(
    logits: np.ndarray, features: dict[str, np.ndarray], distances: Distances, temperature: float | None
) -> dict[str, Floats]:
    scores = {
        SOFTMAX: max_softmax_score(logits),
        ENERGY: energy_score(logits),
        HEAD_DISTANCE: distances.head(features),
        ALL_DISTANCES: distances.ensemble(features),
    }
    if temperature is not None:
        scores[SOFTMAX + SCALED] = max_softmax_score(np.asarray(logits, dtype=np.float64) / temperature)
        scores[ENERGY + SCALED] = energy_score(logits, temperature)
    return scores
