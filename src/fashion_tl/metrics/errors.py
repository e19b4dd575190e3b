"""Where a classifier errs: images to look at, classes it confuses, labels to doubt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.metrics.checks import check_probabilities
from fashion_tl.metrics.metrics import Floats, Ints

ROUNDING = 1e-9  # a mean of equal probabilities can exceed each of them by less than this

# What a person sees at first glance. A dress is a top here: both are cut from the shoulders down and differ in length
# alone, and a dress is mistaken for another top more often than for trousers.
FASHION_MNIST_GROUPS: dict[str, tuple[str, ...]] = {
    "tops": ("T-shirt/top", "Pullover", "Dress", "Coat", "Shirt"),
    "trousers": ("Trouser",),
    "shoes": ("Sandal", "Sneaker", "Ankle boot"),
    "bags": ("Bag",),
}


def most_confident_mistakes(probabilities: npt.ArrayLike, labels: npt.ArrayLike, count: int = 20) -> Ints:
    """Find the images that are classified wrong with the highest confidence.

    Args:
        probabilities: Class probabilities (N, K).
        labels: True classes (N,).
        count: How many to return at most, 0 or more.

    Returns:
        Indices by falling confidence, equal ones by index; all mistakes if there are fewer than ``count``.

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, truth = check_probabilities(probabilities, labels)
    wrong = np.flatnonzero(values.argmax(axis=1) != truth)
    return wrong[np.argsort(-values.max(axis=1)[wrong], kind="stable")][: _check_count(count)]


def least_confident_correct(probabilities: npt.ArrayLike, labels: npt.ArrayLike, count: int = 20) -> Ints:
    """Find the images that are classified correctly with the lowest confidence, as ``most_confident_mistakes`` does."""
    values, truth = check_probabilities(probabilities, labels)
    correct = np.flatnonzero(values.argmax(axis=1) == truth)
    return correct[np.argsort(values.max(axis=1)[correct], kind="stable")][: _check_count(count)]


def _check_count(count: int) -> int:
    if count < 0:
        raise UserError(f"{count} images were asked for, it must be 0 or more.")
    return count


@dataclass(frozen=True)
class ConfusedPair:
    """A class and what it is mistaken for.

    Attributes:
        true: Index of the true class.
        predicted: Index of the class that was predicted.
        images: Images of this kind, at least 1.
        share: Their share of all images of the true class, above 0 to 1.
    """

    true: int
    predicted: int
    images: int
    share: float


def confused_pairs(matrix: npt.ArrayLike, count: int = 10) -> list[ConfusedPair]:
    """List the mistakes that are most frequent.

    Args:
        matrix: Confusion matrix (K, K), true classes in rows.
        count: How many to return at most, 0 or more.

    Returns:
        Pairs by falling number of images, then by class; never a pair without images.

    Raises:
        UserError: If the matrix is not square.
    """
    cells = _check_matrix(matrix)
    mistakes = np.where(np.eye(len(cells), dtype=bool), 0, cells)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: _check_count(count)]
    pairs = [divmod(int(cell), len(cells)) for cell in order if mistakes.flat[cell] > 0]
    return [ConfusedPair(i, j, int(cells[i, j]), float(cells[i, j] / cells[i].sum())) for i, j in pairs]


def _check_matrix(matrix: npt.ArrayLike) -> Ints:
    cells = np.asarray(matrix, dtype=np.int64)
    if cells.ndim != 2 or cells.shape[0] != cells.shape[1] or cells.size == 0 or cells.min() < 0:
        raise UserError(f"a confusion matrix holds counts and is (K, K); got shape {cells.shape}.")
    return cells


@dataclass(frozen=True)
class LabelErrors:
    """Labels to doubt, found by confident learning (Northcutt 2021).

    Attributes:
        thresholds: Mean probability of each class over the images labelled so (K,), NaN where there are none.
        joint: Images by label (row) and class that is confidently seen (column), counts (K, K).
        indices: Images whose label is likely wrong (M,), the likeliest first.
        suggested: The class that is confidently seen in each of them (M,).
        margin: Probability of the label minus the highest other, -1 to 0, rising (M,).
    """

    thresholds: Floats
    joint: Ints
    indices: Ints
    suggested: Ints
    margin: Floats


