"""Other people's code beside ours: loaders, data modules, subclasses, callbacks, loggers, Lightning's own verbs."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    Checkpoint,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fashion_tl import (
    FeatureCache,
    ImageDataModule,
    ScratchClassifier,
    SyntheticGarments,
    TransferClassifier,
    load_classifier,
)
from fashion_tl.data.augment import Augment
from fashion_tl.data.batches import Split, check_loader
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.mixing import Mix
from fashion_tl.data.transforms import Preprocess
from fashion_tl.errors import UserError
from fashion_tl.features.keys import function_hash
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.objective import Objective

from .conftest import Fit

CLASSES = ["cat", "dog"]

pytestmark = [
    # Frozen modules are meant to be in eval mode.
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),
    # Lightning advises more worker processes; these data lie in memory.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # Lightning 2.6 itself calls what torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))


def pixels(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    images = torch.randint(0, 128, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return images + (labels * 100).to(torch.uint8)[:, None, None, None], labels


def loader(batch_size: int = 8) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pixels()), batch_size=batch_size)


def scratch(kind: type[ScratchClassifier] = ScratchClassifier, **changes: Any) -> ScratchClassifier:
    torch.manual_seed(0)
    given: dict[str, Any] = {"network": "plain", "network_args": {"widths": [3, 4]}, "lr": 0.05, "optimizer": "sgd"}
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    return kind(CLASSES, input_spec=spec, **{**given, **changes})


def trainer(folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 2, "num_sanity_val_steps": 0, "logger": False, **more}
    return Trainer(
        accelerator="cpu",
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **settings,
    )


class Rates(Callback):
    """Keeps the head's rate at every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[-1]["lr"])


# Classifiers in any mode, and with parameters of their own


class Modes(Callback):
    """Keeps the mode of every module at each batch."""

    def __init__(self) -> None:
        self.seen: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append({name: module.training for name, module in pl_module.named_modules()})


@pytest.mark.parametrize("train", ["all", {0: "head", 1: "all"}])
def test_the_phase_decides_the_mode_whatever_mode_a_classifier_was_handed_over_in(train: Any, tmp_path: Path) -> None:
    def fitted(module: ImageClassifier) -> tuple[list[dict[str, bool]], dict[str, Tensor]]:
        modes = Modes()
        trainer(tmp_path, modes).fit(module, loader(), loader())
        return modes.seen, module.state_dict()

    first = trainer(tmp_path)
    first.fit(scratch(network_args={"widths": [3, 4], "dropout": 0.3}, train=train), loader(), loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    modes, state = fitted(ScratchClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True))
    head = {name: mode for name, mode in modes[0].items() if name.startswith("network.head")}
    assert all(head.values())
    assert any(name.startswith("network.backbone") and mode for name, mode in modes[-1].items())
    loaded = load_classifier(tmp_path / "a.ckpt")
    again, weights = fitted(loaded)
    assert again == modes
    assert all(torch.equal(state[name], weights[name]) for name in state)
    loaded.network.eval()
    assert fitted(loaded)[0] == modes, "a second training"


