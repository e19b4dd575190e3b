"""The learning-rate scheduler that Lightning steps: rates derived from the plan and the progress of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class PlanSchedule(LRScheduler):
    """Sets each group's rate to what the plan says now; it counts nothing and keeps nothing.

    Args:
        optimizer: The optimizer whose rates are set.
        rates: Returns the rate of every group where training stands.
    """

    def __init__(self, optimizer: Optimizer, rates: Callable[[], list[float]]) -> None:
        self.rates = rates
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Ask the plan for the rate of every group."""
        return self.rates()

    def apply(self) -> None:
        """Set the rates of where training stands: at its start, and where a phase or an epoch begins."""
        for group, lr in zip(self.optimizer.param_groups, self.rates(), strict=True):
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all follows from the plan and the progress."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load nothing."""
