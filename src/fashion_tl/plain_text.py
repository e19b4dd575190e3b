"""Text in pictures as it was written: names of classes and runs may hold anything."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw with matplotlib so that ``$`` begins no formula, and a letter that the font lacks brings no warning.

    A figure has to be made and drawn inside: matplotlib makes some of its texts late.
    """
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield
