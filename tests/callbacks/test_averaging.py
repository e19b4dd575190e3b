"""Averages of weights: what they are, what validation and checkpoints take, and that training goes its own way."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from fashion_tl import FeatureCache, FreezeUnfreeze, ScratchClassifier
from fashion_tl.callbacks.averaging import EMA, SWA, make_average
from fashion_tl.callbacks.weight_average import SAVED, WeightAverage, tensors_of, trained_tensors
from fashion_tl.cli import main
from fashion_tl.errors import UserError
from fashion_tl.records.record import read_record
from fashion_tl.runs.parser import quiet
from fashion_tl.training.loading import load_classifier
from fashion_tl.training.plan import Plan

from ..conftest import Fit
from ..test_resume import EPOCHS, PLACES, SaveAt, classifier, data_module, different

AVERAGES: dict[str, Callable[[], WeightAverage]] = {"ema": lambda: EMA(0.8), "swa": lambda: SWA(0.7)}
PHASES: dict[str, Any] = {"all": "all", "top": "block2", "two phases": {0: "head", 1: "block2"}}

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


def fitted(
    module: ScratchClassifier,
    *callbacks: Callback,
    augment: dict[str, Any] | None = None,
    start: Path | None = None,
    **more: Any,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(callback, SaveAt) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FreezeUnfreeze(), *callbacks],
        **{"max_epochs": EPOCHS, "num_sanity_val_steps": 0, **more},
    )
    trainer.fit(module, datamodule=data_module(augment or {}), ckpt_path=start, weights_only=True)
    return trainer


def clones(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


class Seen(Callback):
    """Keeps states of the network: after each step, while validating, after it, and at the end of each epoch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append(clones(pl_module.network))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated.append(clones(pl_module.network))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.after.append(clones(pl_module.network))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.ends.append(clones(pl_module.network))


