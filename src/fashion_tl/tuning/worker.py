"""The work of a process on a study: trials that no other process runs, until enough are finished."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from optuna.trial import TrialState
from torch.utils.tensorboard.summary import hparams

from fashion_tl.errors import UserError, one_line
from fashion_tl.events import EventWriter
from fashion_tl.files import claimed
from fashion_tl.records.record import METRICS, PRUNED, RunPaths, paths_of, read_record, versions
from fashion_tl.records.verify import read_history
from fashion_tl.runs.fit import fit
from fashion_tl.runs.jobs import work_off
from fashion_tl.runs.parser import written
from fashion_tl.runs.studies import bounds, check_run
from fashion_tl.runs.workers import Channel
from fashion_tl.training.divergence import DivergedError
from fashion_tl.tuning.plan import Tuning
from fashion_tl.tuning.space import brief
from fashion_tl.tuning.study import BEAT, storage_errors
from fashion_tl.tuning.trials import Trials

TURN = 0.02  # seconds until it asks again whether it may make the next one


@dataclass(frozen=True)
class News:
    """What has become of a trial.

    Attributes:
        place: Its place, from 0.
        settings: Its values.
        outcome: Its figure, or why it has none.
        seconds: What it took.
        finished: Trials that are finished by then.
        best: The best figure by then, and its trial; None if there is none.
    """

    place: int
    settings: Mapping[str, Any]
    outcome: str
    seconds: float
    finished: int
    best: tuple[float, int] | None


@dataclass(frozen=True)
class Outcome:
    """How the run of a trial has ended.

    Attributes:
        value: Its figure; None if it was pruned or has none.
        why: Why it has none.
        record: Its record; empty if it left none.
        paths: Its folders; None if it left none.
    """

    value: float | None
    why: str | None
    record: Mapping[str, Any]
    paths: RunPaths | None


def work(tuning: Tuning, channel: Channel) -> None:
    """Run trials that no other process runs, until enough are finished."""
    with storage_errors(tuning), Trials(tuning) as trials:
        work_off(_Runs(trials), channel)


class _Runs:
    """The trials that are left, known by their numbers."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials

    def left(self) -> Iterator[int]:
        """Yield trials that run or were left in this folder, then the next one."""
        yield from (trial.number for trial in self.trials.counted if self.trials.is_left(trial))
        number = self._asked()
        if number is not None:
            yield number

    def claim(self, number: int) -> AbstractContextManager[bool]:
        return claimed(self.trials.tuning.records / f".{number}.claim")

    def is_left(self, number: int) -> bool:
        return self.trials.read(number).state == TrialState.RUNNING

    def do(self, number: int) -> News:
        with _signs_of_life(self.trials, number):
            return _run(self.trials, number)

    def hear(self, news: News) -> None:
        """Nothing: the storage tells it."""

    def wait(self) -> bool:
        self.trials.give_up_dead()
        return not all(trial.state.is_finished() for trial in self.trials.counted)

    def _asked(self) -> int | None:
        """Make the next trial when no other process of the folder does."""
        while True:
            with claimed(self.trials.tuning.records / ".next.claim") as mine:
                if mine:
                    return self.trials.ask()
            time.sleep(TURN)


def _run(trials: Trials, number: int) -> News:
    began = time.perf_counter()
    settings = trials.suggest(number)
    place = trials.place(trials.read(number))
    outcome = _outcome(trials, number, place, settings)
    spent = outcome.record.get("time") or {}
    about = {
        "version": None if outcome.paths is None else f"{outcome.paths.name}/{outcome.paths.logs.name}",
        "epochs": len(spent.get("epoch_seconds") or ()),
        "planned": (outcome.record.get("model") or {}).get("planned_epochs"),
        "seconds": spent.get("fit_seconds"),
    }
    trials.tell(number, outcome.value, outcome.why, about)
    if outcome.paths is not None:
        reported = trials.read(number).intermediate_values
        _write_events(outcome.paths.logs, settings, trials.tuning.monitor, reported, outcome.value)
    monitor = trials.tuning.monitor
    told = outcome.why or f"{monitor} {outcome.value:.4f}"
    best = trials.best
    found = None if best is None or best.value is None else (best.value, trials.place(best))
    return News(place, settings, told, time.perf_counter() - began, len(trials.finished), found)


