"""Whole runs through the command line, on a few synthetic garments."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer

from fashion_tl.callbacks.checkpoints import LastCheckpoint
from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.cli import main
from fashion_tl.errors import UserError
from fashion_tl.inspection.inference import infer
from fashion_tl.inspection.run import open_run
from fashion_tl.records.record import read_record
from fashion_tl.runs.callbacks import callbacks_of
from fashion_tl.runs.ranges import check_validated
from fashion_tl.training.plan import Plan, Progress

from .conftest import Fit

TWO_PHASES = (
    "--model.train",
    "{0: head, 2: {train: layer3, lr: 0.001}}",
    "--model.lr",
    "0.01",
    "--model.dropout",
    "0.2",
)
AUGMENTED = (
    "--data.augment",
    "{hflip: 0.5, translate: 2, rotation: 10, brightness: 0.2, contrast: 0.2, random_erasing: 0.5}",
)
RUN_FILES = {"config.yaml", "metrics.csv", "run.json", "test_predictions.npz", "filters.npz"}


def state(path: str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def logits(name: str, version: int = 0) -> np.ndarray[Any, Any]:
    with np.load(f"lightning_logs/{name}/version_{version}/test_predictions.npz") as file:
        return file["logits"]  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_run_leaves_exactly_its_record(fit: Fit):
    assert fit(*TWO_PHASES, *AUGMENTED, epochs=3) == 0
    logs = Path("lightning_logs/run/version_0")
    files = {p.name for p in logs.iterdir()}
    assert {f for f in files if not f.startswith("events.out.tfevents")} == RUN_FILES
    assert {p.name for p in Path("checkpoints/run/version_0").iterdir()} == {"best.ckpt", "last.ckpt"}
    record = json.loads((logs / "run.json").read_text())
    assert record["status"] == "completed"
    assert record["reason"] == "all epochs done"
    assert record["data"]["sizes"] == {"train": 110, "val": 10, "test": 40}
    assert [p["trains"] for p in record["model"]["phases"]] == ["head", "layer3 and above"]
    assert record["model"]["phases"][0]["trained_parameters"] == 970
    assert len(record["time"]["epoch_seconds"]) == 3
    assert record["time"]["images_per_second"] > 0
    assert record["peak_memory_bytes"] > 0
    assert set(record["best"]) == {"epoch", "monitor", "value"}
    with np.load(logs / "test_predictions.npz") as file:
        assert file["logits"].shape == (40, 10)
        hits = file["logits"].argmax(1) == file["label"]
        assert record["test"]["accuracy"] == hits.mean()
    rows = (logs / "metrics.csv").read_text().splitlines()
    assert len(rows) == 4
    assert rows[0].startswith(
        "epoch,step,train/loss,train/accuracy,val/loss,val/accuracy,val/balanced_accuracy,val/macro_f1,lr"
    )


@pytest.mark.slow
def test_the_recorded_configuration_runs_again(fit: Fit, workdir: Path):
    assert fit(*TWO_PHASES, *AUGMENTED, "--seed_everything", "3", epochs=3) == 0
    assert main(["fit", "-c", "lightning_logs/run/version_0/config.yaml", "--name", "again"]) == 0
    assert np.array_equal(logits("run"), logits("again"))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_logits_and_another_seed_others(fit: Fit):
    for version, seed in enumerate(("1", "1", "2")):
        assert fit(*TWO_PHASES, *AUGMENTED, "--seed_everything", seed, epochs=3) == 0
        assert Path(f"checkpoints/run/version_{version}/best.ckpt").is_file()
    assert np.array_equal(logits("run", 0), logits("run", 1))
    assert not np.array_equal(logits("run", 0), logits("run", 2))


MIRRORED = ("--data.augment.hflip", "0.5", "--cache", "require")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmented", "epoch", "batch"),
    [(AUGMENTED, 0, 1), (AUGMENTED, 1, 2), (AUGMENTED, 2, 0), (AUGMENTED, 3, 1), (MIRRORED, 1, 2), (MIRRORED, 3, 1)],
)
@pytest.mark.thorough(keep=1)
def test_a_stopped_and_resumed_run_ends_as_one_that_was_not_stopped(fit: Fit, stop_at, augmented, epoch, batch):
    arguments = (*TWO_PHASES, *augmented, "--patience", "4")
    assert fit(*arguments, name="whole", epochs=4) == 0
    stop_at(epoch, batch, KeyboardInterrupt())
    assert fit(*arguments, name="cut", epochs=4) == 130
    record = read_record(Path("lightning_logs/cut/version_0"))
    assert (record["status"], record["reason"]) == ("interrupted", "stopped by Ctrl-C")
    stop_at(99, 0, KeyboardInterrupt())
    assert fit(*arguments, "--ckpt_path", "checkpoints/cut/version_0/last.ckpt", name="cut", epochs=4) == 0
    assert [p.name for p in Path("lightning_logs/cut").iterdir()] == ["version_0"]
    for name in ("best", "last"):
        assert same(state(f"checkpoints/whole/version_0/{name}.ckpt"), state(f"checkpoints/cut/version_0/{name}.ckpt"))
    assert np.array_equal(logits("whole"), logits("cut"))
    record = read_record(Path("lightning_logs/cut/version_0"))
    assert record["status"] == "completed"
    assert len(record["time"]["epoch_seconds"]) == 4


@pytest.mark.slow
def test_sigterm_leaves_an_interrupted_record_and_status_143(fit: Fit, stop_at):
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    stop_at(0, 1, SIGTERMException())
    assert fit(epochs=2) == 143
    assert read_record(Path("lightning_logs/run/version_0"))["reason"] == "stopped by SIGTERM"
    assert Path("checkpoints/run/version_0/last.ckpt").is_file()


@pytest.mark.slow
def test_what_is_frozen_stays_bit_identical_and_moves_in_the_next_phase(fit: Fit):
    assert fit("--model.train", "head", "--model.lr", "0.01", name="phase1", epochs=2) == 0
    from fashion_tl.training.loading import load_classifier

    torch.manual_seed(0)
    first = state("checkpoints/phase1/version_0/last.ckpt")
    untrained = state_before_training("phase1")
    frozen = [k for k in first if k.startswith("network.backbone.")]
    assert any("running_mean" in k for k in frozen)
    assert all(torch.equal(first[k], untrained[k]) for k in frozen)
    assert not torch.equal(first["network.head.linear.weight"], untrained["network.head.linear.weight"])
    assert fit("--model.train", "1", "--model.init_from", "phase1", name="phase2", epochs=1) == 0
    second = state("checkpoints/phase2/version_0/last.ckpt")
    moved = {k for k in frozen if not torch.equal(first[k], second[k])}
    expected = {k for k in frozen if k.startswith("network.backbone.layer4.")}
    assert moved == expected
    assert load_classifier(Path("checkpoints/phase2/version_0/best.ckpt")).class_names[0] == "T-shirt/top"


def state_before_training(name: str) -> dict[str, torch.Tensor]:
    """Build the same run's module again, from its recorded configuration, without training it."""
    from fashion_tl.training.transfer import TransferClassifier

    config = yaml.safe_load(Path(f"lightning_logs/{name}/version_0/config.yaml").read_text())
    torch.manual_seed(config["seed_everything"])
    arguments = config["model"]["init_args"]
    names = read_record(Path(f"lightning_logs/{name}/version_0"))["data"]["class_names"]
    spec = {"channels": 1, "storage_size": 28, "image_size": 32}
    return TransferClassifier(class_names=names, input_spec=spec, **arguments).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["one_cycle", "step", "plateau", "constant"])
