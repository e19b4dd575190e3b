"""Selections and phases that end by plateau, as a user of a Trainer or of the command line meets them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from fashion_tl import FeatureCache, FreezeUnfreeze, TransferClassifier
from fashion_tl.errors import UserError
from fashion_tl.records.record import read_record

from .conftest import Fit
from .test_resume import Rates, SaveAt, classifier, data_module, different, train

pytestmark = [
    # Frozen modules are meant to be in eval mode.
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),
    # Lightning 2.6 itself calls what torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]

# At this rate the loss of the head rises, so that the first phase ends early; at a rate of 0 it does after two epochs.
RISING: dict[str, Any] = {"optimizer": "sgd", "schedule": "constant"}
UNTIL = {0: {"train": "head", "lr": 50.0, "until": "plateau", "patience": 2}, 4: {"train": "all", "lr": 0.01}}
STILL = {0: {**UNTIL[0], "lr": 0.0, "patience": 1}, 3: UNTIL[4]}


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))


class Watch(Callback):
    """Keeps the weights behind each epoch and before each first batch, the losses, and what trains."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Tensor]] = {}
        self.before: dict[int, dict[str, Tensor]] = {}
        self.losses: dict[int, float] = {}
        self.boundaries: dict[int, int] = {}
        self.steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        module: Any = pl_module
        self.steps += 1
        if batch_idx == 0:
            self.before[trainer.current_epoch] = {k: v.clone() for k, v in pl_module.state_dict().items()}
            self.boundaries[trainer.current_epoch] = module.network.boundary

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.after[trainer.current_epoch] = {k: v.clone() for k, v in pl_module.state_dict().items()}
        self.losses[trainer.current_epoch] = float(trainer.callback_metrics["val/loss"])


def end_of(losses: dict[int, float], patience: int, latest: int) -> tuple[int, int]:
    """Find the epoch at which a phase from epoch 0 ends, and its best epoch, from their definition."""
    for epoch in range(latest):
        best = min(range(epoch + 1), key=lambda e: losses[e])
        if epoch - best >= patience:
            return epoch + 1, best
    return latest, min(range(latest), key=lambda e: losses[e])


@pytest.mark.parametrize("cache", ["off", "auto"])
def test_the_next_phase_begins_from_the_best_weights_and_the_run_ends_earlier(cache: str, tmp_path: Path) -> None:
    watch, module = Watch(), classifier(train=UNTIL, **RISING)
    train(module, data_module({}), tmp_path, FeatureCache(cache), watch, max_epochs=6)
    end, best = end_of(watch.losses, 2, 4)
    assert best + 1 < end < 4
    head = len(module.network.stage_names)
    assert [watch.boundaries[epoch] for epoch in sorted(watch.boundaries)] == [head] * end + [0] * 2
    assert different(watch.before[end], watch.after[best]) == []
    assert different(watch.before[end], watch.after[end - 1]) != []
    plan = module.current_plan()
    assert [phase.start for phase in plan.phases] == [0, end]


def test_without_a_plateau_the_phase_ends_where_it_was_planned_to_and_the_best_weights_come_back(
    tmp_path: Path,
) -> None:
    watch = Watch()
    patient = {0: {**UNTIL[0], "patience": 9}, 3: UNTIL[4]}
    train(classifier(train=patient, **RISING), data_module({}), tmp_path, watch, max_epochs=5)
    _, best = end_of(watch.losses, 9, 3)
    assert best < 2
    assert len(watch.losses) == 5
    assert different(watch.before[3], watch.after[best]) == []


@pytest.mark.parametrize("steps", [20, 22])
def test_steps_end_a_run_with_an_early_end_earlier(steps: int, tmp_path: Path) -> None:
    watch = Watch()
    train(classifier(train=STILL), data_module({}), tmp_path, watch, max_epochs=-1, max_steps=steps)
    assert watch.steps == steps - 6  # one epoch less in the first phase: no loss falls at a rate of 0


