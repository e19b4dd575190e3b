"""The callback that writes a run's record."""

from __future__ import annotations

import math
import shlex
import sys
import time
from typing import Any, cast

import numpy as np
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DistributedSampler
from torchmetrics.utilities.distributed import gather_all_tensors

from fashion_tl.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from fashion_tl.callbacks.features import FeatureCache
from fashion_tl.callbacks.pictures import keep_filters, keep_test_images
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.transforms import describe_preprocessing
from fashion_tl.errors import UserError
from fashion_tl.files import as_csv, sha256, write_text
from fashion_tl.metrics.metrics import summarise
from fashion_tl.models.staged import BatchNormPolicy, count_parameters
from fashion_tl.process import PeakMemory, device_text, leave_group_at_exit
from fashion_tl.records.analysis import write_arrays
from fashion_tl.records.environment import environment, now
from fashion_tl.records.record import (
    COMPLETED,
    CONFIG,
    FAILED,
    INTERRUPTED,
    METRICS,
    PREDICTIONS,
    PRUNED,
    RECORD,
    RUNNING,
    TRAINED,
    RunPaths,
    read_record,
    smaller_is_better,
    write_record,
)
from fashion_tl.records.settings import setting_changes
from fashion_tl.training.certificate import FreezeCertificate
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.divergence import DivergedError
from fashion_tl.training.freezing import FreezeUnfreeze, validates_at_ends
from fashion_tl.training.going_on import averaging_of
from fashion_tl.training.progress import progress_of


