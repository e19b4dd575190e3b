"""`--resume true`: the version that is found, what is left of it, and what is refused."""

from __future__ import annotations

import csv
import shlex
import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.records.record import COMPLETED, RUNNING, read_record, versions, write_record
from fashion_tl.training.checkpoints import packed
from fashion_tl.training.classifier import ImageClassifier

from ..conftest import Fit

LOGS = Path("lightning_logs")
FLAGS = ("--model.lr", "0.01", "--data.augment.translate", "2", "--checkpoint_steps", "1")
pytestmark = pytest.mark.slow


def run(fit: Fit, *flags: str, name: str = "run", epochs: int = 3) -> int:
    return fit(*FLAGS, *flags, name=name, epochs=epochs, classifier="ScratchClassifier")


def same_end(name: str, other: str, version: int = 0) -> None:
    """Weights, predictions and the record's figures are those of another run."""
    for kind in ("best", "last"):
        first, second = (
            torch.load(f"checkpoints/{path}/{kind}.ckpt", weights_only=True)["state_dict"]
            for path in (f"{name}/version_{version}", f"{other}/version_0")
        )
        assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())
    folders = [LOGS / name / f"version_{version}", LOGS / other / "version_0"]
    logits = [np.load(folder / "test_predictions.npz")["logits"] for folder in folders]
    assert np.array_equal(*logits)
    records = [read_record(folder) for folder in folders]
    for key in ("status", "reason", "best", "test", "model", "data"):
        assert records[0][key] == records[1][key], key


def test_it_goes_on_with_the_version_that_is_not_done_and_then_says_so(fit: Fit, stop_at, capsys) -> None:
    assert run(fit, "--resume", "true", name="whole") == 0  # there is none: a run like any other
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert run(fit, "--resume", "true") == 0
    assert versions(LOGS, "run") == [0]
    same_end("run", "whole")
    before = (LOGS / "run/version_0/run.json").read_bytes()
    capsys.readouterr()
    assert run(fit, "--resume", "true", "--checkpoint_minutes", "3") == 0
    assert "lightning_logs/run/version_0 is done already" in capsys.readouterr().out
    assert (LOGS / "run/version_0/run.json").read_bytes() == before
    assert run(fit) == 0  # without it every run is a new version
    assert versions(LOGS, "run") == [0, 1]


def test_a_stop_before_the_trainer_has_begun_changes_nothing_but_the_status(
    fit: Fit, stop_at, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit) == 130
    before = read_record(LOGS / "run/version_0")
    calls = []

    def prepare_data(self: ImageDataModule) -> None:
        calls.append(self)
        if len(calls) == 2:  # by the trainer, ahead of any hook of callbacks
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ImageDataModule, "prepare_data", prepare_data)
        assert run(fit, "--resume", "true") == 130
    after = read_record(LOGS / "run/version_0")
    assert before == {**after, "finished": before["finished"]}


@pytest.mark.parametrize("flags", [(), ("--seeds", "2"), ("--folds", "2"), ("--search", "{model.lr: [0.01, 0.02]}")])
@pytest.mark.thorough(keep=1)
def test_what_is_done_is_not_taken_for_a_run_of_other_images(
    fit: Fit, folder_of_images: tuple[str, ...], flags: tuple[str, ...], capsys
) -> None:
    command = (*folder_of_images, "--data.image_size", "16", *flags, "--resume", "true")
    assert run(fit, *command, epochs=1) == 0
    shutil.copytree("data", "moved")
    assert run(fit, *command, "--data.source.root", "moved", epochs=1) == 0  # the same images elsewhere
    assert "is done already" in capsys.readouterr().out
    shutil.copyfile("data/photos/dark/1.png", "data/photos/dark/more.png")
    made = sorted(LOGS.rglob("run.json"))
    assert run(fit, *command, epochs=1) == 2
    assert "have changed since: their fingerprint is another. Give another --name." in capsys.readouterr().err
    assert sorted(LOGS.rglob("run.json")) == made


OTHER_WEIGHTS = "started from other weights than those that lie there now. Give another --name."


