"""The callbacks of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor

from fashion_tl.callbacks.averaging import make_average
from fashion_tl.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from fashion_tl.callbacks.features import FeatureCache
from fashion_tl.callbacks.progress_bar import PhaseProgressBar
from fashion_tl.callbacks.pruning import Pruning, Watch
from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.callbacks.tensorboard import TensorBoardPictures
from fashion_tl.records.record import smaller_is_better
from fashion_tl.runs.configs import flat
from fashion_tl.training.divergence import DivergenceGuard
from fashion_tl.training.freezing import EarlyStopping, FreezeUnfreeze


def callbacks_of(
    config: Namespace,
    trainer: Mapping[str, Any],
    cache: FeatureCache,
    recorder: RunRecorder,
    logged: bool,
    tested: bool,
    trial: bool,
    watch: Watch | None = None,
) -> list[Callback]:
    """List the callbacks of a run: the plan comes first, checkpoints come last.

    Args:
        config: The parsed configuration.
        trainer: The settings of the trainer, its own callbacks built.
        cache: The feature cache.
        recorder: The recorder.
        logged: Whether there is a logger.
        tested: Whether a test follows; a candidate of a search keeps its record alone.
        trial: Whether nothing is to be left behind (``trainer.fast_dev_run``).
        watch: What prunes a candidate of a search.
    """
    given = trainer["callbacks"] or []
    given = [given] if isinstance(given, Callback) else given
    averages = make_average(config.ema, config.swa)
    callbacks: list[Callback] = [FreezeUnfreeze(), DivergenceGuard(), cache, *averages, *given]
    if trainer["enable_progress_bar"]:
        callbacks.append(PhaseProgressBar(config.monitor))
    if trial:
        return callbacks
    if config.patience is not None:
        mode = "min" if smaller_is_better(config.monitor) else "max"
        callbacks.append(
            EarlyStopping(config.monitor, mode=mode, patience=config.patience, check_on_train_epoch_end=False)
        )
    callbacks.append(recorder)
    if watch is not None:
        callbacks.append(Pruning(watch, recorder))
    if not tested:  # a candidate of a search keeps its record alone
        return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    settings = {**flat(config.model), **flat(config.data), "seed": config.seed_everything}
    callbacks.append(TensorBoardPictures(settings, recorder))
    if logged:
        callbacks.append(LearningRateMonitor("step"))
    if trainer["enable_checkpointing"] is not False:
        callbacks += [
            BestCheckpoint(config.monitor),
            LastCheckpoint(config.checkpoint_minutes, config.checkpoint_steps),
        ]
    return callbacks
