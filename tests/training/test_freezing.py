"""Phases under a plain Lightning Trainer, as a project that imports the module alone would train it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fashion_tl.errors import UserError
from fashion_tl.training.freezing import EarlyStopping
from fashion_tl.training.transfer import TransferClassifier

Batch = tuple[Tensor, Tensor]
STEPS = 2

pytestmark = [
    # Lightning advises more worker processes; these data lie in memory.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # Frozen modules are meant to be in eval mode.
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),
    # Lightning 2.6 itself calls what torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]


def classifier(**arguments: Any) -> TransferClassifier:
    spec = {"channels": 3, "storage_size": 32, "image_size": 32}
    return TransferClassifier(["cat", "dog"], "test_resnet", pretrained=False, input_spec=spec, **arguments)


def train(module: TransferClassifier, epochs: int, folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8 * STEPS, 3, 32, 32, generator=generator)
    loader: DataLoader[Any] = DataLoader(TensorDataset(images, torch.arange(len(images)) % 2), batch_size=8)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **{**quiet, **settings},
    )
    trainer.fit(module, loader, loader)
    return trainer


class Watch(Callback):
    """Keeps the state and the head's rate at the start of every epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            self.states.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})
            self.rates.append(trainer.optimizers[0].param_groups[-1]["lr"])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_tensors_stand_still_and_move_in_the_next_phase(optimizer: str, tmp_path: Path) -> None:
    module, watch = classifier(train={0: "head", 2: "layer4"}, lr=0.1, optimizer=optimizer), Watch()
    train(module, 4, tmp_path, watch)
    start, thawed, end = watch.states[0], watch.states[2], module.state_dict()
    head = {name for name in start if name.startswith("network.head.")}
    below = {name for name in start if name.startswith(("network.backbone.layer4.", "network.head."))}
    assert {name for name in start if not torch.equal(start[name], thawed[name])} == head
    assert {name for name in start if not torch.equal(thawed[name], end[name])} == below
    assert end["network.backbone.layer4.0.bn1.num_batches_tracked"] == 2 * STEPS


def test_phases_may_freeze_again(tmp_path: Path) -> None:
    module, watch = classifier(train={0: "all", 1: "head"}, lr=0.1), Watch()
    train(module, 3, tmp_path, watch)
    end = module.state_dict()
    moved = {name for name in end if not torch.equal(watch.states[1][name], end[name])}
    assert {name.split(".")[1] for name in moved} == {"head"}
    assert not torch.equal(watch.states[0]["network.backbone.conv1.0.weight"], end["network.backbone.conv1.0.weight"])


STILL = 1e-12  # a rate at which no loss falls, so that every epoch is a plateau


@pytest.mark.parametrize(("kind", "last"), [(EarlyStopping, 4), (LightningEarlyStopping, 1)])
def test_early_stopping_waits_for_the_last_phase(kind: type[LightningEarlyStopping], last: int, tmp_path: Path) -> None:
    stop = kind("val/loss", min_delta=0.5, patience=1)
    train(classifier(train={0: "head", 1: 1, 3: "head"}, lr=STILL, optimizer="sgd"), 8, tmp_path, stop)
    assert stop.stopped_epoch == last


def test_a_plateau_begins_anew_with_each_phase(tmp_path: Path) -> None:
    watch = Watch()
    phases = {0: "head", 3: {"train": "head", "lr": 2 * STILL}}
    module = classifier(train=phases, lr=STILL, optimizer="sgd", schedule="plateau", plateau_patience=0)
    train(module, 6, tmp_path, watch)
    assert [rate / STILL for rate in watch.rates] == pytest.approx([1, 1, 0.1, 2, 2, 0.2])


