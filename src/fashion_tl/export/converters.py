"""What the converters of torch and onnxruntime raise, and what they tell their developers."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a converter logs and prints from the user, who can do nothing about them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # torch prints the graph that it cannot trace.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
