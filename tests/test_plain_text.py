"""Names of classes and runs in pictures: as they were written, whatever they hold."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fashion_tl.callbacks.tensorboard import confusion_picture
from fashion_tl.inspection.diagnose_plots import Captioned, image_grid, pair_rows
from fashion_tl.inspection.panel_grid import Sheet
from fashion_tl.plain_text import clean, plain_text

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
    image = np.zeros((4, 4), dtype=np.uint8)
    captioned = [Captioned(image, name) for name in NAMES]
    assert image_grid(captioned).startswith(b"\x89PNG")
    assert pair_rows([(name, captioned) for name in NAMES], len(NAMES)).startswith(b"\x89PNG")
    sheet = Sheet(5, 2, NAMES[0], NAMES[3])
    for row, name in enumerate(NAMES):
        sheet.text(0.1, 0.2 * row, name, 4)
    assert Image.open(io.BytesIO(sheet.png())).size[0] == 600
    assert confusion_picture(np.eye(len(NAMES), dtype=int), NAMES).shape[2] == 3


def test_clean():
    assert clean("a\tb\nc\x00\x1b\ud800é😀") == "a b c\ufffd\ufffd\ufffdé😀"