def test_a_change_of_phase_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = MagicMock()
    monkeypatch.setattr(TensorBoardLogger, "experiment", board)
    module = classifier(train={0: "head", 2: "layer4"})
    train(module, 3, tmp_path, logger=TensorBoardLogger(tmp_path))
    head = 96 * 2 + 2
    layer4 = sum(parameter.numel() for parameter in module.network.backbone.get_submodule("layer4").parameters())
    drawn = [call.args for call in board.add_scalar.call_args_list if call.args[0] == "phase/trained_parameters"]
    assert drawn == [("phase/trained_parameters", head, 0), ("phase/trained_parameters", layer4 + head, 2 * STEPS)]
    assert [call.args[1] for call in board.add_text.call_args_list] == [
        f"phase 1 of 2 from epoch 1: trains head ({head} parameters)",
        f"phase 2 of 2 from epoch 3: trains layer4 and head ({layer4 + head:,} parameters)",
    ]


def draws(monkeypatch: pytest.MonkeyPatch, seed: str | None, folder: Path) -> list[float]:
    """Return what each training step draws from torch's generator."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    if seed is not None:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
    seen: list[float] = []

    class Draw(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(float(torch.rand(1)))

    torch.manual_seed(3)
    train(classifier(), 3, folder, Draw())
    return seen


def test_every_batch_of_a_run_with_a_seed_draws_its_own_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = draws(monkeypatch, "0", tmp_path), draws(monkeypatch, "1", tmp_path)
    assert len(set(first + second)) == 3 * STEPS * 2
    assert draws(monkeypatch, "0", tmp_path) == first


def test_without_a_seed_no_generator_is_reseeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a run without a seed was seeded")

    monkeypatch.setattr("fashion_tl.training.hooks.seed_batch", refuse)
    draws(monkeypatch, None, tmp_path)
    with pytest.raises(AssertionError, match="without a seed"):
        draws(monkeypatch, "0", tmp_path)


def test_with_a_seed_only_torchs_generator_is_seeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    draws(monkeypatch, "5", tmp_path)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # type: ignore[index]


def test_phases_beyond_the_end_are_left_out_with_a_warning(tmp_path: Path) -> None:
    module = classifier(train={0: "head", 1: "layer4", 5: "all"})
    with pytest.warns(UserWarning, match=r"the phase 5: all begins after the end of the run and is left out"):
        train(module, 2, tmp_path)
    assert [phase.start for phase in module.current_plan().phases] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [-1, 3])
def test_steps_alone_end_a_run(epochs: int, tmp_path: Path) -> None:
    module, watch = classifier(train={0: "head", 1: "layer4"}, lr=0.1), Watch()
    trainer = train(module, epochs, tmp_path, watch, max_steps=3)
    assert trainer.global_step == 3
    assert trainer.max_steps == 3  # the trainer has its limit back
    assert len(watch.rates) == 2
    assert module.current_plan().length == 1.5


@pytest.mark.parametrize(
    ("least", "train_spec"), [({"min_epochs": 4}, "head"), ({"min_steps": 9}, "head"), ({"min_epochs": 5}, "plateau")]
)
def test_the_end_of_the_plan_ends_a_run_whatever_its_least_length(
    least: dict[str, int], train_spec: str, tmp_path: Path
) -> None:
    until = {0: {"train": "head", "until": "plateau", "patience": 1}, 3: "head"}
    module = classifier(train=until if train_spec == "plateau" else train_spec, lr=STILL, optimizer="sgd")
    limits = {} if train_spec == "plateau" else {"max_steps": 3}
    trainer = train(module, 5, tmp_path, **least, **limits)
    assert trainer.global_step == (4 * STEPS if train_spec == "plateau" else 3)
    given = {"min_epochs": 1 if "min_steps" in least else 0, "min_steps": None} | least
    assert {"min_epochs": trainer.min_epochs, "min_steps": trainer.min_steps} == given


def test_a_number_of_accumulated_batches_that_changes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GradientAccumulationScheduler.*give one number"):
        train(classifier(), 2, tmp_path, GradientAccumulationScheduler({0: 1, 1: 2}))


def test_a_run_without_an_end_goes_on_until_something_stops_it(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.should_stop = trainer.current_epoch == 3

    watch = Watch()
    train(classifier(schedule="constant", lr=0.25), -1, tmp_path, watch, Stop())
    assert watch.rates == [0.25] * 4
