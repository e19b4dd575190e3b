"""Detection of out-of-distribution (OOD) images: scores, and figures of how well a score separates.

Every score is higher for in-distribution images, which are the positives unless said.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats, Ints, softmax

ACCEPTED = 0.95  # share of the in-distribution images that is accepted at least, where false positives are counted


@dataclass(frozen=True)
class Detection:
    """How well a score separates in-distribution from OOD images.

    Attributes:
        auroc: Area under the ROC curve, 0 to 1, 0.5 for chance.
        aupr_in: Average precision with the in-distribution images as positives, 0 to 1.
        aupr_out: Average precision with the OOD images as positives, 0 to 1.
        fpr95: Share of OOD images that are accepted where at least 95 % of the in-distribution ones are, 0 (best) to 1.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float


def detection(in_distribution: npt.ArrayLike, ood: npt.ArrayLike) -> Detection:
    """Compute the usual figures of out-of-distribution detection (Hendrycks and Gimpel 2017; Liu 2020).

    Args:
        in_distribution: Scores (N,) of images of the known classes.
        ood: Scores (M,) of other images.

    Raises:
        UserError: If one of the two is empty or not finite.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    first, second = np.asarray(in_distribution, dtype=np.float64), np.asarray(ood, dtype=np.float64)
    for scores in (first, second):
        if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
            raise UserError(
                f"scores of shapes {first.shape} and {second.shape} cannot be compared: "
                "both must be (N,) with at least one image, and finite."
            )
    truth, joined = np.repeat([1, 0], [first.size, second.size]), np.concatenate([first, second])
    false_positives, true_positives, _ = roc_curve(truth, joined, drop_intermediate=False)
    return Detection(
        auroc=float(roc_auc_score(truth, joined)),
        aupr_in=float(average_precision_score(truth, joined)),
        aupr_out=float(average_precision_score(1 - truth, -joined)),
        fpr95=float(false_positives[np.argmax(true_positives >= ACCEPTED)]),
    )


def max_softmax_score(logits: npt.ArrayLike) -> Floats:
    """Return the highest class probability (N,) of logits (N, K) (Hendrycks and Gimpel 2017)."""
    result: Floats = softmax(logits).max(axis=1)
    return result


def energy_score(logits: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Compute the negative energy T * log sum exp(logits / T) (Liu 2020), which is higher in-distribution.

    Args:
        logits: Logits (N, K).
        temperature: T, above 0; the paper uses 1.

    Returns:
        Scores (N,), unbounded.

    Raises:
        UserError: If the temperature is not positive.
    """
    if not temperature > 0:
        raise UserError(f"the temperature is {temperature}, it must be above 0, such as 1.")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    result: Floats = temperature * special.logsumexp(scaled, axis=1)
    return result


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian a class with a covariance common to all, fitted to training features.

    Attributes:
        means: Mean features of the classes that occur (at most K, D).
        whitening: Matrix (D, D) that turns the covariance into the identity: features are multiplied by its transpose.
    """

    means: Floats
    whitening: Floats


def fit_gaussians(features: npt.ArrayLike, labels: npt.ArrayLike, ridge: float = 1e-6) -> Gaussians:
    """Fit class means and a shared covariance (Lee 2018).

    The covariance (divisor N) gets ``ridge`` times its mean variance added on its diagonal, since features of dead
    units do not vary at all; where no feature varies, the ridge alone is left.

    Args:
        features: Features (N, D) of training images, such as those before the head.
        labels: Classes (N,), 0 or more.
        ridge: Share of the mean variance to add, above 0.

    Raises:
        UserError: If shapes disagree, a feature is not finite, a label is negative, or the ridge is not positive.
    """
    if not ridge > 0:
        raise UserError(f"the ridge is {ridge}, it must be above 0, such as 1e-6.")
    values, truth = _check_features(features, labels)
    occurring, index = np.unique(truth, return_inverse=True)
    means = np.stack([values[index == k].mean(axis=0) for k in range(occurring.size)])
    centred = values - means[index]
    covariance = centred.T @ centred / len(values)
    dimensions = len(covariance)
    variance = float(np.trace(covariance)) / dimensions
    covariance += ridge * (variance if variance > 0 else 1.0) * np.eye(dimensions)
    return Gaussians(means, np.linalg.inv(np.linalg.cholesky(covariance)))


def _check_features(features: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Ints]:
    values, truth = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if values.ndim != 2 or truth.shape != values.shape[:1] or values.size == 0:
        raise UserError(f"features must be (N, D) and labels (N,), got shapes {values.shape} and {truth.shape}.")
    if not np.isfinite(values).all() or truth.min() < 0:
        raise UserError("features must be finite and labels 0 or more.")
    return values, truth


def mahalanobis_score(features: npt.ArrayLike, gaussians: Gaussians) -> Floats:
    """Compute minus the squared Mahalanobis distance to the nearest class mean (Lee 2018), 0 or less.

    Args:
        features: Features (N, D).
        gaussians: What ``fit_gaussians`` found on training images.

    Returns:
        Scores (N,).

    Raises:
        UserError: If the features have another width than those that were fitted.
    """
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != gaussians.means.shape[1]:
        raise UserError(f"features have shape {values.shape}, the Gaussians expect (N, {gaussians.means.shape[1]}).")
    white = values @ gaussians.whitening.T
    centres = gaussians.means @ gaussians.whitening.T
    result: Floats = -np.min([((white - centre) ** 2).sum(axis=1) for centre in centres], axis=0)
    return result
