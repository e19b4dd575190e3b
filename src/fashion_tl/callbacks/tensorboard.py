"""What TensorBoard shows beside the curves: images as the network sees them, filters, confusions, final figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.records.record import RunPaths
from fashion_tl.training.classifier import ImageClassifier

# Training beside validation, under "Custom scalars".
LAYOUT = {
    "training and validation": {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "accuracy")},
}


class RunLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger without its ``hparams.yaml``: ``config.yaml`` says the same and more.

    Args:
        paths: The folders of the run; None in processes that write nothing.
    """

    def __init__(self, paths: RunPaths | None) -> None:
        where = ("lightning_logs", "pending", "version") if paths is None else _parts(paths)
        super().__init__(where[0], where[1], where[2], default_hp_metric=False)

    def save(self) -> None:
        """Flush the events."""
        self.experiment.flush()


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
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            images = data.splits["train"].reading.read(torch.arange(min(32, len(data.splits["train"]))))
            seen = pl_module.preprocess(data.augment(images.to(pl_module.device)))
        _add_image(trainer, "images/training_as_the_network_sees_them", grid(pl_module.preprocess.undo(seen)))
        self._add_filters(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the filters after training."""
        self._add_filters(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the confusion matrix and the hyperparameters with the final figures."""
        if not trainer.is_global_zero:
            return
        test = self.recorder.record["test"]
        matrix = np.array(test["confusion_matrix"])
        picture = confusion_picture(matrix, list(test["per_class"]))
        _add_image(trainer, "test/confusion_matrix", picture)
        names = ("accuracy", "loss", "macro_f1", "calibration_error")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.hyperparameters, {f"final/test_{name}": test[name] for name in names})
                logger.save()

    @staticmethod
    def _add_filters(trainer: Trainer, module: LightningModule) -> None:
        filters = first_filters(module)
        if filters is not None:
            _add_image(trainer, "filters/first_layer", grid(filters, scale=max(1, 64 // filters.shape[-1])))


def first_filters(module: nn.Module) -> Tensor | None:
    """Return the filters of the first convolution, (N, C, H, W) scaled to 0 to 1 each, C being 1 or 3."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.detach().float()
            if weight.shape[1] not in (1, 3):
                weight = weight.mean(1, keepdim=True)
            low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
            return (weight - low) / (high - low).clamp(min=1e-12)
    return None


def grid(images: Tensor, columns: int = 8, scale: int = 1) -> Tensor:
    """Lay images (N, C, H, W) in rows, with a line between them; returns (C, height, width)."""
    from torchvision.utils import make_grid

    enlarged = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    laid: Tensor = make_grid(enlarged.cpu(), nrow=columns, padding=2, pad_value=0.5)
    return laid


def confusion_picture(matrix: np.ndarray, class_names: list[str]) -> Tensor:
    """Draw a confusion matrix (K, K), rows true, columns predicted, shaded by share of the row; (3, height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(class_names)
    side = max(5.0, 0.55 * count + 2.5)
    figure = Figure(figsize=(side, side), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), class_names, rotation=45, ha="right")
    axes.set_yticks(range(count), class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= 25:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _add_image(trainer: Trainer, tag: str, image: Tensor) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, trainer.global_step)
