"""One bar over the trials of a study on a terminal, and a line for each trial everywhere."""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from fashion_tl.plain_text import duration
from fashion_tl.tuning.plan import Tuning
from fashion_tl.tuning.space import brief
from fashion_tl.tuning.worker import News


class Progress:
    """Counts the trials of a study and prints a line for each, with the best so far and the time that is left.

    Args:
        tuning: The study.
        finished: Trials that are finished before it begins.
        processes: Processes that share the trials.
    """

    def __init__(self, tuning: Tuning, finished: int, processes: int = 1) -> None:
        self.tuning, self.finished, self.processes = tuning, finished, processes
        self._seconds: list[float] = []
        self._best: tuple[float, int] | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        """Show the bar, where there is a terminal."""
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            # A trial runs with another stdout, into which the bar is not to go.
            console = Console(file=sys.stdout)
            self._bar = Bar(console=console, redirect_stdout=False, redirect_stderr=False)
            self._task = self._bar.add_task(self.tuning.name, total=self.tuning.trials, completed=self.finished)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def add(self, news: News) -> None:
        """Count a trial and print its line."""
        self.finished = max(self.finished, news.finished)
        self._seconds.append(news.seconds)
        count = self.tuning.trials
        more = [f"{news.seconds:.1f} s"]
        if news.best is not None:
            more.append(f"best {news.best[0]:.4f} of trial {news.best[1]}")
        if left := self.seconds_left():
            more.append(f"about {duration(left)} left")
        place = f"[{self.finished:{len(str(count))}}/{count}]"
        self._best = news.best or self._best
        self._say(f"{place} trial {news.place} {brief(news.settings)}: {news.outcome} ({', '.join(more)})")

    def seconds_left(self) -> float:
        """Return what the trials that are left are expected to take, by the median of those before.

        The first one may be much slower: it computes cached features.
        """
        left = max(0, self.tuning.trials - self.finished)
        return left * median(self._seconds) / self.processes

    def _say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
            return
        best = f", best {self._best[0]:.4f}" if self._best is not None else ""
        self._bar.update(self._task, completed=self.finished, description=f"{self.tuning.name}{best}")
        self._bar.console.print(text, markup=False, highlight=False)