class Learned(Objective):
    """Cross-entropy at a temperature that is learned."""

    def __init__(self, class_weights: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__(class_weights, label_smoothing)
        self.scale = nn.Parameter(torch.ones(()))
        self.fixed = nn.Parameter(torch.ones(()), requires_grad=False)

    def losses(self, logits: Tensor) -> Tensor:
        return -torch.log_softmax(logits * self.scale * self.fixed, 1)


class Tempered(ScratchClassifier):
    """Logits by a temperature and a layer of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mixing, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)

    def logits(self, inputs: Any) -> Tensor:
        found: Tensor = self.frozen(self.mixing(super().logits(inputs)))
        return found


def test_parameters_beside_the_network_train_at_the_heads_rate_in_every_phase(tmp_path: Path) -> None:
    module = scratch(Tempered, objective=f"{__name__}.Learned", train={0: "head", 1: "block2"}, weight_decay=0.5)
    own = ["mixing.weight", "mixing.bias", "objective.scale"]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rates = Rates()
    first = trainer(tmp_path, rates)
    first.fit(module, loader(), loader())
    assert all(not torch.equal(before[name], module.state_dict()[name]) for name in own)
    assert all(torch.equal(before[name], module.state_dict()[name]) for name in ("frozen.weight", "objective.fixed"))
    groups = {group["name"]: group for group in first.optimizers[0].param_groups}
    named = {id(parameter): name for name, parameter in module.named_parameters()}
    assert [named[id(each)] for each in groups["04-own"]["params"]] == ["mixing.weight"]
    assert [named[id(each)] for each in groups["04-own-no_decay"]["params"]] == ["objective.scale", "mixing.bias"]
    assert groups["04-own"]["weight_decay"] == 0.5
    assert rates.seen[0] > 0
    assert groups["04-own"]["lr"] == groups["03-head"]["lr"]
    assert not any("own" in name for name in _group_names(scratch()))


def _group_names(module: ScratchClassifier) -> list[str]:
    made: Any = module.configure_optimizers
    module.trainer = trainer(Path())
    return [group["name"] for group in made()["optimizer"].param_groups]


# Loaders and data modules of other people


class Named(TensorDataset):
    """Samples with names, as the datasets of transformers have them."""

    def __getitem__(self, index: int) -> Any:
        image, label = self.tensors[0][index], self.tensors[1][index]
        return {"pixel_values": image, "labels": label}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_loader_of_dictionaries_is_told_what_a_classifier_takes(tmp_path: Path) -> None:
    named: DataLoader[Any] = DataLoader(Named(*pixels()), batch_size=8)
    for verb in ("fit", "validate", "test", "predict"):
        with pytest.raises(UserError, match="is a dict with pixel_values, labels; a classifier takes pairs, images"):
            getattr(trainer(tmp_path), verb)(scratch(), named)


@pytest.mark.parametrize("wrapped", [True, False])
def test_images_without_classes_are_predicted(wrapped: bool, tmp_path: Path) -> None:
    images, module = pixels()[0], scratch()
    alone: Any = DataLoader(TensorDataset(images) if wrapped else images, batch_size=8)  # type: ignore[arg-type]
    found: Any = trainer(tmp_path).predict(module, alone)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(found), module.eval().logits(images).softmax(1))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_what_loaders_cannot_give_is_told(tmp_path: Path) -> None:
    frozen, ends = scratch(train="head"), scratch(train={0: {"train": "head", "until": "plateau"}, 1: "all"})
    with pytest.raises(UserError, match="the trainer was given loaders, not a data module"):
        trainer(tmp_path, FeatureCache("require")).fit(frozen, loader())
    with pytest.raises(UserError, match=r"until: plateau, .* there is no validation"):
        trainer(tmp_path).fit(ends, loader())
    with pytest.raises(UserError, match=r"model\.schedule is plateau, .* there is no validation.*another schedule"):
        trainer(tmp_path).fit(scratch(schedule="plateau"), loader())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"augment": Augment(hflip=0.5)}, "that augments training images"),
        ({"augment": Augment(translate=2), "mix": Mix(mixup=0.2)}, "that augments and mixes training images"),
        ({"mix": Mix(mixup=0.2)}, "that mixes training images"),
    ],
)
def test_loaders_of_a_data_module_that_does_more_are_refused(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    data = ImageDataModule(SyntheticGarments(60), batch_size=8, val_fraction=0.2, **more)
    data.setup()
    with pytest.raises(UserError, match=rf"{told} .*trainer\.fit\(model, datamodule=data\)"):
        trainer(tmp_path).fit(ten(), data.train_dataloader(), data.val_dataloader())
    trainer(tmp_path, max_epochs=1).fit(ten(), datamodule=data)
    with pytest.raises(UserError, match=told):
        trainer(tmp_path).fit(ten(), data.train_dataloader(), data.val_dataloader())


def test_a_loader_of_one_process_is_refused_in_several(tmp_path: Path) -> None:
    data = garments()
    data.setup()
    trainer(tmp_path, max_epochs=1).fit(ten(), data.train_dataloader(), data.val_dataloader())
    with pytest.raises(UserError, match=r"for 1 process\(es\), and 2 train: they would see the same images"):
        check_loader(data.train_dataloader(), data, 2)


@pytest.mark.parametrize("scale", [1, 255])
def test_a_plain_loader_may_give_bytes_or_floats(scale: int, tmp_path: Path) -> None:
    images, labels = pixels()
    given = images if scale == 255 else images.float() / 255
    module = scratch()
    loaders = DataLoader(TensorDataset(given, labels), batch_size=8)
    trainer(tmp_path).fit(module, loaders, loaders)
    whole = scratch()
    trainer(tmp_path).fit(whole, loader(), loader())
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), whole.parameters(), strict=True))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*pixels(), strict=True)


@pytest.mark.parametrize("limit", [{"limit_train_batches": 3}, {"max_steps": 6, "max_epochs": -1}])
def test_a_loader_without_a_length_follows_the_schedule(limit: dict[str, Any], tmp_path: Path) -> None:
    rates, same = Rates(), Rates()
    endless: DataLoader[Any] = DataLoader(Endless(), batch_size=8)
    trainer(tmp_path, rates, **limit).fit(scratch(warmup=0.0), endless, loader())
    trainer(tmp_path, same).fit(scratch(warmup=0.0), loader(), loader())
    assert rates.seen == pytest.approx(same.seen)
    assert len(rates.seen) == 6
    assert min(rates.seen) > 0


class Foreign(LightningDataModule):
    """Somebody's data module that offers its samples to the feature cache."""

    views: ClassVar = {"identity": 1.0}

    def __init__(self) -> None:
        super().__init__()
        self.splits = {part: Split(InMemoryImages(*pixels())) for part in ("train", "val", "test")}

    def train_dataloader(self) -> Any:
        from fashion_tl.data.batches import BatchLoader

        return BatchLoader(self.splits["train"], 8, shuffle=True)

    def val_dataloader(self) -> Any:
        from fashion_tl.data.batches import BatchLoader

        return BatchLoader(self.splits["val"], 8)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        part = "train" if self.trainer is not None and self.trainer.training else "val"
        return self.splits[part].fetch(batch, part == "train")


def trained(module: ScratchClassifier, data: LightningDataModule, folder: Path, cache: str) -> dict[str, Tensor]:
    trainer(folder, FeatureCache(cache)).fit(module, datamodule=data)
    return module.state_dict()


def close(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.allclose(first[key], second[key], rtol=2e-4, atol=2e-4) for key in first)


def test_a_foreign_data_module_that_declares_its_views_trains_on_cached_features(tmp_path: Path, capsys) -> None:
    on, off = (trained(scratch(train="head"), Foreign(), tmp_path, mode) for mode in ("require", "off"))
    assert "computed once" in capsys.readouterr().out
    assert close(on, off)


@pytest.mark.parametrize("mode", ["off", "auto", "require"])
def test_a_foreign_data_module_is_taught_on_cached_features_too(mode: str, tmp_path: Path, capsys) -> None:
    first = trainer(tmp_path, max_epochs=1)
    first.fit(scratch(), datamodule=Foreign())
    first.save_checkpoint(tmp_path / "teacher.ckpt")
    terms = {"distillation": {"teachers": str(tmp_path / "teacher.ckpt")}}
    taught, alone = (trained(scratch(train="head", terms=t), Foreign(), tmp_path, mode) for t in (terms, None))
    assert not close(taught, alone)
    assert ("cache" in capsys.readouterr().out) == (mode != "off")
    assert close(taught, trained(scratch(train="head", terms=terms), Foreign(), tmp_path, "off"))


class Silent(Foreign):
    """A subclass that changes its images, and does not say which views it has."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = super().on_after_batch_transfer(batch, dataloader_idx)
        return 255 - images, labels


class Noisy(Augment):
    """A subclass that augments in its own way; its fields tell the parent's class that nothing is random."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images) * 0.5


class Halved(ImageDataModule):
    """A subclass with a transfer hook of its own."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        inputs, labels = super().on_after_batch_transfer(batch, dataloader_idx)
        images: Any = inputs
        return images.float() / 510, labels


class Scaled(ScratchClassifier):
    """A subclass that changes what becomes of images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 0.5)


