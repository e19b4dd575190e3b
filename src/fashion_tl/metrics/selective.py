"""What a classifier gains by leaving its least confident images to someone else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats


@dataclass(frozen=True)
class RiskCoverage:
    """A risk-coverage curve (El-Yaniv and Wiener 2010).

    Attributes:
        coverage: Share of the images that are answered, the most confident first: 1 / N, 2 / N, ..., 1 (N,).
        risk: Share of errors among them (N,).
    """

    coverage: Floats
    risk: Floats


def risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> RiskCoverage:
    """Compute the risk-coverage curve of a confidence.

    Images of equal confidence share their errors evenly, which is the mean over all their orders: the order of the
    images does not matter.

    Args:
        confidence: Any score (N,) that is higher for surer predictions, such as the highest probability.
        correct: Whether the prediction is correct (N,).

    Raises:
        UserError: If there are no images, shapes disagree, or a confidence is NaN.
    """
    scores, truth = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if scores.ndim != 1 or scores.shape != truth.shape or scores.size == 0:
        raise UserError(
            f"a risk-coverage curve needs a confidence for each image and whether it is correct, at least one: "
            f"got shapes {scores.shape} and {truth.shape}."
        )
    if np.isnan(scores).any():
        raise UserError(f"{int(np.isnan(scores).sum())} of {scores.size} confidences are NaN.")
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    rates = np.bincount(group, weights=~truth) / sizes
    answered = np.arange(1, scores.size + 1)
    return RiskCoverage(answered / scores.size, np.cumsum(np.repeat(rates, sizes)) / answered)


def area_under_risk_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Compute the mean risk over all coverages (AURC; Geifman and El-Yaniv 2017, Geifman 2019), 0 (best) to 1.

    Args:
        confidence: Any score (N,) that is higher for surer predictions.
        correct: Whether the prediction is correct (N,).

    Raises:
        UserError: As ``risk_coverage`` does.
    """
    return float(risk_coverage(confidence, correct).risk.mean())


def accuracy_at_coverage(confidence: npt.ArrayLike, correct: npt.ArrayLike, coverage: float) -> float:
    """Compute the accuracy on the most confident images, at least the given share of them.

    Args:
        confidence: Any score (N,) that is higher for surer predictions.
        correct: Whether the prediction is correct (N,).
        coverage: Share of images to answer, above 0 and at most 1.

    Raises:
        UserError: If the coverage is out of range, or as ``risk_coverage`` does.
    """
    if not 0 < coverage <= 1:
        raise UserError(f"the coverage is {coverage}, it must be above 0 and at most 1, such as 0.9.")
    risk = risk_coverage(confidence, correct).risk
    # 0.7 * 10 is 7.000000000000001 in floating point and means 7 images.
    return float(1 - risk[max(int(np.ceil(coverage * risk.size - 1e-9)), 1) - 1])