def test_every_schedule_and_optimizer_runs(fit: Fit, schedule):
    optimizer = {"step": "sgd", "plateau": "adam"}.get(schedule, "adamw")
    flags = ("--model.schedule", schedule, "--model.optimizer", optimizer, *TWO_PHASES)
    assert fit(*flags, epochs=3) == 0


@pytest.mark.slow
def test_gradient_accumulation_and_clipping_are_the_trainers_own(fit: Fit):
    flags = ("--trainer.accumulate_grad_batches", "2", "--trainer.gradient_clip_val", "1.0")
    assert fit(*flags, epochs=2) == 0
    assert read_record(Path("lightning_logs/run/version_0"))["status"] == "completed"


@pytest.mark.slow
def test_early_stopping_says_so(fit: Fit):
    assert fit("--patience", "1", "--model.lr", "1e-12", epochs=9) == 0
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["reason"] == "early stopping: val/accuracy did not improve for 1 epoch"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "epochs"),
    [(("--trainer.val_check_interval", "1"), 1), (("--trainer.check_val_every_n_epoch", "2"), 4)],
)
@pytest.mark.thorough(keep=1)
def test_early_stopping_counts_validations(flags: tuple[str, ...], epochs: int, fit: Fit) -> None:
    assert fit("--patience", "1", "--model.lr", "1e-30", *flags, classifier="ScratchClassifier", epochs=9) == 0
    assert len(rows()) == epochs
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["reason"] == "early stopping: val/accuracy did not improve for 1 validation"


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_that_goes_on_after_early_stopping_tells_its_own_end(fit: Fit) -> None:
    still = ("--model.lr", "1e-30", "--model.schedule", "constant")
    assert fit("--patience", "2", *still, classifier="ScratchClassifier", epochs=6) == 0
    assert len(rows()) == 3
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["reason"] == "early stopping: val/accuracy did not improve for 2 epochs"
    goes_on = ("--ckpt_path", "checkpoints/run/version_0/last.ckpt", "--patience", "50")
    assert fit(*goes_on, *still, classifier="ScratchClassifier", epochs=6) == 0
    assert len(rows(version=1)) == 6
    assert read_record(Path("lightning_logs/run/version_1"))["reason"] == "all epochs done"