def garments(kind: type[ImageDataModule] = ImageDataModule, augment: Augment | None = None) -> ImageDataModule:
    return kind(SyntheticGarments(60), batch_size=8, val_fraction=0.2, augment=augment)


def ten(kind: type[ScratchClassifier] = ScratchClassifier, **changes: Any) -> ScratchClassifier:
    torch.manual_seed(0)
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    names = [str(i) for i in range(10)]
    given: dict[str, Any] = {"network": "plain", "network_args": {"widths": [3, 4]}, "train": "head", "lr": 0.05}
    return kind(names, input_spec=spec, **{**given, **changes})


def plain_data() -> LightningDataModule:
    data = LightningDataModule()
    data.train_dataloader = data.val_dataloader = loader  # type: ignore[method-assign]
    return data


@pytest.mark.parametrize(
    ("module", "data", "reason"),
    [
        (lambda: scratch(train="head"), Silent, "Silent does not declare its views"),
        (ten, lambda: garments(augment=Noisy()), "Noisy does not declare its views"),
        (ten, lambda: garments(Halved), "Halved does not declare its views"),
        (lambda: ten(Scaled), garments, "Scaled does not declare caches_features"),
        (
            lambda: scratch(train="head"),
            plain_data,
            "splits",
        ),
    ],
)
def test_what_a_subclass_changes_is_never_skipped(module: Any, data: Any, reason: str, tmp_path: Path, capsys) -> None:
    on, off = (trained(module(), data(), tmp_path, mode) for mode in ("auto", "off"))
    assert reason in capsys.readouterr().out
    assert all(torch.equal(on[key], off[key]) for key in on)


