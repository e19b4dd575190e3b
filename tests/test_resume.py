"""A run that goes on from a checkpoint ends as one that was never stopped, bit for bit on a CPU.

The product of schedules, phases, ways of reading images, and places of the checkpoint; and what is refused.
"""

from __future__ import annotations

import csv
import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from torch import Tensor

from fashion_tl import FeatureCache, FreezeUnfreeze, ImageDataModule, ScratchClassifier, SyntheticGarments
from fashion_tl.callbacks.averaging import EMA, SWA
from fashion_tl.data.augment import Augment
from fashion_tl.data.mixing import Mix
from fashion_tl.errors import UserError
from fashion_tl.records.record import read_record
from fashion_tl.training.plan import SCHEDULES
from fashion_tl.training.progress import progress_of

from .conftest import Fit

EPOCHS, BATCHES = 4, 6
PHASES: dict[str, Any] = {
    "one phase": "block2",
    "three phases": {0: "head", 1: "block2", 3: "all"},
    "selections": {0: ["block2", "head"], 1: ["norms", "head"], 3: ["*.bias"]},
    "early end": {0: {"train": "head", "lr": 0.0, "until": "plateau", "patience": 1}, 3: ["block2", "head"]},
}
AUGMENTATIONS = {"cache": {"hflip": 0.5}, "no cache": {"hflip": 0.5}, "augmentation": {"hflip": 0.5, "translate": 2}}
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
    data = ImageDataModule(SyntheticGarments(60), batch_size=8, val_fraction=0.2)
    data.setup()
    return data


def data_module(augmentation: dict[str, Any], batch_size: int = 8, mix: Mix | None = None) -> ImageDataModule:
    data = ImageDataModule(
        SyntheticGarments(60), batch_size=batch_size, val_fraction=0.2, augment=Augment(**augmentation), mix=mix
    )
    data.loaded, data.splits = images().loaded, images().splits
    return data


def classifier(**changes: Any) -> ScratchClassifier:
    torch.manual_seed(0)
    given: dict[str, Any] = {"network": "plain", "network_args": {"widths": [3, 4], "dropout": 0.3}, "lr": 0.05}
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
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
    own = [] if any(isinstance(callback, FreezeUnfreeze) for callback in callbacks) else [FreezeUnfreeze()]
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*own, *callbacks],
        **settings,
    )
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    state = trainer.optimizers[0].state_dict()["state"]
    figures = trainer.callback_metrics
    moments = {f"{i} {name}": value for i, each in state.items() for name, value in each.items()}
    return {
        **module.state_dict(),
        **{name: value for name, value in moments.items() if isinstance(value, Tensor)},
        "figures": torch.stack([torch.zeros(()), *(figures[name] for name in sorted(figures))]),
    }


