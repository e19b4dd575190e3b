"""Jobs that several processes share: each does one that no other does, until none is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from fashion_tl.runs.refusals import as_user_errors
from fashion_tl.runs.studies import many_runs
from fashion_tl.runs.workers import Channel

WAIT = 0.5  # seconds until a process asks again for jobs that others do
Job = TypeVar("Job")


class Jobs(Protocol[Job]):
    """What a study has to do, as one process knows it."""

    def left(self) -> Iterator[Job]:
        """Yield the jobs that are left and that can be done now, in their order."""

    def claim(self, job: Job) -> AbstractContextManager[bool]:
        """Hold a job, so that no other process does it; says whether this process has it (``files.claimed``)."""

    def is_left(self, job: Job) -> bool:
        """Say whether a job is still left: another process may have done it before this one had it."""

    def do(self, job: Job) -> Any:  # noqa: ANN401 - whatever can be pickled
        """Do a job that this process has; returns the news of it."""

    def hear(self, news: Any) -> None:  # noqa: ANN401
        """Take what another process has done."""

    def wait(self) -> bool:
        """Say whether others do what has to be waited for, where this process could take nothing."""


def work_off(jobs: Jobs[Any], channel: Channel) -> None:
    """Do jobs that no other process does, until none is left.

    Args:
        jobs: The jobs.
        channel: What tells the others what was done.

    Raises:
        UserError: If a job meets a mistake of the user.
    """
    with as_user_errors(), many_runs():
        while _one(jobs, channel):
            pass


def _one(jobs: Jobs[Any], channel: Channel) -> bool:
    """Do the first job that is left and that no other process has; returns False if nothing is left."""
    others = False
    for job in jobs.left():
        with jobs.claim(job) as mine:
            for news in channel.heard():
                jobs.hear(news)
            if mine and jobs.is_left(job):
                channel.tell(jobs.do(job))
                return True
            others = others or not mine
    if not (others or jobs.wait()):
        return False
    time.sleep(WAIT)
    for news in channel.heard():
        jobs.hear(news)
    return True
