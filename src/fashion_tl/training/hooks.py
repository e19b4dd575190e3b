"""What an ImageClassifier does at Lightning's hooks, in a callback: a subclass may override any hook of the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fashion_tl.data.batches import check_loader
from fashion_tl.seeds import run_seed, seed_batch
from fashion_tl.training.progress import progress_of

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier


class ClassifierHooks(Callback):
    """Prepares the objective, logs figures and seeds batches; it stands behind all other callbacks.

    So what these draw moves nothing, and checkpoints within an epoch are of before its figures are logged. Lightning
    calls callbacks that keep checkpoints at the end of an epoch behind it, and they find the figures.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare the objective."""
        if stage == "fit":
            _classifier(pl_module).prepare_training()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what belongs to where training stands.

        Raises:
            UserError: If the trainer was given loaders whose batches would lack what their data module does.
        """
        check_loader(trainer.train_dataloader, getattr(trainer, "datamodule", None), trainer.world_size)
        _seed(trainer, progress_of(trainer).batch)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the figures of an epoch."""
        _classifier(pl_module).begin_training_figures()
        _seed(trainer, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log an epoch whose batches are done, and seed the next batch."""
        if trainer.is_last_batch or trainer.should_stop:
            _classifier(pl_module).log_training_figures()
        _seed(trainer, batch_idx + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log an epoch that ended early."""
        _classifier(pl_module).log_training_figures()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the figures of a validation."""
        _classifier(pl_module).validation_figures.reset()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the validation's figures."""
        if (figures := _classifier(pl_module).validation_figures).used:
            pl_module.log_dict(figures.final("val"), prog_bar=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seed the next batch: a validation in the middle of an epoch may have drawn."""
        if trainer.state.fn == "fit":
            _seed(trainer, progress_of(trainer).batch)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to test on images that the weights have seen.

        Raises:
            UserError: If there are some among the test images.
        """
        _classifier(pl_module).seen.check(getattr(trainer, "datamodule", None), "the checkpoint", ("test",))

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the figures of a test."""
        _classifier(pl_module).test_figures.reset()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the test's figures."""
        if (figures := _classifier(pl_module).test_figures).used:
            pl_module.log_dict(figures.final("test"))


def _classifier(module: LightningModule) -> ImageClassifier:
    return cast("ImageClassifier", module)


def _seed(trainer: Trainer, batch: int) -> None:
    seed = run_seed()
    if seed is not None:
        device: torch.device = trainer.lightning_module.device
        seed_batch(seed, trainer.global_rank, trainer.current_epoch, batch, device)
