"""Differences over seeds and images, against the formulas written out and against simulated chance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fashion_tl.errors import UserError
from fashion_tl.metrics.repeated import mean_interval, paired_differences
from fashion_tl.metrics.significance import holm, mcnemar


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.71, 0.74, 0.69]
    expected = stats.t.interval(0.9, 2, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values, 0.9) == pytest.approx(expected, abs=1e-12)
    assert mean_interval([0.7]) is None
    assert mean_interval([0.1] * 3) is None  # equal values, though their computed deviation is 1e-17
    with pytest.raises(UserError):
        mean_interval([])


def draw(rng: np.random.Generator, rates: np.ndarray, images: int) -> list[np.ndarray]:
    """Draw correct answers (S, N) of each classifier, which share how hard an image is."""
    hard = rng.random(images)
    return [hard * 0.6 + rng.random((rates.shape[1], images)) * 0.4 < rates[k][:, None] for k in range(len(rates))]


def test_a_difference_has_the_variance_of_seeds_and_of_images() -> None:
    rng = np.random.default_rng(3)
    correct = draw(rng, np.array([[0.8, 0.82, 0.79], [0.7, 0.75, 0.72], [0.6, 0.5, 0.55]]), 400)
    ((pair, other),) = [paired_differences(correct, [(0, 1), (2, 0)])]
    accuracy = np.array([each.mean(axis=1) for each in correct])
    centred = accuracy - accuracy.mean(1, keepdims=True) - accuracy.mean(0, keepdims=True) + accuracy.mean()
    pooled = (centred**2).sum() / 4
    for found, a, b in ((pair, 0, 1), (other, 2, 0)):
        of_seeds = max(np.var(accuracy[a] - accuracy[b], ddof=1), 2 * pooled) / 3
        images = (correct[a].astype(float) - correct[b]).mean(axis=0)
        of_images = images.var(ddof=1) / 400
        error = np.sqrt(of_seeds + of_images)
        df = error**4 / (of_seeds**2 / 4 + of_images**2 / 399)
        assert found.value == pytest.approx(accuracy[a].mean() - accuracy[b].mean(), abs=1e-12)
        assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value) / error, df), rel=1e-9)
        more = np.concatenate([images, [1, -1]])
        of_images = more.var() / 402
        error = np.sqrt(of_seeds + of_images)
        df = error**4 / (of_seeds**2 / 4 + of_images**2 / 401)
        low, high = stats.t.interval(0.95, df, loc=more.mean(), scale=error)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_one_seed_is_mcnemars_test() -> None:
    correct = draw(np.random.default_rng(0), np.array([[0.8], [0.7]]), 300)
    (found,) = paired_differences(correct, [(0, 1)])
    assert found.p == mcnemar(correct[0][0], correct[1][0]).p


@pytest.mark.parametrize("images", [1, 2, 5])
def test_one_seed_is_mcnemars_test_where_all_images_differ_alike(images: int) -> None:
    (found,) = paired_differences([np.ones((1, images), bool), np.zeros((1, images), bool)], [(0, 1)])
    assert found.p == pytest.approx(min(1.0, 2 * 0.5**images))


def bonett_price(both: int, first: int, second: int, neither: int, level: float) -> tuple[float, float]:
    """Compute the interval of Bonett and Price (2012) as they write it, of a 2 x 2 table, with Student's quantile."""
    count = both + first + second + neither
    p12, p21 = (first + 1) / (count + 2), (second + 1) / (count + 2)
    half = stats.t.ppf((1 + level) / 2, count + 1) * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (count + 2))
    return p12 - p21 - half, p12 - p21 + half


def table(both: int, first: int, second: int, neither: int) -> list[np.ndarray]:
    counts = (both, first, second, neither)
    return [np.repeat(row, counts)[None] for row in ([1, 1, 0, 0], [1, 0, 1, 0])]


@pytest.mark.parametrize("counts", [(80, 0, 0, 20), (90, 5, 2, 3), (100, 0, 3, 0), (0, 0, 0, 1), (10, 40, 20, 30)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_one_seed_is_that_of_the_literature(counts: tuple[int, int, int, int], level: float) -> None:
    (found,) = paired_differences(table(*counts), [(0, 1)], level)
    low, high = bonett_price(*counts, level)
    assert (found.low, found.high) == pytest.approx((max(-1, low), min(1, high)), abs=1e-12)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("seeds", [1, 3])
def test_images_that_all_agree_leave_an_interval_that_allows_for_others(seeds: int) -> None:
    same = np.tile(np.arange(100) < 80, (seeds, 1))
    (found,) = paired_differences([same, same], [(0, 1)])
    assert (found.value, found.p) == (0, 1)
    assert found.high == -found.low
    # A share of 0.037 of the images would be seen on none of 100 with a chance of 0.025.
    assert 0.02 < found.high < 0.037


def test_images_that_all_differ_leave_an_interval_that_ends_at_1() -> None:
    ones = np.ones((2, 50))
    (found,) = paired_differences([ones, 0 * ones], [(0, 1)])
    assert (found.value, found.high, found.p) == (1, 1, 0)
    assert 0.8 < found.low < 0.99


@pytest.mark.parametrize("images", [50, 1000])
@pytest.mark.parametrize("expected", [0.3, 2, 10])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_interval_covers_where_few_images_differ(images: int, expected: float, share: float) -> None:
    """Each image of a simulation differs with a chance; of those that differ a share are right in the first."""
    rng, chance = np.random.default_rng(5), expected / images
    truth, covered = chance * (2 * share - 1), 0
    drawn = rng.multinomial(images, [chance * share, chance * (1 - share), 1 - chance], 4000)
    tables, times = np.unique(drawn, axis=0, return_counts=True)
    for (first, second, rest), count in zip(tables.tolist(), times.tolist(), strict=True):
        (found,) = paired_differences(table(rest, first, second, 0), [(0, 1)])
        covered += count * (found.low <= truth <= found.high)
    assert covered >= 4000 * 0.93


@pytest.mark.parametrize("deviations", [[0.01] * 6, [0.03] + [0.006] * 5])
def test_false_alarms_stay_rare(deviations: list[float]) -> None:
    rng = np.random.default_rng(1)
    alarms, pairs = 0, [(a, b) for b in range(6) for a in range(b)]
    for _ in range(200):
        rates = 0.7 + rng.normal(0, 0.03, 3) + rng.normal(size=(6, 3)) * np.array(deviations)[:, None]
        found = paired_differences(draw(rng, rates, 500), pairs)
        alarms += min(holm(each.p for each in found)) < 0.05
    assert alarms <= 20  # 10 %: 5 % and three deviations of 200 simulations


@pytest.mark.parametrize("shapes", [((2, 3),), ((2, 3), (2, 4)), ((3,), (3,))])
def test_shapes_that_are_not_paired(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(UserError, match="one shape"):
        paired_differences([np.ones(shape) for shape in shapes], [(0, 1)])
