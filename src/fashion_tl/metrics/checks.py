"""Arrays that come from files, checked once before figures are computed from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats, Ints

ROUNDING = 1e-6  # probabilities that were averaged or held in single precision exceed 1 by this much at most


def check_scores(scores: npt.ArrayLike, labels: npt.ArrayLike, what: str = "logits") -> tuple[Floats, Ints]:
    """Return scores (N, K) in float64 and labels (N,) as integers.

    Args:
        scores: One row an image: logits, or class probabilities.
        labels: True classes, 0 to K - 1.
        what: What the scores are, for messages.

    Raises:
        UserError: If there are no images, shapes disagree, a score is not finite, or a label is no class.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or truth.shape != values.shape[:1] or values.size == 0:
        raise UserError(
            f"{what} of shape {values.shape} and labels of shape {truth.shape} do not go together: "
            "they must be (N, K) and (N,) for N images of K classes, with N and K at least 1."
        )
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    if broken:
        raise UserError(f"the {what} of {broken} of {len(truth)} images are not finite: the predictions are unusable.")
    classes = truth.astype(np.int64)
    if (classes != truth).any() or classes.min() < 0 or classes.max() >= values.shape[1]:
        raise UserError(f"labels must be whole numbers from 0 to {values.shape[1] - 1}, as the {what} have that many.")
    return values, classes


def check_probabilities(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Ints]:
    """Return probabilities (N, K) and labels (N,) as ``check_scores`` does; also refuse values outside 0 to 1."""
    values, truth = check_scores(probabilities, labels, "probabilities")
    if values.min() < -ROUNDING or values.max() > 1 + ROUNDING:
        raise UserError(f"probabilities range from {values.min():g} to {values.max():g}, allowed is 0 to 1.")
    return values, truth


def check_level(level: float) -> float:
    """Return a confidence level, or raise a UserError if it is not between 0 and 1."""
    if not 0 < level < 1:
        raise UserError(f"the confidence level is {level}, it must be above 0 and below 1, such as 0.95.")
    return level
