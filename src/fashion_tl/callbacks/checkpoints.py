"""The checkpoints of a run: the one that validation chose, and the one to resume from."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from fashion_tl.files import copy
from fashion_tl.records.record import RunPaths, smaller_is_better

ASKED_EVERY = 16  # batches between two looks at the clock, which several processes must agree on


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt`` from the end of the epoch whose validation was the best; epochs without one are passed over.

    Args:
        monitor: The figure that chooses; one that ends in "loss" is the better the smaller.
    """

    def __init__(self, monitor: str) -> None:
        super().__init__(
            None,
            "best",
            monitor=monitor,
            mode="min" if smaller_is_better(monitor) else "max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self._validated = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing over: what is the best so far is told by ``begin``."""

    def begin(self, path: Path, best: float | None) -> None:
        """Go on with a best so far.

        Args:
            path: The file, ``best.ckpt``.
            best: The figure of what is in it; None if there is none.
        """
        score = torch.tensor(math.inf if self.mode == "min" else -math.inf) if best is None else torch.tensor(best)
        self.best_k_models = {} if best is None else {str(path): score}
        self.best_model_path = self.kth_best_model_path = "" if best is None else str(path)
        self.best_model_score, self.kth_value = None if best is None else score, score

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the figures are of this epoch."""
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this epoch if it is the best."""
        if self._validated:
            super().on_train_epoch_end(trainer, pl_module)
        self._validated = False


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: from before training, then from whole epochs, and within long ones from time to time.

    It comes after the callback that keeps ``best.ckpt``. Where that has just been written it is copied: a run that goes
    on from ``last.ckpt`` has the epoch that ``best.ckpt`` is of behind it, and to write the same state out again costs
    several times more than the copy. Other epochs that take a fraction of a second do not each write one: a few seconds
    are sooner trained again. What is due is decided by one process.

    Args:
        minutes: Minutes after which a checkpoint is written within an epoch; None for never.
        steps: Optimizer steps after which one is written within an epoch; None for never.

    Attributes:
        paths: The folders of the run, set before training.
    """

    every_seconds = 5.0

    def __init__(self, minutes: float | None = None, steps: int | None = None) -> None:
        self.minutes, self.steps = minutes, steps
        self.paths: RunPaths | None = None
        self._seen = 0
        self._kept_at = 0.0
        self._kept_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave something to resume from before the first epoch is whole, which is of what training goes on from."""
        self._seen = self._written()
        self._note(trainer)
        kept = self.paths is not None and self.paths.last.exists()
        if self.paths is not None and trainer.ckpt_path is not None:
            kept = kept and self.paths.last.resolve() == Path(trainer.ckpt_path).resolve()
        if not trainer.strategy.broadcast(kept):
            self._save(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Keep the state within an epoch, after an optimizer step; not after the last: the end of the epoch follows."""
        if self.minutes is None and self.steps is None:
            return
        if self.steps is None and (batch_idx + 1) % ASKED_EVERY:
            return
        if trainer.is_last_batch or trainer.should_stop or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        due = self.steps is not None and trainer.global_step - self._kept_step >= self.steps
        if self.minutes is not None:
            due = trainer.strategy.broadcast(due or time.monotonic() - self._kept_at >= 60 * self.minutes)
        if due:
            self._note(trainer)
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state of this epoch if it is the best, the last, or a while has passed since one was kept."""
        before, self._seen = self._seen, self._written()
        final = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0) > 0
        copied = self._seen != before
        due = final or copied or time.monotonic() - self._kept_at >= self.every_seconds
        due, copied = trainer.strategy.broadcast((due, copied))
        if not due:
            return
        self._note(trainer)
        if not copied:
            self._save(trainer)
        elif trainer.is_global_zero and self.paths is not None:
            copy(self.paths.best, self.paths.last)

    def _note(self, trainer: Trainer) -> None:
        self._kept_at, self._kept_step = time.monotonic(), trainer.global_step

    def _save(self, trainer: Trainer) -> None:
        if self.paths is not None:
            trainer.save_checkpoint(self.paths.last)

    def _written(self) -> int:
        return self.paths.best.stat().st_mtime_ns if self.paths is not None and self.paths.best.exists() else 0
