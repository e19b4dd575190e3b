"""Learning-rate schedules that begin anew with each phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fashion_tl.errors import unknown_name
from fashion_tl.training.plan import Phase, phase_at

SCHEDULES = ("cosine", "one_cycle", "step", "plateau", "constant")


def check_schedule(name: str) -> None:
    """Raise a UserError for a schedule that does not exist."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES, "Set it with --model.schedule.")


def factor(name: str, epoch: float, length: float, warmup: float, step_size: int, gamma: float) -> float:
    """Compute what a schedule multiplies the peak rate by.

    Args:
        name: "cosine" (Loshchilov & Hutter 2017, after a linear warm-up), "one_cycle" (Smith 2018, shaped as
            torch's ``OneCycleLR``), "step" or "constant".
        epoch: Epochs since the phase began, 0 to ``length``, with fractions.
        length: Epochs of the phase.
        warmup: Share of the phase in which the rate rises, 0 to 1 (cosine, one_cycle).
        step_size: Epochs between two drops (step).
        gamma: Factor of a drop (step).

    Returns:
        A factor from 0 to 1.

    >>> [round(factor("cosine", e, 10, 0.2, 1, 0.1), 3) for e in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    progress = min(epoch / length, 1.0) if length > 0 else 1.0
    if name == "cosine":
        if progress < warmup:
            return progress / warmup
        return _half_cosine(1.0, 0.0, (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0)
    if name == "one_cycle":
        start, end = 1 / 25, 1 / 25e4
        if progress < warmup:
            return _half_cosine(start, 1.0, progress / warmup)
        return _half_cosine(1.0, end, (progress - warmup) / (1 - warmup) if warmup < 1 else 0.0)
    if name == "step":
        return gamma ** math.floor(epoch / step_size + 1e-9)
    return 1.0


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class PhaseSchedule(LRScheduler):
    """Sets each group's rate as a pure function of the step, so that a resumed run goes on exactly.

    Args:
        optimizer: The optimizer whose rates are set, one call of ``step`` an optimizer step.
        phases: The phases of the run.
        rates: Peak rate of every group, phase by phase.
        steps_per_epoch: Optimizer steps an epoch.
        max_epochs: Epochs of the run.
        shape: Factor from (epochs since the phase began, epochs of the phase).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        phases: tuple[Phase, ...],
        rates: list[list[float]],
        steps_per_epoch: int,
        max_epochs: int,
        shape: Callable[[float, float], float],
    ) -> None:
        self.phases, self.rates, self.shape = phases, rates, shape
        self.steps_per_epoch, self.max_epochs = steps_per_epoch, max_epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Compute the rate of every group at the present step."""
        epoch = self.last_epoch / self.steps_per_epoch
        index = phase_at(self.phases, epoch)
        ends = [*(phase.start for phase in self.phases[1:]), self.max_epochs]
        start = self.phases[index].start
        value = self.shape(epoch - start, ends[index] - start)
        return [rate * value for rate in self.rates[index]]

    def state_dict(self) -> dict[str, Any]:
        """Return the step alone: all else follows from the configuration."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a step."""
        self.last_epoch = state_dict["last_epoch"]
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class PhasePlateau(ReduceLROnPlateau):
    """Cuts the rates when the validation loss stops falling, and begins anew with each phase."""

    def __init__(self, optimizer: Optimizer, rates: list[list[float]], gamma: float, patience: int) -> None:
        self.rates = rates
        super().__init__(optimizer, factor=gamma, patience=patience)
        self.start_phase(0)

    def start_phase(self, index: int) -> None:
        """Set the peak rates of a phase and forget the best loss so far."""
        for group, lr in zip(self.optimizer.param_groups, self.rates[index], strict=True):
            group["lr"] = lr
        self._reset()