class Declared(Halved):
    """The same, which declares that its images have one view each... of images that are halved once and for all."""

    views: ClassVar = {"identity": 1.0}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return ImageDataModule.on_after_batch_transfer(self, batch, dataloader_idx)


def test_a_subclass_that_declares_its_views_uses_the_cache(tmp_path: Path, capsys) -> None:
    on, off = (trained(ten(), garments(Declared), tmp_path, mode) for mode in ("require", "off"))
    assert close(on, off)


class Gamma(Preprocess):
    """Brightens images by an exponent."""

    gamma = 1.0

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(brightened(images.float() / 255, self.gamma))


def brightened(images: Tensor, gamma: float) -> Tensor:
    return images**gamma


@dataclass(frozen=True)
class Setting:
    power: float = 1.0


def test_the_key_of_features_tells_preprocessing_apart(tmp_path: Path, capsys) -> None:
    def with_gamma(gamma: float | None) -> ScratchClassifier:
        module = scratch(train="head")
        if gamma is not None:
            module.preprocess = Gamma(module.input_spec, 1, (0.5,), (0.5,))
            module.preprocess.gamma = gamma
        return module

    states = []
    for gamma in (None, 0.5, 2.0, 0.5):
        states.append(trained(with_gamma(gamma), Foreign(), tmp_path, "require"))
        assert ("computed once" in capsys.readouterr().out) == (len(states) < 4)
        assert close(states[-1], trained(with_gamma(gamma), Foreign(), tmp_path, "off"))


def test_keys_tell_attributes_hooks_functions_and_weights_apart() -> None:
    def module(**changes: Any) -> torch.nn.Module:
        torch.manual_seed(0)
        made: Any = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU())
        made.setting, made.function, made.names = Setting(), brightened, {"b", "a"}
        for name, value in changes.items():
            setattr(made, name, value)
        return made  # type: ignore[no-any-return]

    keys = {function_hash(module())}
    assert function_hash(module()) in keys
    for change in ({"setting": Setting(2.0)}, {"function": pixels}, {"names": {"a"}}, {"more": torch.ones(1)}):
        keys.add(function_hash(module(**change)))
    hooked, heavier, tanh = module(), module(), module()
    hooked.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        heavier.get_parameter("0.weight")[0, 0] += 1
    tanh.get_submodule("1").approximate = "tanh"  # type: ignore[assignment]
    keys |= {function_hash(changed) for changed in (hooked, heavier, tanh)}
    assert len(keys) == 8


