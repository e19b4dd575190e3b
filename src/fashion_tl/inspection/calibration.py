"""Calibration of a checkpoint after training: fitted to validation logits, kept beside it, applied to new logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.files import read_json, sha256, write_json
from fashion_tl.metrics.calibration import apply_scaling, fit_temperature, fit_vector_scaling
from fashion_tl.metrics.metrics import Floats, Ints, softmax

SIDECAR = "calibration.json"
UNSCALED, TEMPERATURE, VECTOR = "unscaled", "temperature", "vector"
FOLDS = 5
BY_LOSS = "by the cross-validated NLL"
TOO_FEW = f"some class has fewer than {FOLDS} validation images: no cross-validation, the temperature is taken"
SEEN = "it was fitted to the validation images, on which nothing can be chosen again: the logits stay as they are"
ALL_RIGHT = "no validation image is classified wrongly, which leaves open how sure to be: the logits stay as they are"


@dataclass(frozen=True)
class Calibration:
    """Temperature and vector scaling (Guo 2017) of one checkpoint.

    Attributes:
        checkpoint: Hash of the checkpoint that it was fitted to.
        class_names: Names of the K classes.
        method: "unscaled", "temperature" or "vector": what to apply.
        temperature: What logits are divided by.
        scale: Factor of each class's logit (K,).
        bias: Summand of each class's logit (K,).
        images: Validation images that it was fitted to.
        losses: Cross-validated negative log likelihood in nats of "unscaled", "temperature" and "vector" logits; empty
            where there are too few images for it.
        reason: Why that method, in words; empty in files of earlier versions.
    """

    checkpoint: str
    class_names: tuple[str, ...]
    method: str
    temperature: float
    scale: tuple[float, ...]
    bias: tuple[float, ...]
    images: int
    losses: dict[str, float]
    reason: str = ""

    def apply(self, logits: npt.ArrayLike, method: str | None = None) -> Floats:
        """Scale logits (N, K) by the chosen method, or by the one that is named."""
        if (method or self.method) == UNSCALED:
            return np.asarray(logits, dtype=np.float64)
        if (method or self.method) == TEMPERATURE:
            return apply_scaling(logits, 1 / self.temperature)
        return apply_scaling(logits, self.scale, self.bias)

    def probabilities(self, logits: npt.ArrayLike) -> Floats:
        """Return calibrated probabilities (N, K), float64, of logits (N, K).

        Raises:
            UserError: If the logits are of another number of classes.
        """
        shape, classes = np.shape(logits), len(self.class_names)
        if len(shape) != 2 or shape[1] != classes:
            raise UserError(f"logits have shape {shape}, they are calibrated for (N, {classes}).")
        return softmax(self.apply(logits))


def no_calibration(checkpoint: str, class_names: tuple[str, ...], images: int) -> Calibration:
    """Return that of a checkpoint, such as a stack's, which was itself fitted to the validation images."""
    ones, zeros = (1.0,) * len(class_names), (0.0,) * len(class_names)
    return Calibration(checkpoint, class_names, UNSCALED, 1.0, ones, zeros, images, {}, SEEN)


def fit_calibration(logits: npt.ArrayLike, labels: Ints, checkpoint: str, class_names: tuple[str, ...]) -> Calibration:
    """Fit both scalings to validation logits and choose between them by cross-validation.

    On the images that it was fitted to, vector scaling with its 2 K values would always win; stratified five-fold
    cross-validation compares both on images that each has not seen. The temperature is taken where its loss is not
    above that of the logits as they are, and where some class has fewer than five images; vector scaling where its
    loss is lower than theirs by more than a standard error of the difference (the rule of Breiman 1984). Images that
    are all classified right say nothing about how sure to be: logits then stay as they are.

    Args:
        logits: Logits (N, K) of validation images, never of the test set.
        labels: Their classes (N,).
        checkpoint: Hash of the checkpoint.
        class_names: Names of the K classes.

    Raises:
        UserError: If the logits are unusable.
    """
    values = np.asarray(logits, dtype=np.float64)
    losses = _cross_validated(values, labels)
    if (values.argmax(axis=1) == labels).all():  # the loss falls with the temperature without end
        method, temperature, reason = UNSCALED, 1.0, ALL_RIGHT
    else:
        temperature = fit_temperature(logits, labels)
        method, reason = (_choose(losses), BY_LOSS) if losses else (TEMPERATURE, TOO_FEW)
    scale, bias = fit_vector_scaling(logits, labels)
    return Calibration(
        checkpoint,
        class_names,
        method,
        temperature,
        tuple(scale.tolist()),
        tuple(bias.tolist()),
        len(labels),
        {name: float(each.mean()) for name, each in losses.items()},
        reason,
    )


