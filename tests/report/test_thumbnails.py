"""Pixels: data URIs, and the budget for test images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashion_tl.report import thumbnails
from fashion_tl.report.thumbnails import Thumbnails, data_uri, exclusive, gallery, png_of


def test_a_data_uri_holds_the_pixels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    uri = data_uri(png_of(pixels))
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as image:
        assert np.array_equal(np.asarray(image), pixels)


@pytest.fixture
def compared(make: Any, report: Callable[..., Any]) -> Any:
    for draw, skill in enumerate((2.0, 1.0, 0.5)):
        make.run("abc"[draw], draw=draw, skill=skill, images=200)
    return report().sections[0]


def truth_of(entry: Any) -> list[float]:
    """Compute the probability of the true class of each image, one by one."""
    import scipy.special as scipy

    predictions = entry.run.predictions
    rows = zip(predictions.logits.astype(float), predictions.labels, strict=True)
    return [float(scipy.softmax(row)[label]) for row, label in rows]


def test_exclusive_images_differ_most(compared: Any) -> None:
    a, b = compared.entries[:2]
    places = exclusive(a, b)
    only = np.flatnonzero(a.figures.correct & ~b.figures.correct)
    gaps = {int(p): truth_of(a)[p] - truth_of(b)[p] for p in only}
    assert len(gaps) > 8
    assert places.tolist() == sorted(gaps, key=lambda p: -gaps[p])[:8]


def test_the_budget_serves_neighbouring_ranks_first(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((200, 4, 4), dtype=np.uint8)
    positions, shown, made = gallery(compared.pairs, Thumbnails(images))
    assert set(made) == set(positions)
    monkeypatch.setattr(thumbnails, "BUDGET", 10 * 16)
    fewer_positions, same, fewer = gallery(compared.pairs, Thumbnails(images))
    assert (fewer_positions, same) == (positions, shown)
    assert list(fewer) == positions[:10]
    assert gallery(compared.pairs, Thumbnails(None))[2] == {}
