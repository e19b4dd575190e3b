"""The trials of a study: which there are, the values of each, and what has become of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from fashion_tl.errors import UserError
from fashion_tl.tuning.plan import Tuning, check_same, shown_storage
from fashion_tl.tuning.space import grid
from fashion_tl.tuning.study import (
    GRACE,
    PLACE,
    distribution,
    make_pruner,
    make_sampler,
    open_storage,
    suggested,
)

ABOUT, FOLDER, WHY = "fashion_tl", "folder", "why"


class Trials:
    """The trials of a study, which several processes and machines may share.

    A trial is known by its number. Its place is the same, but where it runs again what a lost machine has begun.

    Args:
        tuning: The study.
        make: Whether it is made if it is not there.

    Raises:
        UserError: If the storage is damaged, cannot be reached, or holds another study of that name.
    """

    def __init__(self, tuning: Tuning, make: bool = False) -> None:
        self.tuning, self.storage = tuning, open_storage(tuning)
        # A journal holds one study, whatever its name: Hyperband's brackets follow from it.
        name = "fashion_tl" if tuning.storage is None else tuning.name
        if make:
            direction = StudyDirection.MINIMIZE if tuning.minimises else StudyDirection.MAXIMIZE
            try:
                made = optuna.create_study(storage=self.storage, study_name=name, direction=direction)
                made.set_user_attr(ABOUT, dict(tuning.about))
            except DuplicatedStudyError:
                pass
        # What makes a trial draws nothing: that is left to a sampler of the trial's own.
        asking = optuna.samplers.RandomSampler(seed=0)
        self.study = optuna.load_study(
            study_name=name, storage=self.storage, sampler=asking, pruner=make_pruner(tuning)
        )
        self._study_id = self.storage.get_study_id_from_name(name)
        where = f"the study {name} in {shown_storage(tuning)}"
        if ABOUT not in self.study.user_attrs:
            raise UserError(f"{where} was not made by `fashion-tl tune`. Give another --name.")
        check_same(tuning, self.study.user_attrs[ABOUT], where)

    def __enter__(self) -> Trials:
        """Return the trials, whose storage is open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the connections to a database."""
        if isinstance(self.storage, RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()

    @property
    def counted(self) -> list[FrozenTrial]:
        """The trials that count, by their numbers: all but those that were given up for dead or were too many."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that are done or pruned."""
        return [trial for trial in self.counted if trial.state.is_finished()]

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the best figure, of equally good ones the first; pruned ones do not count."""
        sign = 1 if self.tuning.minimises else -1
        done = [trial for trial in self.finished if trial.state == TrialState.COMPLETE]
        return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def read(self, number: int) -> FrozenTrial:
        """Return a trial as it is now."""
        return self.storage.get_trial(self._id(number))

    def place(self, trial: FrozenTrial) -> int:
        """Return the place of a trial, from 0."""
        return int(trial.user_attrs.get(PLACE, sum(each.number < trial.number for each in self.counted)))

    def settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the values of a trial by their settings."""
        params = trial.params
        return {each.key: each.value(params[each.key]) for each in self.tuning.space if each.key in params}

    def ask(self) -> int | None:
        """Make the next trial, or take one that waits to run again; one process of a folder may do so at a time.

        Returns:
            Its number; None if there are enough.
        """
        before = self.counted
        if len(before) >= self.tuning.trials and all(trial.state != TrialState.WAITING for trial in before):
            return None
        number = self.study.ask().number
        trial = self.read(number)
        if self.place(trial) >= self.tuning.trials:  # a process of another folder was quicker
            self.study.tell(number, state=TrialState.FAIL)
            return None
        self.beat(number)
        self.note(number, **{PLACE: self.place(trial), FOLDER: self.tuning.folder})
        return number

    def is_left(self, trial: FrozenTrial) -> bool:
        """Say whether a trial runs, or was left, in this folder: its claim says which."""
        if trial.state != TrialState.RUNNING:
            return False
        if self.tuning.storage is None:
            return True
        if FOLDER in trial.user_attrs:
            return bool(trial.user_attrs[FOLDER] == self.tuning.folder)
        # One whose process has died before it could say where it runs.
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > timedelta(seconds=GRACE)

    def suggest(self, number: int) -> dict[str, Any]:
        """Return the values of a trial by their settings: those that it has, else those that its sampler draws.

        Each trial has a sampler of its own, seeded by its place. So a study that goes on draws what it would have
        drawn, and several processes never draw the same.
        """
        frozen = self.read(number)
        place = self.place(frozen)
        if self.tuning.sampler == "grid":
            values = grid(self.tuning.space)[place]
            for setting in (each for each in self.tuning.space if each.key not in frozen.params):
                kind = distribution(setting)
                value = kind.to_internal_repr(values[setting.key])
                self.storage.set_trial_param(self._id(number), setting.key, value, kind)
        self.study.sampler = make_sampler(self.tuning, place)
        trial = Trial(self.study, self._id(number))
        return {setting.key: setting.value(suggested(trial, setting)) for setting in self.tuning.space}

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Report the figure of an epoch; returns whether the trial is to be pruned there."""
        try:
            self.storage.set_trial_intermediate_value(self._id(number), epoch, value)
        except UpdateFinishedTrialError:  # it was given up for dead, and another process runs it
            return True
        return self.study.pruner.prune(self.study, self.read(number))

    def note(self, number: int, **attributes: object) -> None:
        """Keep attributes of a trial that is not finished."""
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(self._id(number), name, value)

    def tell(self, number: int, value: float | None, why: str | None, about: Mapping[str, object]) -> None:
        """Finish a trial.

        Args:
            number: Its number.
            value: Its figure; None if it was pruned, or has none.
            why: Why it has none.
            about: More to keep, as plain values.
        """
        finite = value is not None and math.isfinite(value)
        try:
            self.note(number, **{WHY: None if finite else why}, **about)
            # One that has diverged counts as pruned too, so that the sampler keeps away from its values.
            state = TrialState.COMPLETE if finite else TrialState.PRUNED
            self.study.tell(number, value if finite else None, state=state)
        except UpdateFinishedTrialError:  # it was given up for dead, and another process runs it
            return

    def beat(self, number: int) -> None:
        """Give a database a sign of life of a trial; a journal needs none, its folder has claims."""
        if isinstance(self.storage, RDBStorage):
            self.storage.record_heartbeat(self._id(number))

    def give_up_dead(self) -> None:
        """Have trials of other machines that give no sign of life run again."""
        fail_stale_trials(self.study)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
