"""The checkpoint to resume from."""

from __future__ import annotations

import os
import shutil
import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from fashion_tl.records.record import RunPaths


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` from the end of a whole epoch, at first from before any.

    It comes after the callback that keeps ``best.ckpt``. Where that has just been written it is copied: both hold the
    same state, and to write it out again costs several times more than the copy. Epochs that take a fraction of a
    second do not each write one: a few seconds are sooner trained again.

    Args:
        paths: The folders of the run.
    """

    every_seconds = 5.0

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self._seen = 0
        self._kept_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave something to resume from before the first epoch is whole."""
        self._seen = self._written()
        self._kept_at = time.monotonic()
        if not self.paths.last.exists():
            trainer.save_checkpoint(self.paths.last)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state of this epoch, unless one of a moment ago is kept and more are to come."""
        before, self._seen = self._seen, self._written()
        final = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0) > 0
        if time.monotonic() - self._kept_at < self.every_seconds and not final:
            return
        self._kept_at = time.monotonic()
        if self._seen == before:
            trainer.save_checkpoint(self.paths.last)
        elif trainer.is_global_zero:
            draft = self.paths.last.with_name(f".last.{os.getpid()}")
            try:
                shutil.copyfile(self.paths.best, draft)
                draft.replace(self.paths.last)
            finally:
                draft.unlink(missing_ok=True)

    def _written(self) -> int:
        return self.paths.best.stat().st_mtime_ns if self.paths.best.exists() else 0