def label_errors(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> LabelErrors:
    """Find labels that are likely wrong, by confident learning (Northcutt 2021).

    A class is confidently seen in an image if its probability reaches the class's threshold; of several, the most
    probable one counts. Images off the diagonal of this confident joint are ranked by their normalised margin; those
    whose label is the predicted class all the same are left out.

    Args:
        probabilities: Class probabilities (N, K) from a model that was not trained on these images.
        labels: Given labels (N,).

    Raises:
        UserError: If shapes disagree or a value is out of range.
    """
    values, given = check_probabilities(probabilities, labels)
    images, classes = values.shape
    own = values[np.arange(images), given]
    counts = np.bincount(given, minlength=classes)
    total = np.bincount(given, weights=own, minlength=classes)
    thresholds = np.divide(total, counts, out=np.full(classes, np.nan), where=counts > 0)
    # A comparison with NaN is false: a class without images is never confidently seen.
    confident = np.where(values >= thresholds - ROUNDING, values, -np.inf)
    seen, sure = confident.argmax(axis=1), confident.max(axis=1) > -np.inf
    joint = np.bincount(given[sure] * classes + seen[sure], minlength=classes * classes).reshape(classes, classes)
    # Where the label is not the predicted class, the highest probability is the highest other one.
    margin = own - values.max(axis=1)
    doubted = np.flatnonzero(sure & (seen != given) & (values.argmax(axis=1) != given))
    ranked = doubted[np.argsort(margin[doubted], kind="stable")]
    return LabelErrors(thresholds, joint.astype(np.int64), ranked, seen[ranked].astype(np.int64), margin[ranked])


@dataclass(frozen=True)
class GroupAccuracy:
    """How a group of classes fares, such as all shoes.

    Attributes:
        images: Images whose true class is in the group.
        accuracy: Share of them with the correct class; None without images.
        group_accuracy: Share of them that are put into the correct group at least; None without images.
        within: Share with the correct class among those put into the correct group; None if there are none.
    """

    images: int
    accuracy: float | None
    group_accuracy: float | None
    within: float | None


def accuracy_by_group(
    matrix: npt.ArrayLike, class_names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, GroupAccuracy]:
    """Split accuracy into finding the correct group and finding the correct class within it.

    Args:
        matrix: Confusion matrix (K, K), true classes in rows.
        class_names: Names of the K classes.
        groups: Classes of each group by name, every class in one of them: such as FASHION_MNIST_GROUPS.

    Returns:
        Figures of each group, then of all images under "all", where an image is in the correct group if its predicted
        class is in the group of its true class.

    Raises:
        UserError: If the matrix has another shape, or the groups do not hold every class once.
    """
    cells = _check_matrix(matrix)
    if len(cells) != len(class_names):
        raise UserError(f"the confusion matrix is of {len(cells)} classes, {len(class_names)} are named.")
    member = Counter(name for names in groups.values() for name in names)
    wrong = [f"{name!r} is in none" for name in class_names if name not in member]
    wrong += [f"{name!r} is no class" for name in member if name not in class_names]
    wrong += [f"{name!r} is in {times}" for name, times in member.items() if times > 1]
    if wrong or "all" in groups:
        detail = ", ".join(wrong) if wrong else "'all' is the name of their sum"
        raise UserError(f"groups must hold each of {', '.join(class_names)} once: {detail}.")
    figures, sums = {}, np.zeros(3, dtype=np.int64)
    for name, names in groups.items():
        inside = [class_names.index(k) for k in names]
        block = cells[np.ix_(inside, inside)]
        counts = np.array([cells[inside].sum(), np.trace(block), block.sum()])
        figures[name], sums = _group(counts), sums + counts
    return {**figures, "all": _group(sums)}


def _group(counts: Ints) -> GroupAccuracy:
    images, correct, inside = counts.tolist()
    return GroupAccuracy(
        images,
        accuracy=correct / images if images else None,
        group_accuracy=inside / images if images else None,
        within=correct / inside if inside else None,
    )