def different(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return [key for key in first.keys() | second.keys() if not torch.equal(first[key], second[key])]


@pytest.mark.parametrize("reading", AUGMENTATIONS)
@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.thorough(keep=10)
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


def teacher(path: Path) -> str:
    """Write the checkpoint of an untrained classifier."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(classifier(network_args={"widths": [5]}))
    trainer.save_checkpoint(path)
    return str(path)


@pytest.mark.parametrize("mixing", [True, False])
@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.thorough(keep=2)
def test_mixing_and_terms_go_on_too(phases: str, mixing: bool, tmp_path: Path) -> None:
    taught = {"teachers": teacher(tmp_path / "teacher.ckpt"), "weight": 0.5}
    terms = {
        "l2_sp": {"alpha": 0.5},
        "distillation": taught,
        "auxiliary": {"groups": {"some": images().class_names[:4]}},
    }
    mix = Mix(mixup=0.5, cutmix=1.0, probability=0.8) if mixing else None

    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        data = data_module({"hflip": 0.5}, mix=mix)
        module = classifier(train=PHASES[phases], terms=terms)
        return train(module, data, tmp_path, FeatureCache(), *callbacks, start=start)

    whole = run(SaveAt(tmp_path))
    for name in PLACES:
        assert different(whole, run(start=tmp_path / f"{name}.ckpt")) == [], name


# Changes between stop and resume: exact in what they mean, or refused


def stopped(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Train with checkpoints at both places; returns the settings to go on with."""
    train(classifier(**changes), data_module({}), tmp_path, SaveAt(tmp_path))
    return changes


class Rates(Callback):
    """Keeps the head's rate at the start of every epoch."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.setdefault(trainer.current_epoch, trainer.optimizers[0].param_groups[-1]["lr"])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step"])
@pytest.mark.thorough(keep=1)
def test_another_batch_size_between_epochs_keeps_the_rates(schedule: str, tmp_path: Path) -> None:
    stopped(tmp_path, schedule=schedule, step_size=2)
    whole, other = Rates(), Rates()
    train(classifier(schedule=schedule, step_size=2), data_module({}), tmp_path, whole)
    start = tmp_path / "end.ckpt"
    train(classifier(schedule=schedule, step_size=2), data_module({}, 24), tmp_path, other, start=start)
    assert other.seen == pytest.approx({epoch: whole.seen[epoch] for epoch in (2, 3)})


class StepRates(Callback):
    """Keeps the head's rate before every optimizer step."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.seen[trainer.global_step] = optimizer.param_groups[-1]["lr"]


@pytest.mark.parametrize("batch_size", [24, 4])
def test_another_batch_size_in_a_run_by_steps_keeps_the_rate_of_each_step_and_the_average(
    batch_size: int, tmp_path: Path
) -> None:
    steps: dict[str, Any] = {"max_epochs": -1, "max_steps": 24}
    given: dict[str, Any] = {"train": {0: "head", 1: "all"}, "schedule": "one_cycle"}
    whole, other, first, second = StepRates(), StepRates(), SWA(0.75), SWA(0.75)
    train(classifier(**given), data_module({}), tmp_path, whole, first, SaveAt(tmp_path), **steps)
    start = tmp_path / "end.ckpt"
    train(classifier(**given), data_module({}, batch_size), tmp_path, other, second, start=start, **steps)
    assert list(other.seen) == list(range(12, 24))
    assert other.seen == pytest.approx({step: whole.seen[step] for step in other.seen})
    # The last phase is of steps 6 to 24, of which from 10.5 on each end of an epoch is averaged, and the last step.
    assert first._count == 3
    assert second._count == 1 + (6 if batch_size == 24 else 1)


@pytest.mark.parametrize(
    ("changes", "data", "trainer", "parts"),
    [
        ({}, {"batch_size": 16}, {}, ["batches in an epoch: 6.0, now 3.0"]),
        ({}, {}, {"accumulate_grad_batches": 2}, ["accumulate_grad_batches: 1, now 2"]),
        ({"weight_decay": 0.5}, {}, {}, ["weight_decay: 0.01, now 0.5"]),
        ({"optimizer": "sgd", "lr": 0.1}, {}, {}, ["optimizer: adamw, now sgd", "lr: 0.05, now 0.1"]),
        ({"schedule": "step"}, {}, {}, ["schedule name: cosine, now step"]),
        ({"train": "head"}, {}, {}, ["train: {0: all}, now {0: head}"]),
        ({}, {"mix": Mix(mixup=0.2)}, {}, ["data.mix: None, now"]),
        ({"batch_norm": "eval"}, {}, {}, ["batch_norm: train, now eval"]),
    ],
)
def test_what_would_be_another_run_is_refused_and_each_difference_named(
    changes: dict[str, Any], data: dict[str, Any], trainer: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    stopped(tmp_path)
    with pytest.raises(UserError, match="does not fit this configuration") as error:
        train(classifier(**changes), data_module({}, **data), tmp_path, start=tmp_path / "middle.ckpt", **trainer)
    for part in parts:
        assert part in str(error.value)


def test_another_seed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    with pytest.raises(UserError, match="seed: 3, now 4"):
        train(classifier(), data_module({}), tmp_path, start=tmp_path / "end.ckpt")


class Positions(Callback):
    """Keeps which images came, and saves after the third batch."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.seen, self.saved = path, list[int](), list[int]()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += batch.positions.tolist()
        if batch_idx == 2 and self.path is not None:
            trainer.save_checkpoint(self.path)
            self.saved = list(self.seen)


def test_without_a_seed_the_rest_of_an_epoch_is_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED")
    first, rest, start = Positions(tmp_path / "middle.ckpt"), Positions(), tmp_path / "middle.ckpt"
    torch.manual_seed(11)
    train(classifier(), data_module({}), tmp_path, first, max_epochs=1)
    module = classifier()
    torch.manual_seed(12)  # another process
    train(module, data_module({}), tmp_path, rest, start=start, max_epochs=1)
    assert first.saved + rest.seen == first.seen
    assert len(set(first.seen)) == BATCHES * 8


def test_the_end_and_phases_to_come_may_change(tmp_path: Path) -> None:
    stopped(tmp_path, train={0: "head", 3: "all"})
    start = tmp_path / "end.ckpt"
    longer = classifier(train={0: "head", 2: "block2", 5: "all"})
    train(longer, data_module({}), tmp_path, start=start, max_epochs=6)
    assert longer.network.boundary == 0


def test_a_checkpoint_between_two_optimizer_steps_is_refused(tmp_path: Path) -> None:
    train(classifier(), data_module({}), tmp_path, SaveAt(tmp_path), accumulate_grad_batches=2)
    start = tmp_path / "middle.ckpt"
    with pytest.raises(UserError, match=r"between two optimizer steps .*accumulate_grad_batches 2"):
        train(classifier(), data_module({}), tmp_path, start=start, accumulate_grad_batches=2)


class SaveLast(Checkpoint):
    """Saves after the last batch of an epoch, before its validation, as ModelCheckpoint does by steps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx + 1) == (1, BATCHES):
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_of_the_last_batch_goes_on_where_the_rates_allow_it(tmp_path: Path) -> None:
    start = tmp_path / "last.ckpt"
    whole = train(classifier(), data_module({}), tmp_path, SaveLast(start))
    with pytest.warns(UserWarning, match="its validation is left out"):
        again = train(classifier(), data_module({}), tmp_path, start=start)
    assert different(whole, again) == []
    train(classifier(schedule="plateau"), data_module({}), tmp_path, SaveLast(start))
    with pytest.raises(UserError, match="before its validation, which schedule 'plateau' depends on"):
        train(classifier(schedule="plateau"), data_module({}), tmp_path, start=start)


class Breaks(Callback):
    """Fails within the validation of an epoch."""

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("in validation")


class SaveBroken(Checkpoint):
    """Saves where training fails, as Lightning's OnExceptionCheckpoint does."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("average", [False, True])
def test_a_checkpoint_of_a_validation_that_failed_goes_on_where_the_rates_allow_it(
    average: bool, tmp_path: Path
) -> None:
    def run(*callbacks: Any, schedule: str = "cosine", start: Path | None = None) -> dict[str, Any]:
        module = classifier(train={0: "head", 2: "all"}, schedule=schedule)
        own = [EMA(0.9)] if average else []
        return train(module, data_module({"hflip": 0.5}), tmp_path, *own, *callbacks, start=start)

    start = tmp_path / "broken.ckpt"
    rates = Rates(), Rates()
    whole = run(rates[0])
    for schedule in ("plateau", "cosine"):
        with pytest.raises(RuntimeError, match="in validation"):
            run(Breaks(), SaveBroken(start), schedule=schedule)
        if schedule == "plateau":
            with pytest.raises(UserError, match="before its validation, which schedule 'plateau' depends on"):
                run(schedule=schedule, start=start)
    with pytest.warns(UserWarning, match="its validation is left out"):
        again = run(rates[1], start=start)
    assert {epoch: rate for epoch, rate in rates[0].seen.items() if epoch >= 2} == rates[1].seen
    assert different(whole, again) == []


class SaveValidated(Checkpoint):
    """Saves when an epoch is validated, before it ends, as ModelCheckpoint does with a monitor."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_checkpoint_of_a_validated_epoch_goes_on_exactly(schedule: str, tmp_path: Path) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        module = classifier(schedule=schedule, train={0: "head", 2: "all"}, plateau_patience=0)
        return train(module, data_module({"hflip": 0.5}), tmp_path, *callbacks, start=start)

    whole = run(SaveValidated(tmp_path / "a.ckpt"))
    assert different(whole, run(start=tmp_path / "a.ckpt")) == []


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_run_by_steps_goes_on_exactly(schedule: str, tmp_path: Path) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        module = classifier(schedule=schedule, train={0: "head", 1: "all"})
        return train(module, data_module({}), tmp_path, *callbacks, start=start, max_epochs=-1, max_steps=22)

    whole = run(SaveAt(tmp_path))
    for name in PLACES:
        assert different(whole, run(start=tmp_path / f"{name}.ckpt")) == [], name


class Used(Callback):
    """Keeps the trainer."""

    trainer: Trainer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer


STATES: dict[str, dict[str, Any]] = {  # what trains here depends on what has been before
    "plateau": {"schedule": "plateau", "plateau_patience": 0, "gamma": 0.5, "lr": 1e-9},
    "early end": {"schedule": "constant", "train": {**PHASES["early end"], 3: "head", 4: ["block2", "head"]}},
    "average": {"schedule": "constant", "train": {0: "head", 1: "all"}},
    "best weights and average": {
        "schedule": "constant",
        "train": {0: {"train": "head", "lr": 5.0, "until": "plateau", "patience": 9}, 5: "all"},
    },
    "start": {"schedule": "constant", "terms": {"l2_sp": {"alpha": 5.0}}},
}


@pytest.mark.filterwarnings("ignore:the phase 5. all begins after the end of the run and is left out")
@pytest.mark.parametrize("how", ["saved", "fitted twice"])
@pytest.mark.parametrize("state", STATES)
def test_a_trainer_that_has_trained_goes_on_with_the_plan(state: str, how: str, tmp_path: Path) -> None:
    def parts() -> tuple[ScratchClassifier, ImageDataModule, list[Callback]]:
        # No moments: a second fit has a new optimizer.
        module = classifier(**{"optimizer": "sgd", "momentum": 0.0, **STATES[state]})
        return module, data_module(AUGMENTATIONS["cache"]), [EMA(0.9)] if "average" in state else []

    module, data, average = parts()
    rates, used = (Rates(), Rates()), Used()
    whole = train(module, data, tmp_path, rates[0], *average, max_epochs=6)
    module, data, average = parts()
    train(module, data, tmp_path, used, rates[1], *average, max_epochs=5)
    if how == "fitted twice":
        used.trainer.fit_loop.max_epochs = 6
        used.trainer.fit(module, datamodule=data)
    else:
        used.trainer.save_checkpoint(tmp_path / "after.ckpt")
        module, data, average = parts()
        train(module, data, tmp_path, rates[1], *average, start=tmp_path / "after.ckpt", max_epochs=6)
    assert rates[0].seen == rates[1].seen
    assert different({name: whole[name] for name in module.state_dict()}, dict(module.state_dict())) == []


def test_an_average_without_the_weights_is_not_gone_on_from(tmp_path: Path) -> None:
    used, data = Used(), data_module({})
    module = classifier(schedule="constant")
    train(module, data, tmp_path, used, EMA(0.9), max_epochs=1)
    used.trainer.test(module, datamodule=data, verbose=False)
    used.trainer.save_checkpoint(tmp_path / "after.ckpt")
    with pytest.raises(UserError, match=r"after\.ckpt was saved after a test and holds averaged weights without"):
        train(classifier(schedule="constant"), data, tmp_path, EMA(0.9), start=tmp_path / "after.ckpt")


@pytest.mark.parametrize("again", ["fitted twice", "from its end"])
def test_where_nothing_is_left_to_train_the_average_stays(again: str, tmp_path: Path) -> None:
    module, data, used = classifier(schedule="constant"), data_module({}), Used()
    train(module, data, tmp_path, used, EMA(0.9), max_epochs=1)
    end = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    used.trainer.save_checkpoint(tmp_path / "after.ckpt")
    start = tmp_path / "after.ckpt" if again == "from its end" else None
    used.trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
    assert different(end, dict(module.state_dict())) == []


def test_another_plan_is_refused_where_one_trainer_fits_twice(tmp_path: Path) -> None:
    used, data = Used(), data_module({})
    train(classifier(), data, tmp_path, used, max_epochs=1)
    used.trainer.fit_loop.max_epochs = 2
    with pytest.raises(UserError, match=r"optimizer: adamw, now sgd; weight_decay: 0\.01, now 0\.5"):
        used.trainer.fit(classifier(optimizer="sgd", weight_decay=0.5), datamodule=data)


def test_a_checkpoint_without_a_plan_is_refused(tmp_path: Path) -> None:
    train(classifier(), data_module({}), tmp_path, SaveAt(tmp_path))
    path = tmp_path / "end.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["callbacks"]["FreezeUnfreeze"]
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"end\.ckpt keeps no plan to go on with; start from its weights"):
        train(classifier(), data_module({}), tmp_path, start=path)


