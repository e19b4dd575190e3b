"""Text as it was written: names of classes and runs may hold anything; nested settings as text by dotted names."""

from __future__ import annotations

import json
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def clean(text: object) -> str:
    """Return text that XML, a font and a terminal can hold: control characters and lone surrogates are replaced.

    Example:
        >>> clean("a" + chr(0) + "b" + chr(10) + "c")
        'a\ufffdb c'
    """
    kept = (c if unicodedata.category(c) not in ("Cc", "Cs") else " " if c in "\t\n" else "\ufffd" for c in str(text))
    return "".join(kept)


def flatten(value: Any, prefix: str = "") -> dict[str, str]:  # noqa: ANN401 - any YAML value
    """Turn nested keys into dotted ones and their values into text.

    Example:
        >>> flatten({"data": {"size": 64, "folder": None, "augment": {}}})
        {'data.size': '64', 'data.folder': 'null', 'data.augment': '{}'}
    """
    if isinstance(value, dict) and value:
        inner = (flatten(item, f"{prefix}.{clean(key)}" if prefix else clean(key)) for key, item in value.items())
        return {key: text for part in inner for key, text in part.items()}
    return {prefix: clean(value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False))}


def with_article(noun: str) -> str:
    """Put the indefinite article before a word that is spoken as it is spelt.

    >>> with_article("study"), with_article("ablation")
    ('a study', 'an ablation')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def duration(seconds: float) -> str:
    """Write a time in words.

    >>> duration(42), duration(600), duration(8000)
    ('42 s', '10 min', '2.2 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
