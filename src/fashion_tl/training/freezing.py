"""The freeze/unfreeze callback, and early stopping that knows about phases."""

from __future__ import annotations

import os
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from fashion_tl.models.staged import StagedNetwork, count_parameters
from fashion_tl.training.optimizer import FollowsFreezing
from fashion_tl.training.plan import Phase, phase_at
from fashion_tl.training.schedules import PhasePlateau


class PhasedModule(Protocol):
    """What a LightningModule must have for these callbacks."""

    network: StagedNetwork
    phases: tuple[Phase, ...]

    def enter_phase(self, index: int) -> None:
        """Freeze and unfreeze as a phase asks."""

    def describe_phase(self, index: int) -> str:
        """Say in words what trains in a phase."""


class FreezeUnfreeze(Callback):
    """Applies the boundary of the present phase at the start of every epoch.

    The boundary is a function of the epoch alone and the optimizer's groups never change, so a run that was stopped
    anywhere and resumed goes on as if it had not been stopped. Every epoch also starts from a seed of its own, for
    the same reason.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze, unfreeze, and begin the schedules anew where a phase begins."""
        module = cast(PhasedModule, pl_module)
        index = phase_at(module.phases, trainer.current_epoch)
        module.enter_phase(index)
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, FollowsFreezing):
                optimizer.follow_freezing()
        torch.manual_seed(epoch_seed(trainer.current_epoch))
        if trainer.current_epoch != module.phases[index].start:
            return
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, PhasePlateau):
                config.scheduler.start_phase(index)
        _draw_phase(trainer, module, index)


class EarlyStopping(LightningEarlyStopping):
    """Lightning's early stopping, whose patience counts in the last phase only.

    An earlier phase always runs to its end: its plateau is what the next phase is there to leave.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience that this run was given."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def _should_skip_check(self, trainer: Trainer) -> bool:
        phases: tuple[Phase, ...] = getattr(trainer.lightning_module, "phases", (Phase(0, "all"),))
        return trainer.current_epoch < phases[-1].start or super()._should_skip_check(trainer)


def epoch_seed(epoch: int) -> int:
    """Return the seed of an epoch, from the run's seed (``seed_everything``) and the epoch."""
    base = int(os.environ.get("PL_GLOBAL_SEED", "0"))
    return (base * 1_000_003 + epoch * 7_919 + 1) % 2**63


def _draw_phase(trainer: Trainer, module: PhasedModule, index: int) -> None:
    trained = count_parameters(module.network, trained_only=True)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            words = f"phase {index + 1} of {len(module.phases)} from epoch {trainer.current_epoch + 1}: "
            words += f"trains {module.describe_phase(index)} ({trained:,} parameters)"
            logger.experiment.add_text("phase", words, trainer.global_step)
            logger.experiment.add_scalar("phase/trained_parameters", trained, trainer.global_step)
