"""What the converters of torch and onnxruntime raise, and what they tell their developers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and logs of a converter from the user, who can do nothing about them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
