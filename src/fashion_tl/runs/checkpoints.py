"""The checkpoint to resume from."""

from __future__ import annotations

import os
import shutil

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from fashion_tl.runs.record import RunPaths


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` at the end of every whole epoch, and one from before the first.

    It comes after the callback that keeps ``best.ckpt``. Where that has just been written it is copied: both hold the
    same state, and to write it out again costs several times more than the copy.

    Args:
        paths: The folders of the run.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self._copied = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave something to resume from before the first epoch is whole."""
        self._copied = self._written()
        if not self.paths.last.exists():
            trainer.save_checkpoint(self.paths.last)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state of this epoch."""
        written = self._written()
        if written == self._copied:
            trainer.save_checkpoint(self.paths.last)
        elif trainer.is_global_zero:
            self._copied = written
            draft = self.paths.last.with_name(f".last.{os.getpid()}")
            try:
                shutil.copyfile(self.paths.best, draft)
                draft.replace(self.paths.last)
            finally:
                draft.unlink(missing_ok=True)

    def _written(self) -> int:
        return self.paths.best.stat().st_mtime_ns if self.paths.best.exists() else 0
