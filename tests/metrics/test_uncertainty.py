"""Intervals against naive resampling with scikit-learn, and cases worked out by hand."""

from __future__ import annotations

import statistics
import time
import warnings

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats, Ints, calibration_error, softmax
from fashion_tl.metrics.uncertainty import (
    bootstrap_intervals,
    calibration_interval,
    mean_and_deviation,
    wilson_interval,
)

EXACT = 1e-9
KEYS = ["loss", "balanced_accuracy", "macro_precision", "macro_f1"]
BINS = 15


def predictions(images: int, classes: int, seed: int = 0, right: float = 0.7) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((images, classes))
    return logits, np.where(rng.random(images) < right, logits.argmax(1), rng.integers(0, classes, images))


def test_wilson_by_hand_and_at_the_ends() -> None:
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 10) == pytest.approx((0, z2 / (10 + z2)), abs=EXACT)
    assert wilson_interval(10, 10) == pytest.approx((10 / (10 + z2), 1), abs=EXACT)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    for hits, count in ((0, 7), (3, 7), (7, 7), (1, 10**9)):
        low, high = wilson_interval(hits, count)
        assert 0 <= low <= hits / count <= high <= 1


@pytest.mark.parametrize(("hits", "count", "level"), [(0, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1), (1, 2, 95)])
def test_wilson_refuses_what_is_no_proportion(hits: int, count: int, level: float) -> None:
    with pytest.raises(UserError):
        wilson_interval(hits, count, level)