# Subclasses by their class path


MINE = '''
"""Somebody's own classes."""

from fashion_tl import ScratchClassifier, SyntheticGarments, TransferClassifier
from fashion_tl.training.objective import Objective


class Smaller(ScratchClassifier):
    def __init__(self, class_names, width: int = 4, **kwargs):
        super().__init__(class_names, network="plain", network_args={"widths": [width, width]}, **kwargs)

    @property
    def figures(self):
        return (*ScratchClassifier.figures, "val/mine")

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("val/mine", 0.5)


class Few(SyntheticGarments):
    def __init__(self, number: int = 60):
        super().__init__(number, 20)


class Hinge(Objective):
    def loss(self, logits, targets, batch):
        return (1 + logits.sum(1) - 2 * logits.gather(1, targets[:, None])[:, 0]).clamp(min=0).mean()
'''


@pytest.mark.slow
def test_own_classes_work_from_the_command_line_and_reload_from_the_checkpoint(
    fit: Fit, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "mine_of_test.py").write_text(MINE)
    flags = ["--data.source", "mine_of_test.Few", "--data.source.number", "60", "--model.width", "6"]
    flags += ["--model.objective", "mine_of_test.Hinge", "--monitor", "val/mine", "--data.batch_size", "16"]
    assert fit(*flags, classifier="mine_of_test.Smaller") == 0
    path = Path("checkpoints/run/version_0/best.ckpt")
    module = load_classifier(path)
    assert type(module).__qualname__ == "Smaller"
    assert type(module.objective).__name__ == "Hinge"
    assert module.network.backbone.get_parameter("block1.0.weight").shape[0] == 6
    loaded = type(module).load_from_checkpoint(path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), module.parameters(), strict=True))
    monkeypatch.delitem(sys.modules, "mine_of_test")


@pytest.mark.parametrize(
    ("flags", "classifier", "parts"),
    [
        (["--data.source", "gone_of_test.Few"], "ScratchClassifier", ["data.source", "gone_of_test.Few"]),
        (["--data.source", "pathlib.Path"], "ScratchClassifier", ["data.source", "subclass of Source"]),
        ([], "gone_of_test.Module", ["gone_of_test"]),
        ([], "pathlib.Path", ["pathlib.Path"]),
        (["--monitor", "val/other"], "ScratchClassifier", ["unknown monitor 'val/other'", "val/macro_f1"]),
        (["--model.class_weights", "[1, 2]"], "ScratchClassifier", ["class_weights", "10 numbers"]),
        (
            ["--trainer.accelerator", "cpu", "--trainer.devices", "999"],
            "ScratchClassifier",
            ["devices is 999", "cores"],
        ),
        (["--trainer.accelerator", "cuda"], "ScratchClassifier", ["trainer", "CUDA"]),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_classes_figures_and_devices_that_are_not_there(fit: Fit, workdir: Path, capsys, flags, classifier, parts):
    assert fit(*flags, classifier=classifier) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for part in parts:
        assert part.lower() in error.lower()
    assert list(workdir.rglob("*")) == []


def nothing(self: Any, *args: Any, **more: Any) -> None:
    """A hook of somebody who does not call ``super()``, as Lightning's own hooks do not need."""


HOOKS = [name for name in dir(LightningModule) if name.startswith("on_") and "transfer" not in name]
HOOKS = [name for name in HOOKS if "model" not in name and "checkpoint" not in name and name != "on_gpu"]
NOTHING = dict.fromkeys((*HOOKS, "setup", "teardown", "configure_callbacks"), nothing)


@pytest.mark.parametrize("stands", ["alone", "with callbacks of its own"])
def test_a_subclass_may_override_every_hook(stands: str, tmp_path: Path) -> None:
    class Draws(Callback):
        """Draws random numbers, which must move nothing."""

        def on_train_batch_end(self, *_: Any) -> None:
            torch.rand(3)

    own = {**NOTHING, "configure_callbacks": lambda self: Draws()} if stands != "alone" else NOTHING
    found = []
    for kind in (ScratchClassifier, type("Mine", (ScratchClassifier,), own)):
        data, run = garments(), trainer(tmp_path)
        dropout = {"widths": [3, 4], "dropout": 0.3}
        module = ten(kind, train={0: "head", 1: "all"}, class_weights="balanced", network_args=dropout)
        run.fit(module, datamodule=data)
        figures = dict(run.callback_metrics)
        run.test(module, datamodule=data, verbose=False)
        figures |= run.callback_metrics
        assert {"train/loss", "val/loss", "test/accuracy"} <= figures.keys()
        found.append({**module.state_dict(), **figures, "weights": torch.tensor(module.class_weights)})
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0].keys() | found[1].keys())


