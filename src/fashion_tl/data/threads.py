"""Work on many files in threads: Pillow decodes, and hashlib hashes, without the interpreter's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_PROGRESS_FROM = 500
_CHUNK = 32  # small files take less time than handing a task to a thread
_AHEAD = 2048

_Result = TypeVar("_Result")


def in_order(task: Callable[[int], _Result], count: int, ahead: int = _AHEAD) -> Iterator[_Result]:
    """Run a task for 0 to count - 1 in threads, and no further ahead of what takes the results than said.

    Args:
        task: What is run; what it raises is raised here.
        count: How often.
        ahead: Results that may wait to be taken, about.

    Yields:
        The results, in order.
    """
    threads = os.cpu_count() or 1
    size = max(1, min(_CHUNK, count // (8 * threads), ahead // (2 * threads)))
    starts = iter(range(0, count, size))

    def run(start: int) -> list[_Result]:
        return [task(index) for index in range(start, min(start + size, count))]

    waiting: deque[Future[list[_Result]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        while True:
            for start in islice(starts, max(1, ahead // size) - len(waiting)):
                waiting.append(pool.submit(run, start))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # perhaps in one of the threads, which cannot wait for itself


def tracked(results: Iterable[_Result], count: int, description: str) -> Iterator[_Result]:
    """Pass results on, with a progress bar where there are many and someone is watching."""
    console = Console(stderr=True)
    hidden = count <= _PROGRESS_FROM or not console.is_terminal
    yield from track(results, description, count, console=console, transient=True, disable=hidden)
