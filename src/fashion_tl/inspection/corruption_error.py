"""Accuracy and calibration error under every corruption at every strength, and under shifts and rotations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.batches import Split
from fashion_tl.data.splits import stratified_split
from fashion_tl.data.transforms import to_bytes, to_float
from fashion_tl.inspection.affine import warp
from fashion_tl.inspection.calibration import Calibration
from fashion_tl.inspection.corruptions import CORRUPTIONS, STRENGTHS, UNIT, corrupt
from fashion_tl.inspection.inference import infer, progress
from fashion_tl.metrics.metrics import Ints, calibration_error, softmax
from fashion_tl.training.classifier import ImageClassifier

SHIFTS: tuple[float, ...] = (-8, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 8)
ANGLES: tuple[float, ...] = (-180, -135, -90, -60, -45, -30, -20, -10, 10, 20, 30, 45, 60, 90, 135, 180)
# Values, and the argument of ``moved`` that they are.
CURVES: dict[str, tuple[tuple[float, ...], str]] = {
    "horizontal shift": (SHIFTS, "right"),
    "vertical shift": (SHIFTS, "down"),
    "rotation": (ANGLES, "degrees"),
}
Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Subset:
    """Some images of a split.

    Attributes:
        images: Images (N, C, H, W), uint8, as stored.
        labels: True classes (N,).
        index: Index (N,) of each image in the split.
    """

    images: Tensor
    labels: Ints
    index: Tensor


def subset_of(split: Split, count: int, seed: int) -> Subset:
    """Choose images by seed, stratified; all of them if there are no more than ``count``."""
    index = torch.arange(len(split))
    if count < len(split):
        index = stratified_split(split.labels, count / len(split), seed)[1]
    return Subset(split.reading.read(index), split.labels[index].numpy(), index)


def corruption_figures(
    module: ImageClassifier, subset: Subset, seed: int, batch_size: int, calibration: Calibration | None
) -> dict[str, Any]:
    """Classify test images under every corruption, shift and rotation.

    Args:
        module: The classifier, on the device where corruptions are computed too.
        subset: Test images.
        seed: Seed of the corruptions.
        batch_size: Images in a batch; it changes no figure but by rounding.
        calibration: The checkpoint's calibration, if it has one.

    Returns:
        Plain values: "clean" figures, "cells" of figures by corruption (five each, by strength), and "curves" of
        figures by "horizontal shift", "vertical shift" and "rotation". Figures are accuracy, ece (expected calibration
        error), and ece_calibrated (None without a calibration).
    """
    labels = subset.labels
    changes = 1 + STRENGTHS * len(CORRUPTIONS) + sum(len(values) for values, _ in CURVES.values())

    with progress("corruptions", changes * len(labels)) as advance:

        def figures(change: Change) -> dict[str, float | None]:
            parts = zip(torch.split(subset.images, batch_size), torch.split(subset.index, batch_size), strict=True)
            changed = (change(images.to(module.device), index.to(module.device)) for images, index in parts)
            logits = infer(module, changed)[0].astype(np.float64)
            advance(len(labels))
            probabilities = softmax(logits)
            calibrated = None if calibration is None else calibration_error(softmax(calibration.apply(logits)), labels)
            return {
                "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
                "ece": calibration_error(probabilities, labels),
                "ece_calibrated": calibrated,
            }

        return {
            "clean": figures(lambda images, _: images),
            "cells": {
                name: [figures(_corruption(name, level + 1, seed)) for level in range(STRENGTHS)]
                for name in CORRUPTIONS
            },
            "curves": {
                name: {f"{value:g}": figures(_movement(argument, value)) for value in values}
                for name, (values, argument) in CURVES.items()
            },
        }


def _corruption(name: str, level: int, seed: int) -> Change:
    return lambda images, index: corrupt(images, name, level, seed, index)


def _movement(argument: str, value: float) -> Change:
    return lambda images, _: moved(images, **{argument: value})


def moved(images: Tensor, down: float = 0, right: float = 0, degrees: float = 0) -> Tensor:
    """Shift (in pixels of an image of 28) and rotate (counter-clockwise) all uint8 images (B, C, H, W) alike."""
    each, unit = torch.ones(len(images), device=images.device), images.shape[2] / UNIT
    warped = warp(to_float(images), degrees=each * degrees, down=each * (down * unit), right=each * (right * unit))
    return to_bytes(warped)


def mean_corruption_error(
    cells: dict[str, Any], clean: dict[str, Any], baseline: dict[str, Any] | None
) -> dict[str, Any]:
    """Compute the mean corruption error (Hendrycks and Dietterich 2019).

    Args:
        cells: Figures by corruption and strength.
        clean: Figures on clean images.
        baseline: What ``corruption_figures`` gave for the baseline on the same images; None for none.

    Returns:
        "error", the mean error over all corruptions and strengths; and relative to a baseline: "by_corruption", the
        errors summed over strengths relative to those of the baseline, "mce", their mean, and "relative_mce", the same
        of what errors exceed the clean error by. A figure whose divisor is not positive is None.
    """
    errors = {name: [1 - cell["accuracy"] for cell in row] for name, row in cells.items()}
    result: dict[str, Any] = {"error": float(np.mean(list(errors.values()))), "mce": None, "relative_mce": None}
    if baseline is None:
        return result
    ratios, excess = {}, {}
    for name, own in errors.items():
        other = [1 - cell["accuracy"] for cell in baseline["cells"][name]]
        more = sum(own) - len(own) * (1 - clean["accuracy"])
        other_more = sum(other) - len(other) * (1 - baseline["clean"]["accuracy"])
        ratios[name] = sum(own) / sum(other) if sum(other) > 0 else None
        excess[name] = more / other_more if other_more > 1e-12 else None
    result["by_corruption"] = ratios
    for key, values in (("mce", ratios), ("relative_mce", excess)):
        known = [value for value in values.values() if value is not None]
        result[key] = float(np.mean(known)) if len(known) == len(values) else None
    return result
