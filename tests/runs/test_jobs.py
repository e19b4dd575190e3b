"""Jobs that several processes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.files import claimed
from fashion_tl.runs import jobs
from fashion_tl.runs.jobs import work_off


class Letters:
    """Jobs that are letters; each depends on the ones before a comma."""

    def __init__(self, folder: Path, letters: str) -> None:
        self.folder, self.letters = folder, letters
        self.done: list[str] = []
        self.known: set[str] = set()
        self.waits: list[bool] = []

    def left(self) -> Iterator[str]:
        return (letter for letter in self.letters if letter not in self.known)

    def claim(self, job: str) -> AbstractContextManager[bool]:
        return claimed(self.folder / f"{job}.claim")

    def is_left(self, job: str) -> bool:
        return job not in self.known

    def do(self, job: str) -> str:
        self.known.add(job)
        self.done.append(job)
        return job

    def hear(self, news: str) -> None:
        self.known.add(news)

    def wait(self) -> bool:
        return self.waits.pop() if self.waits else False


class Channel:
    """A channel whose news are given beforehand: those of each time it is asked."""

    def __init__(self, *news: list[str]) -> None:
        self.news, self.told = list(news), list[str]()

    def tell(self, news: Any) -> None:
        self.told.append(news)

    def heard(self) -> list[str]:
        return self.news.pop(0) if self.news else []


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WAIT", 0)


def test_all_are_done_in_their_order_and_told(tmp_path: Path) -> None:
    letters, channel = Letters(tmp_path, "abc"), Channel()
    work_off(letters, channel)
    assert letters.done == channel.told == ["a", "b", "c"]
    assert list(tmp_path.iterdir()) == []


def test_what_another_has_is_left_to_it_and_done_when_it_is_dead(tmp_path: Path) -> None:
    letters, channel = Letters(tmp_path, "abc"), Channel()
    other = claimed(tmp_path / "a.claim")
    assert other.__enter__()
    do = letters.do

    def last_one_frees(job: str) -> str:
        if job == "c":
            other.__exit__(None, None, None)
        return do(job)

    letters.do = last_one_frees  # type: ignore[method-assign]
    work_off(letters, channel)
    assert letters.done == ["b", "c", "a"]


def test_what_another_has_and_tells_is_waited_for_and_not_done_again(tmp_path: Path) -> None:
    letters = Letters(tmp_path, "ab")
    with claimed(tmp_path / "a.claim"):
        # Asked at a, at b, at a again, and after waiting.
        work_off(letters, Channel([], [], [], ["a"]))
    assert letters.done == ["b"]


def test_news_of_a_job_are_heard_before_it_is_begun(tmp_path: Path) -> None:
    letters, channel = Letters(tmp_path, "abc"), Channel(["a", "b"])
    work_off(letters, channel)
    assert letters.done == channel.told == ["c"]


def test_jobs_may_have_to_be_waited_for_that_none_has_taken_here(tmp_path: Path) -> None:
    letters = Letters(tmp_path, "")
    letters.waits = [True, True]
    work_off(letters, Channel([], ["x"]))
    assert letters.waits == []
    assert letters.known == {"x"}


def test_a_job_that_fails_is_let_go(tmp_path: Path) -> None:
    letters = Letters(tmp_path, "ab")

    def fail(job: str) -> str:
        raise ValueError(job)

    letters.do = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="a"):
        work_off(letters, Channel())
    assert list(tmp_path.iterdir()) == []
