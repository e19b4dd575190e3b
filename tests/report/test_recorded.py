"""No figure of the committed records changes unless a definition does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .recorded import FIGURES, RECORDS, every_figure

EXACT = 1e-9


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Turn nested values into numbers and texts by their path."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = (flat(item, f"{where}/{key}") for key, item in items)
        return {f"{where} holds": float(len(value))} | {k: v for part in inner for k, v in part.items()}
    try:
        return {where: float(value)}
    except (TypeError, ValueError):
        return {where: value}


def test_every_figure_is_what_it_was() -> None:
    expected = flat(json.loads(FIGURES.read_text(encoding="utf-8")))
    found = flat(every_figure(RECORDS))
    assert found.keys() == expected.keys()
    other = {key: (found[key], value) for key, value in expected.items() if not _same(found[key], value)}
    assert not other


def _same(found: Any, expected: Any) -> bool:
    return bool(found == (pytest.approx(expected, rel=EXACT, abs=EXACT) if isinstance(expected, float) else expected))