class Falls(Checkpoint):
    """Saves after a step, and raises within the third epoch."""

    def __init__(self, path: Path, error: BaseException) -> None:
        self.path, self.error, self.steps = path, [error], 9

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == 15 and self.error:
            raise self.error.pop()


@pytest.mark.parametrize("error", [RuntimeError("it falls"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("limits", [{"max_epochs": -1, "max_steps": 22}, {}], ids=["steps", "epochs"])
@pytest.mark.parametrize("average", [False, True], ids=["", "average"])
def test_the_trainer_that_an_exception_has_stopped_goes_on(
    average: bool, limits: dict[str, Any], error: BaseException, tmp_path: Path
) -> None:
    def parts() -> tuple[ScratchClassifier, ImageDataModule, list[Any]]:
        module = classifier(optimizer="sgd", momentum=0.0, schedule="constant", train={0: "head", 1: "all"})
        return module, data_module({"hflip": 0.5}), [EMA(0.9)] if average else []

    module, data, own = parts()
    whole = train(module, data, tmp_path, *own, **limits)
    module, data, own = parts()
    used, falls = Used(), Falls(tmp_path / "a.ckpt", error)
    with pytest.raises((RuntimeError, SystemExit)):
        train(module, data, tmp_path, used, falls, *own, **limits)
    used.trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert different({name: whole[name] for name in module.state_dict()}, dict(module.state_dict())) == []


@pytest.mark.parametrize("limits", [{"max_epochs": -1, "max_steps": 26}, {}], ids=["steps", "epochs"])
def test_checkpoints_of_a_second_training_after_an_exception_go_on_exactly(
    limits: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLACES, "end", (2, BATCHES))
    module, used, falls = classifier(train={0: "head", 1: "all"}), Used(), Falls(tmp_path / "a.ckpt", RuntimeError())
    with pytest.raises(RuntimeError):
        train(module, data_module({}), tmp_path, used, falls, **limits)
    falls.steps = 20  # in the middle of an epoch
    used.trainer.callbacks.append(SaveAt(tmp_path))  # type: ignore[attr-defined]
    used.trainer.fit(module, datamodule=data_module({}))
    end = dict(module.state_dict())
    for name in ("a", "end"):
        module = classifier(train={0: "head", 1: "all"})
        train(module, data_module({}), tmp_path, start=tmp_path / f"{name}.ckpt", **limits)
        assert different(end, dict(module.state_dict())) == [], name


class Steps(Callback):
    """Keeps the head's rate at each optimizer step, and the epoch that it is of."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.epochs: list[int] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[-1]["lr"])
        self.epochs.append(trainer.current_epoch)


class SaveEnd(SaveValidated):
    """Saves where an epoch ends, whole or not."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save nothing yet."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("cut", [8, 12])  # within the second epoch, at its end
@pytest.mark.parametrize(
    ("batch_size", "accumulate", "steps"), [(8, 1, 14), (8, 1, 20), (24, 1, 14), (4, 1, 20), (8, 2, 16), (24, 3, 14)]
)
def test_a_run_by_steps_goes_on_to_the_end_of_its_rates(
    batch_size: int, accumulate: int, steps: int, cut: int, tmp_path: Path
) -> None:
    start, seen = tmp_path / "a.ckpt", Steps()
    given: dict[str, Any] = {"train": {0: "head", 2: "all"}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*begins after the end of the run and is left out")
        train(classifier(**given), data_module({}), tmp_path, SaveEnd(start), max_epochs=-1, max_steps=cut)
    module, more = classifier(**given), {"max_epochs": -1, "max_steps": steps, "accumulate_grad_batches": accumulate}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(module, data_module({}, batch_size), tmp_path, seen, start=start, **more)
    left_out = [str(each.message) for each in told if "left out" in str(each.message)]
    rest = "epoch 2 ended after 2 of 6 batches: training goes on with the next epoch, the rest of that one is left out"
    assert left_out == ([rest] if cut == 8 else [])
    assert len(seen.rates) == steps - cut
    assert min(seen.rates) > 0
    assert module.current_plan().factor(progress_of(module.trainer), {}) == pytest.approx(0)
    assert module.network.boundary == 0
    assert seen.rates[-1] < max(seen.rates) or steps - cut < 3
    assert module.current_plan().epochs == seen.epochs[-1] + 1


@pytest.mark.parametrize("kind", ["training_step", "on_train_batch_start", "on_train_batch_end"])
def test_a_run_by_steps_that_an_exception_ended_goes_on_to_the_end_of_its_rates(kind: str, tmp_path: Path) -> None:
    class Raise(Checkpoint):
        def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
            trainer.save_checkpoint(tmp_path / "a.ckpt")

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.fall("on_train_batch_start", trainer, batch_idx)

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            self.fall("training_step", trainer, trainer.fit_loop.batch_idx)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.fall("on_train_batch_end", trainer, batch_idx)

        def fall(self, where: str, trainer: Trainer, batch: int) -> None:
            if (where, trainer.current_epoch, batch) == (kind, 1, 3):
                raise RuntimeError("it falls")

    module = classifier()

    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        nonlocal module
        module = classifier(train={0: "head", 2: "all"})
        limits = {"max_epochs": -1, "max_steps": 22}
        return train(module, data_module({"hflip": 0.5}), tmp_path, *callbacks, start=start, **limits)

    whole, again = Steps(), Steps()
    ended = run(whole)
    with pytest.raises(RuntimeError, match="it falls"):
        run(Raise())
    resumed = run(again, start=tmp_path / "a.ckpt")
    assert len(again.rates) == 22 - 9 - (kind == "on_train_batch_end")
    assert min(again.rates) > 0
    assert module.current_plan().factor(progress_of(module.trainer), {}) == pytest.approx(0)
    if kind == "on_train_batch_end":  # else the batch that it fell at is left out
        assert different(ended, resumed) == []
        assert whole.rates[-len(again.rates) :] == again.rates


# At the command line


def state(path: str) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_checkpoint_within_an_epoch_and_its_lock(fit: Fit, stop_at, capsys) -> None:
    flags = ("--checkpoint_steps", "1", "--model.train", "{0: head, 2: all}", "--data.augment.translate", "2")
    assert fit(*flags, name="whole", epochs=4) == 0
    stop_at(2, 1, KeyboardInterrupt())
    assert fit(*flags, name="cut", epochs=4) == 130
    last = torch.load("checkpoints/cut/version_0/last.ckpt", weights_only=True)
    assert last["callbacks"]["FreezeUnfreeze"]["batch"] == 1
    stop_at(99, 0, KeyboardInterrupt())
    absolute = str(Path("checkpoints/cut/version_0/last.ckpt").absolute())
    assert fit(*flags, "--ckpt_path", absolute, name="cut", epochs=4) == 0
    assert [p.name for p in Path("lightning_logs/cut").iterdir()] == ["version_0"]
    for name in ("best", "last"):
        first, second = (state(f"checkpoints/{run}/version_0/{name}.ckpt") for run in ("whole", "cut"))
        assert different(first, second) == []
    record = read_record(Path("lightning_logs/cut/version_0"))
    assert record["resumed"][0] | {"at": ""} == {"at": "", "epoch": 2, "batch": 1, "changed": {}}
    assert rows("whole") == rows("cut")


def rows(name: str) -> list[dict[str, str]]:
    with Path(f"lightning_logs/{name}/version_0/metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_last_and_best_name_checkpoints_of_the_newest_version(fit: Fit, stop_at, capsys) -> None:
    from fashion_tl.cli import main

    stop_at(1, 1, KeyboardInterrupt())
    assert fit(epochs=3) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit("--ckpt_path", "last", epochs=3) == 0
    assert [p.name for p in Path("lightning_logs/run").iterdir()] == ["version_0"]
    assert main(["--config", "lightning_logs/run/version_0/config.yaml", "test", "--ckpt_path", "best"]) == 0
    assert fit("--ckpt_path", "last", name="other") == 2
    assert "no version of the run 'other'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_live_run_cannot_be_resumed(fit: Fit, stop_at, capsys) -> None:
    from fashion_tl.records.record import paths_of, taken

    stop_at(1, 1, KeyboardInterrupt())
    assert fit(epochs=3) == 130
    stop_at(99, 0, KeyboardInterrupt())
    paths = paths_of(Path("lightning_logs"), Path("checkpoints"), "run", 0)
    before = (paths.logs / "run.json").read_text()
    with taken(paths, new=False):
        assert fit("--ckpt_path", "last", epochs=3) == 2
    assert "another process has taken" in capsys.readouterr().err
    assert (paths.logs / "run.json").read_text() == before


@pytest.mark.slow
def test_a_changed_plan_leaves_the_record_as_it_was(fit: Fit, stop_at, capsys) -> None:
    stop_at(1, 1, KeyboardInterrupt())
    assert fit("--model.train", "head", epochs=3) == 130
    stop_at(99, 0, KeyboardInterrupt())
    files = {path: path.read_bytes() for path in Path("lightning_logs/run/version_0").iterdir()}
    assert fit("--model.train", "layer4", "--model.weight_decay", "0.3", "--ckpt_path", "last", epochs=3) == 2
    error = capsys.readouterr().err
    assert "weight_decay: 0.01, now 0.3" in error
    assert "train: {0: head}, now {0: layer4}" in error
    assert files == {path: path.read_bytes() for path in Path("lightning_logs/run/version_0").iterdir()}


@pytest.mark.slow
def test_a_rate_that_was_found_is_found_once(fit: Fit, stop_at, capsys) -> None:
    flags = ("--find_lr", "true", "--data.batch_size", "8", "--model.backbone_lr", "0.0001")
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*flags, epochs=3) == 130
    found = read_record(Path("lightning_logs/run/version_0"))["model"]
    assert found["lr"] != 1e-3
    stop_at(99, 0, KeyboardInterrupt())
    capsys.readouterr()
    assert fit(*flags, "--ckpt_path", "last", epochs=3) == 0
    assert "learning-rate finder" not in capsys.readouterr().out
    again = read_record(Path("lightning_logs/run/version_0"))["model"]
    assert (again["lr"], again["backbone_lr"]) == (found["lr"], found["backbone_lr"])
    config = Path("lightning_logs/run/version_0/config.yaml").read_text()
    assert "find_lr: false" in config
