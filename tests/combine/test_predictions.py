"""Combinations of logits against plain NumPy, scikit-learn, and a search written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fashion_tl.combine.predictions import STRENGTHS, fit_stack, greedy_weights, mean_of_probabilities
from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats, Ints, softmax


def classifiers(skills: tuple[float, ...], classes: int = 3, images: int = 200) -> tuple[list[Floats], Ints]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, images)
    return [rng.standard_normal((images, classes)) + skill * np.eye(classes)[labels] for skill in skills], labels


def test_the_mean_is_that_of_the_probabilities() -> None:
    logits, _ = classifiers((1.0, 2.0, 0.5))
    expected = np.mean([softmax(one) for one in logits], axis=0)
    assert softmax(mean_of_probabilities(logits)) == pytest.approx(expected, abs=1e-12)
    weighed = (softmax(logits[0]) + 3 * softmax(logits[2])) / 4
    assert softmax(mean_of_probabilities(logits, [1, 0, 3])) == pytest.approx(weighed, abs=1e-12)


def test_probabilities_of_zero_stay_finite() -> None:
    sure = np.array([[2000.0, 0.0], [0.0, 2000.0]])
    assert np.isfinite(mean_of_probabilities([sure, sure])).all()


def test_greedy_selection_is_that_of_a_plain_search() -> None:
    logits, labels = classifiers((1.0, 1.2, 0.8, 0.1))
    chance = [softmax(one) for one in logits]

    def loss(counts: list[int]) -> float:
        return float(log_loss(labels, np.average(chance, axis=0, weights=counts)))

    counts = [0] * 4
    best: list[int] = []
    for _ in range(50):
        tried = [[c + (i == j) for j, c in enumerate(counts)] for i in range(4)]
        counts = min(tried, key=loss)
        best = counts if not best or loss(counts) < loss(best) else best
    found = greedy_weights(logits, labels)
    assert np.array(found) / sum(found) == pytest.approx(np.array(best) / sum(best), abs=1e-12)
    assert loss(found) < min(loss([int(i == j) for j in range(4)]) for i in range(4))


def test_greedy_selection_can_begin_with_a_given_one_and_keep_it_alone() -> None:
    logits, labels = classifiers((3.0, -1.0))
    assert greedy_weights(logits, labels, first=0) == [1, 0]
    assert greedy_weights(logits[::-1], labels) == [0, 1]
    assert greedy_weights(logits[::-1], labels, first=0)[0] > 0


@pytest.mark.parametrize("classes", [2, 3])
def test_a_stack_is_scikit_learns_regression_on_log_probabilities(classes: int) -> None:
    logits, labels = classifiers((1.0, 2.0), classes)
    stack = fit_stack(logits, labels)
    features = np.concatenate([np.log(softmax(one)) for one in logits], axis=1)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=stack.strength, max_iter=5000)).fit(features, labels)
    assert softmax(stack.apply(logits)) == pytest.approx(fitted.predict_proba(features), abs=1e-6)
    assert stack.weight.shape == (classes, 2 * classes)
    assert stack.losses == {**stack.losses, f"{stack.strength:g}": min(stack.losses.values())}
    assert len(stack.losses) == len(STRENGTHS)


def test_a_stack_learns_which_classes_a_member_exchanges() -> None:
    (logits,), labels = classifiers((4.0,))
    exchanged = logits[:, [1, 2, 0]]
    stack = fit_stack([exchanged, logits[:, [0, 0, 0]]], labels)
    assert (stack.apply([exchanged, logits[:, [0, 0, 0]]]).argmax(1) == labels).mean() > 0.9
    assert stack.accuracy > 0.9


def test_a_stack_needs_two_images_of_each_class() -> None:
    logits, labels = classifiers((1.0, 2.0))
    labels[labels == 2] = 1
    with pytest.raises(UserError, match="0 validation images"):
        fit_stack(logits, labels)