class Timms(Callback):
    """timm's moving average of the same network, step by step."""

    def __init__(self, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.ema = ModelEmaV3(nn.Sequential(pl_module.network.backbone, pl_module.network.head), self.decay)
        self.ema.use_warmup, self.ema.warmup_power = True, 2 / 3

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.step += 1
        self.ema.update(nn.Sequential(pl_module.network.backbone, pl_module.network.head), self.step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(clones(self.ema.module))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{'backbone' if name[0] == '0' else 'head'}.{name[2:]}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("decay", [0.6, 0.9])
def test_ema_is_timms_at_every_validation(decay: float) -> None:
    seen, timms = Seen(), Timms(decay)
    fitted(classifier(), timms, EMA(decay), seen, val_check_interval=2)
    assert len(timms.states) == 3 * EPOCHS
    for ours, theirs in zip(seen.validated, map(renamed, timms.states), strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("phases", PHASES)
def test_training_goes_on_as_without(average: str, phases: str) -> None:
    """The weights of every step are bit for bit those of a run without, and so are they after each validation."""
    plain, averaged = Seen(), Seen()
    given = {"train": PHASES[phases]}
    augment = {"hflip": 0.5, "translate": 1}
    fitted(classifier(**given), plain, augment=augment)
    fitted(classifier(**given), AVERAGES[average](), averaged, augment=augment, val_check_interval=3)
    assert len(plain.steps) == len(averaged.steps) == 6 * EPOCHS
    for one, other in zip(plain.steps, averaged.steps, strict=True):
        assert different(one, other) == []
    assert [different(averaged.steps[3 * i + 2], state) for i, state in enumerate(averaged.after)] == [[]] * 8
    last = averaged.validated[-1]
    assert different(averaged.after[-1], last) != []


@pytest.mark.parametrize("average", AVERAGES)
def test_what_is_frozen_stays_bit_for_bit(average: str, tmp_path: Path) -> None:
    module = classifier(train={0: "head", 2: "block2"})
    before = clones(module.network)
    seen = Seen()
    fitted(module, AVERAGES[average](), seen, SaveAt(tmp_path))
    saved = torch.load(tmp_path / "middle.ckpt", weights_only=True)["state_dict"]
    states = [*seen.steps, *seen.validated, clones(module.network), {n[8:]: t for n, t in saved.items()}]
    frozen = [name for name in before if name.startswith("backbone.block1")]
    assert len(frozen) == 6
    for state in states:
        assert [name for name in frozen if not torch.equal(state[name], before[name])] == []
    # In the first phase the second block was frozen too.
    for state in (*seen.steps[:12], *seen.validated[:2]):
        assert [n for n in before if n.startswith("backbone.block2") and not torch.equal(state[n], before[n])] == []
    assert not torch.equal(states[-2]["backbone.block2.1.running_mean"], before["backbone.block2.1.running_mean"])


def test_an_average_begins_anew_with_a_phase() -> None:
    seen = Seen()
    fitted(classifier(train={0: "head", 2: "all"}), EMA(0.9999), seen, val_check_interval=1)
    # What the first step of a phase leaves is the average.
    assert different(seen.validated[0], seen.steps[0]) == []
    assert different(seen.validated[12], seen.steps[12]) == []
    assert different(seen.validated[13], seen.steps[13]) != []


def test_swa_is_the_mean_of_the_ends_of_the_last_epochs() -> None:
    module, average, seen = classifier(schedule="constant"), SWA(0.7), Seen()
    fitted(module, average, seen)
    parameters = [name for name, _ in module.network.named_parameters()]
    for epoch, first in enumerate((None, 1, 1, 1)):  # 70 % of four epochs: the last three
        for name in parameters:
            ends = seen.ends[epoch : epoch + 1] if first is None else seen.ends[first : epoch + 1]
            mean = torch.stack([state[name].double() for state in ends]).mean(0).float()
            torch.testing.assert_close(seen.validated[epoch][name], mean, atol=1e-6, rtol=1e-5)
    assert different(clones(module.network), seen.validated[-1]) == []


def test_batch_norm_of_swa_is_estimated_as_by_torch(tmp_path: Path) -> None:
    module, seen = classifier(network_args={"widths": [3, 4]}), Seen()  # torch's has dropout on
    fitted(module, SWA(0.5), seen)
    data = data_module({})
    loader = data.train_dataloader()
    loader.set_epoch(EPOCHS - 1)
    images = [module.preprocess(data.splits["train"].fetch(batch, True)[0]) for batch in loader]
    expected = copy.deepcopy(module.network)
    for parameter in expected.parameters():
        parameter.requires_grad_(False)
    update_bn(images, expected)
    state = clones(module.network)
    statistics = [name for name in state if "running" in name]
    assert len(statistics) == 4
    for name in statistics:
        torch.testing.assert_close(state[name], expected.state_dict()[name], atol=1e-6, rtol=1e-5)
        assert not torch.allclose(state[name], seen.steps[-1][name], atol=1e-4)
    assert different(
        *({n: t for n, t in s.items() if "num_batches" in n} for s in (state, seen.steps[-1]))
    ) == []  # fmt: skip


@pytest.mark.parametrize("policy", ["eval", "affine"])
def test_statistics_that_stand_still_are_not_estimated(policy: str) -> None:
    module = classifier(batch_norm=policy)
    before = clones(module.network)
    fitted(module, SWA(0.5))
    after = clones(module.network)
    assert [name for name in before if "running" in name and not torch.equal(before[name], after[name])] == []


class Broken(Callback):
    """Breaks a validation off."""

    def on_validation_batch_end(self, *args: Any) -> None:
        raise ZeroDivisionError


def test_a_validation_that_breaks_off_leaves_the_weights() -> None:
    module, seen = classifier(), Seen()
    with pytest.raises(ZeroDivisionError):
        fitted(module, EMA(0.9), seen, Broken())
    assert different(clones(module.network), seen.validated[-1]) != []
    assert different(clones(module.network), seen.steps[-1]) == []


def test_several_processes_validate_the_buffers_of_the_first() -> None:
    """Each process has statistics of its own, and a checkpoint keeps those of the first."""
    module, average = classifier(), EMA(0.9)
    average.update(trained_tensors(module.network))
    own = {name: tensor.clone() for name, tensor in average.average.items()}

    def broadcast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert sorted(tensors) == sorted(name for name in own if "running" in name)
        return {name: tensor + 1 for name, tensor in tensors.items()}

    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn="fit"), world_size=2, strategy=SimpleNamespace(broadcast=broadcast)
    )
    with torch.inference_mode():  # as Lightning validates
        average.on_validation_start(trainer, module)
    state = clones(module.network)
    for name, tensor in own.items():
        assert torch.equal(state[name], tensor + 1 if "running" in name else tensor)
    average.take_out(module)
    average.update(trained_tensors(module.network))  # goes on outside of inference mode
    assert {name: torch.equal(tensor, tensors_of(module.network)[name]) for name, tensor in own.items()} == (
        dict.fromkeys(own, True)
    )


# Going on


@pytest.mark.parametrize("reading", ["cache", "augmentation"])
@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("average", AVERAGES)
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(
    average: str, phases: str, reading: str, tmp_path: Path
) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Tensor]:
        cache = [FeatureCache("auto")] if reading == "cache" else []
        module, seen = classifier(train=PHASES[phases], schedule="constant"), Seen()
        augment = {"hflip": 0.5} if reading == "cache" else {"hflip": 0.5, "translate": 2}
        trainer = fitted(module, *cache, AVERAGES[average](), seen, *callbacks, augment=augment, start=start)
        figures = torch.stack([trainer.callback_metrics[name] for name in sorted(trainer.callback_metrics)])
        ends = {f"trained {name}": tensor for name, tensor in seen.ends[-1].items()}
        return {**module.state_dict(), **ends, "figures": figures}

    whole = run(SaveAt(tmp_path))
    for name in PLACES:
        assert different(whole, run(start=tmp_path / f"{name}.ckpt")) == [], name