@pytest.mark.parametrize("name", ["on_save_checkpoint", "on_load_checkpoint"])
def test_a_subclass_whose_checkpoints_would_lack_something_is_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=rf"Mine overrides {name} without calling it.*call super\(\).{name}\(checkpoint\)"
    ):
        type("Mine", (ScratchClassifier,), {name: nothing})

    class Calls(ScratchClassifier):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            super().on_save_checkpoint(checkpoint)

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            ScratchClassifier.on_load_checkpoint(self, checkpoint)


class Own(ScratchClassifier):
    """Has an optimizer of its own, over what trains at first."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([parameter for parameter in self.parameters() if parameter.requires_grad], lr=0.05)


def test_an_own_optimizer_must_have_what_any_phase_trains(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"from epoch 1 trains backbone\..* and others, which no optimizer of Own"):
        trainer(tmp_path).fit(scratch(Own, train={0: "head", 1: "all"}), loader(), loader())
    trainer(tmp_path).fit(scratch(Own, train="head"), loader(), loader())


# Callbacks and loggers of other people


@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch:UserWarning")  # it replaces schedules
def test_averaging_by_lightning_leaves_frozen_statistics_alone(tmp_path: Path) -> None:
    """SWA resets every BatchNorm and estimates it again; what is frozen would stay at zero and one."""

    def frozen(module: TransferClassifier) -> dict[str, Tensor]:
        return {
            name: t.clone() for name, t in module.state_dict().items() if "layer4" not in name and "head" not in name
        }

    torch.manual_seed(0)
    spec = {"channels": 1, "storage_size": 28, "image_size": 32}
    module = TransferClassifier(CLASSES, "test_resnet", pretrained=False, input_spec=spec, train="layer4", lr=0.05)
    for name, buffer in module.network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)  # as a trained network has, and not what SWA resets to
    before = frozen(module)
    trainer(tmp_path, StochasticWeightAveraging(0.01, swa_epoch_start=1, annealing_epochs=1), max_epochs=3).fit(
        module, loader(), loader()
    )
    assert any("running_mean" in name for name in before)
    after = frozen(module)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    moved = module.network.backbone.get_submodule("layer4.0.bn1").running_mean
    assert moved.abs().max() > 0  # type: ignore[operator]


@pytest.mark.slow
def test_ema_validates_and_keeps_the_average(fit: Fit) -> None:
    callback = '[{"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}}]'
    flags = ["--trainer.callbacks", callback, "--model.train", "{0: head, 1: all}", "--model.optimizer", "sgd"]
    assert fit(*flags, "--model.lr", "0.1", epochs=3) == 0
    last = torch.load("checkpoints/run/version_0/last.ckpt", weights_only=True)
    key = "network.head.linear.weight"
    averaged, raw = last["state_dict"][key], last["current_model_state"][key]
    assert not torch.equal(averaged, raw)
    assert torch.equal(load_classifier("checkpoints/run/version_0/last.ckpt").state_dict()[key], averaged)


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["val/accuracy", "val/loss", "train/loss"])
@pytest.mark.thorough(keep=1)
def test_a_second_checkpoint_callback_with_any_monitor(fit: Fit, monitor: str) -> None:
    from fashion_tl.cli import main

    given = f'[{{"class_path": "ModelCheckpoint", "init_args": {{"monitor": "{monitor}", "dirpath": "kept"}}}}]'
    flags = ("--trainer.callbacks", given)
    assert fit(*flags, classifier="ScratchClassifier") == 0
    assert len(list(Path("kept").glob("*.ckpt"))) == 1
    config = ("-c", "lightning_logs/run/version_0/config.yaml", "--ckpt_path", "checkpoints/run/version_0/best.ckpt")
    assert main(["test", *config]) == 0
    assert fit(*flags, "--trainer.fast_dev_run", "true", classifier="ScratchClassifier") == 0
    assert fit(*flags, "--search", "{model.lr: [0.01]}", name="searched", classifier="ScratchClassifier") == 0


@pytest.mark.slow
def test_the_finders_of_lightning(tmp_path: Path) -> None:
    module = scratch()
    rates = Rates()
    finder = LearningRateFinder(num_training_steps=20, update_attr=False)
    trainer(tmp_path, finder, rates).fit(module, loader(), loader())
    assert finder.optimal_lr is not None
    assert len(rates.seen) == 6
    data = garments()
    sizes = BatchSizeFinder(mode="power", steps_per_trial=1, init_val=4, max_trials=2, batch_arg_name="batch_size")
    trainer(tmp_path, sizes, max_epochs=1).fit(ten(), datamodule=data)
    assert data.batch_size in (8, 16)


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_loggers_of_other_people(fit: Fit, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without it, newer versions ask for a database
    kind = {"mlflow": "MLFlowLogger", "wandb": "WandbLogger"}[package]
    where = {"mlflow": '"tracking_uri": "file:./tracked"', "wandb": '"save_dir": ".", "offline": true'}[package]
    given = f'{{"class_path": "{kind}", "init_args": {{{where}}}}}'
    assert fit("--trainer.logger", given, classifier="ScratchClassifier") == 0


# Lightning's own verbs over our modules


def test_predict_gives_every_test_image_in_order(tmp_path: Path) -> None:
    data, module = garments(), ten()
    batches: Any = trainer(tmp_path).predict(module, datamodule=data)
    probabilities = torch.cat(batches)
    images = torch.cat(list(data.in_order("test", 7)))
    with torch.no_grad():
        expected = module.eval()(module.preprocess(images)).softmax(1)
    assert len(probabilities) == len(data.splits["test"]) == 20
    torch.testing.assert_close(probabilities, expected)


def test_one_trainer_fits_twice_and_evaluates(tmp_path: Path) -> None:
    module, data, once = ten(), garments(), trainer(tmp_path)
    once.fit(module, datamodule=data)
    assert once.validate(module, datamodule=data, verbose=False)[0].keys() == {*module.figures}
    assert once.test(module, datamodule=data, verbose=False)[0].keys() == {
        "test/loss",
        "test/accuracy",
        "test/balanced_accuracy",
        "test/macro_f1",
    }


class Plain(LightningModule):
    """A module of Lightning alone."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(28 * 28, 2)
        self.limits: list[tuple[Any, ...]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch[0].flatten(1) / 255), batch[1])

    def configure_optimizers(self) -> Any:
        self.limits.append((self.trainer.max_steps, self.trainer.estimated_stepping_batches))
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Counting(ScratchClassifier):
    """A subclass whose own optimizer asks how long the trainer trains."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.limits: list[tuple[Any, ...]] = []

    configure_optimizers = Plain.configure_optimizers


class Walk(Callback):
    """Keeps what the trainer says at each batch, and raises once."""

    def __init__(self, error: BaseException | None = None, step: int = 5) -> None:
        self.error, self.step = error, step
        self.seen: list[tuple[Any, ...]] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        done = trainer.current_epoch, trainer.fit_loop.batch_idx, trainer.global_step
        self.seen.append((*done, trainer.max_steps, trainer.max_epochs, trainer.min_epochs, trainer.min_steps))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.error is not None and trainer.global_step == self.step:
            error, self.error = self.error, None
            raise error


LIMITS: dict[str, dict[str, Any]] = {
    "steps": {"max_steps": 10, "max_epochs": -1},
    "epochs": {"max_epochs": 3},
    "both": {"max_steps": 10, "max_epochs": 3},
    "least": {"max_steps": 8, "max_epochs": -1, "min_steps": 7, "min_epochs": 2},
}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("limits", LIMITS)
def test_a_module_sees_the_limits_of_its_trainer(limits: str, tmp_path: Path) -> None:
    modules: list[Any] = [Plain(), scratch(Counting)]
    walks = [Walk(), Walk()]
    for module, walk in zip(modules, walks, strict=True):
        trainer(tmp_path, walk, **LIMITS[limits]).fit(module, loader())
    assert modules[1].limits == modules[0].limits
    assert walks[1].seen == walks[0].seen


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
@pytest.mark.parametrize("limits", LIMITS)
def test_a_trainer_trains_again_after_an_exception_as_with_a_plain_module(
    limits: str, error: BaseException, tmp_path: Path
) -> None:
    walks = [Walk(error), Walk(error)]
    modules: list[Any] = [Plain(), scratch()]
    for module, walk in zip(modules, walks, strict=True):
        once: Any = trainer(tmp_path, walk, **LIMITS[limits])
        given = list(once.callbacks)
        with pytest.raises((RuntimeError, SystemExit)):
            once.fit(module, loader())
        assert [each for each in once.callbacks if each in given] == given
        once.fit(module, loader())
    assert walks[1].seen == walks[0].seen


def test_classes_are_weighed_by_the_data_of_each_training(tmp_path: Path) -> None:
    module, data = scratch(class_weights="balanced"), plain_data()
    objective: Any = module.objective
    for counts, weights in (([12, 12], [1.0, 1.0]), ([6, 18], [2.0, 2 / 3])):
        data.class_counts = counts  # type: ignore[attr-defined]
        trainer(tmp_path, max_epochs=1).fit(module, datamodule=data)
        assert module.class_weights == pytest.approx(weights)
        assert objective.class_weights.tolist() == pytest.approx(weights)
        assert module.checkpoint_hparams() == {"class_weights": module.class_weights}


class Standing(DataLoader[Any]):
    """Somebody's loader that a checkpoint tells where in an epoch it stood."""

    first = done = 0

    def __iter__(self) -> Any:
        first, self.first = self.first, 0
        for self.done, batch in enumerate(itertools.islice(super().__iter__(), first, None), first + 1):
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first = state["done"]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:epoch 3 ended after 1 of 3 batches")
@pytest.mark.parametrize("steps", [6, 7])
def test_after_an_epoch_that_is_done_or_cut_a_loader_begins_anew(steps: int, tmp_path: Path) -> None:
    before, walk = trainer(tmp_path, max_steps=steps, max_epochs=-1), Walk()
    before.fit(scratch(schedule="constant"), Standing(TensorDataset(*pixels()), batch_size=8))
    before.save_checkpoint(tmp_path / "a.ckpt")
    after = trainer(tmp_path, walk, max_steps=steps + 6, max_epochs=-1)
    loaders = Standing(TensorDataset(*pixels()), batch_size=8)
    after.fit(scratch(schedule="constant"), loaders, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert [each[1] for each in walk.seen] == [0, 1, 2] * 2


def test_the_network_exports(tmp_path: Path) -> None:
    module = ten().eval()
    images = module.preprocess(torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8))
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module.network, (images,), dynamic_shapes=({0: batch},))
    other = torch.randn(5, 1, 28, 28)
    torch.testing.assert_close(program.module()(other), module.network(other))