@pytest.mark.slow
def test_where_only_the_test_is_left_early_stopping_is_still_told(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--patience", "1", "--model.lr", "1e-30", "--resume", "true")
    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_test_start", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert fit(*flags, classifier="ScratchClassifier", epochs=6) == 130
    assert fit(*flags, classifier="ScratchClassifier", epochs=6) == 0
    assert len(rows()) == 2
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["reason"] == "early stopping: val/accuracy did not improve for 1 epoch"
    assert record["status"] == "completed"


@pytest.mark.slow
def test_scratch_trains_at_the_size_the_images_have(fit: Fit):
    assert fit(classifier="ScratchClassifier") == 0
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["model"]["input"]["image_size"] == 28
    assert record["model"]["parameters"] < 500_000


@pytest.mark.slow
def test_a_checkpoint_is_tested_and_validated_by_its_verbs(fit: Fit, workdir, capsys):
    assert fit() == 0
    capsys.readouterr()
    common = ("-c", "lightning_logs/run/version_0/config.yaml", "--ckpt_path", "checkpoints/run/version_0/best.ckpt")
    for verb in ("test", "validate"):
        assert main([verb, *common]) == 0
        assert f"{verb if verb == 'test' else 'val'}/accuracy" in capsys.readouterr().out
    assert [p.name for p in Path("lightning_logs/run").iterdir()] == ["version_0"]


def test_fast_dev_run_leaves_nothing(fit: Fit, workdir: Path):
    assert fit("--trainer.fast_dev_run", "true") == 0
    assert list(workdir.iterdir()) == []


@pytest.mark.slow
@pytest.mark.thorough
def test_short_epochs_do_not_each_write_a_checkpoint_and_resuming_is_exact_all_the_same(
    fit: Fit, stop_at, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(LastCheckpoint, "every_seconds", 1e6)
    flags = ("--model.train", "head", "--model.lr", "0.01")
    assert fit(*flags, name="whole", epochs=4) == 0
    stop_at(3, 1, KeyboardInterrupt())
    assert fit(*flags, name="stopped", epochs=4) == 130
    best, last = (f"checkpoints/stopped/version_0/{kind}.ckpt" for kind in ("best", "last"))
    kept = [torch.load(path, weights_only=True)["epoch"] for path in (best, last)]
    assert kept[0] == kept[1] < 2  # never older than the best, which is copied
    stop_at(99, 0, KeyboardInterrupt())
    assert fit(*flags, "--ckpt_path", last, name="stopped", epochs=4) == 0
    assert same(*(state(f"checkpoints/{name}/version_0/last.ckpt") for name in ("whole", "stopped")))


@pytest.mark.slow
def test_a_resumed_run_says_where_it_came_from_and_its_configuration_still_runs_the_whole(fit: Fit, stop_at, capsys):
    assert fit("--model.mean", "[0.1, 0.2, 0.3]", name="start") == 0
    started = ("--model.init_from", "start", "--model.train", "head", "--patience", "9")
    assert fit(*started, name="whole", epochs=3) == 0
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*started, name="cut", epochs=3) == 130
    folder = Path("lightning_logs/cut/version_0")
    before = (folder / "config.yaml").read_text()
    command = capsys.readouterr().out.partition("To go on: fashion-tl ")[2].splitlines()[0]
    stop_at(99, 0, KeyboardInterrupt())
    assert main([*command.split(), "--patience", "7"]) == 0
    whole, cut = (read_record(Path(f"lightning_logs/{name}/version_0")) for name in ("whole", "cut"))
    for key in ("weights", "weights_hash", "input"):
        assert cut["model"][key] == whole["model"][key]
    assert np.array_equal(logits("whole"), logits("cut"))
    assert (folder / "config.yaml").read_text() == before.replace("patience: 9", "patience: 7")
    assert "resumed" in cut
    assert "resumed" not in whole


@pytest.mark.slow
def test_more_epochs_of_a_completed_run_choose_among_their_own(fit: Fit):
    assert fit("--model.lr", "0.01", name="run", epochs=2) == 0
    last = "checkpoints/run/version_0/last.ckpt"
    assert fit("--model.lr", "0.01", "--ckpt_path", last, name="run", epochs=4) == 0
    record = read_record(Path("lightning_logs/run/version_1"))
    assert len(record["time"]["epoch_seconds"]) == 4
    assert record["best"]["epoch"] == torch.load("checkpoints/run/version_1/best.ckpt", weights_only=True)["epoch"]


@pytest.mark.slow
def test_nothing_left_to_train_is_said(fit: Fit, capsys):
    assert fit(epochs=1) == 0
    assert fit("--ckpt_path", "checkpoints/run/version_0/last.ckpt", epochs=1) == 2
    assert "nothing is left to train" in capsys.readouterr().err
    assert not Path("lightning_logs/run/version_1").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_refused_before_anything_is_written(fit: Fit, capsys):
    assert fit() == 0
    given = ("--ckpt_path", "checkpoints/run/version_0/last.ckpt")
    assert fit(*given, classifier="ScratchClassifier", name="other") == 2
    assert "does not fit the model" in capsys.readouterr().err
    assert not Path("lightning_logs/other").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_without_a_logger_and_with_another_one(fit: Fit):
    assert fit("--trainer.logger", "false", name="none") == 0
    assert {p.name for p in Path("lightning_logs/none/version_0").iterdir()} == RUN_FILES
    logger = '{"class_path": "CSVLogger", "init_args": {"save_dir": "csv"}}'
    assert fit("--trainer.logger", logger, name="csv") == 0
    assert list(Path("csv").rglob("metrics.csv"))


# What a record says is what ran


def rows(name: str = "run", version: int = 0) -> list[dict[str, str]]:
    with Path(f"lightning_logs/{name}/version_{version}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.thorough
def test_an_epoch_without_validation_has_none_in_its_row(fit: Fit) -> None:
    flags = ("--trainer.check_val_every_n_epoch", "2", "--patience", "1", "--model.schedule", "plateau")
    assert fit(*flags, classifier="ScratchClassifier", epochs=4) == 0
    assert [bool(row["val/loss"]) for row in rows()] == [False, True, False, True]
    assert all(row["train/loss"] for row in rows())
    assert read_record(Path("lightning_logs/run/version_0"))["best"]["epoch"] in (1, 3)
    assert torch.load("checkpoints/run/version_0/best.ckpt", weights_only=True)["epoch"] in (1, 3)


@pytest.mark.parametrize(
    "flags",
    [
        ("--trainer.val_check_interval", "2"),
        ("--trainer.val_check_interval", "0.7"),
        ("--trainer.val_check_interval", "00:00:00:01"),
        ("--trainer.val_check_interval", "4", "--trainer.check_val_every_n_epoch", "null"),
    ],
)
def test_an_epoch_whose_last_validation_is_not_at_its_end_is_refused(
    flags: tuple[str, ...], fit: Fit, workdir: Path, capsys
) -> None:
    assert fit(*flags, classifier="ScratchClassifier", epochs=4) == 2
    error = capsys.readouterr().err
    assert "trainer.val_check_interval is " in error
    assert "at its end, whose weights best.ckpt keeps. Give a number of batches that divides " in error
    assert len(error.splitlines()) == 1
    assert list(workdir.rglob("*")) == []


@pytest.mark.parametrize(
    ("flags", "epochs", "told"),
    [
        (("--trainer.check_val_every_n_epoch", "2"), 1, "check_val_every_n_epoch is 2, and the run has 1 epoch,"),
        (
            ("--trainer.check_val_every_n_epoch", "2", "--trainer.max_steps", "3"),
            6,
            "check_val_every_n_epoch is 2, and the run has 1 epoch,",
        ),
        (
            ("--trainer.check_val_every_n_epoch", "3", "--trainer.max_steps", "4"),
            -1,
            "check_val_every_n_epoch is 3, and the run has 2 epochs,",
        ),
        (
            ("--trainer.val_check_interval", "6", "--trainer.check_val_every_n_epoch", "null"),
            1,
            "val_check_interval is 6, and the run has 1 epoch,",
        ),
        (
            ("--trainer.val_check_interval=6", "--trainer.check_val_every_n_epoch=null", "--trainer.max_steps=99"),
            1,
            "val_check_interval is 6, and the run has 1 epoch,",
        ),
    ],
)
def test_a_run_that_would_never_be_validated_is_refused(
    flags: tuple[str, ...], epochs: int, told: str, fit: Fit, workdir: Path, capsys
) -> None:
    assert fit(*flags, classifier="ScratchClassifier", epochs=epochs) == 2
    error = capsys.readouterr().err
    assert f"trainer.{told}" in error
    assert len(error.splitlines()) == 1
    assert list(workdir.rglob("*")) == []


@pytest.mark.parametrize(("done", "refused"), [(3, False), (4, True)])
def test_validations_of_before_are_none_of_a_run_that_goes_on(done: int, refused: bool) -> None:
    trainer = SimpleNamespace(check_val_every_n_epoch=2)
    with pytest.raises(UserError, match="goes on from epoch 5 to 5, of which none") if refused else nullcontext():
        check_validated(trainer, Plan().bounded(5, -1, 10, 1), 10, Progress(done))


@pytest.mark.slow
def test_the_last_step_is_validated_where_batches_of_all_epochs_are_counted(fit: Fit) -> None:
    flags = ("--trainer.val_check_interval", "6", "--trainer.check_val_every_n_epoch", "null")
    assert fit(*flags, "--trainer.max_steps", "2", classifier="ScratchClassifier", epochs=2) == 0


class OutOfTime(Callback):
    """Ends training in its first epoch, as ``trainer.max_time`` does."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.current_epoch == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:epoch 1 ended after 1 of 3 batches:UserWarning")
@pytest.mark.thorough
def test_a_run_whose_time_is_up_before_a_validation_says_how_to_go_on(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with monkeypatch.context() as early:
        early.setattr("fashion_tl.runs.fit.callbacks_of", lambda *given: [*callbacks_of(*given), OutOfTime()])
        assert fit("--trainer.check_val_every_n_epoch", "2", classifier="ScratchClassifier", epochs=4) == 2
    error = capsys.readouterr().err
    assert "training ended before its first validation, and there is no checkpoint to test. Train on: " in error
    assert main(shlex.split(error.partition("fashion-tl fit ")[2].join(("fit ", "")))) == 0
    assert read_record(Path("lightning_logs/run/version_0"))["test"]


@pytest.mark.parametrize(
    ("flags", "epochs", "told"),
    [
        (
            ("--trainer.min_epochs", "5"),
            4,
            "trainer.min_epochs is 5, allowed is at most trainer.max_epochs,",
        ),
        (("--trainer.min_steps", "9", "--trainer.max_steps", "8"), -1, "trainer.min_steps is 9, allowed is at most"),
        (("--trainer.min_epochs", "4", "--trainer.max_steps", "4"), 6, "trainer.min_epochs is 4, and the run ends by"),
        (("--trainer.min_steps", "7"), 2, "trainer.min_steps is 7, and the run ends by trainer.max_epochs 2"),
    ],
)
def test_a_least_length_beyond_the_end_is_refused(
    flags: tuple[str, ...], epochs: int, told: str, fit: Fit, workdir: Path, capsys
) -> None:
    assert fit(*flags, classifier="ScratchClassifier", epochs=epochs) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert list(workdir.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "validated"),
    [
        (("--trainer.val_check_interval", "0.5"), [True, True, True]),
        (("--trainer.val_check_interval", "6", "--trainer.check_val_every_n_epoch", "null"), [False, True, False]),
    ],
)
def test_the_best_value_is_that_of_the_checkpoint(flags: tuple[str, ...], validated: list[bool], fit: Fit) -> None:
    flags = (*flags, "--monitor", "val/loss", "--model.optimizer", "sgd", "--model.lr", "0.05")
    assert fit(*flags, epochs=3) == 0
    assert [bool(row["val/loss"]) for row in rows()] == validated
    run = open_run("run", Path("lightning_logs"), Path("checkpoints"))
    found, _ = infer(run.module, run.data.in_order("val", 40))
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(found), run.data.splits["val"].labels)
    assert read_record(Path("lightning_logs/run/version_0"))["best"]["value"] == pytest.approx(float(loss), abs=1e-6)


@pytest.mark.slow
def test_a_partial_last_epoch_is_validated_and_kept(fit: Fit) -> None:
    assert fit("--trainer.max_steps", "5", classifier="ScratchClassifier", epochs=9) == 0
    record = read_record(Path("lightning_logs/run/version_0"))
    assert (record["reason"], record["model"]["max_steps"]) == ("all steps done", 5)
    assert [(row["epoch"], row["step"], row["images"]) for row in rows()] == [("0", "3", "96"), ("1", "5", "64")]
    assert rows()[0]["train/loss"] != rows()[1]["train/loss"]
    assert rows()[0]["val/loss"] != rows()[1]["val/loss"]
    assert torch.load("checkpoints/run/version_0/last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.slow
@pytest.mark.thorough
def test_steps_alone_end_a_run(fit: Fit, workdir: Path) -> None:
    flags = ["--data.source", "SyntheticGarments", "--data.source.num_train", "120", "--data.batch_size", "8"]
    flags += ["--model", "ScratchClassifier"]
    flags += ["--trainer.enable_progress_bar", "false"]
    assert main(["fit", *flags, "--trainer.max_steps", "145"]) == 0  # more than the ten epochs that are usual
    assert rows("run")[-1]["step"] == "145"
    assert len(rows("run")) == 12


@pytest.mark.slow
def test_phases_that_never_run_do_not_count(fit: Fit) -> None:
    with pytest.warns(UserWarning, match="the phase 7: all begins after the end of the run and is left out"):
        assert fit("--model.train", "{0: head, 1: layer4, 7: all}", epochs=2) == 0
    model = read_record(Path("lightning_logs/run/version_0"))["model"]
    assert [phase["trains"] for phase in model["phases"]] == ["head", "layer4 and head"]
    optimizer = torch.load("checkpoints/run/version_0/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert {group["lr"] for group in optimizer["param_groups"]} == {0}  # the schedule has come to its end


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_the_rate_of_an_epoch_is_the_one_that_it_trained_at(fit: Fit, stop_at, stopped: bool) -> None:
    flags: tuple[str, ...] = (
        "--model.train",
        "{0: {train: head, lr: 0.02}, 2: {train: head, lr: 0.01}}",
        "--checkpoint_steps",
        "1",
    )
    flags = (*flags, "--model.schedule", "step", "--model.step_size", "1", "--model.gamma", "0.5")
    if stopped:
        stop_at(1, 1, KeyboardInterrupt())
        assert fit(*flags, epochs=3, classifier="ScratchClassifier") == 130
        stop_at(99, 0, KeyboardInterrupt())
        flags = (*flags, "--ckpt_path", "last")
    assert fit(*flags, epochs=3, classifier="ScratchClassifier") == 0
    assert [float(row["lr"]) for row in rows()] == [0.02, 0.01, 0.01]


@pytest.mark.slow
def test_images_per_second_are_of_images_that_were_seen(fit: Fit) -> None:
    assert fit("--trainer.limit_train_batches", "2", classifier="ScratchClassifier", epochs=2) == 0
    assert [row["images"] for row in rows()] == ["64", "64"]
    time = read_record(Path("lightning_logs/run/version_0"))["time"]
    assert time["images_per_second"] == pytest.approx(128 / sum(time["epoch_seconds"]))


def test_without_validation_a_run_is_refused_at_once(fit: Fit, workdir: Path, capsys) -> None:
    assert fit("--trainer.limit_val_batches", "0") == 2
    assert "limit_val_batches is 0, allowed is a number of batches from 1" in capsys.readouterr().err
    assert list(workdir.rglob("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("monitor", ["val/loss", "val/balanced_accuracy", "val/macro_f1"])
@pytest.mark.thorough(keep=1)
def test_any_figure_of_validation_may_choose(fit: Fit, monitor: str) -> None:
    flags = ("--monitor", monitor, "--patience", "5")
    assert fit(*flags, classifier="ScratchClassifier", epochs=3) == 0
    best = read_record(Path("lightning_logs/run/version_0"))["best"]
    choose = min if monitor == "val/loss" else max
    assert best["value"] == choose(float(row[monitor]) for row in rows())
    assert torch.load("checkpoints/run/version_0/best.ckpt", weights_only=True)["epoch"] == best["epoch"]


@pytest.mark.slow
def test_the_checkpoint_that_validation_chose_is_tested(fit: Fit) -> None:
    flags = ("--monitor", "val/loss", "--model.optimizer", "sgd", "--model.schedule", "constant", "--model.lr", "0.3")
    assert fit(*flags, epochs=3) == 0
    assert read_record(Path("lightning_logs/run/version_0"))["best"]["epoch"] == 0  # and not the last
    run = open_run("run", Path("lightning_logs"), Path("checkpoints"))
    expected, _ = infer(run.module, run.data.in_order("test", 40))
    np.testing.assert_allclose(logits("run"), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_class_weights_come_from_the_training_labels(fit: Fit) -> None:
    flags = ("--model.class_weights", "balanced", "--model.objective", "focal")
    assert fit(*flags, classifier="ScratchClassifier") == 0
    from fashion_tl import load_classifier

    model = read_record(Path("lightning_logs/run/version_0"))["model"]
    assert (model["objective"], model["class_weights"]) == ("Focal", pytest.approx([1.0] * 10))
    weights = load_classifier("checkpoints/run/version_0/best.ckpt").objective.class_weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([1.0] * 10)


@pytest.mark.slow
def test_batches_whose_classes_have_no_weight_do_not_count(fit: Fit) -> None:
    flags = ("--data.batch_size", "2", "--model.class_weights", "[0, 1, 1, 1, 0, 0, 0, 0, 0, 0]")
    assert fit(*flags, classifier="ScratchClassifier") == 0
    assert 0 < float(rows()[0]["train/loss"]) < 3


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # between torch and Lightning
def test_validation_that_broke_off_is_not_mixed_into_the_next(tmp_path: Path, monkeypatch) -> None:
    from lightning.pytorch import Trainer

    from fashion_tl import ImageDataModule, ScratchClassifier, SyntheticGarments

    data = ImageDataModule(SyntheticGarments(120), eval_batch_size=4)
    data.setup()
    module = ScratchClassifier(data.class_names, input_spec=data.input_spec)

    def validate(**settings: Any) -> dict[str, float]:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet, **settings)
        return dict(trainer.validate(module, datamodule=data, verbose=False)[0])

    whole = validate()
    monkeypatch.setattr(module, "on_validation_epoch_end", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        validate(limit_val_batches=1)
    monkeypatch.undo()
    assert validate() == whole


# From a notebook


@pytest.mark.slow
def test_a_run_from_a_notebook(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fashion_tl

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # that other tests may leave
    config = {
        "name": "mine",
        "data": {"source": {"class_path": "SyntheticGarments", "init_args": {"num_train": 120}}},
        "model": {"class_path": "ScratchClassifier"},
    }
    changes = {"trainer.max_epochs": 2, "trainer.enable_progress_bar": False, "data.augment": {"hflip": 0.5}}
    run = fashion_tl.fit(config, changes)
    assert run.record["status"] == "completed"
    assert run.test["accuracy"] == read_record(Path("lightning_logs/mine/version_0"))["test"]["accuracy"]
    assert run.model.class_names[0] == "T-shirt/top"
    assert not run.model.training
    Path("mine.yaml").write_text(
        "name: file\ndata: {source: {class_path: SyntheticGarments, init_args: {num_train: 120}}}\n"
        "model: {class_path: ScratchClassifier}\n"
    )
    best = fashion_tl.search("mine.yaml", {"model.lr": [1e-6, 0.01]}, changes)
    assert best.keys() == {"model.lr"}
    runs = fashion_tl.repeat("mine.yaml", 2, {**changes, **best})
    assert [each.record["seed"] for each in runs] == [0, 1]
    assert "PL_GLOBAL_SEED" not in os.environ  # the run's seed is no longer anybody's


def test_public_names_are_lazy_and_all_there() -> None:
    import fashion_tl

    assert all(getattr(fashion_tl, name) is not None for name in fashion_tl.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = fashion_tl.nothing


@pytest.mark.slow
def test_the_report_of_a_profiler_is_shown(fit: Fit) -> None:
    shown = io.StringIO()
    logger, handler = logging.getLogger("lightning.pytorch"), logging.StreamHandler(shown)
    logger.addHandler(handler)
    try:
        assert fit("--trainer.profiler", "simple", "--model.network", "plain", classifier="ScratchClassifier") == 0
    finally:
        logger.removeHandler(handler)
    assert "FIT Profiler Report" in shown.getvalue()
    assert "GPU available" not in shown.getvalue()


def test_a_folder_that_nothing_is_written_to_is_refused(fit: Fit, workdir: Path, capsys) -> None:
    assert fit("--trainer.default_root_dir", "zz") == 2
    assert "trainer.default_root_dir is zz" in capsys.readouterr().err
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("hook", ["teardown", "setup"])
def test_a_run_that_fails_behind_its_training_counts_its_seconds_once(
    hook: str, fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []

    class Falls(Callback):
        def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
            self.fall("setup", stage == "test")

        def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
            self.fall("teardown", stage == "fit")

        def fall(self, at: str, due: bool) -> None:
            if due and at == hook:
                seconds.append(read_record(Path("lightning_logs/run/version_0"))["time"]["fit_seconds"])
                raise RuntimeError("it falls")

    # In front, so that the recorder does not know yet that a test begins.
    monkeypatch.setattr("fashion_tl.runs.fit.callbacks_of", lambda *args: [Falls(), *callbacks_of(*args)])
    with pytest.raises(RuntimeError, match="it falls"):
        fit(classifier="ScratchClassifier")
    record = read_record(Path("lightning_logs/run/version_0"))
    assert (record["status"], [record["time"]["fit_seconds"]]) == ("failed", seconds)
