"""Figures of a classifier from its logits and the true labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from fashion_tl.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def softmax(logits: npt.ArrayLike) -> Floats:
    """Turn logits (N, K) into probabilities (N, K), in float64."""
    result: Floats = special.softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return result


def cross_entropy(logits: npt.ArrayLike, labels: Ints) -> float:
    """Compute the mean negative log likelihood in nats of labels (N,) under logits (N, K)."""
    values = np.asarray(logits, dtype=np.float64)
    return float(np.mean(special.logsumexp(values, axis=1) - values[np.arange(len(labels)), labels]))


def confusion_matrix(predicted: Ints, labels: Ints, classes: int) -> Ints:
    """Count images by true class (row) and predicted class (column); shape (K, K)."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def per_class(matrix: Ints) -> dict[str, Floats]:
    """Compute precision, recall and F1 of each class from a confusion matrix (K, K).

    Returns:
        Arrays (K,) under "precision", "recall" and "f1"; 0 where a class was never predicted or never occurs.
    """
    correct, predicted, actual = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    # Without images of a kind none of them is correct either: 0 of 1 is 0.
    return {
        "precision": correct / np.maximum(predicted, 1),
        "recall": correct / np.maximum(actual, 1),
        "f1": 2 * correct / np.maximum(predicted + actual, 1),
    }


def counted(matrix: Ints) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which classes (K,) the means of "precision", "recall" and "f1" count, from a confusion matrix (K, K).

    Those that occur for the recall, those that occur or are predicted for the others, as in torchmetrics.
    """
    occurs = matrix.sum(axis=1) > 0
    there = occurs | (matrix.sum(axis=0) > 0)
    return {"precision": there, "recall": occurs, "f1": there}


def macro(matrix: Ints) -> dict[str, float]:
    """Compute the means of precision and F1 over the classes that occur or are predicted, from a confusion matrix.

    A class that does neither says nothing.
    """
    there, values = counted(matrix), per_class(matrix)
    return {name: float(values[name][there[name]].mean()) for name in ("precision", "f1")}


def balanced_accuracy(matrix: Ints) -> float:
    """Compute the mean recall over the classes that occur, from a confusion matrix (K, K) of at least one image.

    Every class counts the same, however many images it has (Brodersen et al. 2010); a guess gives 1 / K.
    """
    return float(per_class(matrix)["recall"][counted(matrix)["recall"]].mean())


def calibration_error(probabilities: Floats, labels: Ints, bins: int = 15) -> float:
    """Compute the expected calibration error (Naeini 2015, Guo 2017): mean gap of confidence and accuracy, 0 to 1.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        bins: Bins of equal width over (0, 1], closed on the right; a confidence of exactly 1 is in the last one.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.searchsorted(np.arange(1, bins) / bins, confidence)
    return float(np.abs(np.bincount(index, weights=confidence - correct)).sum() / len(labels))


def headline(figures: Mapping[str, Any]) -> str:
    """Say the main figures of ``summarise`` in a line."""
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "loss": "loss"}
    told = ", ".join(f"{name} {figures[key]:.4f}" for key, name in names.items())
    return f"test {told} on {figures['images']:,} images"


def summarise(logits: npt.ArrayLike, labels: npt.ArrayLike, class_names: list[str]) -> dict[str, Any]:
    """Compute the test figures that a run's record holds.

    Args:
        logits: Logits (N, K).
        labels: True classes (N,).
        class_names: Names of the K classes.

    Returns:
        Plain values: accuracy, balanced accuracy (the macro recall), loss, macro precision and F1, calibration error,
        precision, recall and F1 of each class, and the confusion matrix.

    Raises:
        UserError: If a logit is not finite, as after a training that diverged.
    """
    truth = np.asarray(labels, dtype=np.int64)
    finite = int(np.isfinite(logits).all(axis=1).sum())
    if finite < len(truth):
        raise UserError(
            f"the logits of {len(truth) - finite} of {len(truth)} images are not finite: the training has diverged. "
            "Lower the learning rate (--model.lr) or train with --trainer.precision 32-true."
        )
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    matrix = confusion_matrix(predicted, truth, len(class_names))
    classes = per_class(matrix)
    return {
        "images": len(truth),
        "accuracy": float(np.mean(predicted == truth)),
        "balanced_accuracy": balanced_accuracy(matrix),
        "loss": cross_entropy(logits, truth),
        **{f"macro_{name}": value for name, value in macro(matrix).items()},
        "calibration_error": calibration_error(probabilities, truth),
        "per_class": {
            name: {figure: float(values[i]) for figure, values in classes.items()} for i, name in enumerate(class_names)
        },
        "confusion_matrix": matrix.tolist(),
    }
