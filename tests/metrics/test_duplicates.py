"""Duplicates against brute force and NumPy's correlation coefficient."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.metrics.duplicates import aligned_correlation, exact_groups, nearest, unit_rows


def images(count: int, seed: int = 0, size: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).random((count, size, size), dtype=np.float32)


def test_equal_keys_are_grouped_in_order() -> None:
    assert exact_groups([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]
    assert exact_groups([]) == []


def test_products_of_unit_rows_are_correlations() -> None:
    values = images(6)
    rows = unit_rows(values)
    assert rows @ rows.T == pytest.approx(np.corrcoef(values.reshape(6, -1)), abs=1e-5)
    cosines = unit_rows(values, centred=False)
    assert np.linalg.norm(cosines, axis=1) == pytest.approx(np.ones(6), abs=1e-6)
    assert not unit_rows(np.full((1, 4, 4), 0.3, np.float32)).any()


@pytest.mark.parametrize("count", [1, 4, 99])
def test_nearest_are_those_of_a_full_sort(count: int) -> None:
    queries, references = unit_rows(images(300, 1)), unit_rows(images(50, 2))  # more queries than a block has
    expected = np.argsort(-(queries @ references.T), axis=1)[:, :count]
    assert np.array_equal(nearest(queries, references, count), expected)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_aligned_correlation_is_the_best_of_all_shifts(shift: int) -> None:
    one, two = images(5, 3), images(5, 4)
    expected = []
    for a, b in zip(one.astype(np.float64), two.astype(np.float64), strict=True):
        found = []
        for down in range(-shift, shift + 1):
            for right in range(-shift, shift + 1):
                moved = np.roll(b, (down, right), axis=(0, 1))
                inside = np.zeros_like(a, dtype=bool)
                rows, columns = (slice(max(0, by), 9 + min(0, by)) for by in (down, right))
                inside[rows, columns] = True
                found.append(np.corrcoef(a[inside], moved[inside])[0, 1])
        expected.append(max(found))
    assert aligned_correlation(one, two, shift) == pytest.approx(expected, abs=1e-5)


def test_brightness_contrast_and_shift_change_nothing() -> None:
    large = images(3, 5, size=12)
    one, two = large[:, 1:-1, 1:-1], (0.5 * large[:, 2:, :-2] + 0.2).astype(np.float32)
    assert aligned_correlation(one, two, 1) == pytest.approx(np.ones(3), abs=1e-6)
    assert (aligned_correlation(one, two, 0) < 0.9).all()


def test_an_image_without_contrast_is_like_no_other() -> None:
    flat = np.full((1, 9, 9), 0.7, np.float32)
    assert aligned_correlation(flat, flat, 1).tolist() == [0.0]


def test_no_neighbours() -> None:
    for count, references in ((0, 3), (1, 0)):
        with pytest.raises(UserError, match="both must be at least 1"):
            nearest(unit_rows(images(2)), unit_rows(images(references)), count)


def test_pairs_are_gathered_from_images_by_their_indices() -> None:
    rng = np.random.default_rng(0)
    one, two = (rng.random((count, 6, 6), dtype=np.float32) for count in (5, 4))
    query, reference = np.array([4, 0, 0]), np.array([1, 3, 0])
    expected = aligned_correlation(one[query], two[reference], 1)
    assert aligned_correlation(one, two, 1, query, reference).tolist() == expected.tolist()
