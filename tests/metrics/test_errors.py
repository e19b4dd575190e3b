"""Mistakes, confused pairs, doubtful labels and groups against loops, scikit-learn, and cases worked out by hand."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fashion_tl
from fashion_tl.errors import UserError
from fashion_tl.metrics.errors import (
    FASHION_MNIST_GROUPS,
    ConfusedPair,
    GroupAccuracy,
    accuracy_by_group,
    confused_pairs,
    label_errors,
    least_confident_correct,
    most_confident_mistakes,
)
from fashion_tl.metrics.metrics import Floats, Ints, confusion_matrix, softmax

EXACT = 1e-9
K = 5


@pytest.fixture
def probabilities() -> Floats:
    # Rounded, so that many confidences are equal.
    return np.round(softmax(2 * np.random.default_rng(0).standard_normal((300, K))), 2)


@pytest.fixture
def labels(probabilities: Floats) -> Ints:
    rng = np.random.default_rng(1)
    return np.where(rng.random(300) < 0.7, probabilities.argmax(1), rng.integers(0, K, 300))


# Images to look at


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_mistakes_and_hits_against_a_loop(probabilities: Floats, labels: Ints, count: int) -> None:
    wrong = [i for i in range(300) if probabilities[i].argmax() != labels[i]]
    right = [i for i in range(300) if probabilities[i].argmax() == labels[i]]
    mistakes = sorted(wrong, key=lambda i: (-probabilities[i].max(), i))[:count]
    hits = sorted(right, key=lambda i: (probabilities[i].max(), i))[:count]
    assert most_confident_mistakes(probabilities, labels, count).tolist() == mistakes
    assert least_confident_correct(probabilities, labels, count).tolist() == hits


def test_no_mistakes_and_no_hits() -> None:
    certain = np.eye(3)
    assert most_confident_mistakes(certain, [0, 1, 2]).tolist() == []
    assert least_confident_correct(certain, [1, 2, 0]).tolist() == []
    assert most_confident_mistakes(certain, [1, 2, 2]).tolist() == [0, 1]
    for find in (most_confident_mistakes, least_confident_correct):
        with pytest.raises(UserError, match="0 or more"):
            find(certain, [0, 1, 2], -1)


# Confused pairs


def test_confused_pairs_against_counting(probabilities: Floats, labels: Ints) -> None:
    predicted = probabilities.argmax(1)
    counted = Counter((int(t), int(p)) for t, p in zip(labels, predicted, strict=True) if t != p)
    ours = confused_pairs(confusion_matrix(predicted, labels, K), 100)
    assert {(pair.true, pair.predicted): pair.images for pair in ours} == dict(counted)
    assert [(-p.images, p.true, p.predicted) for p in ours] == sorted((-n, *cell) for cell, n in counted.items())
    for pair in ours:
        assert pair.share == pytest.approx(pair.images / np.sum(labels == pair.true), abs=EXACT)
    assert confused_pairs(confusion_matrix(predicted, labels, K), 2) == ours[:2]


def test_confused_pairs_by_hand() -> None:
    assert confused_pairs([[90, 10, 0], [10, 0, 0], [0, 0, 0]]) == [
        ConfusedPair(0, 1, 10, 0.1),
        ConfusedPair(1, 0, 10, 1),
    ]
    assert confused_pairs(np.diag([5, 0, 7])) == []
    for broken in ([[1, 2]], [1], [[-1]], np.empty((0, 0))):
        with pytest.raises(UserError, match="confusion matrix"):
            confused_pairs(broken)


# Doubtful labels


def naive_label_errors(probabilities: Floats, labels: Ints) -> dict[str, Any]:
    """Confident learning as the paper's algorithm 1 puts it, image by image."""
    images, classes = probabilities.shape
    thresholds = [
        float(np.mean([probabilities[i, k] for i in range(images) if labels[i] == k])) if k in labels else float("nan")
        for k in range(classes)
    ]
    joint = [[0] * classes for _ in range(classes)]
    found = []
    for i in range(images):
        sure = [k for k in range(classes) if k in labels and probabilities[i, k] >= thresholds[k] - 1e-9]
        if sure:
            seen = max(sure, key=lambda k: (probabilities[i, k], -k))
            joint[labels[i]][seen] += 1
            if seen != labels[i] and probabilities[i].argmax() != labels[i]:
                other = max(probabilities[i, k] for k in range(classes) if k != labels[i])
                found.append((probabilities[i, labels[i]] - other, i, seen))
    return {"thresholds": thresholds, "joint": joint, "found": sorted(found)}


@pytest.mark.parametrize("missing", [None, 2])
def test_label_errors_against_the_algorithm(probabilities: Floats, labels: Ints, missing: int | None) -> None:
    kept = labels != missing if missing is not None else np.ones(300, dtype=bool)
    ours = label_errors(probabilities[kept], labels[kept])
    naive = naive_label_errors(probabilities[kept], labels[kept])
    assert ours.thresholds == pytest.approx(naive["thresholds"], abs=EXACT, nan_ok=True)
    assert ours.joint.tolist() == naive["joint"]
    assert len(ours.indices) > 10
    assert ours.margin == pytest.approx([margin for margin, _, _ in naive["found"]], abs=EXACT)
    assert ours.indices.tolist() == [i for _, i, _ in naive["found"]]
    assert ours.suggested.tolist() == [seen for _, _, seen in naive["found"]]


