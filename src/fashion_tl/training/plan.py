"""The plan: what trains when, at which rates, for how long. Pure values and functions; neither torch nor Lightning.

The state of network, optimizer and schedule is derived from the plan and the progress of training whenever training
starts or goes on; it is never the sum of what happened before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fashion_tl.errors import UserError, check_known
from fashion_tl.training.phases import Phase as Phase
from fashion_tl.training.phases import improves, place, written
from fashion_tl.training.phases import parse_phases as parse_phases

SCHEDULES = ("cosine", "one_cycle", "step", "plateau", "constant")
WITH_LENGTH = ("cosine", "one_cycle")
WARMUP_START = 0.1  # share of the peak rate at the first step of a warm-up: no step is wasted


@dataclass(frozen=True)
class Progress:
    """Where training stands, exactly.

    Attributes:
        epoch: Whole epochs that are done.
        batch: Batches done of the epoch in progress.
        batches: Batches in an epoch; infinite if the loader does not tell.
        accumulate: Batches to an optimizer step.
        steps: Optimizer steps done in all.
        starts: Epochs in which the phases that have trained began, where a checkpoint tells.
        first_steps: Optimizer steps that were done when they did, where a checkpoint tells.
        saved_steps: Optimizer steps by which they began earlier than planned, where a checkpoint tells.
    """

    epoch: int
    batch: int = 0
    batches: float = math.inf
    accumulate: int = 1
    steps: int = 0
    starts: tuple[int, ...] = ()
    first_steps: tuple[int, ...] = ()
    saved_steps: tuple[int, ...] = ()

    @property
    def steps_inside(self) -> int:
        """Optimizer steps done of the epoch in progress.

        >>> [Progress(2, batch, batches=7, accumulate=2).steps_inside for batch in (0, 3, 6, 7)]
        [0, 1, 3, 4]
        """
        if self.batch >= self.batches:
            return self.steps_per_epoch
        return self.batch // self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch, of a loader that tells its batches."""
        return steps_in(self.batches, self.accumulate)

    @property
    def next_epoch(self) -> int:
        """The epoch that begins next; it is the present one if none of its batches is done."""
        return self.epoch + (self.batch > 0)

    @property
    def epochs(self) -> float:
        """Epochs done with the fraction of the present one, which grows by optimizer steps.

        >>> Progress(2, batch=3, batches=8, accumulate=2).epochs
        2.25
        """
        if math.isinf(self.batches):
            return float(self.epoch)
        return self.epoch + self.steps_inside / self.steps_per_epoch


def steps_in(batches: float, accumulate: int) -> int:
    """Return the optimizer steps in an epoch: Lightning takes one at the last batch, however few are accumulated."""
    return max(1, math.ceil(batches / accumulate))


def epochs_at(steps: int, batches: float, accumulate: int, began: Progress) -> float:
    """Return the epochs that will be done after a number of optimizer steps, the last one perhaps in part.

    Epochs that are done may have had another number of steps: with other batches, or cut by the end of a run that was
    then made longer. Those to come have ``batches`` and ``accumulate``.

    Args:
        steps: Optimizer steps from the start of the run.
        batches: Batches in an epoch.
        accumulate: Batches to an optimizer step.
        began: Where training stands, or stood when it last began.

    >>> epochs_at(25, 10, 1, Progress(0)), epochs_at(25, 10, 1, Progress(2, steps=15))
    (2.5, 3.0)
    """
    inside = steps_in(batches, accumulate)
    return (began.epoch * inside + steps - (began.steps - began.steps_inside)) / inside


def known_losses(losses: Mapping[int, float], progress: Progress) -> dict[int, float]:
    """Return the validation losses of the epochs that are done."""
    return {epoch: loss for epoch, loss in losses.items() if epoch < int(progress.epochs)}