def _cross_validated(logits: Floats, labels: Ints) -> dict[str, Floats]:
    """Compute each image's loss (N,), scaled by what the other folds fit; empty if a class has too few images."""
    from scipy.special import log_softmax

    if np.bincount(labels, minlength=logits.shape[1]).min() < FOLDS:
        return {}
    fold = np.empty(len(labels), dtype=np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % FOLDS
    scaled = {UNSCALED: logits, TEMPERATURE: np.empty_like(logits), VECTOR: np.empty_like(logits)}
    for k in range(FOLDS):
        seen, held = fold != k, fold == k
        scaled[TEMPERATURE][held] = logits[held] / fit_temperature(logits[seen], labels[seen])
        scaled[VECTOR][held] = apply_scaling(logits[held], *fit_vector_scaling(logits[seen], labels[seen]))
    own = np.arange(len(labels)), labels
    return {name: -log_softmax(values, axis=1)[own] for name, values in scaled.items()}


def _choose(losses: dict[str, Floats]) -> str:
    plain = TEMPERATURE if losses[TEMPERATURE].mean() <= losses[UNSCALED].mean() else UNSCALED
    gains = losses[plain] - losses[VECTOR]
    return VECTOR if gains.mean() > gains.std() / np.sqrt(len(gains)) else plain


def digest(path: Path) -> str:
    """Hash a file to 16 hexadecimal digits of SHA-256.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return sha256(path)[:16]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def write_calibration(checkpoint: Path, calibration: Calibration) -> Path:
    """Write a calibration beside its checkpoint, as ``calibration.json``."""
    path = checkpoint.with_name(SIDECAR)
    write_json(path, asdict(calibration))
    return path


def read_calibration(checkpoint: Path) -> Calibration | None:
    """Read the calibration of a checkpoint; None if it has none.

    Raises:
        UserError: If the file is damaged, or was fitted to another checkpoint.
    """
    path = checkpoint.with_name(SIDECAR)
    again = "Run `fashion-tl diagnose` on the run again, which fits a new one."
    try:
        content = read_json(path)
        found = Calibration(**{**content, **{name: tuple(content[name]) for name in ("class_names", "scale", "bias")}})
        _check(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}). {again}") from error
    if found.checkpoint != digest(checkpoint):
        raise UserError(f"{path} was fitted to another checkpoint than {checkpoint}. {again}")
    return found


def _check(calibration: Calibration) -> None:
    if calibration.method not in (UNSCALED, TEMPERATURE, VECTOR):
        raise ValueError(f"its method is {calibration.method!r}")
    if not len(calibration.class_names) == len(calibration.scale) == len(calibration.bias):
        raise ValueError("its scale and bias do not have one value a class")
    if not isinstance(calibration.reason, str):
        raise ValueError("its reason is no text")
    values = np.array([calibration.temperature, *calibration.scale, *calibration.bias], dtype=np.float64)
    if not np.isfinite(values).all() or calibration.temperature <= 0:
        raise ValueError("its values are not finite, or its temperature is not above 0")


def load_calibration(checkpoint: Path) -> Callable[[npt.ArrayLike], Floats]:
    """Return ``Calibration.probabilities`` of a checkpoint.

    Raises:
        UserError: If the checkpoint has no calibration, or another one's.
    """
    calibration = read_calibration(checkpoint)
    if calibration is None:
        raise UserError(f"{checkpoint} has no calibration: run `fashion-tl diagnose RUN` on its run first.")
    return calibration.probabilities