class RunRecorder(Callback):
    """Writes ``config.yaml``, ``run.json``, ``metrics.csv`` and ``test_predictions.npz`` of one run.

    The record exists from the start of training, says "running" until the test is done, and says why where the run ends
    early. The history is part of the checkpoint, so a resumed run's record is whole. The first process decides and
    writes, from what all processes measured.

    Args:
        paths: The folders of the run, as the first process has chosen them; None in the others, which are told.
        config: The resolved configuration, as YAML that runs again.
        facts: What the record says of the run from the start: command, seed, study, and what a search for the
            rate began with.
        monitor: The metric that chooses the best epoch, such as "val/accuracy".
        cache: The callback that knows the seconds spent on computing features.
        tested: Whether a test follows; without one the run is completed when its training is.
        later: Whether that test is another call's, which goes on with the run.
        own_start: Whether earlier epochs in a checkpoint are of this version too, so that its best may be among them.

    Attributes:
        pruned: Why the run was pruned; None if it was not.
        trained: Whether the checkpoint to go on from is the end of the training, so that only the test is left.
    """

    def __init__(
        self,
        paths: RunPaths | None,
        config: str,
        facts: dict[str, Any],
        monitor: str,
        cache: FeatureCache,
        tested: bool = True,
        later: bool = False,
        own_start: bool = True,
    ) -> None:
        self.config, self.monitor, self.cache, self.tested, self.own_start = config, monitor, cache, tested, own_start
        self._config_before = config
        self.later = later
        self.chosen = paths
        self.record: dict[str, Any] = {"status": RUNNING, "reason": None, "started": now(), "finished": None, **facts}
        self.history: list[dict[str, float]] = []
        self.fit_seconds = 0.0
        self._fit_began = self._epoch_began = self._test_began = 0.0
        self._images, self._rate = 0, 0.0
        self._validated: dict[str, float] = {}
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._stopping: str | None = None
        self._stage = ""
        self._first_epoch = 0
        self.trained = False
        self.pruned: str | None = None
        self._memory: PeakMemory | None = None
        self._certificate = FreezeCertificate()

    @property
    def paths(self) -> RunPaths:
        """The folders of the run, once they are chosen."""
        if self.chosen is None:
            raise ValueError("the folders of the run are not chosen yet")
        return self.chosen

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell all processes what the first one has chosen, and the other callbacks where their files go."""
        self._stage = stage
        leave_group_at_exit()
        self.chosen, pl_module.plan = trainer.strategy.broadcast((self.chosen, pl_module.plan))
        for callback in _callbacks(trainer):
            if isinstance(callback, LastCheckpoint):
                callback.paths = self.paths
            if isinstance(callback, BestCheckpoint):
                callback.dirpath = str(self.paths.checkpoints)
        self.record |= {"name": self.paths.name, "version": self.paths.version}
        if stage == "fit" and self.own_start and trainer.is_global_zero:
            # What the record says already is kept, should this part of the run end before it has begun.
            self.record = {**read_record(self.paths.logs), **self.record}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and to measure memory."""
        self._fit_began = time.perf_counter()
        if self.trained:
            trainer.should_stop = True
        elif self.tested:
            self._memory = PeakMemory(trainer.strategy.root_device)
            self._memory.start()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration and a record that says "running"."""
        self._epoch_began = time.perf_counter() - self._epoch_began
        self._settle_best(trainer)
        self.record.update(_describe(trainer, _classifier(pl_module)))
        freezing = next(callback for callback in _callbacks(trainer) if isinstance(callback, FreezeUnfreeze))
        if freezing.resumed is not None:
            changed = setting_changes(yaml.safe_load(self._config_before), yaml.safe_load(self.config))
            entry = {"at": now(), **freezing.resumed, **({"settings": changed} if changed else {})}
            self.record.setdefault("resumed", []).append(entry)
        self._certify(trainer, pl_module)
        self._write(trainer, config=True)

    def _settle_best(self, trainer: Trainer) -> None:
        """Have the best so far go on where ``best.ckpt`` is of it; else choose among the epochs to come."""
        keeping = [callback for callback in _callbacks(trainer) if isinstance(callback, BestCheckpoint)]
        best = self._best_row() if self.own_start else None
        if keeping:
            kept = _epochs(self._kept_history()) if trainer.is_global_zero else []
            # A file of other training has other epochs: the clock tells them apart.
            stands = kept == _epochs(self.history[: len(kept)]) and kept[-1:] == _epochs([best] if best else [])
            best = best if trainer.strategy.broadcast(stands) else None
            if best is None and trainer.is_global_zero and self.paths.best.is_file():
                rank_zero_warn(f"{self.paths.best} is of epochs that this run does not go on from, and is removed")
                self.paths.best.unlink()
        for callback in keeping:
            callback.begin(self.paths.best, best[self.monitor] if best else None)
        if best is None:
            self._first_epoch = trainer.current_epoch

    def _kept_history(self) -> list[dict[str, float]]:
        """Return the history in ``best.ckpt``; nothing if there is none."""
        kept = load_checkpoint(self.paths.best).get("callbacks", {}) if self.paths.best.is_file() else {}
        history: list[dict[str, float]] = kept.get(self.state_key, {}).get("history", [])
        return history

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._certify(trainer, pl_module)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch_began, self._images, self._rate, self._validated = time.perf_counter(), 0, 0.0, {}

    def _certify(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            module = _classifier(pl_module)
            phase = module.current_plan().phase(progress_of(trainer))
            self._certificate.follow(module.network, phase, self.cache.largest_difference)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Note the rate, which after the batch is that of the next one."""
        rates = (float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups)
        self._rate = max(self._rate, *rates)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type
        batch: Any,  # noqa: ANN401 - Lightning's type
        batch_idx: int,
    ) -> None:
        """Count the images that were seen."""
        self._images += len(batch[1])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take what validation has measured in this epoch."""
        if not trainer.sanity_checking:
            found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
            self._validated = dict(sorted(found.items(), key=lambda item: _ORDER.get(item[0], 99)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the history and to ``metrics.csv``: what was measured in it, and nothing else."""
        module = _classifier(pl_module)
        module.log_training_figures()
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        metrics = trainer.callback_metrics
        row |= {name: float(metrics[name]) for name in ("train/loss", "train/accuracy") if name in metrics}
        row |= self._validated
        row["lr"] = self._rate
        row["trained_parameters"] = count_parameters(module.network, trained_only=True)
        seen = trainer.strategy.reduce(torch.tensor(float(self._images), device=module.device), reduce_op="sum")
        row["images"] = int(cast(Tensor, seen))
        row["seconds"] = time.perf_counter() - self._epoch_began
        self.history.append(row)
        self._begin_epoch()
        if trainer.is_global_zero:
            _write_csv(self.paths, self.history)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record how and why training ended."""
        if trainer.is_global_zero:
            self._certificate.close(_classifier(pl_module).network)
        if self._stopping is None:
            self.record["reason"] = self.pruned or _why_stopped(trainer)
        if (self.later or not self.tested) and self._stopping is None:
            untested = PRUNED if self.pruned else COMPLETED
            self.record.update(status=TRAINED if self.tested else untested, finished=now())
        plan = _classifier(pl_module).current_plan()
        if plan.may_end_early and "model" in self.record:  # with the first process alone where only the test is left
            for entry, phase in zip(self.record["model"]["phases"], plan.phases, strict=True):
                entry["began"] = phase.start
        self._summarise_training(trainer)
        self._write(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to test another epoch than the one that the record says validation chose."""
        if self._stage != "test":
            return
        best = trainer.strategy.broadcast(read_record(self.paths.logs).get("best") if trainer.is_global_zero else None)
        if best and best["epoch"] != checkpoint["epoch"]:
            raise UserError(
                f"{self.paths.best} is of epoch {checkpoint['epoch']}, and by {best['monitor']} validation chose epoch "
                f"{best['epoch']}, so nothing was tested. Train a new version: leave --ckpt_path and --resume out."
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the test; where processes were started anew, their record is on the disk."""
        self._test_began = time.perf_counter()
        self._logits, self._labels = [], []
        if trainer.is_global_zero:
            self.record = read_record(self.paths.logs)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type
        batch: Any,  # noqa: ANN401 - Lightning's type
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits."""
        self._logits.append(outputs["logits"].float())
        self._labels.append(outputs["labels"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the predictions of every test image, once and in order, and the completed record."""
        index, logits, labels = _gathered(trainer, torch.cat(self._logits), torch.cat(self._labels))
        if not trainer.is_global_zero:
            return
        self.record["test"] = summarise(logits, labels, list(_classifier(pl_module).class_names))
        data = getattr(trainer, "datamodule", None)
        arrays = {"index": index, "label": labels, "logits": logits}
        if getattr(data, "fold", None) is not None:  # which of the source's training images each of the fold is
            arrays["image"] = cast(Any, data).splits["test"].indices.numpy()[index]
        write_arrays(self.paths.logs / PREDICTIONS, arrays)
        keep_filters(pl_module, self.paths.logs)
        keep_test_images(data, self.paths.logs.parent.parent)
        if self.paths.best.is_file():
            self.record["checkpoint"] = sha256(self.paths.best)
        self.record["time"]["test_seconds"] = time.perf_counter() - self._test_began
        self.record.update(status=COMPLETED, finished=now())
        self._write(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the processes wait for the one that writes: the end of one closes its connections to the others."""
        trainer.strategy.barrier()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a record that says why the run ended early."""
        if self.chosen is None or not trainer.is_global_zero:
            return
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            signal = "Ctrl-C" if isinstance(exception, KeyboardInterrupt) else "SIGTERM"
            status, self._stopping = INTERRUPTED, f"stopped by {signal}"
        else:
            told = str(exception) if isinstance(exception, UserError) else f"{type(exception).__name__}: {exception}"
            status, self._stopping = FAILED, told
        if self._fit_began:
            if status == INTERRUPTED:  # after another error the device may answer nothing
                self._certificate.close(_classifier(pl_module).network)
            self._summarise_training(trainer)
        if self.own_start and not self._stage:  # the trainer has ended before it began
            self.record = {**self.record, **read_record(self.paths.logs)}
        self.record.update(status=status, reason=self._stopping, finished=now())
        if isinstance(exception, DivergedError):
            self.record["diverged"] = True
        if self.paths.logs.exists():
            try:
                self._write(trainer)
            except OSError as error:  # what has ended the run is told, whatever the disk of its record does
                print(f"{error.filename} stays as it was: {error.strerror}", file=sys.stderr)
        if not isinstance(exception, DivergedError):
            self._tell_how_to_go_on()

    def interrupt(self) -> None:
        """Record a Ctrl-C where no trainer runs, if the run has begun and is not done."""
        if self.chosen is None or not (self.paths.logs / RECORD).is_file():
            return
        self.record, self._stopping = read_record(self.paths.logs), "stopped by Ctrl-C"
        if self.record["status"] == RUNNING:
            stopped = {"status": INTERRUPTED, "reason": self._stopping, "finished": now()}
            write_record(self.paths.logs, {**self.record, **stopped})
            self._tell_how_to_go_on()

    def _tell_how_to_go_on(self) -> None:
        if self.paths.last.is_file():
            config, last = (shlex.quote(str(path)) for path in (self.paths.logs / CONFIG, self.paths.last))
            print(f"{self.paths.name}: {self._stopping}. To go on: fashion-tl fit -c {config} --ckpt_path {last}")

    def state_dict(self) -> dict[str, Any]:
        """Keep configuration and history in the checkpoint, as plain values, and what is counted of the epoch."""
        now = time.perf_counter()
        return {
            "history": [dict(row) for row in self.history],
            "fit_seconds": self._seconds(),
            "started": self.record["started"],
            "resumed": list(self.record.get("resumed", [])),
            "first_epoch": self._first_epoch,
            "epoch": {
                "seconds": now - self._epoch_began,
                "images": self._images,
                "rate": self._rate,
                "validated": dict(self._validated),
            },
            "certificate": self._certificate.state(),
            "config": self.config,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the history of the stopped run."""
        if self._stage != "fit":
            return
        self.history = [dict(row) for row in state_dict["history"]]
        self._first_epoch = int(state_dict.get("first_epoch", 0))  # not in checkpoints of earlier versions
        self.fit_seconds = float(state_dict["fit_seconds"])
        self.record |= {"started": state_dict["started"], "resumed": list(state_dict["resumed"])}
        epoch = state_dict["epoch"]
        self._epoch_began, self._images = float(epoch["seconds"]), int(epoch["images"])
        self._rate = float(epoch.get("rate", 0.0))  # not in checkpoints of earlier versions
        self._validated = dict(epoch["validated"])
        self._config_before = state_dict.get("config", self.config)  # not in checkpoints of earlier versions
        if "certificate" in state_dict:  # not in checkpoints of earlier versions
            self._certificate.load(state_dict["certificate"])

    def _seconds(self) -> float:
        """Return the seconds in training so far, with those since the clock was started, if it runs."""
        return self.fit_seconds + (time.perf_counter() - self._fit_began if self._fit_began else 0.0)

    def _summarise_training(self, trainer: Trainer) -> None:
        self.fit_seconds, self._fit_began = self._seconds(), 0.0
        rows = self.history
        seconds = sum(row["seconds"] for row in rows)
        self.record["time"] = {
            "fit_seconds": self.fit_seconds,
            "epoch_seconds": [row["seconds"] for row in rows],
            "cache_seconds": self.cache.seconds,
            "images_per_second": sum(row["images"] for row in rows) / seconds if seconds else None,
        }
        self.record["certificate"] = self._certificate.phases
        self.record["peak_memory_bytes"] = self._memory.read() if self._memory else None
        if best := self._best_row():
            self.record["best"] = {"epoch": int(best["epoch"]), "monitor": self.monitor, "value": best[self.monitor]}

    def _best_row(self) -> dict[str, float] | None:
        own = [row for row in self.history if row["epoch"] >= self._first_epoch]
        scored = [row for row in own if math.isfinite(row.get(self.monitor, math.nan))]
        sign = -1 if smaller_is_better(self.monitor) else 1
        return max(scored, key=lambda row: sign * row[self.monitor], default=None)

    def _write(self, trainer: Trainer, config: bool = False) -> None:
        if trainer.is_global_zero:
            if config:
                write_text(self.paths.logs / CONFIG, self.config)
            write_record(self.paths.logs, self.record)


_ORDER = {name: i for i, name in enumerate(("val/loss", "val/accuracy", "val/balanced_accuracy", "val/macro_f1"))}


def _gathered(trainer: Trainer, logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring the predictions of all processes together, each sample once, in the order of the test set."""
    positions = _positions(trainer.test_dataloaders, len(labels)).to(labels.device)
    if trainer.world_size > 1:
        positions, logits, labels = (torch.cat(gather_all_tensors(t)) for t in (positions, logits, labels))
    index, first = np.unique(positions.cpu().numpy(), return_index=True)
    return index, logits.cpu().numpy()[first], labels.cpu().numpy()[first]


def _epochs(rows: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(row["epoch"], row["seconds"]) for row in rows]


def _positions(loader: Any, count: int) -> Tensor:  # noqa: ANN401 - any loader
    """Return the positions (count,) in the test set that this process has seen."""
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSampler):
        return torch.tensor(list(sampler))[:count]
    positions: Tensor = getattr(loader, "positions", torch.arange(count))[:count]
    return positions


def _describe(trainer: Trainer, module: ImageClassifier) -> dict[str, Any]:
    data, plan, network = getattr(trainer, "datamodule", None), module.current_plan(), module.network
    phases = [
        {
            "start": module.plan.phases[index].start,
            "trains": module.describe_phase(index),
            "trained_parameters": network.count_trained(
                network.select(phase.train), cast(BatchNormPolicy, plan.batch_norm)
            ),
        }
        for index, phase in enumerate(plan.phases)
    ]
    return {
        "data": data.describe() if isinstance(data, ImageDataModule) else {},
        "model": {
            "module": type(module).__name__,
            "architecture": module.architecture,
            "weights": module.weights,
            "weights_hash": module.weights_hash,
            "head_hash": module.head_hash,
            "stages": list(network.stage_names),
            "parameters": count_parameters(network),
            "phases": phases,
            "batch_norm": plan.batch_norm,
            "optimizer": plan.optimizer,
            "lr": plan.lr,
            "backbone_lr": plan.backbone_lr,
            "schedule": plan.schedule.name,
            "objective": module.objective.label,
            "class_weights": module.class_weights,
            "averaging": averaging_of(trainer),
            "max_epochs": trainer.max_epochs,
            "max_steps": plan.max_steps,
            "planned_epochs": module.bounded_plan().epochs,
            "input": describe_preprocessing(module.preprocess),
        },
        "environment": {
            **environment(),
            "device": device_text(trainer.strategy.root_device),
            "processes": trainer.world_size,
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
        },
    }


def _classifier(module: LightningModule) -> ImageClassifier:
    if not isinstance(module, ImageClassifier):
        raise TypeError(f"a run's record needs an ImageClassifier, not {type(module).__name__}")
    return module


def _write_csv(paths: RunPaths, rows: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    values = [[row.get(name) for name in columns] for row in rows]
    write_text(paths.logs / METRICS, as_csv([columns, *values]))


def _why_stopped(trainer: Trainer) -> str:
    for callback in trainer.early_stopping_callbacks:
        reason = callback.stopping_reason
        if reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
            counted = "epoch" if trainer.check_val_every_n_epoch == 1 and validates_at_ends(trainer) else "validation"
            count = max(callback.patience, 1)
            return f"early stopping: {callback.monitor} did not improve for {count} {counted}{'s' * (count > 1)}"
        if reason != EarlyStoppingReason.NOT_STOPPED:
            return f"early stopping: {callback.stopping_reason_message}"
    if 0 <= trainer.max_steps <= trainer.global_step:
        return "all steps done"
    if any(isinstance(each, FreezeUnfreeze) and each.ended_early for each in _callbacks(trainer)):
        return "all phases done, one of them before its last epoch"
    if trainer.current_epoch >= (trainer.max_epochs or 0) > 0:
        return "all epochs done"
    return "stopped by the trainer (max_time or a callback)"


def _callbacks(trainer: Any) -> list[Callback]:  # noqa: ANN401 - the Trainer, whose type does not tell
    return list(trainer.callbacks)