@dataclass(frozen=True)
class Schedule:
    """The shape of the learning rate within a phase; it begins anew with each.

    Attributes:
        name: "cosine" (Loshchilov & Hutter 2017, after a linear warm-up), "one_cycle" (Smith 2018, shaped as torch's
            ``OneCycleLR``), "step", "plateau" (torch's ``ReduceLROnPlateau`` on the validation loss) or "constant".
        warmup: Share of the phase in which the rate rises, 0 to 1 (cosine, one_cycle).
        step_size: Epochs between two drops (step).
        gamma: Factor of a drop, 0 to 1 (step, plateau).
        plateau_patience: Validations without a better loss before a drop (plateau).
    """

    name: str = "cosine"
    warmup: float = 0.1
    step_size: int = 3
    gamma: float = 0.1
    plateau_patience: int = 2

    def __post_init__(self) -> None:
        """Refuse a schedule that does not exist."""
        check_known("schedule", self.name, SCHEDULES, "Set it with --model.schedule.")

    def factor(self, position: float, length: float, losses: tuple[float, ...] = ()) -> float:
        """Compute what the peak rate is multiplied by.

        Args:
            position: Epochs (or steps) since the phase began, 0 to ``length``, with fractions.
            length: Epochs (or steps) of the phase; infinite without an end.
            losses: Validation losses of the phase so far, in order (plateau).

        Returns:
            A factor from 0 to 1.

        >>> [round(Schedule("cosine", warmup=0.2).factor(e, 10), 3) for e in (0, 1, 2, 6, 10)]
        [0.1, 0.55, 1.0, 0.5, 0.0]
        """
        progress = min(position / length, 1.0) if length > 0 else 1.0
        rest = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 0.0
        if self.name == "cosine":
            if progress < self.warmup:
                return WARMUP_START + (1 - WARMUP_START) * progress / self.warmup
            return _half_cosine(1.0, 0.0, rest)
        if self.name == "one_cycle":
            if progress < self.warmup:
                return _half_cosine(1 / 25, 1.0, progress / self.warmup)
            return _half_cosine(1.0, 1 / 25e4, rest)
        if self.name == "step":
            return self.gamma ** math.floor(position / self.step_size + 1e-9)
        if self.name == "plateau":
            return self.gamma ** plateau_drops(losses, self.plateau_patience)
        return 1.0


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def plateau_drops(losses: tuple[float, ...], patience: int) -> int:
    """Count how often a rate is cut because the loss did not fall, as torch's ``ReduceLROnPlateau`` does.

    >>> plateau_drops((1.0, 0.9, 0.95, 0.92, 0.91), patience=1)
    1
    """
    best, bad, drops = math.inf, 0, 0
    for loss in losses:
        best, bad = (loss, 0) if improves(loss, best) else (best, bad + 1)
        if bad > patience:
            drops, bad = drops + 1, 0
    return drops