def test_frozen_again_on_a_cache_of_the_best_weights(tmp_path: Path) -> None:
    """What is cached below the second phase's boundary was trained in the first, and put back at its end."""
    phases = {0: {**UNTIL[0], "train": "all", "lr": 0.2}, 3: {"train": "head", "lr": 0.01}}
    ends = []
    for cache in ([FeatureCache("off")], [FeatureCache("auto")], [FeatureCache("auto"), FreezeUnfreeze()]):
        watch = Watch()
        train(classifier(train=phases, **RISING), data_module({}), tmp_path, *cache, watch, max_epochs=5)
        ends.append(watch)
    end, best = end_of(ends[0].losses, 2, 3)
    assert best + 1 < end
    for watch in ends[1:]:
        assert watch.losses == pytest.approx(ends[0].losses, abs=2e-5)


def test_what_had_begun_by_a_plateau_must_be_as_it_was(tmp_path: Path) -> None:
    whole = train(classifier(train=STILL), data_module({}), tmp_path, SaveAt(tmp_path), max_epochs=6)
    other, start = {**STILL, 3: {"train": "block2", "lr": 0.01}}, tmp_path / "middle.ckpt"
    with pytest.raises(UserError, match=r"train: \{0: \{train: head, lr: 0\.0, until: plateau, patience: 1\}, 3: "):
        train(classifier(train=other), data_module({}), tmp_path, start=start, max_epochs=6)
    again = train(classifier(train=STILL), data_module({}), tmp_path, start=start, max_epochs=6)
    assert different(whole, again) == []


# Runs that go on with another length


def trained(module: Any, folder: Path, epochs: int, start: Path | None = None, *callbacks: Any) -> dict[int, int]:
    """Train to a number of epochs, and save at the end; returns the boundary of each epoch that trained."""
    watch = Watch()
    train(module, data_module({}), folder, watch, SaveEnds(folder), *callbacks, start=start, max_epochs=epochs)
    return watch.boundaries


class SaveEnds(Checkpoint):
    """Saves at the end of each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.filterwarnings("ignore:the phase .* is left out:UserWarning")
@pytest.mark.parametrize("first", [2, 3])
def test_a_phase_that_the_end_cut_off_begins_where_a_longer_run_goes_on(first: int, tmp_path: Path) -> None:
    """The head's loss stops falling after two epochs, and it trains on, for the run ends before the next phase."""
    rates, module = Rates(), classifier(train=STILL, schedule="cosine", warmup=0.5)
    assert trained(classifier(train=STILL, schedule="cosine", warmup=0.5), tmp_path, first) == dict.fromkeys(
        range(first), len(module.network.stage_names)
    )
    end = 7 - (3 - first)  # the phase is as long as it was planned
    went_on = trained(module, tmp_path, 7, tmp_path / f"{first - 1}.ckpt", rates)
    assert went_on == dict.fromkeys(range(first, end), 0)
    assert rates.seen[first] == pytest.approx(0.001), "its warm-up begins"
    assert max(rates.seen.values()) == pytest.approx(0.01)
    again = classifier(train=STILL, schedule="cosine", warmup=0.5)
    assert trained(again, tmp_path, 7, tmp_path / f"{first + 1}.ckpt") == dict.fromkeys(range(first + 2, end), 0)
    assert [phase.start for phase in again.plan.phases] == [0, 3]


@pytest.mark.filterwarnings("ignore:the phase .* is left out:UserWarning")
@pytest.mark.parametrize("epochs", [3, 4, 5, 6])
def test_a_phase_that_has_begun_stays_in_a_shorter_run(epochs: int, tmp_path: Path) -> None:
    until = {0: STILL[0], 4: UNTIL[4]}
    assert trained(classifier(train=until), tmp_path, 10)[3] == 0
    went_on = trained(classifier(train=until), tmp_path, epochs, tmp_path / "2.ckpt")
    assert went_on == ({3: 0} if epochs == 6 else {})  # the run ends two epochs earlier, as the first phase has