def test_what_is_done_is_not_taken_for_a_run_of_other_weights_of_the_same_name(
    fit: Fit, stop_at, put_weights, capsys
) -> None:
    flags = ("--model.backbone", put_weights(0), "--model.pretrained", "true", "--model.train", "head")
    assert fit(*flags, "--resume", "true") == 0
    assert fit(*flags, "--resume", "true") == 0
    assert "is done already" in capsys.readouterr().out
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*flags, name="stopped", epochs=2) == 130
    stop_at(99, 0, KeyboardInterrupt())
    put_weights(1)
    for seeds in ("1", "2"):
        assert fit(*flags, "--resume", "true", "--seeds", seeds) == 2
        assert OTHER_WEIGHTS in capsys.readouterr().err
    assert fit(*flags, "--resume", "true", name="stopped", epochs=2) == 2
    assert OTHER_WEIGHTS in capsys.readouterr().err
    assert versions(LOGS, "run") == [0]
    (Path("backbone") / "model.safetensors").unlink()  # what is not at hand cannot be compared
    assert fit(*flags, "--resume", "true") == 0
    assert fit(*flags, "--resume", "true", name="stopped", epochs=2) == 0


TEACHER = {
    "model.terms.distillation.teachers": ("--model.terms", "{distillation: {teachers: other.ckpt}}"),
    "model.smoothing_confusion": ("--model.label_smoothing", "0.1", "--model.smoothing_confusion", "other.ckpt"),
    "data.mix.pairs": ("--data.mix", "{mixup: 0.2, pairs: other.ckpt}"),
}


@pytest.mark.thorough(keep=1)
@pytest.mark.parametrize("named", TEACHER)
def test_what_is_done_is_not_taken_for_a_run_of_another_teacher_at_the_same_path(fit: Fit, named: str, capsys) -> None:
    for seed in ("1", "2"):
        assert fit("--seed_everything", seed, "--data.split_seed", "0", name="other") == 0
    flags = (*TEACHER[named], "--data.split_seed", "0")
    shutil.copyfile("checkpoints/other/version_0/best.ckpt", "other.ckpt")
    assert fit(*flags) == 0
    assert list(read_record(LOGS / "run" / "version_0")["named"]) == [named]
    assert fit(*flags, "--resume", "true") == 0
    assert "is done already" in capsys.readouterr().out
    shutil.copyfile("checkpoints/other/version_1/best.ckpt", "other.ckpt")
    assert fit(*flags, "--resume", "true") == 2
    told = f"had another {named} than the checkpoint that lies there now. Give another --name."
    assert told in capsys.readouterr().err
    Path("other.ckpt").unlink()  # what is not at hand cannot be compared
    assert fit(*flags, "--resume", "true") == 0
    assert versions(LOGS, "run") == [0]


def test_what_is_done_is_not_taken_for_a_run_of_another_checkpoint_at_the_same_path(fit: Fit, capsys) -> None:
    train = ("--model.train", "head", "--model.lr", "0.1")
    assert fit(*train, "--seeds", "2", name="first") == 0  # with the same backbone: the heads are others
    record = read_record(LOGS / "first" / "version_0")
    assert fit(*train, "--seed_everything", "0", "--data.split_seed", "0", epochs=2, name="longer") == 0
    assert read_record(LOGS / "longer" / "version_0")["model"]["weights_hash"] == record["model"]["weights_hash"]
    start = Path("start.ckpt")
    shutil.copyfile("checkpoints/first/version_0/best.ckpt", start)
    flags = ("--model.init_from", "start.ckpt", "--model.train", "head", "--resume", "true")
    assert fit(*flags) == 0
    assert fit(*flags) == 0
    capsys.readouterr()
    shutil.copyfile("checkpoints/longer/version_0/best.ckpt", start)
    assert fit(*flags) == 2
    assert OTHER_WEIGHTS in capsys.readouterr().err
    start.unlink()
    folder = LOGS / "run" / "version_0"
    record = read_record(folder)
    write_record(folder, {**record, "model": {**record["model"], "head_hash": None}})  # of an earlier version
    shutil.copyfile("checkpoints/longer/version_0/best.ckpt", start)
    assert fit(*flags) == 0