def test_label_errors_finds_flipped_labels() -> None:
    rng = np.random.default_rng(4)
    true = rng.integers(0, 4, 2000)
    probabilities = softmax(4 * np.eye(4)[true] + rng.standard_normal((2000, 4)))
    flipped = rng.choice(2000, 100, replace=False)
    given = true.copy()
    given[flipped] = (true[flipped] + rng.integers(1, 4, 100)) % 4
    ours = label_errors(probabilities, given)
    first = ours.indices[:80]
    assert np.isin(first, flipped).mean() > 0.95
    assert (ours.suggested[:80] == true[first]).mean() > 0.95
    assert (np.diff(ours.margin) >= 0).all()
    assert ours.margin.max() <= 0


def test_label_errors_where_all_is_equal_or_certain() -> None:
    # A mean of three equal numbers can be above each of them: the threshold is reached all the same.
    for value in (0.1, 0.7, 1 / 3):
        equal = label_errors([[value, 1 - value]] * 3, [0, 0, 0])
        assert equal.joint.tolist() == [[3, 0], [0, 0]]
    assert label_errors(np.eye(3), [0, 1, 2]).indices.tolist() == []
    certain = label_errors(np.eye(2)[[0, 0, 0, 1, 1, 1]], [0, 0, 0, 1, 1, 0])
    assert (certain.indices.tolist(), certain.suggested.tolist(), certain.margin.tolist()) == ([5], [1], [-1])
    assert label_errors([[0.2, 0.8]], [0]).indices.tolist() == []  # one image: no other class to be sure of


def test_label_errors_leaves_out_a_label_that_is_predicted() -> None:
    # Image 3: class 1 reaches its low threshold and class 0 not its high one, yet class 0 is the more probable.
    values = [[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.7, 0.3]]
    ours = label_errors(values, [0, 0, 1, 0])
    assert ours.thresholds == pytest.approx([2.5 / 3, 0.45])
    assert ours.indices.tolist() == []
    values[3] = [0.52, 0.48]
    ours = label_errors(values, [0, 0, 1, 0])
    assert ours.joint.tolist() == [[2, 1], [0, 1]]
    assert ours.indices.tolist() == []


# Groups


def test_groups_against_scikit_learn() -> None:
    import sklearn.metrics as sklearn

    names = [name for classes in FASHION_MNIST_GROUPS.values() for name in classes][::-1]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    predicted = np.where(rng.random(2000) < 0.6, labels, rng.integers(0, 10, 2000))
    ours = accuracy_by_group(confusion_matrix(predicted, labels, 10), names, FASHION_MNIST_GROUPS)
    group_of = {name: group for group, classes in FASHION_MNIST_GROUPS.items() for name in classes}
    true_groups, groups = ([group_of[names[k]] for k in values] for values in (labels, predicted))
    assert list(ours) == [*FASHION_MNIST_GROUPS, "all"]
    for group, figures in ours.items():
        inside = np.array([group in ("all", g) for g in true_groups])
        kept = inside & np.array([a == b for a, b in zip(true_groups, groups, strict=True)])
        assert figures.images == inside.sum()
        assert figures.accuracy == pytest.approx(sklearn.accuracy_score(labels[inside], predicted[inside]), abs=EXACT)
        assert figures.within == pytest.approx(sklearn.accuracy_score(labels[kept], predicted[kept]), abs=EXACT)
        hit = sklearn.accuracy_score(np.array(true_groups)[inside], np.array(groups)[inside])
        assert figures.group_accuracy == pytest.approx(hit, abs=EXACT)


def test_groups_hold_every_class_of_fashion_mnist() -> None:
    # Read, not imported: the module of the data needs torch.
    tree = ast.parse((Path(fashion_tl.__file__).parent / "data" / "fashion_mnist.py").read_text(encoding="utf-8"))
    names = next(ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and _named(n, "CLASS_NAMES"))
    assert sorted(name for group in FASHION_MNIST_GROUPS.values() for name in group) == sorted(names)


def _named(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def test_groups_without_images_have_no_figures() -> None:
    ours = accuracy_by_group([[0, 4, 0], [0, 0, 0], [0, 0, 0]], ["a", "b", "c"], {"x": ["a"], "y": ["b", "c"]})
    assert ours["x"] == GroupAccuracy(4, 0.0, 0.0, None)
    assert ours["y"] == GroupAccuracy(0, None, None, None)
    assert ours["all"] == GroupAccuracy(4, 0.0, 0.0, None)


@pytest.mark.parametrize(
    ("groups", "part"),
    [
        ({"x": ["a"]}, "'b' is in none"),
        ({"x": ["a", "b", "z"]}, "'z' is no class"),
        ({"x": ["a", "b"], "y": ["b"]}, "'b' is in 2"),
        ({"x": ["a", "b"], "all": []}, "'all'"),
    ],
)
def test_groups_that_are_no_partition_are_refused(groups: dict[str, list[str]], part: str) -> None:
    with pytest.raises(UserError, match=part):
        accuracy_by_group(np.eye(2, dtype=int), ["a", "b"], groups)
    with pytest.raises(UserError, match="2 are named"):
        accuracy_by_group(np.eye(3, dtype=int), ["a", "b"], groups)
