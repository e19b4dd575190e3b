"""What Optuna gives a study: where its trials are kept, what samples and what prunes them."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from fashion_tl.errors import UserError, one_line
from fashion_tl.files import naming
from fashion_tl.tuning.plan import JOURNAL, STUDY, Tuning, shown_storage
from fashion_tl.tuning.space import CHOICES, INT, Setting

PLACE = "place"  # attribute of a trial: its number, or that of the trial which it runs again
BEAT, GRACE = 30, 150  # seconds between two signs of life to a database, and until a trial without one is dead


@contextmanager
def storage_errors(tuning: Tuning) -> Iterator[None]:
    """Tell what a storage refuses as a mistake of the user, and nothing of what Optuna calls experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")
        try:
            yield
        except (OptunaError, SQLAlchemyError) as error:
            cause = error.__cause__ or error
            raise UserError(
                f"the storage {shown_storage(tuning)} cannot be used: {type(cause).__name__}: {one_line(cause)} The "
                "same command goes on with what is not done."
            ) from error


def open_storage(tuning: Tuning) -> BaseStorage:
    """Open the storage of a study.

    Raises:
        UserError: If it is damaged, or cannot be reached.
    """
    if tuning.storage is not None:
        try:
            return RDBStorage(
                tuning.storage,
                heartbeat_interval=BEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=_enqueue_again,
            )
        except (ValueError, ImportError) as error:  # no URL, or no driver for it
            raise UserError(f"the storage {shown_storage(tuning)} cannot be used: {one_line(error)}") from error
    path = tuning.logs / JOURNAL
    try:
        return JournalStorage(_Journal(path))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:  # lines that are none of a journal
        raise _damaged(path, error) from error


class _Journal(JournalFileBackend):
    """A journal in which a line that was torn, by a kill or a full disk, is cut off before the next one is written."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _CuttingLock(str(path)))
        self.path = path

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the lines from a number on.

        Raises:
            UserError: If one is damaged.
        """
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise _damaged(self.path, error) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines."""
        with naming(self.path):
            super().append_logs(logs)


class _CuttingLock(JournalFileSymlinkLock):
    """The lock that a process holds while it writes to a journal, of which it cuts off a torn line first."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = Path(path)

    def acquire(self) -> bool:
        """Wait for the lock, then cut off what follows the last whole line."""
        acquired = super().acquire()
        try:
            with naming(self._path), self._path.open("rb+") as journal:
                _cut_torn_line(journal)
        except BaseException:
            self.release()
            raise
        return acquired


def _cut_torn_line(journal: BinaryIO) -> None:
    end = whole = journal.seek(0, os.SEEK_END)
    while whole:
        journal.seek(whole - 1)
        if journal.read(1) == b"\n":
            break
        whole -= 1
    if whole < end:
        journal.truncate(whole)


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged: {one_line(error)}. Move it away with {path.with_name(STUDY)}: trials whose records are "
        "whole are not run again."
    )


def _enqueue_again(study: Study, dead: FrozenTrial) -> None:
    """Have a trial whose process gives no sign of life run again: its values, under another number."""
    attributes = {PLACE: dead.user_attrs[PLACE]} if PLACE in dead.user_attrs else {}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING, params=dead.params, distributions=dead.distributions, user_attrs=attributes
        )
    )


def make_pruner(tuning: Tuning) -> optuna.pruners.BasePruner:
    """Make what decides after an epoch whether a trial is worth going on."""
    if tuning.pruner == "median":
        # Schedules warm up and decay: early on a good trial may well look worse than it ends.
        return optuna.pruners.MedianPruner(n_warmup_steps=max(1, (tuning.epochs or 0) // 5))
    if tuning.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=tuning.epochs or "auto")
    return optuna.pruners.NopPruner()


def make_sampler(tuning: Tuning, place: int) -> optuna.samplers.BaseSampler:
    """Make what draws the values of one trial, by its place."""
    seed = zlib.crc32(f"{tuning.seed} {place}".encode())
    if tuning.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def distribution(setting: Setting) -> optuna.distributions.BaseDistribution:
    """Return the range of a setting as Optuna has it."""
    if setting.kind == CHOICES:
        return optuna.distributions.CategoricalDistribution(setting.labels)
    if setting.kind == INT:
        return optuna.distributions.IntDistribution(
            int(setting.low), int(setting.high), setting.log, int(setting.step or 1)
        )
    return optuna.distributions.FloatDistribution(setting.low, setting.high, setting.log, setting.step)


def suggested(trial: Trial, setting: Setting) -> Any:  # noqa: ANN401 - a value of YAML
    """Return the parameter of a trial; one that it has already stays."""
    if setting.kind == CHOICES:
        return trial.suggest_categorical(setting.key, setting.labels)
    if setting.kind == INT:
        step = int(setting.step or 1)
        return trial.suggest_int(setting.key, int(setting.low), int(setting.high), log=setting.log, step=step)
    return trial.suggest_float(setting.key, setting.low, setting.high, log=setting.log, step=setting.step)