@pytest.mark.parametrize("average", AVERAGES)
def test_a_run_by_steps_goes_on_exactly(average: str, tmp_path: Path) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        module = classifier(train={0: "head", 1: "all"})
        fitted(module, AVERAGES[average](), *callbacks, start=start, max_epochs=-1, max_steps=22)
        return clones(module.network)

    whole = run(SaveAt(tmp_path))
    assert different(whole, run(start=tmp_path / "middle.ckpt")) == []


def test_the_last_step_is_the_last_of_swa_within_an_epoch() -> None:
    average, seen = SWA(0.5), Seen()
    module = classifier(schedule="constant")
    fitted(module, average, seen, max_epochs=-1, max_steps=15)  # 2.5 epochs of 6 batches
    mean = (seen.steps[11]["head.weight"] + seen.steps[14]["head.weight"]) / 2
    torch.testing.assert_close(module.network.head.weight, mean)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_weights_are_averaged_in_single_precision(precision: Any, tmp_path: Path) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> tuple[ScratchClassifier, Kept]:
        module, average = classifier(lr=1e-3, optimizer="sgd"), Kept(0.999)
        fitted(module, average, *callbacks, start=start, precision=precision)
        return module, average

    module, average = run(SaveAt(tmp_path))
    assert {tensor.dtype for tensor in average.kept.values()} == {torch.float32}
    assert {parameter.dtype for parameter in module.parameters()} != {torch.float32}
    _, again = run(start=tmp_path / "middle.ckpt")
    assert different(average.kept, again.kept) == []


class Kept(EMA):
    """Keeps its average."""

    kept: dict[str, Tensor]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self.kept = {name: tensor.clone() for name, tensor in self.average.items()}


@pytest.mark.parametrize(("before", "now"), [(None, 0.9), (0.9, None), (0.9, 0.8)])
def test_another_averaging_is_refused(before: float | None, now: float | None, tmp_path: Path) -> None:
    fitted(classifier(), *make_average(before, None), SaveAt(tmp_path))
    told = [f"ema {decay}" if decay else "none" for decay in (before, now)]
    with pytest.raises(UserError, match=f"averaging: {told[0]}, now {told[1]}"):
        fitted(classifier(), *make_average(now, None), start=tmp_path / "end.ckpt")


# With the feature cache


@pytest.mark.parametrize("average", AVERAGES)
def test_with_the_cache_as_without(average: str) -> None:
    states, figures = [], []
    for mode in ("off", "require"):
        module = classifier(train="block2", schedule="constant", lr=0.01)
        trainer = fitted(module, FeatureCache(mode), AVERAGES[average](), augment={"hflip": 0.5})
        states.append(tensors_of(module.network))
        figures.append(float(trainer.callback_metrics["val/loss"]))
    assert figures[0] == pytest.approx(figures[1], abs=2e-5)
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=2e-4, rtol=2e-4)


# At the command line


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--ema=0.8", "--swa=0.6"])
@pytest.mark.thorough(keep=1)
def test_the_kept_checkpoint_is_the_average_that_validation_chose(fit: Fit, capsys, flag: str) -> None:
    given = (flag, "--model.lr", "0.02", "--monitor", "val/loss", "--model.schedule", "constant")
    assert fit(*given, "--model.train", "{0: head, 1: layer4}", epochs=4) == 0
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["model"]["averaging"] == flag.removeprefix("--").replace("=", " ")
    best = torch.load("checkpoints/run/version_0/best.ckpt", weights_only=True)
    capsys.readouterr()
    assert main(["validate", "-c", "lightning_logs/run/version_0/config.yaml", "--ckpt_path", "best"]) == 0
    (shown,) = re.findall(r"val/loss\D+([0-9.]+)", capsys.readouterr().out)
    assert float(shown) == pytest.approx(record["best"]["value"], abs=1e-5)
    module = load_classifier("checkpoints/run/version_0/best.ckpt")
    weights = best[SAVED]["weights"]
    assert "network.head.linear.weight" in weights
    state = module.state_dict()
    assert [name for name in weights if torch.equal(weights[name], state[name])] == []
    assert fit("--model.init_from", "run", name="next") == 0


@pytest.mark.slow
def test_wrong_averages_are_told(fit: Fit, capsys) -> None:
    endless = ("--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:01:00", "--model.schedule", "constant")
    for flags, message in (
        (("--ema", "0.9", "--swa", "0.5"), "--ema and --swa exclude each other"),
        (("--ema", "1"), "ema is 1.0, allowed is 1e-06 to"),
        (("--swa", "0"), "swa is 0.0, allowed is 1e-06 to"),
        (("--swa", "0.5", *endless), "--swa averages the last epochs and needs to know which they are"),
    ):
        assert fit(*flags) == 2
        assert message in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