def test_a_run_of_a_given_rate_is_none_that_has_searched_its_own(fit: Fit, capsys) -> None:
    find = ("--find_lr", "true", "--resume", "true")
    assert run(fit, epochs=1) == 0
    assert run(fit, *find, epochs=1) == 0
    assert versions(LOGS, "run") == [0, 1]
    capsys.readouterr()
    assert run(fit, *find, epochs=1) == 0
    assert "run/version_1 is done already" in capsys.readouterr().out
    # Its own configuration, with the rate that was found, makes it too.
    assert fit("-c", str(LOGS / "run/version_1/config.yaml"), "--resume", "true", classifier="ScratchClassifier") == 0
    assert "run/version_1 is done already" in capsys.readouterr().out
    assert run(fit, *find, "--model.backbone_lr", "0.001", epochs=1) == 0  # another share of the rate
    assert versions(LOGS, "run") == [0, 1, 2]

    for version in (0, 1, 2):  # earlier records do not say whether a rate was given
        record = read_record(LOGS / f"run/version_{version}")
        write_record(LOGS / f"run/version_{version}", {k: v for k, v in record.items() if k != "rate_search"})
    assert run(fit, *find, epochs=1) == 0
    assert versions(LOGS, "run") == [0, 1, 2]


def test_a_run_that_has_searched_its_rate_goes_on_as_one(fit: Fit, stop_at) -> None:
    find = ("--find_lr", "true", "--data.batch_size", "8")
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit, *find, epochs=2) == 130
    stop_at(99, 0, KeyboardInterrupt())
    begun = read_record(LOGS / "run/version_0")["rate_search"]
    assert begun == {"lr": 0.01, "backbone_lr": None}
    config = str(LOGS / "run/version_0/config.yaml")
    assert fit("-c", config, "--ckpt_path", "last", classifier="ScratchClassifier", epochs=2) == 0
    assert read_record(LOGS / "run/version_0")["rate_search"] == begun


def test_views_that_are_kept_are_another_run_than_fresh_ones(fit: Fit, capsys) -> None:
    views = ("--data.augment.translate", "2", "--cache_views", "1", "--model.train", "head", "--resume", "true")
    for cache, made in (("off", [0]), ("auto", [0, 1]), ("require", [0, 1]), ("off", [0, 1])):
        assert fit(*views, "--cache", cache) == 0
        assert versions(LOGS, "run") == made, cache
    assert "run/version_0 is done already" in capsys.readouterr().out


def test_a_stopped_run_goes_on_with_other_processes_between_two_epochs(fit: Fit, stop_at, capsys) -> None:
    two = ("--trainer.strategy", "ddp", "--trainer.accumulate_grad_batches", "2", "--data.batch_size", "16")
    stop_at(1, 0, KeyboardInterrupt())
    assert run(fit, *two) == 130
    stop_at(99, 0, KeyboardInterrupt())
    capsys.readouterr()
    assert run(fit, "--resume", "true", "--data.batch_size", "8", "--trainer.strategy", "ddp") == 2
    assert "data.batch_size: 16, now 8" in capsys.readouterr().err  # with the same processes it is another run
    assert run(fit, "--resume", "true") == 0
    record = read_record(LOGS / "run/version_0")
    assert record["status"] == COMPLETED
    assert record["resumed"][-1]["changed"] == {"batches": [6.0, 3.0], "accumulate": [2, 1]}
    assert run(fit, *two, "--resume", "true") == 0  # what is done is another run
    assert versions(LOGS, "run") == [0, 1]


def test_the_planned_epochs_are_those_of_a_run_that_was_not_stopped(fit: Fit, stop_at) -> None:
    early = ("--model.train", "{0: {train: head, lr: 0.0, until: plateau, patience: 1}, 3: all}")
    assert run(fit, *early, name="whole", epochs=6) == 0
    stop_at(3, 1, KeyboardInterrupt())
    assert run(fit, *early, epochs=6) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert run(fit, *early, "--resume", "true", epochs=6) == 0
    same_end("run", "whole")
    assert read_record(LOGS / "run/version_0")["model"]["planned_epochs"] == 6


