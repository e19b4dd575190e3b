"""Searching settings by validation, several seeds, and what is chosen how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fashion_tl.errors import UserError
from fashion_tl.records.record import COMPLETED, RunPaths, next_paths, read_record, versions
from fashion_tl.runs.fit import Run
from fashion_tl.runs.search import preferred, search
from fashion_tl.training.classifier import ImageClassifier

from ..conftest import Fit

LOGS = Path("lightning_logs")
BY_LOSS = ("--monitor", "val/loss", "--trainer.max_epochs", "2")


class Runs:
    """Stands in for ``fit``: returns the records of candidates of given figures."""

    def __init__(self, monitor: str, figures: list[float | None]) -> None:
        self.monitor, self.figures = monitor, figures
        self.asked: list[dict[str, Any]] = []

    def __call__(self, config: list[str], changes: dict[str, Any], tested: bool, varied: Any) -> Run:
        assert not tested
        assert varied
        figure = self.figures[len(self.asked)]
        self.asked.append(changes)
        return Run(None, {"best": {} if figure is None else {"monitor": self.monitor, "value": figure, "epoch": 0}})


@pytest.mark.parametrize(("monitor", "chosen"), [("val/accuracy", 2), ("val/loss", 1)])
def test_the_best_by_the_monitored_figure_wins(monitor: str, chosen: int) -> None:
    runs = Runs(monitor, [0.5, 0.25, 0.75, None])
    values: dict[str, list[Any]] = {"model.lr": [0.1, 0.2], "model.schedule": ["cosine", "step"]}
    small = ("--model.backbone", "test_resnet", "--data.image_size", "32")
    found = search(["--name", "phase1", *small], values, runner=runs)
    tried = [{"model.lr": lr, "model.schedule": s} for lr in (0.1, 0.2) for s in ("cosine", "step")]
    assert runs.asked == [
        {"seeds": 1, "folds": None, "search": None, "processes": 1, **each, "name": "phase1.search"} for each in tried
    ]
    assert found == tried[chosen]


@pytest.mark.parametrize(("values", "figures"), [({"model.lr": []}, []), ({"model.lr": [1]}, [None])])
def test_a_search_without_values_or_without_a_finite_figure_is_an_error(values, figures) -> None:
    with pytest.raises(UserError):
        search([], values, runner=Runs("val/loss", figures))


def test_figures_of_two_monitors_do_not_compare() -> None:
    records = [{"best": {"monitor": monitor, "value": 0.5}} for monitor in ("val/loss", "val/accuracy")]
    assert preferred([*records[:1], {}, {"best": {}}]) == 0
    with pytest.raises(ValueError, match="val/accuracy and val/loss do not compare"):
        preferred(records)


@pytest.mark.slow
def test_a_search_then_two_seeds_with_what_it_found(fit: Fit, capsys) -> None:
    assert fit("--model.train", "head", "--search", "{model.lr: [0.0000001, 0.01]}", "--seeds", "2", *BY_LOSS) == 0
    shown = capsys.readouterr().out
    assert "search: best is model.lr=0.01" in shown
    assert versions(LOGS, "run.search") == [0, 1]
    for version, lr in enumerate((1e-7, 0.01)):
        folder = LOGS / "run.search" / f"version_{version}"
        record = read_record(folder)
        assert (record["status"], record["model"]["lr"], "test" in record) == (COMPLETED, lr, False)
        assert {p.name for p in folder.iterdir()} == {"config.yaml", "metrics.csv", "run.json"}
    assert not Path("checkpoints/run.search").exists()
    records = [read_record(LOGS / "run" / f"version_{v}") for v in versions(LOGS, "run")]
    assert [r["seed"] for r in records] == [0, 1]
    assert all(r["model"]["lr"] == 0.01 and r["status"] == COMPLETED for r in records)


@pytest.mark.slow
def test_a_repeated_run_equals_the_same_run_alone(fit: Fit) -> None:
    assert fit("--model.train", "head", "--seeds", "2", name="both") == 0
    assert fit("--model.train", "head", "--seed_everything", "1", name="alone") == 0
    logits = [
        np.load(f"lightning_logs/{name}/test_predictions.npz")["logits"]
        for name in ("both/version_1", "alone/version_0", "both/version_0")
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--seeds", "0"), "1 to 10000"),
        (("--search", "{model.lr: []}"), "no values"),
        (("--seeds", "x"), "seeds"),
        (("--search", "{model.lr: [0.1, -1]}"), "--search at model.lr=-1: "),
        (("--search", "{monitor: [val/loss, val/accuracy]}"), "monitor cannot be searched"),
        (("--search", "{seed_everything: [1, 2]}"), "seed_everything cannot be searched"),
        (("--search", "{data: [{fold: 1}]}"), "data.fold cannot be searched"),
        (("--search", "{trainer: [{limit_val_batches: 1}]}"), "the validation images would be others"),
        (("--find_lr", "true", "--search", "{model.lr: [0.1]}"), "--find_lr true sets model.lr"),
        (("--find_lr", "true", "--search", "{model: [{init_args: {lr: 0.1}}]}"), "--find_lr true sets model.lr"),
        (
            ("--find_lr", "true", "--search", "{model.train: [{0: {train: head, lr: 0.1}}]}"),
            "phases of model.train have rates of their own",
        ),
        (
            ("--trainer.val_check_interval", "3", "--search", "{data.batch_size: [32, 64]}"),
            "--search at data.batch_size=64: trainer.val_check_interval is 3: an epoch has 1 batches",
        ),
        (
            ("--search", "{trainer.max_epochs: [3, -1]}"),
            "--search at trainer.max_epochs=-1: schedule 'cosine' needs an end",
        ),
    ],
)
def test_mistakes_leave_nothing(fit: Fit, capsys, flags, reason) -> None:
    assert fit(*flags) == 2
    assert reason in capsys.readouterr().err
    assert not LOGS.exists()


@pytest.mark.slow
def test_other_verbs_and_one_run_only_flags(fit: Fit, capsys) -> None:
    from fashion_tl.cli import main

    assert fit(name="run") == 0
    best = "checkpoints/run/version_0/best.ckpt"
    config = ("-c", "lightning_logs/run/version_0/config.yaml", "--search", "{model.lr: [0.1]}", "--seeds", "2")
    assert main(["test", *config, "--ckpt_path", best]) == 0
    for flags in (("--ckpt_path", best), ("--trainer.fast_dev_run", "true")):
        assert main(["fit", *config, *flags]) == 2
        assert "is for one run" in capsys.readouterr().err
    assert versions(LOGS, "run") == [0]


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_make_the_same_candidates_and_seeds_as_one(fit: Fit, capsys) -> None:
    several = ("--search", "{model.lr: [1.0e+18, 0.003, 0.01]}", "--seeds", "2", "--model.optimizer", "sgd", *BY_LOSS)
    assert fit(*several, name="one") == 0
    best = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("search: best"))
    assert fit(*several, "--processes", "2", name="two") == 0
    shown = capsys.readouterr().out
    assert best in shown
    assert shown.count("search 1/3: model.lr=1e+18: ") == 1
    assert all(shown.count(f"seed {seed}: test accuracy") == 1 for seed in (0, 1))
    assert fit(*several, "--resume", "true", name="two") == 0  # takes all as they are
    for name in ("", ".search"):
        figures = [
            sorted(
                (record["model"]["lr"], record["seed"], str(record.get("best")), str(record.get("test")))
                for record in (read_record(LOGS / f"{which}{name}" / f"version_{v}") for v in range(2 + bool(name)))
            )
            for which in ("one", "two")
        ]
        assert figures[0] == figures[1]
        assert versions(LOGS, f"two{name}") == list(range(2 + bool(name)))
    assert list(LOGS.rglob("*.claim")) == []


def test_versions_of_the_same_search_that_are_not_done_are_not_in_the_way(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from fashion_tl.callbacks.recorder import RunRecorder
    from fashion_tl.runs.fit import fit as make

    original = RunRecorder.on_train_start

    def stop(self: RunRecorder, *started: Any) -> None:
        original(self, *started)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, "on_train_start", stop)
        assert fit("--seed_everything", "5") == 130
    config = LOGS / "run" / "version_0" / "config.yaml"
    changes = {"resume": True, "log_dir": str(LOGS), "seed_everything": 6}
    with pytest.raises(UserError, match="seed_everything: 5, now 6"):
        make(config, changes)
    with pytest.raises(UserError, match="seed_everything: 5, now 6"):
        make(config, changes, varied=("model.lr", "seed"))
    run = make(config, changes, varied=("seed_everything",))
    assert run.paths is not None
    assert (run.paths.version, run.record["status"]) == (1, COMPLETED)


def test_a_number_that_another_process_has_just_taken_is_left_to_it(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def late(log_dir: Path, checkpoint_dir: Path, name: str) -> RunPaths:
        paths = next_paths(log_dir, checkpoint_dir, name)
        asked.append(paths.version)
        if len(asked) == 1:
            paths.logs.mkdir(parents=True)  # by another process, between this and the start
        return paths

    monkeypatch.setattr("fashion_tl.runs.fit.next_paths", late)
    assert fit() == 0
    assert asked == [0, 1]
    assert list((LOGS / "run" / "version_0").iterdir()) == []
    assert read_record(LOGS / "run" / "version_1")["status"] == COMPLETED


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "there is one run"),
        (("--seeds", "2", "--trainer.devices", "2"), "Leave one of the two out"),
        (("--search", "{processes: [1, 2]}"), "processes cannot be searched"),
    ],
)
def test_processes_that_have_nothing_to_share_are_refused(fit: Fit, capsys, flags, reason) -> None:
    assert fit(*flags, "--processes", "2") == 2
    assert reason in capsys.readouterr().err
    assert not LOGS.exists()


@pytest.mark.slow
def test_a_device_without_memory_ends_a_run_and_passes_over_a_candidate(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    original = ImageClassifier.training_step

    def step(self: ImageClassifier, *args: Any) -> Any:
        if self.trainer.datamodule.batch_size > 16:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")
        return original(self, *args)

    monkeypatch.setattr(ImageClassifier, "training_step", step)
    assert fit("--data.batch_size", "32", name="large") == 2
    told = capsys.readouterr().err
    assert "the memory of the device is full: CUDA out of memory. Tried" in told
    assert "Give a smaller --data.batch_size" in told
    assert read_record(LOGS / "large" / "version_0")["status"] == "failed"
    assert fit("--search", "{data.batch_size: [32, 16]}", *BY_LOSS) == 0
    shown = capsys.readouterr().out
    assert "search 1/2: data.batch_size=32: CUDA out of memory. Tried to allocate 2 GiB." in shown
    assert "search: best is data.batch_size=16" in shown


def test_candidates_are_judged_by_the_same_images(fit: Fit, folder_of_images: tuple[str, ...], capsys) -> None:
    for setting in ("data.test_fraction", "data.split_seed", "data.val_fraction", "trainer.limit_val_batches"):
        values = "[0.1, 0.3]" if setting.endswith("fraction") else "[1, 2]"
        assert fit(*folder_of_images, "--search", f"{{{setting}: {values}}}") == 2
        said = capsys.readouterr().err
        assert f"--search at {setting}=" in said
        assert f"Set {setting} for all runs alike." in said
    assert not LOGS.exists()
    assert fit(*folder_of_images, "--search", "{data.batch_size: [8, 16], data.image_size: [16]}") == 0
