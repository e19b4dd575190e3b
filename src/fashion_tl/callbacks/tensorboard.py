"""What TensorBoard shows beside the curves: images as the network sees them, filters, confusions, final figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.transforms import visible
from fashion_tl.events import EventWriter
from fashion_tl.models.filters import first_convolution
from fashion_tl.plots.filters import filter_grid
from fashion_tl.records.record import RunPaths
from fashion_tl.training.classifier import ImageClassifier

# Training beside validation, under "Custom scalars".
LAYOUT = {
    "training and validation": {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "accuracy")},
}

FILTER_COLUMNS, FILTER_PIXELS = 8, 64


class RunLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger without its ``hparams.yaml``: ``config.yaml`` says the same and more.

    Args:
        paths: The folders of the run; None in processes that write nothing.
    """

    def __init__(self, paths: RunPaths | None) -> None:
        where = ("lightning_logs", "pending", "version") if paths is None else _parts(paths)
        super().__init__(where[0], where[1], where[2], default_hp_metric=False)
        self._writer: EventWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> EventWriter:
        """What writes the events; a dummy in processes that write nothing."""
        if self._writer is None:
            self._writer = EventWriter(Path(self.log_dir))
        return self._writer

    def save(self) -> None:
        """Do nothing: every event is on its way."""

    def finalize(self, status: str) -> None:
        """Close the events."""
        if self._writer is not None:
            self._writer.close()


def _parts(paths: RunPaths) -> tuple[str, str, str]:
    return str(paths.logs.parent.parent), paths.name, paths.logs.name


class TensorBoardPictures(Callback):
    """Draws training images, first-layer filters and the test's confusion matrix, and logs the hyperparameters.

    Args:
        hyperparameters: Plain values for the hyperparameter dashboard, shown beside the final test figures.
        recorder: What knows the test's figures; it comes before this callback.
    """

    def __init__(self, hyperparameters: dict[str, Any], recorder: RunRecorder) -> None:
        self.hyperparameters, self.recorder = hyperparameters, recorder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show training images after augmentation and preprocessing, the filters, and curves side by side."""
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(LAYOUT)
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not isinstance(pl_module, ImageClassifier):
            return

        def seen() -> np.ndarray:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                images = data.splits["train"].reading.read(torch.arange(min(32, len(data.splits["train"]))))
                prepared = pl_module.preprocess(data.augment(images.to(pl_module.device)))
            return grid(pl_module.preprocess.undo(prepared))

        _show(trainer, "images/training_as_the_network_sees_them", seen)
        self._show_filters(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the filters after training."""
        self._show_filters(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the confusion matrix and the hyperparameters with the final figures."""
        if not trainer.is_global_zero:
            return
        test = self.recorder.record["test"]
        matrix, names = np.array(test["confusion_matrix"]), list(test["per_class"])
        _show(trainer, "test/confusion_matrix", lambda: confusion_picture(matrix, names))
        shown = ("accuracy", "balanced_accuracy", "macro_f1", "loss", "calibration_error")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.hyperparameters, {f"final/test_{name}": test[name] for name in shown})
                logger.save()

    @staticmethod
    def _show_filters(trainer: Trainer, module: LightningModule) -> None:
        found = first_convolution(module)
        if found is not None:
            most = len(found.weight)
            _show(
                trainer, "filters/first_layer", lambda: filter_grid(found.weight, FILTER_COLUMNS, most, FILTER_PIXELS)
            )


def confusion_picture(matrix: np.ndarray, class_names: list[str]) -> np.ndarray:
    """Draw a confusion matrix (K, K), true classes in rows: uint8 (side, side, 3), at most 2,000 pixels."""
    from fashion_tl.plots.confusion import confusion_figure
    from fashion_tl.plots.style import pixels, style

    with style():
        return pixels(confusion_figure([("", matrix)], class_names))


def grid(images: Tensor) -> np.ndarray:
    """Lay images (N, C, H, W) of 0 to 1 in rows of 8, with a line between them; returns (height, width, 3).

    Of images with neither 1 nor 3 channels the mean over the channels is shown.
    """
    from torchvision.utils import make_grid

    laid: Tensor = make_grid(visible(images).float().cpu(), padding=2, pad_value=0.5)
    return laid.permute(1, 2, 0).numpy()


def _show(trainer: Trainer, tag: str, draw: Callable[[], np.ndarray]) -> None:
    """Log a picture (height, width, channels); one that cannot be drawn or written must not end the run."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            try:
                logger.experiment.add_image(tag, draw(), trainer.global_step, dataformats="HWC")
            except Exception as error:
                print(f"tensorboard: {tag} is not shown ({type(error).__name__}: {error})", file=sys.stderr)
