"""The end of a run whose validation figures are not worth going on, as whoever watches them says."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer

from fashion_tl.callbacks.recorder import RunRecorder

Watch = Callable[[int, float], bool]  # takes an epoch, from 0, and its validation figure; True ends the run there


class Pruning(Callback):
    """Tells the validation figure of each epoch, and ends the run where the answer is yes.

    Args:
        watch: What is told in the first process, and answers.
        recorder: What knows the figures of the epoch; it comes before this callback.
    """

    def __init__(self, watch: Watch, recorder: RunRecorder) -> None:
        self.watch, self.recorder = watch, recorder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask, after an epoch with a validation, unless it is the last one anyway."""
        row = self.recorder.history[-1]
        value = row.get(self.recorder.monitor)
        if value is None:
            return
        epoch = trainer.current_epoch
        prune = trainer.strategy.broadcast(trainer.is_global_zero and self.watch(epoch, value))
        last = trainer.should_stop or epoch + 1 >= (trainer.max_epochs or 0) > 0
        if prune and not last:
            trainer.should_stop, self.recorder.pruned = True, f"pruned after epoch {epoch + 1}"