@pytest.mark.slow
def test_a_run_resumed_by_its_name_keeps_its_average(fit: Fit, stop_at, capsys) -> None:
    flags = ("--checkpoint_steps", "1", "--ema", "0.8", "--model.train", "{0: head, 2: all}")
    assert fit(*flags, name="whole", epochs=4) == 0
    stop_at(2, 1, KeyboardInterrupt())
    assert fit(*flags, name="cut", epochs=4) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit("--checkpoint_steps", "1", "--ema", "0.7", *flags[4:], "--resume", "true", name="cut", epochs=4) == 2
    assert "ema: 0.8, now 0.7" in capsys.readouterr().err
    assert fit(*flags, "--resume", "true", name="cut", epochs=4) == 0
    for name in ("best", "last"):
        one, other = (
            torch.load(f"checkpoints/{run}/version_0/{name}.ckpt", weights_only=True) for run in ("whole", "cut")
        )
        assert different(one["state_dict"], other["state_dict"]) == []
        assert different(one[SAVED]["weights"], other[SAVED]["weights"]) == []


def test_batches_of_any_loader_estimate_the_statistics() -> None:
    images = torch.rand(40, 1, 28, 28)
    loader = DataLoader(TensorDataset(images, torch.arange(40) % 10), batch_size=8)
    module = classifier()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        log_every_n_steps=1,
        callbacks=[FreezeUnfreeze(), SWA(0.5)],
    )
    with quiet():
        trainer.fit(module, loader, loader)
    first = module.network.get_submodule("backbone.block1.0")(module.preprocess(images))
    mean = module.network.get_buffer("backbone.block1.1.running_mean")
    torch.testing.assert_close(mean, first.mean((0, 2, 3)).detach())


class Drawing(TensorDataset):
    """Images that are augmented by whatever draws numbers."""

    def __getitem__(self, index: int) -> Any:
        image, label = self.tensors[0][index], self.tensors[1][index]
        return image + 0.1 * random.random() + 0.1 * float(np.random.rand()), label


@pytest.mark.parametrize("sampler", [False, True])
def test_training_from_any_loader_goes_on_as_without(sampler: bool) -> None:
    ends = []
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for callbacks in ([], [SWA(0.5)]):
        dataset, own = Drawing(images, torch.arange(40) % 10), torch.Generator().manual_seed(5)
        drawn: dict[str, Any] = {"sampler": RandomSampler(dataset, generator=own)} if sampler else {}
        loader = DataLoader(dataset, batch_size=8, **drawn or {"shuffle": True, "generator": own})
        random.seed(0)
        np.random.seed(0)
        module, seen = classifier(schedule="constant"), Seen()
        with quiet():
            Trainer(
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                max_epochs=4,
                log_every_n_steps=1,
                callbacks=[FreezeUnfreeze(), *callbacks, seen],
            ).fit(module, loader, DataLoader(dataset, batch_size=8))
        ends.append(seen.steps)
    assert len(ends[0]) == len(ends[1])
    assert [different(one, other) for one, other in zip(*ends, strict=True)] == [[]] * len(ends[0])


@pytest.mark.parametrize("until", [{}, {"until": "plateau", "patience": 1}])
def test_the_order_of_callbacks_changes_nothing(until: dict[str, Any]) -> None:
    """The module brings FreezeUnfreeze along, behind the average; phases and best weights are the same."""
    ends = []
    for callbacks in ([FreezeUnfreeze(), EMA(0.8)], [EMA(0.8)]):
        module, seen = classifier(train={0: {"train": "head", **until}, 2: "all"}), Seen()
        trainer: Any = Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks, seen],
            max_epochs=EPOCHS,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, datamodule=data_module({}))
        assert [type(each) for each in trainer.callbacks[: len(callbacks)]] == [type(each) for each in callbacks]
        ends.append([*seen.steps, *seen.validated, clones(module.network)])
    assert len(ends[0]) == len(ends[1])
    assert [different(one, other) for one, other in zip(*ends, strict=True)] == [[]] * len(ends[0])


def test_an_average_asks_for_the_plan_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plan_of = ScratchClassifier.current_plan

    def counted(module: ScratchClassifier) -> Plan:
        asked.append(1)
        return plan_of(module)

    monkeypatch.setattr(ScratchClassifier, "current_plan", counted)
    counts = []
    for average in ([], [EMA(0.8)], [SWA(0.5)]):
        asked.clear()
        fitted(classifier(), *average)
        counts.append(len(asked))
    assert counts[1:] == [counts[0] + EPOCHS + 1] * 2