@pytest.mark.filterwarnings("ignore:epoch 2 ended after 1 of 3 batches:UserWarning")
@pytest.mark.filterwarnings("ignore:the phase 2. all begins after the end:UserWarning")
def test_a_run_that_ended_by_steps_goes_on_with_more(fit: Fit) -> None:
    flags = ("--model.train", "{0: head, 2: all}", "--trainer.max_steps")
    assert run(fit, *flags, "4", epochs=-1) == 0
    assert run(fit, *flags, "7", "--ckpt_path", "last", epochs=-1) == 0
    record = read_record(LOGS / "run/version_1")
    assert [phase["trains"] for phase in record["model"]["phases"]] == ["head", "all"]
    assert record["model"]["planned_epochs"] == 3
    assert [row["step"] for row in record_rows("run", 1)] == ["3", "4", "7"]
    (optimizer,) = torch.load("checkpoints/run/version_1/last.ckpt", weights_only=True)["optimizer_states"]
    assert max(group["lr"] for group in optimizer["param_groups"]) == pytest.approx(0, abs=1e-12)


def record_rows(name: str, version: int) -> list[dict[str, str]]:
    with (LOGS / name / f"version_{version}" / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_is_trained_by_one_call_and_tested_by_a_later_one(fit: Fit, workdir: Path, capsys) -> None:
    from fashion_tl.runs.fit import fit as make

    assert run(fit, "--resume", "true", name="whole") == 0
    flags = shlex.split(read_record(LOGS / "whole/version_0")["command"])[2:]
    for _ in range(2):  # it is trained once
        made = make(flags, {"name": "run"}, later=True)
        assert made.record["status"] == "trained"
        assert not made.test
    seconds = [row["seconds"] for row in _history("run")]
    assert "trained, but not tested" in _why_not_compared("run", capsys)
    assert make(flags, {"name": "run"}).test["images"] > 0
    assert [row["seconds"] for row in _history("run")] == seconds
    assert versions(LOGS, "run") == [0]
    same_end("run", "whole")
    assert make(flags, {"name": "run"}, later=True).found


def _history(name: str) -> list[dict[str, str]]:
    with (LOGS / name / "version_0/metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _why_not_compared(name: str, capsys) -> str:
    from fashion_tl.cli import main

    assert main(["compare", name]) in (0, 2)
    shown = capsys.readouterr()
    return f"{shown.out}{shown.err}"


@pytest.mark.parametrize("how", ["--resume true", "--ckpt_path last"])
@pytest.mark.parametrize("stopped", ["by epochs", "by steps", "early"])
@pytest.mark.thorough(keep=1)
def test_only_the_test_is_left_of_a_run_killed_between_training_and_test(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, stopped: str, how: str
) -> None:
    limits = {
        "by epochs": (),
        "by steps": ("--trainer.max_steps", "8"),
        "early": ("--patience", "1", "--monitor", "val/loss", "--model.lr", "1"),
    }[stopped]
    epochs = 9 if stopped == "early" else 3
    assert run(fit, *limits, name="whole", epochs=epochs) == 0
    with monkeypatch.context() as killed:
        killed.setattr("fashion_tl.runs.fit._test", lambda *_: None)
        assert run(fit, *limits, epochs=epochs) == 0
    folder = LOGS / "run/version_0"
    record = read_record(folder)
    assert record["status"] == RUNNING
    for key in ("time", "best"):  # or killed before the record knew of the end
        record.pop(key)
    write_record(folder, {**record, "reason": None})
    trained: list[int] = []
    monkeypatch.setattr(ImageClassifier, "training_step", lambda self, batch, batch_idx: trained.append(batch_idx))
    assert run(fit, *how.split(), *limits, epochs=epochs) == 0
    assert not trained
    same_end("run", "whole")
    assert versions(LOGS, "run") == [0]


def test_a_resume_that_is_stopped_at_its_start_keeps_the_record(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    assert run(fit, name="whole") == 0
    with monkeypatch.context() as killed:
        killed.setattr("fashion_tl.runs.fit._test", interrupt)
        assert run(fit) == 130
    with monkeypatch.context() as stopped:
        stopped.setattr(ImageClassifier, "configure_optimizers", interrupt)
        assert run(fit, "--resume", "true") == 130
    assert read_record(LOGS / "run/version_0")["model"]
    assert run(fit, "--resume", "true") == 0
    same_end("run", "whole")


def test_ctrl_c_between_training_and_test_is_recorded(fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("fashion_tl.runs.fit._test", interrupt)
        assert run(fit, epochs=1) == 130
    record = read_record(LOGS / "run/version_0")
    assert (record["status"], record["reason"]) == ("interrupted", "stopped by Ctrl-C")
    assert "To go on: fashion-tl fit -c" in capsys.readouterr().out
    assert run(fit, "--resume", "true", epochs=1) == 0
    assert read_record(LOGS / "run/version_0")["status"] == COMPLETED


def test_another_configuration_is_refused_and_each_difference_named(fit: Fit, stop_at, capsys) -> None:
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit) == 130
    stop_at(99, 0, KeyboardInterrupt())
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    capsys.readouterr()
    changes = ("--model.schedule", "step", "--data.batch_size", "16", "--seed_everything", "4", "--model.optimizer")
    assert run(fit, "--resume", "true", *changes, "sgd", "--data.source.num_train", "100") == 2
    error = capsys.readouterr().err
    for told in (
        "data.batch_size: 32, now 16",
        "data.source.num_train: 120, now 100",
        "model.optimizer: adamw, now sgd",
        "model.schedule: cosine, now step",
        "seed_everything: 0, now 4",
    ):
        assert told in error
    assert files == {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--data.source.num_train", "110"), "data.images: "),
        (("--data.augment.translate", "1"), "data.augment: "),
        (("--data.image_size", "32"), "data.image_size: 28, now 32"),
        (("--data.split_seed", "1"), "data.train_images: "),
        (("--model.label_smoothing", "0.1"), "model.label_smoothing: 0.0, now 0.1"),
    ],
)
@pytest.mark.thorough(keep=2)
def test_a_checkpoint_does_not_go_on_with_other_data_or_another_objective(
    fit: Fit, stop_at, capsys, flags: tuple[str, ...], told: str
) -> None:
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit) == 130
    stop_at(99, 0, KeyboardInterrupt())
    before = (LOGS / "run/version_0/run.json").read_bytes()
    assert run(fit, "--ckpt_path", "last", *flags) == 2
    assert told in capsys.readouterr().err
    assert (LOGS / "run/version_0/run.json").read_bytes() == before


def test_a_copy_of_a_checkpoint_in_another_folder_begins_a_new_version(fit: Fit, stop_at) -> None:
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit) == 130
    stop_at(99, 0, KeyboardInterrupt())
    shutil.copytree("checkpoints/run/version_0", "checkpoints/run/kept")
    assert run(fit, "--ckpt_path", "checkpoints/run/kept/last.ckpt") == 0
    assert versions(LOGS, "run") == [0, 1]


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_damaged_version_is_not_passed_over(fit: Fit, stop_at, capsys, name: str) -> None:
    stop_at(1, 1, KeyboardInterrupt())
    assert run(fit) == 130
    stop_at(99, 0, KeyboardInterrupt())
    file = LOGS / "run/version_0" / name
    file.write_bytes(file.read_bytes()[:40])
    assert run(fit, "--resume", "true") == 2
    error = capsys.readouterr().err
    assert str(file.parent) in error
    assert f"{name} is damaged" in error
    assert versions(LOGS, "run") == [0]


