"""Accuracy and calibration error under every corruption at every strength, and under shifts and rotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.transforms import to_float
from fashion_tl.inspection.corruption_table import CORRUPTIONS, STRENGTHS, corrupt, to_bytes
from fashion_tl.inspection.corruptions import UNIT, warp
from fashion_tl.inspection.predictions import classify
from fashion_tl.metrics.metrics import Floats, Ints, calibration_error, softmax
from fashion_tl.records.findings import progress_bar

if TYPE_CHECKING:
    from fashion_tl.inspection.scaling import Calibration
    from fashion_tl.training.classifier import ImageClassifier

SHIFTS: tuple[float, ...] = (-8, -6, -4, -3, -2, -1, 1, 2, 3, 4, 6, 8)
ANGLES: tuple[float, ...] = (-180, -135, -90, -60, -45, -30, -20, -10, 10, 20, 30, 45, 60, 90, 135, 180)
CURVES: dict[str, tuple[tuple[float, ...], str]] = {
    "horizontal shift": (SHIFTS, "right"),
    "vertical shift": (SHIFTS, "down"),
    "rotation": (ANGLES, "degrees"),
}
Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Subset:
    """Test images that a sweep is measured on.

    Attributes:
        images: Images (N, C, H, W), uint8, as held.
        labels: True classes (N,).
        index: Index (N,) of each image in the test set.
    """

    images: Tensor
    labels: Ints
    index: Tensor


def sweep(
    module: ImageClassifier, subset: Subset, seed: int, batch_size: int, calibration: Calibration | None = None
) -> dict[str, Any]:
    """Classify a subset of the test images under every corruption, shift and rotation.

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
    cells: dict[str, list[dict[str, Any]]] = {name: [] for name in CORRUPTIONS}
    curves: dict[str, dict[str, Any]] = {name: {} for name in CURVES}
    clean: dict[str, Any] = {}
    todo = [CLEAN, *_corrupting(seed), *_moving()]
    with progress_bar() as bar:
        task = bar.add_task(CLEAN.name, total=len(todo) * len(subset.labels))
        for step in todo:
            bar.update(task, description=f"{step.name} {step.place}")
            found = []
            for start in range(0, len(subset.labels), batch_size):
                part = slice(start, start + batch_size)
                images, index = subset.images[part].to(module.device), subset.index[part].to(module.device)
                found.append(classify(module, step.change(images, index)).cpu())
                bar.advance(task, len(images))
            figures = _figures(torch.cat(found).numpy().astype(np.float64), subset.labels, calibration)
            if step is CLEAN:
                clean = figures
            elif step.moves:
                curves[step.name][f"{step.place:g}"] = figures
            else:
                cells[step.name].append(figures)
    return {"clean": clean, "cells": cells, "curves": curves}


@dataclass(frozen=True)
class _Step:
    name: str
    place: float
    change: Change
    moves: bool


def _unchanged(images: Tensor, index: Tensor) -> Tensor:
    return images


CLEAN = _Step("clean", 0, _unchanged, moves=False)


def _corrupting(seed: int) -> Iterator[_Step]:
    for name in CORRUPTIONS:
        for level in range(1, STRENGTHS + 1):
            yield _Step(name, level, partial(_corrupted, name, level, seed), moves=False)


def _corrupted(name: str, level: int, seed: int, images: Tensor, index: Tensor) -> Tensor:
    return corrupt(images, name, level, seed, index)


def _moving() -> Iterator[_Step]:
    for name, (places, argument) in CURVES.items():
        for place in places:
            yield _Step(name, place, partial(_moved, argument, place), moves=True)


def _moved(argument: str, place: float, images: Tensor, index: Tensor) -> Tensor:
    return moved(images, **{argument: place})


def moved(images: Tensor, down: float = 0, right: float = 0, degrees: float = 0) -> Tensor:
    """Shift (in pixels of an image of 28) and rotate (counter-clockwise) all uint8 images (B, C, H, W) alike."""
    values = to_float(images)
    each = torch.ones(len(images), device=images.device)
    unit = images.shape[2] / UNIT
    return to_bytes(warp(values, degrees=each * degrees, down=each * (down * unit), right=each * (right * unit)))


def _figures(logits: Floats, labels: Ints, calibration: Calibration | None) -> dict[str, Any]:
    probabilities = softmax(logits)
    calibrated = None if calibration is None else calibration_error(softmax(calibration.apply(logits)), labels)
    return {
        "accuracy": float(np.mean(probabilities.argmax(axis=1) == labels)),
        "ece": calibration_error(probabilities, labels),
        "ece_calibrated": calibrated,
    }


def mean_corruption_error(
    cells: dict[str, Any], clean: dict[str, Any], baseline: dict[str, Any] | None
) -> dict[str, Any]:
    """Compute the mean corruption error (Hendrycks and Dietterich 2019).

    Args:
        cells: Figures by corruption and strength.
        clean: Figures on clean images.
        baseline: What ``sweep`` found for the baseline on the same images; None for none.

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
