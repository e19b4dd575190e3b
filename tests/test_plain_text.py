"""Names of classes and runs in pictures: as they were written, whatever they hold."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fashion_tl.callbacks.tensorboard import confusion_picture
from fashion_tl.plain_text import clean, plain_text
from fashion_tl.plots.tiles import Tile, draw_tiles

# A broken formula, a formula, two lone dollars, letters that DejaVu lacks.
NAMES = ["$\\frac{$", "$x^2$", "5$ to 10$", "\u55b5\u732b", r"back\slash \$5"]


def drawn(names: list[str]) -> bytes:
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    axes.set_xticks(range(len(names)), names)
    axes.set_title(names[0])
    axes.plot(range(len(names)), range(len(names)), label=names[0])
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def test_text_is_drawn_as_written():
    with pytest.raises(ValueError, match="Expected"):
        drawn(NAMES[:1])
    with plain_text():
        text = drawn(NAMES).decode()
    for name in NAMES:
        assert f"<!-- {name} -->" in text


def test_the_settings_are_those_of_before_afterwards():
    import matplotlib as mpl

    filters = list(warnings.filters)
    with plain_text():
        assert not mpl.rcParams["text.parse_math"]
    assert mpl.rcParams["text.parse_math"]
    assert warnings.filters == filters


def test_every_picture_takes_such_names():
    rows = [[Tile(np.zeros((4, 4)), name, name) for name in NAMES]] * len(NAMES)
    png = draw_tiles(rows, NAMES, NAMES[0], NAMES[3])
    assert min(Image.open(io.BytesIO(png)).size) > 600
    assert confusion_picture(np.eye(len(NAMES), dtype=int), NAMES).shape[2] == 3


def test_clean():
    assert clean("a\tb\nc\x00\x1b\ud800é😀") == "a b c\ufffd\ufffd\ufffdé😀"
