"""Runs a study: trials, the choice by validation, seeds; what is done already is not run again."""

from __future__ import annotations

import gc
import io
import shutil
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

from fashion_tl.data.sources import loading_once
from fashion_tl.errors import UserError
from fashion_tl.runs.fit import Run, fit
from fashion_tl.runs.search import best_of, words
from fashion_tl.tournament.plan import Cell, Study
from fashion_tl.tournament.progress import Progress
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


def play(study: Study, progress: Progress) -> list[Played]:
    """Make all runs of a study, one after another, in this process.

    Args:
        study: The study.
        progress: What counts and tells.

    Raises:
        UserError: If a run is refused: the message names it.
    """
    gc.freeze()  # the modules of torch and Lightning, which every run's collection would walk through: half a second
    try:
        with loading_once():
            return [_play_cell(study, cell, progress) for cell in study.cells]
    finally:
        gc.unfreeze()


def _play_cell(study: Study, cell: Cell, progress: Progress) -> Played:
    candidates = study.candidates(cell.strategy)
    chosen: Changes | None = dict(candidates[0])
    trials: list[Run] = []
    if len(candidates) > 1:
        numbers = iter(range(1, len(candidates) + 1))

        def trial(args: Any, changes: Changes, tested: bool) -> Run:  # noqa: ANN401 - as fit takes it
            number = next(numbers)
            tried, run_name = candidates[number - 1], study.trial_name(cell, number)
            run = _run(study, cell, tried, run_name, f"trial {number} {words(tried)}", 0, progress, tested)
            trials.append(run)
            return run

        chosen = best_of(study.args, candidates, f"{cell.name}.trial", trial, say=lambda _: None)
        if chosen is None:
            progress.leave_out(cell, len(study.seeds), "no trial has a finite validation figure")
            return Played(cell, None, (), (None,) * len(study.seeds))
    runs: list[Run | None] = []
    for place, seed in enumerate(study.seeds):
        try:
            run = _run(study, cell, chosen or {}, study.seed_name(cell, seed), f"seed {seed}", place, progress)
        except DivergedError:
            runs.append(None)
            continue
        runs.append(run)
        if run.paths is not None and not study.keep_checkpoints:
            shutil.rmtree(run.paths.checkpoints, ignore_errors=True)
    return Played(cell, chosen, tuple(trials), tuple(runs))


def _run(
    study: Study,
    cell: Cell,
    candidate: Changes,
    run_name: str,
    what: str,
    place: int,
    progress: Progress,
    tested: bool = True,
) -> Run:
    """Make one run, without what it prints, and count it; one that was done before is taken as it is."""
    version, by = progress.finished.get(run_name, (None, None))
    if version is not None and by == candidate:
        if version.diverged:
            raise DivergedError(str(version.record["reason"]))
        return Run(version.paths, version.record, found=True)
    began, shown = time.perf_counter(), io.StringIO()
    try:
        with redirect_stdout(shown):
            run = fit(list(study.args), study.run_settings(cell, candidate, run_name, place), tested)
    except DivergedError:
        progress.add(cell, run_name, what, None, time.perf_counter() - began)
        raise
    except UserError as error:
        raise UserError(f"{study.kind} {study.name}: {cell.name}, {what}: {error}") from error
    progress.add(cell, run_name, what, run, time.perf_counter() - began)
    return run
