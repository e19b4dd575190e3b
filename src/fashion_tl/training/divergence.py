"""Stopping a training whose numbers are no longer finite, before anything keeps them."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from fashion_tl.errors import UserError

LOOKED_EVERY = 20  # batches: a look makes the device and other processes wait


class DivergedError(UserError):
    """Training has diverged: a loss or a weight is not finite."""


class DivergenceGuard(Callback):
    """Ends training within the epoch in which weights cease to be finite, and keeps such weights out of checkpoints.

    A loss that is not finite is no reason by itself: a gradient scaler leaves such steps out, and training goes on. In
    validation it is one. Several processes decide together, so that none waits for one that has stopped.
    """

    def __init__(self) -> None:
        self._rate = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the rate."""
        self._note_rate(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Look at the weights that train, every few batches.

        Raises:
            DivergedError: If they are not finite.
        """
        if (batch_idx + 1) % LOOKED_EVERY and not trainer.is_last_batch:
            return
        if _broken(trainer, [weight for weight in pl_module.parameters() if weight.requires_grad]):
            raise self._error(trainer, "the weights are not finite")
        self._note_rate(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the validation loss, before it chooses a checkpoint.

        Raises:
            DivergedError: If it is not finite.
        """
        loss = trainer.callback_metrics.get("val/loss")
        if trainer.state.fn == "fit" and loss is not None and not trainer.sanity_checking and not loss.isfinite():
            raise self._error(trainer, f"the validation loss is {float(loss)}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to keep weights that are not finite.

        Raises:
            DivergedError: If there are any.
        """
        if trainer.state.fn == "fit" and _broken(trainer, list(pl_module.parameters())):
            raise self._error(trainer, "the weights are not finite")

    def _note_rate(self, trainer: Trainer) -> None:
        self._rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)

    def _error(self, trainer: Trainer, what: str) -> DivergedError:
        return DivergedError(
            f"training diverged by step {trainer.global_step} (epoch {trainer.current_epoch + 1}, learning rate "
            f"{self._rate:.3g}): {what}. Checkpoints are of before. Give a lower --model.lr, more --model.warmup, or "
            "--trainer.gradient_clip_val 1."
        )


def _broken(trainer: Trainer, weights: list[nn.Parameter]) -> bool:
    """Say whether a weight is not finite in any process."""
    sums = [weight.detach().sum(dtype=torch.float32) for weight in weights if weight.is_floating_point()]
    broken = bool(sums) and not bool(torch.stack(sums).isfinite().all())
    return trainer.strategy.reduce_boolean_decision(broken, all=False)
