"""A run that goes on from a checkpoint ends as one that was never stopped, bit for bit on a CPU.

The product of schedules, phases, ways of reading images, and places of the checkpoint; and what is refused.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from fashion_tl import FeatureCache, FreezeUnfreeze, ImageDataModule, ScratchClassifier
from fashion_tl.data.transforms import Augment
from fashion_tl.training.plan import SCHEDULES

EPOCHS, BATCHES = 4, 6
PHASES: dict[str, Any] = {"one phase": "block2", "three phases": {0: "head", 1: "block2", 3: "all"}}
AUGMENTATIONS = {"cache": {"mirror": 0.5}, "no cache": {"mirror": 0.5}, "augmentation": {"mirror": 0.5, "shift": 2}}
PLACES = {"end": (1, BATCHES), "middle": (2, 3)}  # after this batch of this epoch

pytestmark = [
    # Frozen modules are meant to be in eval mode.
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),
    # Lightning 2.6 itself calls what torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))


class SaveAt(Checkpoint):
    """Saves a checkpoint after a batch of an epoch; after the last one where Lightning saves: at the epoch's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.save(trainer, batch_idx + 1 if batch_idx + 1 < trainer.num_training_batches else 0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer, int(trainer.num_training_batches))

    def save(self, trainer: Trainer, batch: int) -> None:
        for name, place in PLACES.items():
            if place == (trainer.current_epoch, batch):
                trainer.save_checkpoint(self.folder / f"{name}.ckpt")


@functools.cache
def images() -> ImageDataModule:
    data = ImageDataModule("garments", drawn=60, batch_size=8, val_fraction=0.2)
    data.setup()
    return data


def data_module(augmentation: dict[str, Any], batch_size: int = 8) -> ImageDataModule:
    data = ImageDataModule(
        "garments", drawn=60, batch_size=batch_size, val_fraction=0.2, augment=Augment(**augmentation)
    )
    data.loaded, data.splits = images().loaded, images().splits
    return data


def classifier(**changes: Any) -> ScratchClassifier:
    torch.manual_seed(0)
    given: dict[str, Any] = {"network": "plain", "network_args": {"widths": [3, 4], "dropout": 0.3}, "lr": 0.05}
    spec = {"channels": 1, "held_size": 28, "image_size": 28}
    return ScratchClassifier(images().class_names, input_spec=spec, **{**given, **changes})


def train(
    module: ScratchClassifier,
    data: ImageDataModule,
    folder: Path,
    *callbacks: Any,
    start: Path | None = None,
    **more: Any,
) -> dict[str, Any]:
    settings: dict[str, Any] = {"max_epochs": EPOCHS, "num_sanity_val_steps": 0, **more}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[FreezeUnfreeze(), *callbacks],
        **settings,
    )
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    state = trainer.optimizers[0].state_dict()["state"]
    moments = {f"{i} {name}": value for i, each in state.items() for name, value in each.items()}
    return {
        **module.state_dict(),
        **{name: value for name, value in moments.items() if isinstance(value, Tensor)},
        "figures": torch.stack([trainer.callback_metrics[name] for name in sorted(trainer.callback_metrics)]),
    }


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return [key for key in first.keys() | second.keys() if not torch.equal(first[key], second[key])]


@pytest.mark.parametrize("reading", AUGMENTATIONS)
@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(
    schedule: str, phases: str, reading: str, tmp_path: Path
) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        cache = [FeatureCache("require" if phases == "one phase" else "auto")] if reading == "cache" else []
        module = classifier(train=PHASES[phases], schedule=schedule, plateau_patience=0, step_size=1, gamma=0.5)
        data = data_module(AUGMENTATIONS[reading])
        return train(module, data, tmp_path, *cache, *callbacks, start=start)

    whole = run(SaveAt(tmp_path))
    for name in PLACES:
        assert different(whole, run(start=tmp_path / f"{name}.ckpt")) == [], name
