"""The boundary that a probe suggests to train from, by a rule over validation figures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BIAS = 0.5  # share of the validation error that the training images show as well, from which features are the limit


@dataclass(frozen=True)
class Depth:
    """What the suggestion looks at of a stage.

    Attributes:
        boundary: Index of the lowest stage above.
        stage: Name of the stage below.
        val_correct: Whether each validation image is classified correctly (N,).
        train_accuracy: Accuracy on the training images.
    """

    boundary: int
    stage: str
    val_correct: npt.NDArray[np.bool_]
    train_accuracy: float

    @property
    def val_accuracy(self) -> float:
        """Accuracy on the validation images."""
        return float(np.mean(self.val_correct))


@dataclass(frozen=True)
class Suggestion:
    """Where to train from, and why.

    Attributes:
        boundary: Index of the lowest stage to train; the number of stages for the head alone.
        why: The reason in a sentence or two, with its figures.
    """

    boundary: int
    why: str


def suggest(depths: Sequence[Depth], stages: Sequence[str]) -> Suggestion:
    """Suggest the boundary to train from.

    Two questions decide. Is the limit the features or the labels? Where the best probe errs on training images nearly
    as often as on validation images (``BIAS``), no better head would help: the features lack something, and training
    them pays. Else the labels are too few for what the head alone can fit, and more trained parameters fit noise. And
    what is worth keeping? Up to the lowest stage whose probe is within a standard error of the best one, pretrained
    stages have brought what they can; those above it add nothing as they are.

    - Limited by labels: train above that lowest best stage.
    - Limited by features: train above the first stage whose probe has made half of the way from the lowest stage's
      accuracy to the best; what lies below serves any images (Yosinski et al. 2014,
      https://arxiv.org/abs/1411.1792, section 4.1: the first layers are general).

    Args:
        depths: The stages that were probed, the lowest first, the last one what the head reads.
        stages: Names of all stages.
    """
    best = max(depths, key=lambda depth: depth.val_accuracy)
    keep = next(depth for depth in depths if not _clearly_better(best, depth))
    train_error, val_error = 1 - best.train_accuracy, 1 - best.val_accuracy
    limit = f"the best probe's training error is {train_error:.3f}, its validation error {val_error:.3f}"
    lowest, top = depths[0], best.val_accuracy
    if train_error < BIAS * val_error or not val_error:
        above = "" if keep.boundary == len(stages) else "; stages above it add nothing as they are"
        return Suggestion(
            keep.boundary,
            f"the labels are the limit ({limit}): keep what is frozen up to {keep.stage}, the lowest stage whose probe "
            f"is as good as the best within a standard error{above}",
        )
    half = (lowest.val_accuracy + top) / 2
    first = next(depth for depth in depths if depth.val_accuracy >= half)
    boundary = min(first.boundary, keep.boundary)
    return Suggestion(
        boundary,
        f"the features are the limit ({limit}): train all above {stages[boundary - 1]}, where the probe has made half "
        f"of its way from {lowest.val_accuracy:.3f} behind {lowest.stage} to {top:.3f}",
    )


def _clearly_better(one: Depth, other: Depth) -> bool:
    """Say whether a probe is better than another by more than a standard error of their paired difference."""
    difference = one.val_correct.astype(np.float64) - other.val_correct
    error = float(np.std(difference)) / len(difference) ** 0.5
    return bool(np.mean(difference) > error)