@pytest.mark.thorough
def test_a_version_without_a_checkpoint_begins_again_in_its_place(fit: Fit, stop_at) -> None:
    assert run(fit, name="whole") == 0
    stop_at(0, 1, KeyboardInterrupt())
    assert run(fit) == 130
    stop_at(99, 0, KeyboardInterrupt())
    Path("checkpoints/run/version_0/last.ckpt").unlink()
    assert run(fit, "--resume", "true") == 0
    assert versions(LOGS, "run") == [0]
    same_end("run", "whole")


SEARCH = ("--search", "{model.momentum: [0.5, 0.9, 0.8]}", "--seeds", "2", "--model.optimizer", "sgd")


@pytest.mark.parametrize("stop", [2, 3])  # a candidate, a seed
@pytest.mark.thorough
def test_a_search_goes_on_with_the_first_candidate_or_seed_that_is_not_done(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys, stop: int
) -> None:
    from fashion_tl.callbacks.recorder import RunRecorder

    assert run(fit, *SEARCH, name="whole", epochs=1) == 0
    best = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("search: best"))
    begun: list[int] = []
    original = RunRecorder.on_train_start

    def start(self: RunRecorder, trainer: Any, module: Any) -> None:
        original(self, trainer, module)
        begun.append(1)
        if len(begun) == stop + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunRecorder, "on_train_start", start)
    assert run(fit, *SEARCH, epochs=1) == 130
    shown = capsys.readouterr().out
    assert "To go on with what is not done yet: fashion-tl fit" in shown
    assert "--resume true" in shown
    assert run(fit, *SEARCH, "--resume", "true", epochs=1) == 0
    assert best in capsys.readouterr().out
    assert len(begun) == 5 + 1  # the stopped one twice
    assert versions(LOGS, "run") == [0, 1]
    assert versions(LOGS, "run.search") == [0, 1, 2]
    for name in ("run", "run.search"):
        for version in versions(LOGS, name):
            pair = (name, name.replace("run", "whole", 1))
            record, expected = (read_record(LOGS / f"{each}/version_{version}") for each in pair)
            assert record["status"] == COMPLETED
            assert (record["best"], record.get("test")) == (expected["best"], expected.get("test"))