@dataclass(frozen=True)
class Plan:
    """What trains when, at which rates, for how long.

    Attributes:
        phases: In order; the first one starts at epoch 0.
        schedule: Shape of the rates within each phase.
        lr: Peak learning rate of the head.
        backbone_lr: Peak learning rate of the top stage.
        layer_decay: Factor on the rate from each stage to the one below it, 0 to 1.
        batch_norm: What BatchNorm does in the trained stages: "train", "affine" or "eval".
        optimizer: Name of the optimizer.
        weight_decay: Weight decay of matrices and filters.
        momentum: Momentum of SGD.
        length: Epoch in which the run ends, with a fraction where it ends by steps; infinite without an end.
        max_steps: Optimizer steps after which the run ends, or None.
        by_steps: Whether the run ends by ``max_steps``: how much of its last phase is done is then told by steps, which
            other batches on the way do not change.
        longest: Epochs of each phase as planned, which the schedules aim at, once phases are placed by ``placed``.
        planned: Epochs in which the phases were planned to begin, once they are placed.
        began: Where training begins or goes on.
    """

    phases: tuple[Phase, ...] = (Phase(0, "all"),)
    schedule: Schedule = Schedule()
    lr: float = 1e-3
    backbone_lr: float = 1e-3
    layer_decay: float = 1.0
    batch_norm: str = "train"
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    length: float = math.inf
    max_steps: int | None = None
    by_steps: bool = False
    longest: tuple[float, ...] = ()
    planned: tuple[int, ...] = ()
    began: Progress = field(default=Progress(0), compare=False)

    def bounded(
        self,
        max_epochs: int,
        max_steps: int,
        batches: float,
        accumulate: int,
        began: Progress = Progress(0),
    ) -> Plan:
        """Return the plan of a run with an end; phases beyond it are cut off, unless they have begun.

        Args:
            max_epochs: Epochs of the run, -1 for no end.
            max_steps: Optimizer steps of the run, -1 for no end.
            batches: Batches in an epoch; infinite if the loader does not tell.
            accumulate: Batches to an optimizer step.
            began: Where training begins or goes on: steps that are left end the run in an epoch counted from there.

        Raises:
            UserError: If the schedule needs an end, or the length of an epoch, and there is none.
        """
        began = replace(began, batches=batches, accumulate=accumulate)
        steps = max_steps if max_steps >= 0 else None
        length = math.inf if max_epochs < 0 else float(max_epochs)
        by_steps = steps is not None
        if steps is not None and not math.isinf(batches):
            end = epochs_at(steps, batches, accumulate, began)
            length, by_steps = min(length, end), end <= length
        begun = max(1, len(began.starts))
        phases = tuple(phase for i, phase in enumerate(self.phases) if i < begun or phase.start < length)
        plan = replace(self, phases=phases, length=length, max_steps=steps, by_steps=by_steps, began=began)
        if self.schedule.name not in WITH_LENGTH:
            return plan
        if math.isinf(batches):
            if by_steps and len(phases) == 1:
                return plan
            raise UserError(
                f"schedule {self.schedule.name!r} needs to know how many batches an epoch has, and the loader does "
                "not tell: set --trainer.limit_train_batches N, or --model.schedule constant."
            )
        if math.isinf(length):
            raise UserError(
                f"schedule {self.schedule.name!r} needs an end: set --trainer.max_epochs or --trainer.max_steps, or "
                "--model.schedule constant."
            )
        return plan

    @property
    def epochs(self) -> int | None:
        """Epochs of the run, of which the last may be a part; None if nothing says how many.

        >>> Plan().bounded(max_epochs=4, max_steps=25, batches=10, accumulate=1).epochs
        3
        """
        return None if math.isinf(self.length) else math.ceil(self.length - 1e-9)

    @property
    def may_end_early(self) -> bool:
        """Whether some phase may end before its last epoch."""
        return any(phase.until for phase in self.phases[:-1])

    def placed(self, losses: Mapping[int, float], progress: Progress) -> Plan:
        """Return a bounded plan with its phases where they begin, by what is known where training stands.

        A phase with ``until: plateau`` ends behind the first epoch by which ``patience`` validations have not
        improved on the best loss of the phase, at the latest where it was planned to. What follows begins earlier, as
        long as it was, and so does the end of the run. What had begun when training went on stays where it began.

        Args:
            losses: Validation loss of each epoch that was validated.
            progress: Where training stands; losses of epochs that are not done are left aside.
        """
        known = known_losses(losses, progress)
        phases, saved = place(self.phases, known, self.began.starts, self.began.next_epoch)
        ends = [*(phase.start for phase in self.phases[1:]), self.length]
        longest = tuple(end - phase.start for phase, end in zip(self.phases, ends, strict=True))
        planned = tuple(phase.start for phase in self.phases)
        plan = replace(self, phases=phases, length=self.length - saved, longest=longest, planned=planned)
        if not self.by_steps or math.isinf(self.length):
            return plan
        began = self.began
        return replace(plan, length=epochs_at(plan.last_step, began.batches, began.accumulate, began))

    def starts(self, progress: Progress) -> tuple[int, ...]:
        """Return where the phases that have trained began, once they are placed; the first one always has."""
        return tuple(phase.start for phase in begun_by(self.phases, progress))

    def first_steps(self, progress: Progress) -> tuple[int, ...]:
        """Return how many optimizer steps were done when these phases began."""
        return tuple(self._first_step(index) for index in range(len(self.starts(progress))))

    def saved_steps(self, progress: Progress) -> tuple[int, ...]:
        """Return by how many optimizer steps these phases began earlier than planned."""
        return tuple(self._saved_step(index) for index in range(len(self.starts(progress))))

    def _saved_step(self, index: int) -> int:
        """Return by how many steps a phase begins earlier than planned: as a checkpoint tells, or as epochs now are."""
        if not self.planned:
            return 0
        saved = [start - phase.start for start, phase in zip(self.planned, self.phases, strict=True)]
        told = self.began.saved_steps[: index + 1]
        rest = saved[index] - (saved[len(told) - 1] if told else 0)
        return (told[-1] if told else 0) + (rest and rest * self.began.steps_per_epoch)

    def _first_step(self, index: int) -> int:
        """Return the optimizer steps that are done when a phase begins: as a checkpoint tells, or as epochs now are."""
        if index < len(self.began.first_steps):
            return self.began.first_steps[index]
        start, began = self.phases[index].start, self.began
        return start and (start - began.epoch) * began.steps_per_epoch + began.steps - began.steps_inside

    def phase(self, progress: Progress) -> int:
        """Return the index of the phase that training is in.

        >>> Plan(parse_phases({0: "head", 5: "all"})).phase(Progress(4, batch=9, batches=10))
        0
        """
        done = progress.epochs
        return max(i for i, phase in enumerate(self.phases) if phase.start <= done or i == 0)

    def factor(self, progress: Progress, losses: Mapping[int, float]) -> float:
        """Compute what the peak rates are multiplied by now.

        Args:
            progress: Where training stands.
            losses: Validation loss of each epoch that was validated.
        """
        index = self.phase(progress)
        start = self.phases[index].start
        own = tuple(losses[epoch] for epoch in sorted(losses) if epoch >= start) if losses else ()
        if self.by_steps and index == len(self.phases) - 1 and self.schedule.name in WITH_LENGTH:
            first = self._first_step(index)
            return self.schedule.factor(progress.steps - first, self.last_step - first)
        end = self.phases[index + 1].start if index + 1 < len(self.phases) else self.length
        length = self.longest[index] if self.longest else end - start
        return self.schedule.factor(progress.epochs - start, length, own)

    @property
    def last_step(self) -> int:
        """Optimizer steps after which a run ends that ends by them."""
        if self.max_steps is None:
            raise ValueError("the run does not end by steps")
        return self.max_steps - self._saved_step(len(self.phases) - 1)

    def last_part(self, part: float) -> float:
        """Return where the last part of the last phase begins, in what ``done`` counts.

        Args:
            part: Its share of the phase, 0 to 1.
        """
        start, end = self.phases[-1].start, self.length
        if self.by_steps:
            start, end = self._first_step(len(self.phases) - 1), self.last_step
        return end - part * (end - start)

    def done(self, progress: Progress) -> float:
        """Return how much of the run is done: steps where it ends by them, else epochs."""
        return progress.steps if self.by_steps else progress.epochs

    def rate(self, index: int, stage: int, boundary: int, top: int) -> float:
        """Compute the peak learning rate of a stage in a phase; 0 below the boundary.

        Args:
            index: The phase.
            stage: The stage, 0 to ``top``.
            boundary: The lowest stage that trains in the phase.
            top: The index of the head.
        """
        phase = self.phases[index]
        head = self.lr if phase.lr is None else phase.lr
        backbone = self.backbone_lr if phase.backbone_lr is None else phase.backbone_lr
        if stage < boundary:
            return 0.0
        return head if stage == top else backbone * self.layer_decay ** (top - 1 - stage)

    def ended(self, progress: Progress) -> bool:
        """Say whether the run's steps are done, or its last phase where one before it ended early."""
        if self.longest and progress.epochs >= self.length - 1e-9:  # a rounding error of an epoch is no step
            return True
        return self.max_steps is not None and progress.steps >= self.max_steps

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the plan, as plain values; how long a run is may change."""
        plain = asdict(self)
        for name in ("length", "max_steps", "by_steps", "longest", "planned", "began"):
            del plain[name]
        plain["phases"] = [phase.settings() for phase in self.phases]
        return plain


def begun_by(phases: Iterable[Phase], progress: Progress) -> list[Phase]:
    """Return the phases, placed, of which an epoch has begun; the first one always is."""
    # One that starts where training stands has not.
    return [phase for phase in phases if phase.start == 0 or phase.start < progress.next_epoch]


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], progress: Progress) -> list[str]:
    """Name what a plan would have done otherwise up to now than the plan of a checkpoint.

    Phases that are still to come, and the length of the run, may change.

    Args:
        saved: The ``settings`` of the plan in the checkpoint.
        now: Those of the plan that goes on.
        progress: Where the checkpoint stands.

    Returns:
        One "setting: checkpoint's value, now this run's value" for each difference.
    """
    flat = [{**plan, **{f"schedule {key}": value for key, value in plan["schedule"].items()}} for plan in (saved, now)]
    told = [
        f"{key}: {flat[0].get(key)}, now {flat[1].get(key)}"
        for key in sorted((flat[0].keys() | flat[1].keys()) - {"phases", "schedule"})
        if flat[0].get(key) != flat[1].get(key)
    ]
    begun = []
    for plan in (saved, now):
        placed, _ = place([Phase(**phase) for phase in plan["phases"]], {}, progress.starts)
        begun.append(plan["phases"][: len(begun_by(placed, progress))])
    if begun[0] != begun[1]:
        told.append(f"train: {written(begun[0])}, now {written(begun[1])}")
    return told
