"""Combinations of what several classifiers predict, computed from their logits alone.

All take logits and give log-probabilities, whose softmax is the combined probability, so that a record holds them as
any other logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats, Ints, cross_entropy

STRENGTHS = tuple(10.0**power for power in range(-4, 3))  # inverse: scikit-learn's C
FOLDS = 5
ROUNDS = 50


def mean_of_probabilities(logits: Sequence[npt.ArrayLike], weights: Sequence[float] | None = None) -> Floats:
    """Average the probabilities of classifiers.

    Args:
        logits: Logits (N, K) of each classifier.
        weights: Weight of each, at least 0 and not all 0; equal if not given.

    Returns:
        Logarithms (N, K) of the mean probabilities.
    """
    given = np.ones(len(logits)) if weights is None else np.asarray(weights, dtype=np.float64)
    used = given > 0
    values = np.stack([log_softmax(np.asarray(one, np.float64), axis=1) for one in logits])[used]
    shares = (given / given.sum())[used]
    mean: Floats = logsumexp(values, axis=0, b=shares[:, None, None])
    return mean


def greedy_weights(logits: Sequence[npt.ArrayLike], labels: Ints, first: int | None = None) -> list[int]:
    """Choose an ensemble by greedy selection with replacement (Caruana et al. 2004).

    Each round adds the classifier with which the loss of the mean probabilities is least; of all rounds the best is
    taken. The loss is never above that of the classifier it begins with.

    Args:
        logits: Logits (N, K) of each classifier on validation images.
        labels: Their classes (N,).
        first: The classifier to begin with; the one with the least loss if not given.

    Returns:
        How often each classifier was chosen.
    """
    values = [log_softmax(np.asarray(one, np.float64), axis=1) for one in logits]
    true = np.exp([one[np.arange(len(labels)), labels] for one in values])  # all that the loss depends on
    tiny = np.finfo(np.float64).tiny
    losses = -np.log(np.maximum(true, tiny)).mean(axis=1)
    counts = np.zeros(len(values), dtype=np.int64)
    counts[int(losses.argmin()) if first is None else first] = 1
    best, least = counts.copy(), float(losses[counts.argmax()])
    for _ in range(ROUNDS - 1):
        mean = (counts @ true + true) / (counts.sum() + 1)
        losses = -np.log(np.maximum(mean, tiny)).mean(axis=1)
        counts[losses.argmin()] += 1
        if losses.min() < least:
            best, least = counts.copy(), float(losses.min())
    return [int(count) for count in best // np.gcd.reduce(best)]


@dataclass(frozen=True)
class Stack:
    """A multinomial logistic regression on the log-probabilities of M classifiers (stacking, Wolpert 1992).

    Attributes:
        weight: Its weights (K, M K), the classifiers in their order.
        bias: Its intercepts (K,).
        strength: The inverse strength of its penalty that cross-validation chose.
        losses: Cross-validated loss in nats of each strength.
        loss: That of the chosen one.
        accuracy: Its cross-validated accuracy.
    """

    weight: Floats
    bias: Floats
    strength: float
    losses: dict[str, float]
    loss: float
    accuracy: float

    def apply(self, logits: Sequence[npt.ArrayLike]) -> Floats:
        """Combine logits (N, K) of the M classifiers to those of the stack (N, K)."""
        combined: Floats = log_softmax(_features(logits) @ self.weight.T + self.bias, axis=1)
        return combined


def fit_stack(logits: Sequence[npt.ArrayLike], labels: Ints) -> Stack:
    """Fit a stack to validation logits; its strength is chosen by cross-validation among these images.

    Args:
        logits: Logits (N, K) of each classifier on validation images, never on those they were trained on.
        labels: Their classes (N,).

    Raises:
        UserError: If a class has fewer than two images.
    """
    from sklearn.model_selection import StratifiedKFold

    features, classes = _features(logits), int(np.shape(logits[0])[1])
    fewest = int(np.bincount(labels, minlength=classes).min())
    if fewest < 2:
        raise UserError(
            f"a class has {fewest} validation images; stacking needs at least 2 of each: take --method mean, or runs "
            "with a larger data.val_fraction."
        )
    folds = list(StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0).split(features, labels))
    losses, right = {}, {}
    for strength in STRENGTHS:
        held_out = np.empty((len(labels), classes))
        for seen, held in folds:
            weight, bias = _fit(features[seen], labels[seen], strength)
            held_out[held] = features[held] @ weight.T + bias
        losses[strength] = cross_entropy(held_out, labels)
        right[strength] = float((held_out.argmax(axis=1) == labels).mean())
    best = min(STRENGTHS, key=losses.__getitem__)
    weight, bias = _fit(features, labels, best)
    return Stack(weight, bias, best, {f"{c:g}": loss for c, loss in losses.items()}, losses[best], right[best])


def _features(logits: Sequence[npt.ArrayLike]) -> Floats:
    return np.concatenate([log_softmax(np.asarray(one, np.float64), axis=1) for one in logits], axis=1)


def _fit(features: Floats, labels: Ints, strength: float) -> tuple[Floats, Floats]:
    """Fit the regression to standardised features; returns weights (K, F) and intercepts (K,) of the features as given.

    Two classes have one row in scikit-learn's solution, the difference of theirs.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1.0
    fitted = LogisticRegression(C=strength, max_iter=5000).fit((features - mean) / scale, labels)
    weight, bias = fitted.coef_ / scale, fitted.intercept_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias - weight @ mean
