"""Pixels: data URIs, and the budget for test images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashion_tl.records.thumbnails import thumbnails_path, write_thumbnails
from fashion_tl.report import thumbnails
from fashion_tl.report.thumbnails import data_uri, exclusive, gallery, pictures, png_of


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


def test_the_budget_serves_neighbouring_ranks_first(
    compared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros(200, dtype=np.int64)
    write_thumbnails(thumbnails_path(tmp_path, "set"), [np.zeros((200, 4, 4), dtype=np.uint8)], labels)
    positions, shown = gallery(compared.pairs)
    assert [shown[key][:3] for key in ("0-1", "1-0")] == [[0, 1, 2], [8, 9, 10]]
    assert set(pictures([tmp_path], "set", labels, positions)[0]) == set(positions)
    monkeypatch.setattr(thumbnails, "BUDGET", 10 * 16)
    found, why = pictures([tmp_path], "set", labels, positions)
    assert set(found) == set(positions[:10])
    assert why == ""
    assert pictures([tmp_path], "other", labels, positions)[0] == {}
