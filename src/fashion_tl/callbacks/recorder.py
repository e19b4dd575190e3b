"""The callback that writes a run's record."""

from __future__ import annotations

import csv
import io
import math
import platform
import shlex
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from fashion_tl.analysis.metrics import summarise
from fashion_tl.callbacks.features import FrozenCache
from fashion_tl.callbacks.pictures import keep_filters, keep_test_images
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.transforms import describe_preprocessing
from fashion_tl.models.staged import count_parameters
from fashion_tl.process import PeakMemory
from fashion_tl.records.findings import write_arrays
from fashion_tl.records.record import COMPLETED, FAILED, INTERRUPTED, RUNNING, RunPaths, write_record, write_text
from fashion_tl.training.classifier import ImageClassifier

LIBRARIES = ("fashion_tl", "torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy")


class RunRecorder(Callback):
    """Writes ``config.yaml``, ``run.json``, ``metrics.csv`` and ``test_predictions.npz`` of one run.

    The record exists from the first moment, says "running" until the test is done, and says why where the run ends
    early. The history is part of the checkpoint, so a resumed run's record is whole.

    Args:
        paths: The folders of the run.
        config: The resolved configuration, as YAML that runs again.
        command: The command line that started the run.
        seed: The run's seed.
        monitor: The metric that chooses the best epoch, such as "val/accuracy".
        cache: The callback that knows the seconds spent on computing frozen activations.
        study: Figures of the published study that this run reproduces, for the report.
        tested: Whether a test follows; without one the run is completed when its training is.
    """

    def __init__(
        self,
        paths: RunPaths,
        config: str,
        command: str,
        seed: int,
        monitor: str,
        cache: FrozenCache,
        study: dict[str, Any] | None = None,
        tested: bool = True,
    ) -> None:
        self.paths, self.config, self.monitor, self.cache, self.tested = paths, config, monitor, cache, tested
        self.record: dict[str, Any] = {
            "name": paths.name,
            "version": paths.version,
            "status": RUNNING,
            "reason": None,
            "seed": seed,
            "command": command,
            "started": _now(),
            "finished": None,
            "study": study,
        }
        self.history: list[dict[str, float]] = []
        self.fit_seconds = 0.0
        self._fit_began = self._epoch_began = self._test_began = 0.0
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._stopping: str | None = None
        self._fitting = False
        self._first_epoch = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what is about to happen: a test restores the checkpoint's callbacks, too."""
        self._fitting = stage == "fit"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the best among the epochs whose checkpoints this version holds."""
        start = trainer.ckpt_path
        if start is not None and Path(str(start)).parent.resolve() != self.paths.checkpoints.resolve():
            self._first_epoch = trainer.current_epoch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the configuration and a record that says "running"."""
        self._fit_began = time.perf_counter()
        write_text(self.paths.logs / "config.yaml", self.config)
        self.record.update(_describe(trainer, pl_module))
        self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch to the history and to ``metrics.csv``."""
        module = _classifier(pl_module)
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        for key in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            if key in trainer.callback_metrics:
                row[key] = float(trainer.callback_metrics[key])
        groups = trainer.optimizers[0].param_groups
        row["lr"] = float(max(group["lr"] for group in groups))
        row["trained_parameters"] = count_parameters(module.network, trained_only=True)
        row["seconds"] = time.perf_counter() - self._epoch_began
        self.history.append(row)
        _write_csv(self.paths, self.history)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record how and why training ended."""
        self.fit_seconds += time.perf_counter() - self._fit_began
        if self._stopping is None:
            done = trainer.current_epoch >= (trainer.max_epochs or 0)
            self.record["reason"] = "all epochs done" if done else _why_stopped(trainer)
        if not self.tested and self._stopping is None:
            self.record.update(status=COMPLETED, finished=_now())
        self._summarise_training(trainer)
        self._write()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the test."""
        self._test_began = time.perf_counter()
        self._logits, self._labels = [], []

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
        """Write the predictions and the completed record."""
        logits = torch.cat(self._logits).cpu().numpy()
        labels = torch.cat(self._labels).cpu().numpy()
        arrays = {"index": np.arange(len(labels)), "label": labels, "logits": logits}
        write_arrays(self.paths.logs / "test_predictions.npz", arrays)
        keep_filters(pl_module, self.paths.logs)
        keep_test_images(getattr(trainer, "datamodule", None), self.paths.logs.parent.parent)
        self.record["test"] = summarise(logits, labels, list(_classifier(pl_module).class_names))
        self.record["time"]["test_seconds"] = time.perf_counter() - self._test_began
        self.record.update(status=COMPLETED, finished=_now())
        self._write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a record that says why the run ended early."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            signal = "Ctrl-C" if isinstance(exception, KeyboardInterrupt) else "SIGTERM"
            status, self._stopping = INTERRUPTED, f"stopped by {signal}"
        else:
            status, self._stopping = FAILED, f"{type(exception).__name__}: {exception}"
        if self._fit_began and not self._test_began:
            self.fit_seconds += time.perf_counter() - self._fit_began
        self.record.update(status=status, reason=self._stopping, finished=_now())
        self._summarise_training(trainer)
        if self.paths.logs.exists():
            self._write()
        if self.paths.last.is_file():
            config, last = (shlex.quote(str(path)) for path in (self.paths.logs / "config.yaml", self.paths.last))
            print(f"{self.paths.name}: {self._stopping}. To go on: fashion-tl fit -c {config} --ckpt_path {last}")

    def fail(self, reason: str) -> None:
        """Write a record that says why there is nothing to test."""
        self.record.update(status=FAILED, reason=reason, finished=_now())
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Keep the history in the checkpoint, as plain values."""
        seconds = self.fit_seconds + time.perf_counter() - self._fit_began
        return {
            "history": [dict(row) for row in self.history],
            "fit_seconds": seconds,
            "started": self.record["started"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the history of the stopped run."""
        if not self._fitting:
            return
        self.history = [dict(row) for row in state_dict["history"]]
        self.fit_seconds = float(state_dict["fit_seconds"])
        self.record["started"] = state_dict["started"]
        self.record["resumed"] = _now()

    def _summarise_training(self, trainer: Trainer) -> None:
        rows = self.history
        seconds = [row["seconds"] for row in rows]
        images = self.record.get("data", {}).get("sizes", {}).get("train", 0)
        self.record["time"] = {
            "fit_seconds": self.fit_seconds,
            "epoch_seconds": seconds,
            "cache_seconds": self.cache.seconds,
            "images_per_second": images * len(rows) / sum(seconds) if seconds else None,
        }
        self.record["peak_memory_bytes"] = PeakMemory(trainer.strategy.root_device).read()
        own = [row for row in rows if row["epoch"] >= self._first_epoch]
        scored = [row for row in own if math.isfinite(row.get(self.monitor, math.nan))]
        if scored:
            sign = -1 if self.monitor.endswith("loss") else 1
            best = max(scored, key=lambda row: sign * row[self.monitor])
            self.record["best"] = {"epoch": int(best["epoch"]), "monitor": self.monitor, "value": best[self.monitor]}

    def _write(self) -> None:
        write_record(self.paths.logs, self.record)


def _describe(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    module = _classifier(pl_module)
    data = getattr(trainer, "datamodule", None)
    phases = []
    for index, phase in enumerate(module.phases):
        module.enter_phase(index)
        trained = count_parameters(module.network, trained_only=True)
        phases.append({"start": phase.start, "trains": module.describe_phase(index), "trained_parameters": trained})
    module.enter_phase(0)
    return {
        "data": data.describe() if isinstance(data, ImageDataModule) else {},
        "model": {
            "module": type(module).__name__,
            "architecture": module.architecture,
            "weights": module.weights,
            "weights_hash": module.weights_hash,
            "stages": list(module.network.stage_names),
            "parameters": count_parameters(module.network),
            "phases": phases,
            "batch_norm": module.batch_norm,
            "optimizer": module.optimizer_name,
            "lr": module.lr,
            "backbone_lr": module.backbone_lr,
            "schedule": module.schedule,
            "max_epochs": trainer.max_epochs,
            "input": describe_preprocessing(module.preprocess),
        },
        "environment": {
            "python": platform.python_version(),
            "libraries": {name: _version(name) for name in LIBRARIES},
            "device": _device(trainer),
            "threads": torch.get_num_threads(),
            "precision": str(trainer.precision),
            "git_commit": _git_commit(),
        },
    }


def _classifier(module: LightningModule) -> ImageClassifier:
    if not isinstance(module, ImageClassifier):
        raise TypeError(f"a run's record needs an ImageClassifier, not {type(module).__name__}")
    return module


def _write_csv(paths: RunPaths, rows: list[dict[str, float]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(paths.logs / "metrics.csv", text.getvalue())


def _why_stopped(trainer: Trainer) -> str:
    for callback in trainer.early_stopping_callbacks:
        if getattr(callback, "stopped_epoch", 0):
            return f"early stopping: {callback.monitor} did not improve for {callback.patience} epochs"
    return "stopped by the trainer (max_time, max_steps or a callback)"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _git_commit() -> str | None:
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