def test_a_candidate_that_diverged_is_not_tried_again_and_stands_in_no_ones_way(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from fashion_tl.callbacks.recorder import RunRecorder

    begun: list[int] = []
    original = RunRecorder.on_train_start

    def start(self: RunRecorder, trainer: Any, module: Any) -> None:
        begun.append(1)
        if len(begun) == 2:  # before the second candidate has a record
            raise KeyboardInterrupt
        original(self, trainer, module)

    monkeypatch.setattr(RunRecorder, "on_train_start", start)
    search = ("--search", "{model.lr: [1.0e+18, 0.01]}", "--model.optimizer", "sgd")
    assert run(fit, *search, epochs=1) == 130
    assert "diverged" in capsys.readouterr().out
    assert run(fit, *search, "--resume", "true", epochs=1) == 0
    shown = capsys.readouterr().out
    assert "diverged" in shown
    assert "search: best is model.lr=0.01" in shown
    assert len(begun) == 2 + 2  # the second candidate, and the run of the best one


def best_and_last(name: str = "run") -> list[dict[str, Any]]:
    folder = Path("checkpoints", name, "version_0")
    return [torch.load(folder / f"{kind}.ckpt", weights_only=True) for kind in ("best", "last")]


BRANCH = ("--model.lr", "0.02", "--model.schedule", "constant", "--monitor", "val/loss")
IMPROVES = "{0: {train: all, lr: 0.02}, 1: {train: head, lr: 0.01}}"
FAILS = "{0: {train: all, lr: 0.02}, 1: {train: all, lr: 1.0, backbone_lr: 1.0}}"


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed between best and last"])
@pytest.mark.thorough(keep=1)
def test_what_is_tested_is_of_the_epochs_that_the_record_has(
    fit: Fit, stop_at, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    from fashion_tl.callbacks.checkpoints import LastCheckpoint
    from fashion_tl.cli import main

    folder = Path("checkpoints/run/version_0")
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*BRANCH, "--model.train", IMPROVES, epochs=4) == 130
    first = (folder / "last.ckpt").read_bytes()
    monkeypatch.setattr(LastCheckpoint, "every_seconds", 1e6)  # the first epoch takes longer than that, the others less
    stop_at(3, 1, KeyboardInterrupt())
    going_on = ("--ckpt_path", "last")
    assert fit(*BRANCH, *going_on, "--model.train", IMPROVES, epochs=4) == 130
    best, last = best_and_last()
    assert last["global_step"] >= best["global_step"] > 0
    assert best["epoch"] > 0
    if killed:
        (folder / "last.ckpt").write_bytes(first)
    stop_at(99, 0, KeyboardInterrupt())
    train = FAILS if killed else IMPROVES
    told = pytest.warns(UserWarning, match="best.ckpt is of epochs") if killed else nullcontext()
    with told:
        assert fit(*BRANCH, *going_on, "--model.train", train, epochs=4) == 0
    best, last = best_and_last()
    record = read_record(LOGS / "run/version_0")
    assert record["best"]["epoch"] == best["epoch"]
    losses = [float(row["val/loss"]) for row in _history("run")]
    assert record["best"]["value"] == losses[best["epoch"]]
    assert record["best"]["value"] == min(losses[1:] if killed else losses)
    assert main(["verify", "run"]) == 0


@pytest.mark.parametrize("start", ["last", "best"])
@pytest.mark.thorough(keep=1)
def test_another_figure_chooses_from_where_it_is_looked_at(fit: Fit, stop_at, start: str) -> None:
    stop_at(3, 1, KeyboardInterrupt())
    assert run(fit, epochs=4) == 130
    stop_at(99, 0, KeyboardInterrupt())
    with warnings.catch_warnings():  # where the best by the one figure is not that by the other, it is removed
        warnings.filterwarnings("ignore", message=".*best.ckpt is of epochs")
        assert run(fit, "--monitor", "val/loss", "--ckpt_path", start, epochs=4) == 0
    assert read_record(LOGS / "run/version_0")["best"]["epoch"] == best_and_last()[0]["epoch"]


@pytest.mark.thorough
def test_a_new_version_that_is_stopped_still_chooses_among_its_own_epochs(fit: Fit, stop_at) -> None:
    flags: tuple[str, ...] = ("--monitor", "val/loss", "--model.optimizer", "sgd")
    assert run(fit, *flags, epochs=2, name="first") == 0
    flags = (*flags, "--model.train", "{0: all, 2: {train: all, lr: 1.0}}")
    stop_at(3, 1, KeyboardInterrupt())
    assert run(fit, *flags, "--ckpt_path", "last", epochs=4, name="first") == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert run(fit, *flags, "--ckpt_path", "last", epochs=4, name="first") == 0
    assert read_record(LOGS / "first/version_1")["best"]["epoch"] >= 2


def test_another_epoch_than_the_chosen_one_is_not_tested(fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    with monkeypatch.context() as killed:
        killed.setattr("fashion_tl.runs.fit._test", lambda *_: None)
        assert run(fit) == 0
    folder = Path("checkpoints/run/version_0")
    best = torch.load(folder / "best.ckpt", weights_only=True)
    (folder / "best.ckpt").write_bytes(packed({**best, "epoch": best["epoch"] + 1}))
    assert run(fit, "--resume", "true") == 2
    assert "validation chose epoch" in capsys.readouterr().err
    record = read_record(LOGS / "run/version_0")
    assert record["status"] == "failed"
    assert "test" not in record


def test_a_bare_trainer_is_refused(fit: Fit, workdir: Path, capsys) -> None:
    assert run(fit, "--trainer.barebones", "true") == 2
    told = "trainer.barebones is true: a run keeps figures and checkpoints, which it switches off. Leave it out."
    assert told in capsys.readouterr().err
    assert list(workdir.iterdir()) == []


def test_what_cannot_go_together(fit: Fit, capsys) -> None:
    for flags in (("--ckpt_path", "last"), ("--trainer.fast_dev_run", "true")):
        assert run(fit, "--resume", "true", *flags) == 2
        assert f"it cannot go with {flags[0]}" in capsys.readouterr().err
    assert not LOGS.exists()
