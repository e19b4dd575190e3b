"""Runs a study: trials, the choice by validation, seeds; what is done already is not run again."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial

from fashion_tl.errors import UserError
from fashion_tl.files import claimed
from fashion_tl.records.record import paths_of, read_record, versions
from fashion_tl.runs.fit import Run, fit
from fashion_tl.runs.jobs import work_off
from fashion_tl.runs.resume import Version
from fashion_tl.runs.search import preferred, words
from fashion_tl.runs.workers import Channel, share_work
from fashion_tl.tournament.plan import Cell, Study
from fashion_tl.tournament.progress import Found, Progress
from fashion_tl.tournament.strategies import Changes
from fashion_tl.training.divergence import DivergedError


@dataclass(frozen=True)
class Played:
    """A cell whose runs are done.

    Attributes:
        cell: The cell.
        chosen: The candidate that validation chose; None if all trials have diverged.
        trials: The runs of the trials that have not diverged.
        runs: The run of each seed; None where it has diverged.
    """

    cell: Cell
    chosen: Changes | None
    trials: tuple[Run, ...]
    runs: tuple[Run | None, ...]


@dataclass(frozen=True)
class Task:
    """One run of a study.

    Attributes:
        cell: Its cell.
        name: Its name.
        what: What it is, for people.
        candidate: What it changes beside its cell.
        place: The place of its seed.
        tested: Whether it is tested; else it is a trial, which is tested if it is chosen.
    """

    cell: Cell
    name: str
    what: str
    candidate: Changes
    place: int
    tested: bool


News = tuple[Task, Found, float]  # a run, what it has become, seconds


def play(study: Study, progress: Progress, processes: int = 1) -> list[Played]:
    """Make all runs of a study.

    Args:
        study: The study.
        progress: What counts and tells.
        processes: Processes that share the runs; 1 is this one.

    Raises:
        UserError: If a run is refused: the message names it.
    """
    found = dict(progress.finished)
    cells = {cell.name: cell for cell in study.cells}

    def hear(task: Task, made: Found, seconds: float) -> None:
        if _is_made(task, found):  # another worker has found it done before it heard of it
            return
        progress.add(task.cell, task.name, task.what, made[0], seconds)
        found[task.name] = made
        leave_out(cells[task.cell.name], task)

    def leave_out(cell: Cell, after: Task | None = None) -> None:
        """Say that a cell has no seeds, once."""
        if (after is None or not after.tested) and not _tasks(study, cell, found):
            progress.leave_out(cell, "no trial has a finite validation figure")

    for cell in study.cells:
        leave_out(cell)
    share_work(partial(_work, study, found), processes, lambda news: hear(*news))
    for cell in study.cells:
        _tidy(study, cell, found)  # where a process was killed before it had
    return [_played(study, cell, found) for cell in study.cells]


class _Runs:
    """The runs of a study that are left, as one process knows them."""

    def __init__(self, study: Study, found: Mapping[str, Found]) -> None:
        self.study, self.found = study, dict(found)

    def left(self) -> Iterator[Task]:
        for cell in self.study.cells:
            yield from (task for task in _tasks(self.study, cell, self.found) if self.is_left(task))

    def claim(self, task: Task) -> AbstractContextManager[bool]:
        return claimed(self.study.records / f".{task.name}.claim")

    def is_left(self, task: Task) -> bool:
        return not _is_made(task, self.found)

    def do(self, task: Task) -> News:
        began = time.perf_counter()
        made = self.found[task.name] = _make(self.study, task), task.candidate
        _tidy(self.study, task.cell, self.found)
        return task, made, time.perf_counter() - began

    def hear(self, news: News) -> None:
        task, made, _ = news
        if self.is_left(task):  # else the news are older than what is known
            self.found[task.name] = made

    def wait(self) -> bool:
        return False


def _work(study: Study, found: Mapping[str, Found], channel: Channel) -> None:
    work_off(_Runs(study, found), channel)


def _is_made(task: Task, found: Mapping[str, Found]) -> bool:
    if task.name not in found:
        return False
    version, candidate = found[task.name]
    return candidate == task.candidate and (version.done or version.diverged or not task.tested)


def _tasks(study: Study, cell: Cell, found: Mapping[str, Found]) -> list[Task]:
    """List the runs of a cell of which it is known what they are: its trials, or its seeds once all trials are made."""
    trials = _trials(study, cell)
    if not all(_is_made(task, found) for task in trials):
        return trials
    chosen = _chosen(study, cell, found)
    if chosen is None:
        return []
    seeds = [
        Task(cell, study.seed_name(cell, seed), f"seed {seed}", chosen, place, True)
        for place, seed in enumerate(study.seeds)
    ]
    if trials:  # the chosen one is the run of the first seed
        own = next(trial for trial in trials if trial.candidate == chosen)
        seeds[0] = replace(seeds[0], name=own.name)
    return seeds


def _trials(study: Study, cell: Cell) -> list[Task]:
    candidates = study.candidates(cell.strategy)
    return [
        Task(cell, study.trial_name(cell, number), f"trial {number} {words(tried)}", dict(tried), 0, False)
        for number, tried in enumerate(candidates if len(candidates) > 1 else (), 1)
    ]


def _chosen(study: Study, cell: Cell, found: Mapping[str, Found]) -> Changes | None:
    """Return the candidate that validation prefers; None if no trial has a finite figure."""
    trials = _trials(study, cell)
    if not trials:
        return dict(study.candidates(cell.strategy)[0])
    best = preferred([found[task.name][0].record for task in trials])
    return None if best is None else trials[best].candidate


def _make(study: Study, task: Task) -> Version:
    """Make a run, without what it prints; one that was done before is taken as it is."""
    try:
        with redirect_stdout(io.StringIO()):
            settings = study.run_settings(task.cell, task.candidate, task.name, task.place)
            run = fit(list(study.args), settings, later=not task.tested)
    except DivergedError:
        paths = paths_of(study.records, study.checkpoints, task.name, versions(study.records, task.name)[-1])
        return Version(paths, read_record(paths.logs))
    except UserError as error:
        raise UserError(f"{study.kind} {study.name}: {task.cell.name}, {task.what}: {error}") from error
    if run.paths is None:
        raise ValueError("a run of a study leaves a record")
    return Version(run.paths, run.record)


def _tidy(study: Study, cell: Cell, found: Mapping[str, Found]) -> None:
    """Remove checkpoints that nobody needs: of trials that were not chosen, and of runs that are tested."""
    trials = _trials(study, cell)
    if not all(_is_made(task, found) for task in trials):
        return
    tasks = _tasks(study, cell, found)
    needed = {task.name for task in tasks if study.keep_checkpoints or not _is_made(task, found)}
    for task in (*trials, *tasks):
        if task.name in found and task.name not in needed:
            shutil.rmtree(found[task.name][0].paths.checkpoints, ignore_errors=True)


def _played(study: Study, cell: Cell, found: Mapping[str, Found]) -> Played:
    chosen = _chosen(study, cell, found)
    tasks = _tasks(study, cell, found)
    runs = [_run(found[task.name][0]) for task in tasks] or [None] * len(study.seeds)
    trials = [_run(found[task.name][0]) for task in _trials(study, cell)]
    return Played(cell, chosen, tuple(run for run in trials if run is not None), tuple(runs))


def _run(version: Version) -> Run | None:
    return None if version.diverged else Run(version.paths, version.record, found=True)
