"""Where training stands, read from Lightning's loops."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from fashion_tl.training.plan import Progress


def progress_of(trainer: Trainer) -> Progress:
    """Read where training stands: between two epochs, or after a number of batches of the present one."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    inside = epochs.started > epochs.processed
    return Progress(
        epoch=epochs.processed,
        batch=trainer.fit_loop.epoch_loop.batch_progress.current.ready if inside else 0,
        batches=float(trainer.num_training_batches),
        accumulate=trainer.accumulate_grad_batches,
        steps=trainer.global_step,
    )
