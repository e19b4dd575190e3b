"""Worker processes that read images, and the signals that reach them and the run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while workers are started or ended.

    Within a fork Ctrl-C would leave locks held, an iterator that is not whole never tells its workers to end, and in a
    destructor Ctrl-C is lost.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread() or None in before.values():
        yield  # handlers that Python cannot set
        return
    came: list[int] = []
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))  # in workers too, until they have begun
    try:
        yield
    finally:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def begin_worker(worker: int) -> None:
    """Leave signals to the process group to the run: it ends its workers itself, by SIGTERM where it must."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()
    if hasattr(signal, "sigtimedwait"):
        signal.sigtimedwait((signal.SIGTERM,), 0)  # one that the group was sent before
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    # What a worker's batches raise reaches the run; a thread that a stopped run has dropped prints a traceback.
    sys.excepthook = lambda *error: None