def _write_events(
    folder: Path, settings: Mapping[str, Any], monitor: str, reported: Mapping[int, float], value: float | None
) -> None:
    """Show a trial in TensorBoard: its values in the table of hyperparameters, its figure by epoch, and at last."""
    plain = {key: each if isinstance(each, int | float | str) else written(each) for key, each in settings.items()}
    final = f"final/{monitor.replace('/', '_')}"
    writer = EventWriter(folder)
    for summary in cast(Any, hparams)(plain, {final: 0.0}):
        writer.file_writer.add_summary(summary)
    for epoch, figure in reported.items():
        writer.add_scalar(monitor, figure, epoch)
    if value is not None:
        writer.add_scalar(final, value)
    writer.close()


def _outcome(trials: Trials, number: int, place: int, settings: Mapping[str, Any]) -> Outcome:
    """Make the run of a trial, without what it prints; one that was done before is taken as it is."""
    tuning = trials.tuning
    # What an earlier process has reported was answered then.
    answered = max(trials.read(number).intermediate_values, default=-1)

    def watch(epoch: int, value: float) -> bool:
        return epoch >= answered and trials.report(number, epoch, value)

    try:
        with redirect_stdout(io.StringIO()):
            run = fit(list(tuning.args), tuning.run_settings(settings, place), tested=False, watch=watch)
    except DivergedError:
        return _failed(tuning, place, "diverged")
    except torch.OutOfMemoryError:
        return _failed(tuning, place, "out of memory")
    except UserError as error:
        if (refusal := _refusal(tuning, settings, place)) is not None:
            return Outcome(None, f"refused: {one_line(refusal)}", {}, None)
        raise UserError(f"study {tuning.name}: trial {place} ({brief(settings)}): {error}") from error
    if run.found and run.paths is not None:  # its figures too are what others are compared with
        for epoch, value in _figures(run.paths, tuning.monitor).items():
            watch(epoch, value)
    if run.record["status"] == PRUNED:
        return Outcome(None, str(run.record["reason"]), run.record, run.paths)
    best = run.record.get("best")
    return Outcome(best and best["value"], None if best else "no validation figure", run.record, run.paths)


def _refusal(tuning: Tuning, settings: Mapping[str, Any], place: int) -> UserError | None:
    """Say why values are refused together; each of them alone is allowed."""
    try:
        built = check_run(tuning.args, tuning.run_settings(settings, place))
    except UserError as refusal:
        return refusal
    built.data.prepare_data()  # what is wrong with the images is not of these values
    built.data.setup("fit")
    try:
        bounds(built, built.data)
    except UserError as refusal:
        return refusal
    return None


def _figures(paths: RunPaths, monitor: str) -> dict[int, float]:
    """Read the validation figure of each epoch of a run."""
    return {int(row["epoch"]): row[monitor] for row in read_history(paths.logs / METRICS) if monitor in row}


def _failed(tuning: Tuning, place: int, why: str) -> Outcome:
    name = tuning.trial_name(place)
    made = versions(tuning.records, name)
    if not made:  # the device was full before training began
        return Outcome(None, why, {}, None)
    paths = paths_of(tuning.records, tuning.checkpoints, name, made[-1])
    return Outcome(None, why, read_record(paths.logs), paths)


@contextmanager
def _signs_of_life(trials: Trials, number: int) -> Iterator[None]:
    """Have a database know that a trial runs, for machines that do not see its claim."""
    if trials.tuning.storage is None:
        yield
        return
    trials.beat(number)
    done = threading.Event()

    def beat() -> None:
        try:
            while not done.wait(BEAT):
                trials.beat(number)
        except Exception:  # the trial itself meets the same and says why; without signs others may run it again
            return

    thread = threading.Thread(target=beat, name=f"trial {number}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
