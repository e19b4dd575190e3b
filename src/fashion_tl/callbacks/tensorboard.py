"""What TensorBoard shows beside the curves: images as the network sees them, filters, confusions, final figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.transforms import visible
from fashion_tl.plain_text import plain_text
from fashion_tl.records.record import RunPaths
from fashion_tl.training.classifier import ImageClassifier

# Training beside validation, under "Custom scalars".
LAYOUT = {
    "training and validation": {name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "accuracy")},
}

DPI = 100
WRITTEN_CLASSES, NAMED_CLASSES = 25, 100
MATRIX_INCHES = 17.5  # with 2.5 for names, 2,000 pixels
LONGEST_NAME = 24


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

        def seen() -> Tensor:
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
        _show(
            trainer,
            "test/confusion_matrix",
            lambda: confusion_picture(np.array(test["confusion_matrix"]), list(test["per_class"])),
        )
        names = ("accuracy", "loss", "macro_f1", "calibration_error")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(self.hyperparameters, {f"final/test_{name}": test[name] for name in names})
                logger.save()

    @staticmethod
    def _show_filters(trainer: Trainer, module: LightningModule) -> None:
        filters = first_filters(module)
        if filters is not None:
            _show(trainer, "filters/first_layer", lambda: grid(filters, scale=max(1, 64 // filters.shape[-1])))


def first_filters(module: nn.Module) -> Tensor | None:
    """Return the filters of the first convolution, (N, C, H, W) scaled to 0 to 1 each, C being 1 or 3."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            weight = visible(layer.weight.detach().float())
            low, high = weight.amin((1, 2, 3), keepdim=True), weight.amax((1, 2, 3), keepdim=True)
            return (weight - low) / (high - low).clamp(min=1e-12)
    return None


def grid(images: Tensor, columns: int = 8, scale: int = 1) -> Tensor:
    """Lay images (N, C, H, W) of 0 to 1 in rows, with a line between them; returns (3, height, width).

    Of images with neither 1 nor 3 channels the mean over the channels is shown.
    """
    from torchvision.utils import make_grid

    enlarged = visible(images).float().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    laid: Tensor = make_grid(enlarged.cpu(), nrow=columns, padding=2, pad_value=0.5)
    return laid


def confusion_picture(matrix: np.ndarray, class_names: list[str]) -> Tensor:
    """Draw a confusion matrix (K, K), rows true, columns predicted, shaded by share of the row.

    Up to 25 classes have their counts written in; the cells of more are shaded by the root of the share, so that rare
    confusions are seen. Up to 100 classes are all named, of more every k-th. The picture grows with the classes up to
    2,000 pixels.

    Returns:
        uint8 (3, side, side).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(class_names)
    written = count <= WRITTEN_CLASSES
    matrix_side = 0.55 * count if written else min(MATRIX_INCHES, max(0.17 * count, 0.55 * WRITTEN_CLASSES))
    side = max(5.0, matrix_side + 2.5)
    shares = (matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)).astype(np.float32)
    named = range(0, count, -(-count // NAMED_CLASSES))
    names = [_cut(class_names[place]) for place in named]
    with plain_text():
        figure = Figure(figsize=(side, side), dpi=DPI, layout="constrained")
        canvas: Any = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.imshow(shares if written else np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
        size = 10 if written else 7
        if written:
            axes.set_xticks(named, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=size)
        else:
            axes.set_xticks(named, names, rotation=90, fontsize=size)
        axes.set_yticks(named, names, fontsize=size)
        axes.set_xlabel("predicted" if written else "predicted (shade: root of the share of the true class)")
        axes.set_ylabel("true")
        if written:
            for row, column in np.argwhere(matrix > 0):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=8)
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _cut(name: str) -> str:
    """Shorten a long name in the middle."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}\u2026{name[-LONGEST_NAME // 2 + 1 :]}"


def _show(trainer: Trainer, tag: str, draw: Callable[[], Tensor]) -> None:
    """Log a picture (3, height, width) to TensorBoard; one that cannot be drawn or written must not end the run."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            try:
                logger.experiment.add_image(tag, draw(), trainer.global_step)
            except Exception as error:
                print(f"tensorboard: {tag} is not shown ({type(error).__name__}: {error})", file=sys.stderr)