class SaveValidated(Checkpoint):
    """Saves when an epoch is validated, before it ends, as ModelCheckpoint does with a monitor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("phases", [UNTIL, STILL])
def test_a_checkpoint_of_any_validated_epoch_goes_on_exactly(phases: dict[int, Any], tmp_path: Path) -> None:
    def run(*callbacks: Any, start: Path | None = None) -> dict[str, Any]:
        module = classifier(train=phases, **RISING)
        return train(module, data_module({"hflip": 0.5}), tmp_path, *callbacks, start=start, max_epochs=6)

    whole = run(SaveValidated(tmp_path))
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) < 6
    for start in saved[:-1]:
        assert different(whole, run(start=start)) == [], start.name


@pytest.mark.parametrize("settings", [{"train": UNTIL}, {"schedule": "plateau"}])
@pytest.mark.parametrize(("interval", "told"), [(0.5, r"0\.5"), (1, "1"), ({"seconds": 1}, "a time")])
def test_more_than_one_validation_in_an_epoch_is_refused(
    settings: dict[str, Any], interval: Any, told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"counts one validation an epoch.*val_check_interval is {told}: leave it out"):
        train(classifier(**settings), data_module({}), tmp_path, val_check_interval=interval, max_epochs=6)


# At the command line

EARLY = "{0: {train: head, lr: 0.0, until: plateau, patience: 1}, 3: [layer4, head]}"


@pytest.mark.slow
def test_the_record_tells_what_trained_and_where_phases_began(fit: Fit, capsys) -> None:
    assert fit("--model.train", EARLY, epochs=5) == 0
    said = capsys.readouterr().out
    assert "phase 2 from epoch 4 at the latest: trains layer4 and head" in said
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["reason"] == "all phases done, one of them before its last epoch"
    assert record["status"] == "completed"
    first, second = record["model"]["phases"]
    assert (first["start"], first["began"], first["trains"]) == (0, 0, "head")
    assert (second["start"], second["began"], second["trains"]) == (3, 2, "layer4 and head")
    assert len(record["time"]["epoch_seconds"]) == 4
    module = TransferClassifier(["a"] * 10, "test_resnet", False, input_spec={"image_size": 32})
    layer4 = sum(p.numel() for p in module.network.backbone.get_submodule("layer4").parameters())
    assert second["trained_parameters"] == layer4 + first["trained_parameters"]


@pytest.mark.filterwarnings("ignore:the phase .* is left out:UserWarning")
@pytest.mark.slow
def test_the_record_of_a_longer_run_says_where_its_cut_phase_began(fit: Fit) -> None:
    assert fit("--model.train", EARLY, epochs=3) == 0
    assert fit("--model.train", EARLY, "--ckpt_path", "last", epochs=5) == 0
    folder = Path("lightning_logs/run/version_1")
    phases = read_record(folder)["model"]["phases"]
    assert [phase["began"] for phase in phases] == [0, 3]
    with (folder / "metrics.csv").open() as file:
        counts = [int(row["trained_parameters"]) for row in csv.DictReader(file)]
    assert counts == [phases[0]["trained_parameters"]] * 3 + [phases[1]["trained_parameters"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.thorough(keep=1)
def test_a_stopped_run_with_an_early_end_goes_on_to_the_same(epoch: int, fit: Fit, stop_at) -> None:
    flags = ("--checkpoint_steps", "1", "--model.train", EARLY.replace("lr: 0.0", "lr: 3.0"))
    assert fit(*flags, name="whole", epochs=5) == 0
    stop_at(epoch, 1, KeyboardInterrupt())
    assert fit(*flags, name="cut", epochs=5) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit(*flags, "--resume", "true", name="cut", epochs=5) == 0
    first, second = (
        torch.load(f"checkpoints/{name}/version_0/last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert different(first["state_dict"], second["state_dict"]) == []
    records = [read_record(Path(f"lightning_logs/{name}/version_0")) for name in ("whole", "cut")]
    assert records[0]["model"]["phases"] == records[1]["model"]["phases"]
    assert records[0]["test"] == records[1]["test"]
    assert fit(*flags, "--resume", "true", name="cut", epochs=5) == 0  # done already
    assert [p.name for p in Path("lightning_logs/cut").iterdir()] == ["version_0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model.train", "[layr4, head]"), "did you mean 'layer4'"),
        (("--model.train", "{0: head, 1: ['*.bnn1.*']}"), "did you mean '*.bn1.*'"),
        (("--model.train", "[norms, head]", "--model.batch_norm", "eval"), "lets none of it train"),
        (("--model.train", "{0: {train: head, until: plateau}}"), "the last phase (0) says until: plateau"),
        (("--model.train", "{0: {train: head, until: never}, 1: all}"), "allowed: plateau"),
        (
            ("--model.train", "{0: {train: head, until: plateau}, 1: all}", "--trainer.val_check_interval", "0.5"),
            "counts one validation an epoch",
        ),
        (
            ("--model.schedule", "plateau", "--trainer.val_check_interval", "0.5"),
            "model.schedule is plateau, which counts one validation an epoch, and trainer.val_check_interval is 0.5",
        ),
        (("--model.train", "lora"), "set --model.lora"),
        (("--model.lora", "{rank: 4}", "--model.train", "head"), "no phase of model.train trains them"),
        (("--model.lora", "{rank: 0}", "--model.train", "lora"), "allowed is 1 to 4096"),
        (("--model.lora", "{layers: conv9}", "--model.train", "lora"), "unknown layer"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_is_left(flags: tuple[str, ...], message: str, fit: Fit, capsys) -> None:
    assert fit(*flags, epochs=2) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3
    assert list(Path().iterdir()) == []


# Adapters


@pytest.mark.slow
def test_adapters_train_merge_and_load_everywhere(fit: Fit, capsys) -> None:
    from fashion_tl.cli import main

    lora = ("--model.lora", "{rank: 2, layers: 'layer[34].*'}", "--model.train", "{0: head, 1: lora}")
    assert fit(*lora, "--model.lr", "0.01", "--cache", "require", name="lora", epochs=3) == 0
    record = read_record(Path("lightning_logs/lora/version_0"))
    assert [phase["trains"] for phase in record["model"]["phases"]] == ["head", "lora and head"]
    best = Path("checkpoints/lora/version_0/best.ckpt")
    module = TransferClassifier.load_from_checkpoint(best, weights_only=True).eval()
    adapters = {name: p for name, p in module.network.named_parameters() if name.endswith(("lora_a", "lora_b"))}
    assert adapters
    assert all(".layer3." in name or ".layer4." in name for name in adapters)
    images = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocess = module.preprocess
    with torch.no_grad():
        features = module.network.backbone(preprocess(images))
        logits = module.logits(images)

    capsys.readouterr()
    assert main(["export", str(best), "exported"]) == 0
    from fashion_tl.models.backbones import create_backbone

    exported = create_backbone("local-dir:exported", True, 32).module.eval()
    assert not any("parametrizations" in name for name in exported.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(exported(preprocess(images)), features, atol=1e-6, rtol=1e-6)

    # A run that starts from it has the adapters in its weights.
    assert fit("--model.init_from", "lora", name="after", epochs=1) == 0
    fresh = TransferClassifier(
        list(module.class_names), "test_resnet", init_from=str(best), input_spec=vars(module.input_spec)
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(fresh.logits(images), logits, atol=1e-6, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_stopped_run_with_adapters_goes_on_to_the_same(fit: Fit, stop_at) -> None:
    flags = ("--checkpoint_steps", "1", "--model.lora", "{rank: 2}", "--model.train", "{0: head, 1: lora}")
    assert fit(*flags, name="whole", epochs=3) == 0
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*flags, name="cut", epochs=3) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit(*flags, "--ckpt_path", "last", name="cut", epochs=3) == 0
    first, second = (
        torch.load(f"checkpoints/{name}/version_0/last.ckpt", weights_only=True) for name in ("whole", "cut")
    )
    assert different(first["state_dict"], second["state_dict"]) == []