def naive_bootstrap(logits: Floats, labels: Ints, resamples: int, seed: int, level: float) -> dict[str, list[float]]:
    """Resample images, append pseudo-images one by one, and compute each figure again with scikit-learn."""
    import sklearn.metrics as sklearn

    rng, (images, classes) = np.random.default_rng(seed), logits.shape
    answers = softmax(logits).argmax(1)
    occurs, there = np.unique(labels), np.union1d(labels, answers)
    there = np.arange(classes) if len(there) == 1 else there

    # Draws of the pseudo-images: how many in each resample, their classes, whether wrong, and by how many places.
    draws = np.random.default_rng([seed, 1])
    counts = draws.poisson(4, resamples)
    classes_of = draws.choice(occurs, counts.sum())
    wrong = draws.integers(0, 2, counts.sum())
    places = draws.integers(1, len(there), counts.sum())
    pseudo = []
    for truth, is_wrong, by in zip(classes_of, wrong, places, strict=True):
        others = [*there[there > truth], *there[there < truth]]
        pseudo.append((truth, others[by - 1] if is_wrong else truth))

    def figures(truth: Ints, predicted: Ints) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resample may hold a single class
            found = np.union1d(truth, predicted)
            macro = sklearn.precision_recall_fscore_support(
                truth, predicted, labels=found, average="macro", zero_division=0
            )[:3]
            recall = sklearn.recall_score(truth, predicted, labels=np.unique(truth), average="macro")
        return [recall, macro[0], macro[2]]

    rows = []
    for count in counts:
        drawn = rng.integers(0, images, images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = sklearn.log_loss(labels[drawn], softmax(logits[drawn]), labels=range(classes))
        added, pseudo = np.array(pseudo[:count], dtype=np.int64).reshape(-1, 2), pseudo[count:]
        rows.append([loss, *figures(np.r_[labels[drawn], added[:, 0]], np.r_[answers[drawn], added[:, 1]])])
    bounds = np.percentile(rows, [50 - 50 * level, 50 + 50 * level], axis=0).T
    for bound, itself in zip(bounds[1:], figures(labels, answers), strict=True):
        bound[:] = min(bound[0], itself), max(bound[1], itself)
    return dict(zip(KEYS, bounds.tolist(), strict=True))


@pytest.mark.parametrize("each", [1, 2, 5])
def test_the_interval_of_a_perfect_classifier_of_many_classes_ends_at_1_and_is_as_wide_as_its_accuracys(
    each: int,
) -> None:
    labels = np.repeat(np.arange(40), each)
    intervals = bootstrap_intervals(50.0 * np.eye(40)[labels], labels, resamples=300)
    wilson = 1 - wilson_interval(40 * each, 40 * each)[0]
    for name in KEYS[1:]:
        low, high = intervals[name]
        assert high == 1
        assert wilson < 1 - low < 2.5 * wilson


def test_images_of_one_loss_give_no_interval_of_it() -> None:
    assert list(bootstrap_intervals([[3.0, 0.0]], [0])) == KEYS[1:]
    assert list(bootstrap_intervals([[3.0, 0.0], [0.0, 3.0]], [0, 1])) == KEYS[1:]
    assert list(bootstrap_intervals([[3.0, 0.0], [0.0, 3.0]], [0, 0])) == KEYS


@pytest.mark.slow
@pytest.mark.thorough(keep=2)
@pytest.mark.parametrize(
    ("each", "classes", "absent", "right"),
    [(50, 2, 0, 0.99), (250, 2, 0, 0.99), (20, 10, 0, 0.98), (100, 10, 0, 0.94), (50, 5, 3, 0.98)],
    ids=["1 mistake", "5 mistakes", "4 in 10 classes", "60 in 10 classes", "absent classes"],
)
def test_few_mistakes_leave_intervals_that_cover(each: int, classes: int, absent: int, right: float) -> None:
    """Mistakes are spread evenly, so that all three figures of the population equal the accuracy."""
    rng, trials = np.random.default_rng(1), 100
    hits = dict.fromkeys(KEYS[1:], 0)
    labels = np.repeat(np.arange(classes), each)
    for _ in range(trials):
        wrong = rng.random(len(labels)) > right
        answers = (labels + wrong * rng.integers(1, classes, len(labels))) % classes
        found = bootstrap_intervals(4.0 * np.eye(classes + absent)[answers], labels, resamples=200)
        for name in hits:
            hits[name] += found[name][0] <= right <= found[name][1]
    assert all(0.89 <= hit / trials <= 0.995 for hit in hits.values()), hits


@pytest.mark.parametrize(
    ("images", "classes", "right"),
    [(400, 7, 0.7), (12, 5, 0.5), (60, 2, 1.0), (60, 3, 0.0), (1, 3, 0.5)],
    ids=["usual", "classes left out", "all right", "chance", "one image"],
)
@pytest.mark.parametrize(("seed", "level"), [(0, 0.95), (5, 0.5)])
def test_bootstrap_against_naive_resampling(images: int, classes: int, right: float, seed: int, level: float) -> None:
    logits, labels = predictions(images, classes, right=right)
    ours = bootstrap_intervals(logits, labels, resamples=40, seed=seed, level=level)
    naive = naive_bootstrap(logits, labels, 40, seed, level)
    assert list(ours) == (KEYS if images > 1 else KEYS[1:])
    for name, bounds in ours.items():
        assert bounds == pytest.approx(naive[name], abs=EXACT), name
        assert all(type(bound) is float for bound in bounds)


def test_bootstrap_of_a_class_that_is_never_predicted_and_of_certainty() -> None:
    logits = np.array([[50.0, 0, 0], [50.0, 0, 0], [0, 50.0, 0], [0, 50.0, 0]])
    labels = np.array([0, 2, 1, 1])
    assert softmax(logits).max() == 1
    naive = naive_bootstrap(logits, labels, 60, 0, 0.9)
    ours = bootstrap_intervals(logits, labels, resamples=60, seed=0, level=0.9)
    for name in KEYS[1:]:
        assert ours[name] == pytest.approx(naive[name], abs=EXACT)
    # scikit-learn clips a probability of 0; the cross-entropy of logits need not: 50 nats a draw of image 1.
    rng = np.random.default_rng(0)
    losses = [50 * (rng.integers(0, 4, 4) == 1).mean() for _ in range(60)]
    assert ours["loss"] == pytest.approx(np.percentile(losses, [5, 95]).tolist(), abs=EXACT)


def test_bootstrap_repeats_and_covers_its_figure() -> None:
    logits, labels = predictions(2000, 10)
    first = bootstrap_intervals(logits, labels, 200)
    assert first == bootstrap_intervals(logits.tolist(), labels.tolist(), 200)
    assert first != bootstrap_intervals(logits, labels, 200, seed=1)
    low, high = first["balanced_accuracy"]
    assert low < 0.73 < high
    wide = bootstrap_intervals(logits, labels, 200, level=0.99)["balanced_accuracy"]
    assert wide[0] < low < high < wide[1]


@pytest.mark.parametrize(("images", "classes", "limit"), [(10_000, 10, 0.4), (5_000, 100, 2.0)])
def test_bootstrap_is_quick(images: int, classes: int, limit: float) -> None:
    logits, labels = predictions(images, classes)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        bootstrap_intervals(logits, labels)
        seconds.append(time.process_time() - start)
    assert min(seconds) < limit


@pytest.mark.parametrize(
    ("logits", "labels", "options", "part"),
    [
        ([[0.0, 1.0], [np.nan, 0.0]], [0, 1], {}, "1 of 2 images are not finite"),
        ([[0.0, 1.0]], [2], {}, "0 to 1"),
        ([[0.0, 1.0]], [-1], {}, "0 to 1"),
        ([[0.0, 1.0]], [0.5], {}, "whole numbers"),
        ([[0.0, 1.0]], [0, 1], {}, "do not go together"),
        ([0.0, 1.0], [0, 1], {}, "do not go together"),
        (np.empty((0, 3)), [], {}, "do not go together"),
        ([[0.0, 1.0]], [0], {"resamples": 0}, "0 resamples"),
        ([[0.0, 1.0]], [0], {"level": 95}, "level is 95"),
    ],
)
def test_bootstrap_refuses_what_it_cannot_use(logits, labels, options, part) -> None:
    with pytest.raises(UserError, match=part):
        bootstrap_intervals(logits, labels, **options)


def population(shape: str, error: float, size: int = 200_000) -> tuple[Floats, Floats]:
    """Make confidences and the chances of being right, whose calibration error over 15 bins is ``error``.

    ``shape`` says where confidence and accuracy part: "everywhere", where the model is unsure ("temperature"), with a
    sign that changes from bin to bin ("alternating"), or in the fullest bin alone ("last").
    """
    rng = np.random.default_rng(1)
    confidence = np.clip(1 - 0.9 * rng.beta(0.35, 3, size), 0.34, 1 - 1e-9)
    index = np.minimum((np.ceil(confidence * BINS) - 1).astype(int), BINS - 1)
    pattern = {
        "everywhere": np.ones(size),
        "temperature": confidence * (1 - confidence),
        "alternating": np.where(index % 2 == 0, 1, -1) * (1 - confidence),
        "last": (index == BINS - 1).astype(float),
    }[shape]

    def chances(strength: float) -> tuple[Floats, float]:
        right = np.clip(confidence - strength * pattern, 0, 1)
        return right, np.abs(np.bincount(index, weights=confidence - right)).sum() / size

    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if chances(middle)[1] < error else (low, middle)
    right, reached = chances(low)
    assert reached == pytest.approx(error, abs=1e-6)
    return confidence, right


@pytest.mark.slow
@pytest.mark.parametrize("images", [500, 2000, 10_000])
@pytest.mark.thorough(keep=1)
def test_calibration_interval_covers_the_true_error(images: int) -> None:
    shapes = ("everywhere", "temperature", "alternating", "last")
    for place, error in enumerate((0, 0.005, 0.01, 0.02)):
        covered, widths = [], []
        for number, shape in enumerate(shapes):
            confidence, chance = population(shape, error)
            rng = np.random.default_rng([images, place, number])
            for _ in range(50):
                drawn = rng.integers(0, len(confidence), images)
                top, right = confidence[drawn], rng.random(images) < chance[drawn]
                probabilities = np.stack([top, (1 - top) / 2, (1 - top) / 2], axis=1)
                low, high = calibration_interval(probabilities, np.where(right, 0, 1), draws=1000)
                covered.append(low <= error <= high)
                widths.append(high - low)
        assert np.mean(covered) >= 0.93, error
        assert np.mean(widths) < error + 1.2 / np.sqrt(images), error


@pytest.mark.parametrize(("hits", "level"), [(90, 0.95), (88, 0.95), (85, 0.8), (60, 0.95), (100, 0.9), (0, 0.95)])
def test_calibration_interval_of_one_bin_by_hand(hits: int, level: float) -> None:
    from scipy import optimize, stats

    labels = np.array([0] * hits + [1] * (100 - hits))
    share, tail = (hits + 2) / 104, (1 - level) / 2
    sigma, gap = np.sqrt(share * (1 - share) / 100), abs(hits / 100 - 0.9)
    low = gap - sigma * (stats.norm.isf(tail) if gap > 3 * sigma else stats.norm.isf(tail / 2))
    seen = max(gap / sigma, stats.norm.ppf(0.75))
    high = sigma * optimize.brentq(lambda c: stats.norm.cdf(seen - c) - stats.norm.cdf(-seen - c) - tail, 0, seen + 9)
    ours = calibration_interval([[0.9, 0.1]] * 100, labels, level, bins=1, draws=200_000)
    assert ours == pytest.approx((max(0, low), min(1, high)), abs=0.02 * sigma)


def test_calibration_interval_repeats_holds_its_figure_and_widens() -> None:
    logits, labels = predictions(2000, 10)
    probabilities = softmax(logits)
    low, high = calibration_interval(probabilities, labels)
    assert (low, high) == calibration_interval(probabilities.tolist(), labels.tolist())
    assert (low, high) == pytest.approx(calibration_interval(probabilities[::-1], labels[::-1]), abs=EXACT)
    assert (low, high) != calibration_interval(probabilities, labels, seed=1)
    assert type(low) is float
    assert type(high) is float
    assert 0 < low < calibration_error(probabilities, labels) < high < 1
    wide = calibration_interval(probabilities, labels, level=0.99)
    assert wide[0] < low < high < wide[1]


@pytest.mark.parametrize("images", [1, 2, 30, 1000])
@pytest.mark.parametrize("right", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sure", [0.5, 0.97, 1.0])
def test_calibration_interval_at_the_ends(images: int, right: float, sure: float) -> None:
    probabilities = np.array([[sure, 1 - sure]] * images)
    labels = np.where(np.arange(images) < right * images, 0, 1)
    low, high = calibration_interval(probabilities, labels)
    assert 0 <= low <= calibration_error(probabilities, labels) <= high <= 1
    # Certain and never wrong: 3 / images is the rule of three (Hanley 1983).
    if sure == right == 1:
        assert low == 0
        assert high < 6 / images
        assert high > 3 / images or images < 30


def test_calibration_interval_is_not_narrowed_by_luck() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    exact, usual = ([[c, 1 - c]] * 100 for c in (0.9, 0.9 + 0.02))
    bounds = [calibration_interval(probabilities, labels, bins=1) for probabilities in (exact, usual)]
    assert bounds[0][0] == bounds[1][0] == 0
    assert bounds[0][1] == pytest.approx(bounds[1][1], rel=0.05)


@pytest.mark.parametrize(
    ("probabilities", "labels", "options", "part"),
    [
        ([[0.5, np.nan]], [0], {}, "not finite"),
        ([[0.5, 1.5]], [0], {}, "allowed is 0 to 1"),
        ([[0.5, 0.5]], [2], {}, "0 to 1"),
        ([[0.5, 0.5]], [0, 1], {}, "do not go together"),
        ([[0.5, 0.5]], [0], {"level": 1}, "level is 1"),
        ([[0.5, 0.5]], [0], {"bins": 0}, "0 bins"),
        ([[0.5, 0.5]], [0], {"draws": 0}, "0 draws"),
    ],
)
def test_calibration_interval_refuses_what_it_cannot_use(probabilities, labels, options, part) -> None:
    with pytest.raises(UserError, match=part):
        calibration_interval(probabilities, labels, **options)


def test_mean_and_deviation() -> None:
    values = [0.9364, 0.9371, 0.9352]
    mean, deviation = mean_and_deviation(values)
    assert (mean, deviation) == pytest.approx((statistics.mean(values), statistics.stdev(values)), abs=EXACT)
    assert mean_and_deviation(iter([0.5])) == (0.5, None)
    assert mean_and_deviation([0.5, 0.5]) == (0.5, 0.0)
    for broken in ([], [1.0, np.nan]):
        with pytest.raises(UserError):
            mean_and_deviation(broken)
