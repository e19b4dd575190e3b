"""Stopping a training whose numbers are no longer finite, before anything keeps them."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fashion_tl.errors import UserError

LOOKED_EVERY = 20  # batches, where a look makes the device or the other processes wait


class DivergedError(UserError):
    """Training has diverged: a loss or a weight is not finite."""


class DivergenceGuard(Callback):
    """Ends training within the epoch in which loss or weights cease to be finite, and keeps them out of checkpoints.

    A loss that is not finite ends training when the weights are not finite either: a gradient scaler leaves such steps
    out, and training goes on. In validation and before a checkpoint is written nothing is tolerated.

    Several processes decide together, so that none waits for one that has stopped.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._begun: tuple[int, int] = (0, 0)  # step and batch of the first of these losses
        self._rate = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an empty list."""
        self._losses.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Note the rate: after the batch there is the next one's."""
        if not self._losses:
            self._rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type
        batch: Any,  # noqa: ANN401 - Lightning's type
        batch_idx: int,
    ) -> None:
        """Look at the losses since the last look.

        Raises:
            DivergedError: If the weights are not finite.
        """
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        if not self._losses:
            self._begun = (trainer.global_step, batch_idx)
        self._losses.append(loss.detach())
        waits = loss.device.type != "cpu" or trainer.world_size > 1
        if waits and len(self._losses) < LOOKED_EVERY and not trainer.is_last_batch:
            return
        finite = torch.stack(self._losses).isfinite()
        if trainer.strategy.reduce_boolean_decision(not finite.all(), all=False) and self._broken(trainer, pl_module):
            bad = int((~finite).int().argmax())
            raise self._error(trainer, "the weights are not finite", self._begun[1] + bad, self._begun[0] + bad)
        self._losses.clear()

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
        if trainer.state.fn == "fit" and self._broken(trainer, pl_module):
            raise self._error(trainer, "the weights are not finite")

    @staticmethod
    def _broken(trainer: Trainer, module: LightningModule) -> bool:
        weights = [parameter.detach() for parameter in module.parameters() if parameter.is_floating_point()]
        sums = [each.sum(dtype=torch.float32) for each in weights]
        broken = bool(sums) and not bool(torch.stack(sums).isfinite().all())
        return trainer.strategy.reduce_boolean_decision(broken, all=False)

    def _error(self, trainer: Trainer, what: str, batch: int | None = None, step: int | None = None) -> DivergedError:
        step = trainer.global_step if step is None else step
        where = f"epoch {trainer.current_epoch + 1}" + ("" if batch is None else f", batch {batch + 1}")
        return DivergedError(
            f"training diverged by step {step} ({where}, learning rate {self._rate:.3g}): {what}. Checkpoints are of "
            "before. Give a lower --model.lr, more --model.warmup, or --trainer.gradient_clip_val 1."
        )
