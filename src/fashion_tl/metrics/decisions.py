"""Decisions other than the most probable class: thresholds for each class, and costs of mistakes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.metrics.checks import check_probabilities
from fashion_tl.metrics.metrics import Floats, Ints


def best_thresholds(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Find the threshold of each class that maximises its F1, one class against the rest.

    An image is said to be of a class if the class's probability is at least the threshold.

    Args:
        probabilities: Class probabilities (N, K) of validation images, never of the test set.
        labels: True classes (N,).

    Returns:
        Thresholds (K,), the highest one where several are best, and the F1 reached with them on these images (K,);
        NaN for a class that does not occur.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    classes = values.shape[1]
    thresholds, reached = np.full(classes, np.nan), np.full(classes, np.nan)
    for k in range(classes):
        actual = truth == k
        if not actual.any():
            continue
        levels, index, counts = np.unique(-values[:, k], return_inverse=True, return_counts=True)
        found = np.bincount(index, weights=actual, minlength=levels.size).cumsum()
        f1 = 2 * found / (counts.cumsum() + actual.sum())
        best = int(f1.argmax())
        thresholds[k], reached[k] = -levels[best], f1[best]
    return thresholds, reached


def check_costs(costs: npt.ArrayLike, classes: int | None = None) -> Floats:
    """Return a matrix of costs (K, K) in float64.

    Args:
        costs: Cost of predicting a class (column) where another is true (row), 0 or more; the diagonal is usually 0.
        classes: K; any if not given.

    Raises:
        UserError: If the shape is wrong, or a cost is negative, not finite or not a number.
    """
    size = "K" if classes is None else str(classes)
    try:
        matrix = np.asarray(costs, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"costs must be {size} rows of {size} numbers: {error}.") from error
    if matrix.ndim != 2 or matrix.shape != (classes or len(matrix),) * 2 or matrix.size == 0:
        raise UserError(
            f"costs have shape {matrix.shape}, it must be ({size}, {size}): a row for each true class, a column for "
            "each predicted one."
        )
    wrong = np.argwhere(~(np.isfinite(matrix) & (matrix >= 0)))
    if len(wrong):
        places = ", ".join(f"costs[{i}][{j}] is {matrix[i, j]:g}" for i, j in wrong[:3].tolist())
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{places}{more}: costs must be finite and 0 or more.")
    return matrix


def least_cost_decisions(probabilities: npt.ArrayLike, costs: npt.ArrayLike) -> Ints:
    """Decide for the class of least expected cost (Elkan 2001), the first of equal ones.

    Args:
        probabilities: Class probabilities (N, K), calibrated if the costs are to be believed.
        costs: Cost of predicting a class (column) where another is true (row), (K, K).

    Returns:
        Classes (N,).

    Raises:
        UserError: If the probabilities or the costs are out of range or of a wrong shape.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    values, _ = check_probabilities(values, np.zeros(values.shape[:1], dtype=np.int64))
    expected = values @ check_costs(costs, values.shape[1])
    decisions: Ints = expected.argmin(axis=1)
    return decisions


def cost_weighted_error(predicted: npt.ArrayLike, labels: npt.ArrayLike, costs: npt.ArrayLike) -> float:
    """Compute the mean cost of decisions; with cost 1 for every mistake it is the error rate.

    Args:
        predicted: Classes decided for (N,).
        labels: True classes (N,).
        costs: Cost of predicting a class (column) where another is true (row), (K, K).

    Raises:
        UserError: If the costs are unusable, there are no images, or a class is not one of K.
    """
    matrix = check_costs(costs)
    decided, truth = np.asarray(predicted), np.asarray(labels)
    classes = len(matrix)
    if decided.ndim != 1 or decided.shape != truth.shape or decided.size == 0:
        raise UserError(f"a mean cost needs images: got predictions {decided.shape} and labels {truth.shape}.")
    for values in (decided, truth):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= classes:
            raise UserError(f"classes must be whole numbers from 0 to {classes - 1}, as there are costs for {classes}.")
    return float(matrix[truth, decided].mean())
