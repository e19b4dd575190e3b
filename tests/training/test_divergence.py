"""Training that diverges ends in that epoch, and nothing that is not finite is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from fashion_tl import ImageDataModule, ScratchClassifier, SyntheticGarments
from fashion_tl.records.record import read_record
from fashion_tl.training.divergence import DivergedError

from ..conftest import Fit

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")


class Broken(ScratchClassifier):
    """A subclass whose loss is no number at one step."""

    at = 7

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.trainer.global_step == self.at else loss


class Weights(Callback):
    """Makes a weight infinite when the epoch has been looked at, before its checkpoint."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        next(pl_module.parameters()).data[0] = float("inf")


def train(kind: type[ScratchClassifier], folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    data = ImageDataModule(SyntheticGarments(60), batch_size=12, val_fraction=0.2)
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    module = kind(data.class_names, input_spec=spec, network="plain", network_args={"widths": [3, 4]}, lr=0.01)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, ModelCheckpoint(folder, "kept", save_on_train_epoch_end=True)],
        **settings,
    )
    trainer.fit(module, datamodule=data)
    return trainer


def kept(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.ckpt")
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values() if value.is_floating_point())
    return checkpoint


def test_a_loss_that_is_no_number_ends_a_bare_trainers_epoch(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"by step 8 \(epoch 2, learning rate 0.0\d+\): the weights"):
        train(Broken, tmp_path)
    assert kept(tmp_path)["epoch"] == 0


def test_clipped_gradients_of_an_infinite_loss_do_not_end_training(tmp_path: Path, monkeypatch) -> None:
    def infinite(self, batch, batch_idx):
        loss = ScratchClassifier.training_step(self, batch, batch_idx)
        return loss + float("inf") if self.trainer.global_step == self.at else loss

    monkeypatch.setattr(Broken, "training_step", infinite)  # the gradient of a sum with infinity is finite
    assert train(Broken, tmp_path).current_epoch == 4


def test_weights_that_no_loss_has_met_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="epoch 1"):
        train(ScratchClassifier, tmp_path, Weights(), limit_val_batches=0)
    assert not list(tmp_path.glob("*.ckpt"))


@pytest.mark.parametrize("figure", ["val/accuracy", "val/loss"])
def test_a_run_says_where_it_diverged_and_keeps_what_came_before(fit: Fit, capsys, figure: str) -> None:
    flags = ("--model.optimizer", "sgd", "--model.schedule", "step", "--model.gamma", "1", "--model.lr", "3e18")
    assert fit(*flags, "--model.warmup", "0", "--monitor", figure, classifier="ScratchClassifier", epochs=3) == 2
    shown = capsys.readouterr()
    assert "training diverged by step" in shown.err
    assert "learning rate 3e+18" in shown.err
    assert "To go on" not in shown.out + shown.err
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["status"] == "failed"
    assert record["reason"].startswith("training diverged by step")
    assert "test" not in record
    assert "NaN" not in json.dumps(record)
    last = torch.load("checkpoints/run/version_0/last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values() if value.is_floating_point())


@pytest.mark.slow
def test_a_candidate_that_diverges_does_not_end_a_search(fit: Fit, capsys) -> None:
    values = "{model.lr: [3.0e+18, 0.01]}"
    assert fit("--search", values, "--model.optimizer", "sgd", classifier="ScratchClassifier") == 0
    assert "search: best is model.lr=0.01" in capsys.readouterr().out
