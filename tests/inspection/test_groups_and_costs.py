"""Files of costs and groups: two ways to write costs, and everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.inspection.groups_and_costs import read_costs, read_groups
from fashion_tl.metrics.errors import FASHION_MNIST_GROUPS

NAMES = ("a", "b", "c")


def write(folder: Path, text: str) -> Path:
    path = folder / "given.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_and_mapping_say_the_same(tmp_path) -> None:
    rows = read_costs(write(tmp_path, "[[0, 2, 1], [1, 0, 1], [5, 1, 0]]"), NAMES)
    mapping = read_costs(write(tmp_path, "default: 1\na: {b: 2}\nc: {a: 5}\n"), NAMES)
    assert np.array_equal(rows, mapping)
    assert np.array_equal(rows, [[0, 2, 1], [1, 0, 1], [5, 1, 0]])


def test_a_diagonal_may_be_given(tmp_path) -> None:
    assert read_costs(write(tmp_path, "default: 1\na: {a: 0.5}"), NAMES)[0, 0] == 0.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[0, 1], [1, 0]]", "shape"),
        ("a: {b: 2}", "no cost is given"),
        ("default: 1\nx: {a: 1}", "unknown class 'x'"),
        ("default: 1\na: {y: 1}", "unknown class 'y'"),
        ("default: 1\na: 3", "mapping"),
        ("default: -1", "0 or more"),
        ("default: many", "numbers"),
        ("[[0, 1, 2], [1, 0]]", "rows"),
        ("a: [", "not YAML"),
        ("", "costs"),
    ],
)
def test_unusable_costs_are_one_clear_error(tmp_path, text, says) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_costs(write(tmp_path, text), NAMES)
    assert "given.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        read_costs(tmp_path / "none.yaml", NAMES)


def test_fashion_mnist_has_its_own_groups_and_others_have_none() -> None:
    names = [name for group in FASHION_MNIST_GROUPS.values() for name in group]
    assert read_groups(None, names) == FASHION_MNIST_GROUPS
    assert read_groups(None, NAMES) is None


def test_groups_are_read_and_checked(tmp_path) -> None:
    assert read_groups(write(tmp_path, "x: [a]\ny: [b, c]"), NAMES) == {"x": ("a",), "y": ("b", "c")}
    for text, says in (
        ("x: [a, b]", "'c' is in none"),
        ("x: a", "list"),
        ("[a]", "map"),
        ("x: [a, b, c, d]", "no class"),
    ):
        with pytest.raises(UserError, match=says):
            read_groups(write(tmp_path, text), NAMES)
