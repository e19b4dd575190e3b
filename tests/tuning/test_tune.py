"""Studies of hyperparameters as a user meets them: from the command line to the tested best trial."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tests.report.conftest import read_page

from fashion_tl.files import read_json, write_json
from fashion_tl.records.record import versions
from fashion_tl.runs import fit
from fashion_tl.training.divergence import DivergedError
from fashion_tl.tuning.plan import make_tuning
from fashion_tl.tuning.space import Setting
from fashion_tl.tuning.trials import Trials

from .conftest import BASE, SPACE, STUDIES, Tune, results_of, trials_of, write_space

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments" / "tuning"
FEW = ("--trials", "4", "--pruner", "none")


def study_of(name: str) -> optuna.Study:
    """Open the study itself."""
    storage = JournalStorage(JournalFileBackend(str(STUDIES / name / "journal.log")))
    return optuna.load_study(study_name=None, storage=storage)


def records_of(name: str) -> list[dict[str, Any]]:
    """Read the records of all trials, by their names."""
    return [json.loads(path.read_text()) for path in sorted((STUDIES / name / "runs").glob("*/version_*/run.json"))]


@pytest.mark.slow
def test_a_study_from_its_plan_to_its_tested_best_trial(tune: Tune, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune(*FEW, "--plan_only") == 0
    shown = capsys.readouterr().out
    assert "study tiny: 4 trials by tpe, pruner none, most val/accuracy is best" in shown
    assert "  model.lr: 0.0001 to 0.1, logarithmic" in shown
    assert not Path("lightning_logs").exists()

    assert tune(*FEW, "--seeds", "2") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.partition(" model.lr=")[0] for line in lines] == [f"[{n + 1}/4] trial {n}" for n in range(4)]
    assert "best 0." in lines[0]

    folder, results = STUDIES / "tiny", results_of("tiny")
    plots = ("history", "importance", "parallel_coordinates")
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if "runs" not in p.parts and p.is_file()} == {
        *("index.html", "table.md", "results.json", "manifest.json", "best.yaml", "study.json", "journal.log"),
        *(f"plots/{name}.{kind}" for name in plots for kind in ("svg", "png")),
    }
    assert not list((folder / "runs").glob(".*"))
    # A trial is an ordinary run with its own values, whose figure is of validation: nothing of it was tested.
    records = records_of("tiny")
    assert [record["name"] for record in records] == [f"trial{n:04}" for n in range(4)]
    for row, record in zip(results["trials"], records, strict=True):
        assert record["status"] == "completed"
        assert row["value"] == record["best"]["value"]
        assert "test" not in record
        config = yaml.safe_load((folder / "runs" / row["version"] / "config.yaml").read_text())
        own = config["model"]["init_args"]
        given = {"model.lr": own["lr"], "model.optimizer": own["optimizer"]}
        assert {**given, "data.batch_size": config["data"]["batch_size"]} == row["settings"]
        assert not (folder / "runs" / row["version"] / "test_predictions.npz").exists()
    assert not list(Path("checkpoints/tuning").rglob("*.ckpt"))
    # The best one, the first of equally good ones, is run again with a test for each seed.
    values = [row["value"] for row in results["trials"]]
    assert results["best"] == values.index(max(values))
    assert versions(Path("lightning_logs"), "tiny") == [0, 1]
    tested = [json.loads(path.read_text()) for path in sorted(Path("lightning_logs/tiny").glob("*/run.json"))]
    assert [record["seed"] for record in tested] == [0, 1]
    assert results["tested"]["accuracies"] == [record["test"]["accuracy"] for record in tested]
    assert tested[0]["best"]["value"] == max(values)  # the same run as the trial, with a test
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["model"]["init_args"]["lr"] == results["trials"][results["best"]]["settings"]["model.lr"]
    assert "extends" not in best or best["extends"] is None
    page = (folder / "index.html").read_text()
    table = read_page(page).one("section", aria_labelledby="trials").one("table")
    rows = [[cell.text.strip() for cell in (*row.all("th"), *row.all("td"))] for row in table.one("tbody").all("tr")]
    ranked = sorted(results["trials"], key=lambda row: -row["value"])
    assert [row[:2] for row in rows] == [[str(row["trial"]), f"{row['value']:.4f}"] for row in ranked]
    assert f"Trial {results['best']} is best" in page
    assert "0 of 4 trials were pruned; that saved 0 of 8 epochs" in page

    # The same command runs nothing again; more trials go on.
    monkeypatch.setattr("fashion_tl.tuning.worker.fit", None)
    assert tune(*FEW, "--seeds", "2") == 0
    assert "4 trials are finished already" in capsys.readouterr().out
    assert results_of("tiny") == results
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_same_study_has_the_same_trials_whoever_runs_them(tune: Tune, capfd: pytest.CaptureFixture[str]) -> None:
    chance = (*FEW, "--sampler", "random", "--trainer.max_epochs", "1")
    assert tune(*chance, "--name", "one") == 0
    capfd.readouterr()
    # What chance draws does not depend on the trials before: two processes run the same ones, each of them once.
    assert tune(*chance, "--name", "two", "--processes", "2") == 0
    assert trials_of("two") == trials_of("one")
    told = sorted(line.split()[2] for line in capfd.readouterr().out.splitlines() if line.startswith("["))
    assert told == ["0", "1", "2", "3"]
    assert [trial.state for trial in study_of("two").trials] == [TrialState.COMPLETE] * 4
    assert not list((STUDIES / "two" / "runs").glob(".*"))
    assert {path.name for path in (STUDIES / "two" / "runs").glob("*/version_*")} == {"version_0"}


@pytest.mark.slow
@pytest.mark.thorough
def test_more_trials_go_on_as_one_longer_study(tune: Tune) -> None:
    assert tune("--trials", "6", "--name", "whole") == 0
    assert tune("--trials", "3", "--name", "parts") == 0
    assert tune("--trials", "6", "--name", "parts") == 0
    assert trials_of("parts") == trials_of("whole")


@pytest.mark.slow
@pytest.mark.thorough
def test_stopped_twice_it_ends_with_the_same_trials(
    tune: Tune, stop_at: Callable[[int, int, BaseException], None], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    fitting: Any = fit
    assert tune("--trials", "4", "--name", "whole") == 0
    callbacks_of = fitting.callbacks_of
    for runs_before, (stop, status) in enumerate(((KeyboardInterrupt(), 130), (SIGTERMException(), 143))):
        runs = itertools.count()
        monkeypatch.setattr(fitting, "callbacks_of", callbacks_of)
        stop_at(1, 0, stop)  # in the second epoch of a run
        stopping = fitting.callbacks_of
        monkeypatch.setattr(
            fitting,
            "callbacks_of",
            lambda *a, n=runs_before, r=runs, s=stopping: (s if next(r) == n else callbacks_of)(*a),
        )
        capsys.readouterr()
        assert tune("--trials", "4", "--name", "stopped") == status
        assert "the same command goes on" in capsys.readouterr().out
        assert not (STUDIES / "stopped" / "results.json").exists()
        assert [trial.state for trial in study_of("stopped").trials][-1] == TrialState.RUNNING
    monkeypatch.setattr(fitting, "callbacks_of", callbacks_of)
    assert tune("--trials", "4", "--name", "stopped") == 0
    assert trials_of("stopped") == trials_of("whole")
    assert len(study_of("stopped").trials) == 4


@pytest.mark.slow
@pytest.mark.thorough
def test_a_grid_has_every_combination_once(tune: Tune) -> None:
    write_space(
        {
            "model.lr": {"float": [0.01, 0.03], "step": 0.02},
            "model.train": {"choices": ["head", {0: "head", 1: ["stem", "head"]}]},
            "data.batch_size": {"int": [32, 64], "step": 32},
        }
    )
    assert tune("--sampler", "grid", "--pruner", "none") == 0
    found = [tuple(json.dumps(value) for value in row["settings"].values()) for row in trials_of("tiny")]
    assert found == [
        (lr, train, size)
        for lr in ("0.01", "0.03")
        for train in ('"head"', '{"0": "head", "1": ["stem", "head"]}')
        for size in ("32", "64")
    ]  # fmt: skip


@pytest.mark.slow
def test_pruned_trials_end_early_by_validation_alone(tune: Tune, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    long = ("--trials", "8", "--trainer.max_epochs", "3", "--monitor", "val/loss", "--model.train", "all")
    assert tune(*long, "--name", "pruned") == 0
    rows, records = results_of("pruned")["trials"], records_of("pruned")
    pruned = [row for row in rows if row["state"] == "pruned"]
    assert pruned
    assert len(pruned) < 8
    for row, record in zip(rows, records, strict=True):
        assert "test" not in record
        epochs = len(record["time"]["epoch_seconds"])
        assert row["epochs"] == epochs
        assert (record["status"] == "pruned") == (row["state"] == "pruned") == (epochs < 3)
        if row["state"] == "pruned":
            assert record["reason"] == row["why"] == f"pruned after epoch {epochs}"
            assert row["value"] is None
    # The rule itself: worse than the median of the finished trials at that epoch, after five of them and a fifth of the
    # epochs, at least one.
    trials = study_of("pruned").trials
    for trial in trials[5:]:
        before = [each for each in trials[: trial.number] if each.state == TrialState.COMPLETE]
        for epoch, _ in sorted(trial.intermediate_values.items())[:2]:
            if epoch < 1:
                continue
            own = min(value for step, value in trial.intermediate_values.items() if step <= epoch)
            known = sorted(each.intermediate_values[epoch] for each in before)
            half = len(known) // 2
            median = known[half] if len(known) % 2 else (known[half - 1] + known[half]) / 2
            assert (own > median) == (trial.state == TrialState.PRUNED and epoch == max(trial.intermediate_values))
    saved = sum(3 - row["epochs"] for row in pruned)
    assert f"that saved {saved} of 24 epochs" in (STUDIES / "pruned" / "index.html").read_text()
    shown = capsys.readouterr().out
    assert f"{len(pruned)}" in shown
    assert "pruned after epoch 2 (" in shown
    assert "pruned after epoch 1 (" not in shown

    # A pruned record is no whole run: without its journal the study runs it again, and nothing else.
    again: list[str] = []
    run = fit._run

    def counted(config: Any, *args: Any) -> Any:
        made = run(config, *args)
        if not made.found:
            again.append(config.name)
        return made

    monkeypatch.setattr("fashion_tl.runs.fit._run", counted)
    for name in ("journal.log", "study.json"):
        (STUDIES / "pruned" / name).unlink()
    first = trials_of("pruned")
    assert tune(*long, "--name", "pruned") == 0
    assert again == [f"trial{row['trial']:04}" for row in pruned]
    assert trials_of("pruned") == first


@pytest.mark.slow
@pytest.mark.thorough
def test_a_trial_of_a_process_that_was_killed_is_run_again(tune: Tune) -> None:
    assert tune(*FEW, "--name", "whole") == 0
    command = [sys.executable, "-m", "fashion_tl", "tune", *BASE, "--space", "space.yaml", *FEW, "--name", "killed"]
    with subprocess.Popen([*command, "--trainer.max_epochs", "2"], start_new_session=True) as process:
        while process.poll() is None and not list((STUDIES / "killed" / "runs").glob("trial0001/version_0/run.json")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert [trial.state for trial in study_of("killed").trials] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert tune(*FEW, "--name", "killed") == 0
    assert trials_of("killed") == trials_of("whole")
    assert len(study_of("killed").trials) == 4


@pytest.mark.slow
@pytest.mark.thorough
def test_trials_without_a_figure_are_told_and_count(tune: Tune, capsys) -> None:
    write_space({"model.lr": {"choices": [1e18, 0.01]}, "model.optimizer": {"choices": ["sgd", "adamw"]}})
    wild = ("--model.train", "all", "--model.warmup", "0", "--trainer.max_epochs", "1")
    assert tune("--sampler", "grid", *wild) == 0
    rows = trials_of("tiny")
    assert [row["state"] for row in rows].count("without a figure") >= 1
    assert rows[0]["why"] == "diverged"
    assert "diverged (" in capsys.readouterr().out
    assert len(rows) == 4
    write_space({"ema": {"choices": [None, 0.9]}, "swa": {"choices": [None, 0.5]}})  # each alone, not both
    assert tune("--sampler", "grid", "--name", "both") == 0
    rows = trials_of("both")
    assert [row["state"] for row in rows] == ["done", "done", "done", "without a figure"]
    assert rows[3]["why"].startswith("refused: ")
    assert not (STUDIES / "both" / "runs" / "trial0003").exists()


@pytest.mark.slow
def test_a_trial_that_is_out_of_memory_counts_wherever_that_is(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    from fashion_tl.callbacks.features import FeatureCache
    from fashion_tl.training.classifier import ImageClassifier

    def full(where: type, name: str, batch_size: int) -> None:
        original = getattr(where, name)

        def method(self: Any, *args: Any) -> Any:
            data = args[1] if name == "check" else self.trainer.datamodule
            if data.batch_size == batch_size:
                raise torch.OutOfMemoryError("no memory is left.")
            return original(self, *args)

        monkeypatch.setattr(where, name, method)

    full(FeatureCache, "check", 8)  # before there is a record
    full(ImageClassifier, "training_step", 16)
    write_space({"data.batch_size": {"choices": [8, 16, 24]}})
    assert tune("--sampler", "grid") == 0
    rows = trials_of("tiny")
    assert [row["why"] for row in rows] == ["out of memory", "out of memory", None]
    assert [row["version"] for row in rows] == [None, "trial0001/version_0", "trial0002/version_0"]
    assert results_of("tiny")["best"] == 2


@pytest.mark.slow
@pytest.mark.thorough
def test_the_report_comes_even_where_the_best_trial_diverges_with_another_seed(
    tune: Tune, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_: object, **__: object) -> None:
        raise DivergedError("the loss is not finite.")

    with monkeypatch.context() as patched:
        patched.setattr("fashion_tl.runs.search.repeat", diverges)
        assert tune("--trials", "2") == 2
    said = capsys.readouterr().err
    assert said.startswith("fashion-tl: error: the best trial of tiny, trained again: the loss is not finite.")
    assert len(trials_of("tiny")) == 2
    assert (STUDIES / "tiny" / "index.html").is_file()
    assert tune("--trials", "2") == 0  # and the same command tests it, if it can


@pytest.mark.slow
@pytest.mark.thorough
def test_versions_of_other_settings_are_not_in_the_way_of_the_best_trial(
    tune: Tune, stop_at: Callable[[int, int, BaseException], None], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from fashion_tl.cli import main

    fitting: Any = fit
    callbacks_of = fitting.callbacks_of
    stop_at(1, 0, KeyboardInterrupt())
    stopping = fitting.callbacks_of
    monkeypatch.setattr(fitting, "callbacks_of", lambda *args: (stopping if args[5] else callbacks_of)(*args))
    write_space({"model.lr": {"choices": [1e-7, 0.01]}})
    given = ("--sampler", "random", "--sampler_seed", "0", "--pruner", "none", "--monitor", "val/loss")
    assert main(["fit", *BASE]) == 130
    assert tune(*given, "--trials", "1") == 130  # while the best trial is tested
    assert results_of("tiny")["tested"]["versions"] == []
    assert (STUDIES / "tiny" / "index.html").is_file()
    monkeypatch.setattr(fitting, "callbacks_of", callbacks_of)
    assert tune(*given, "--trials", "2") == 0
    assert results_of("tiny")["best"] == 1
    assert results_of("tiny")["tested"]["versions"] == ["tiny/version_2"]
    # What cannot be read, and so not be told from a run to go on with, is refused before the next trial.
    Path("lightning_logs/tiny/version_1/run.json").write_text("{")
    capsys.readouterr()
    assert tune(*given, "--trials", "3") == 2
    told = capsys.readouterr().err
    assert "lightning_logs/tiny/version_1 cannot be read" in told
    assert "Move it away, or give another --name." in told
    assert "--resume" not in told
    assert len(study_of("tiny").trials) == 2


@pytest.mark.slow
@pytest.mark.thorough
def test_tensorboard_has_the_values_of_every_trial_beside_its_figure(tune: Tune) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tune("--trials", "2", "--trainer.max_epochs", "1") == 0
    for row in trials_of("tiny"):
        events = EventAccumulator(str(STUDIES / "tiny" / "runs" / row["version"]))
        events.Reload()
        assert events.Scalars("final/val_accuracy")[0].value == pytest.approx(row["value"])
        assert [event.step for event in events.Scalars("val/accuracy")] == [0]
        text = str(events.SummaryMetadata("_hparams_/session_start_info"))
        assert "hparams" in text
        assert set(SPACE) <= {word for word in SPACE if word in text}


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_spaces_of_the_experiments_are_allowed(tune: Tune, path: Path) -> None:
    shutil.copy(path, "space.yaml")
    assert tune("--plan_only") == 0


@pytest.mark.slow
def test_another_space_or_other_data_is_refused(tune: Tune, capsys) -> None:
    assert tune("--trials", "1", "--sampler", "random") == 0
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "space.yaml"}
    same = ("--trials", "2", "--sampler", "random")
    for more, told in (
        (("--pruner", "none"), "pruner: median, now none"),
        (("--sampler_seed", "3"), "sampler_seed: 0, now 3"),
        (("--data.source.num_train", "130"), "data.images: "),
        (("--data.split_seed", "3"), "data.train_images: "),
        (("--model.label_smoothing", "0.1"), "configuration.model.label_smoothing: 0.0, now 0.1"),
        (("--storage", "sqlite:///trials.db"), "storage: journal.log, now sqlite:///trials.db"),
    ):
        assert tune(*same, *more) == 2
        assert told in (said := capsys.readouterr().err)
        assert "another --name" in said
    write_space({**SPACE, "model.lr": {"float": [1e-4, 1.0], "log": True}})
    assert tune(*same) == 2
    assert "space.model.lr.float: [0.0001, 0.1], now [0.0001, 1.0]" in capsys.readouterr().err
    assert before == {
        path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "space.yaml"
    }


def test_other_weights_or_a_searched_rate_is_another_study(tune: Tune, put_weights, capsys) -> None:
    write_space({"model.weight_decay": {"float": [0.0, 0.5]}})
    weights = ("--model.backbone", put_weights(0), "--model.pretrained", "true", "--trainer.max_epochs", "1")
    assert tune(*weights, "--trials", "1") == 0
    flags = (*weights, "--trials", "1", "--plan_only")
    assert tune(*flags) == 0
    assert tune(*flags, "--find_lr", "true") == 2
    assert "configuration.find_lr: false, now true" in capsys.readouterr().err
    put_weights(1)
    assert tune(*flags) == 2
    assert "weights.local-dir:" in capsys.readouterr().err
    study = STUDIES / "tiny" / "study.json"
    noted = read_json(study)
    del noted["about"]["weights"], noted["about"]["configuration"]["find_lr"]  # as earlier versions noted it
    write_json(study, noted)
    assert tune(*flags) == 0


@pytest.mark.slow
@pytest.mark.thorough
def test_a_space_may_name_runs_which_are_those_of_the_user(tune: Tune, capsys) -> None:
    from fashion_tl.cli import main

    one = ("--trainer.max_epochs", "1")
    for name in ("s", "t"):
        assert main(["fit", *BASE, *one, "--name", name]) == 0
    taught: dict[str, Any] = {"distillation": {"teachers": "s", "temperature": 2}}
    starts = {"model.init_from": {"choices": ["s", "t"]}, "model.terms": {"choices": [{}, taught]}}
    write_space(starts)
    grid = ("--sampler", "grid", *one)
    assert tune(*grid) == 0
    found = {name: f"checkpoints/{name}/version_0/best.ckpt" for name in "st"}
    made = []
    for row in results_of("tiny")["trials"]:
        config = yaml.safe_load((STUDIES / "tiny" / "runs" / row["version"] / "config.yaml").read_text())
        own = config["model"]["init_args"]
        made.append((own["init_from"], (own["terms"] or {}).get("distillation", {}).get("teachers")))
        assert row["settings"]["model.init_from"] in found  # the page has the names
    assert made == [(found[start], teacher) for start in "st" for teacher in (None, found["s"])]

    # A name stands for the same checkpoint in all trials.
    assert main(["fit", *BASE, *one, "--name", "t"]) == 0
    capsys.readouterr()
    assert tune(*grid) == 2
    assert "checkpoints/t/version_0/best.ckpt, now checkpoints/t/version_1/best.ckpt" in capsys.readouterr().err
    write_space({"model.smoothing_confusion": {"choices": [None, "nowhere"]}})
    assert tune("--name", "other") == 2
    told = capsys.readouterr().err
    assert "the space at model.smoothing_confusion=nowhere: " in told
    assert "unknown run 'nowhere'. Allowed: s, t, tiny." in told
    assert not (STUDIES / "other").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_each_seed_of_the_best_trial_has_the_runs_of_that_seed(tune: Tune) -> None:
    from fashion_tl.cli import main

    one = ("--trainer.max_epochs", "1", "--seeds", "2")
    assert main(["fit", *BASE, *one, "--name", "a"]) == 0
    write_space({"model.lr": {"choices": [0.001, 0.01]}})
    taught = ("--model.terms", "{distillation: {teachers: a}}")
    assert tune("--sampler", "grid", *one, "--model.init_from", "a", *taught) == 0
    best = yaml.safe_load((STUDIES / "tiny" / "best.yaml").read_text())["model"]["init_args"]
    assert (best["init_from"], best["terms"]["distillation"]["teachers"]) == ("a", "a")
    for version in (0, 1):
        config = yaml.safe_load(Path(f"lightning_logs/tiny/version_{version}/config.yaml").read_text())
        own, seeds = config["model"]["init_args"], f"checkpoints/a/version_{version}/best.ckpt"
        assert (own["init_from"], own["terms"]["distillation"]["teachers"]) == (seeds, seeds)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_length_in_steps_is_counted_in_the_epochs_of_each_trial(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    # 110 images, whole batches: 6, 3 and 1 of them an epoch.
    space = {"data.batch_size": {"choices": [16, 32, 64]}, "model.lr": {"choices": [0.01, 0.02]}}
    write_space(space)
    asked: list[int] = []

    def second_ends(trials: Trials, number: int, epoch: int, value: float) -> bool:
        asked.append(trials.tuning.epochs or 0)
        return number % 2 == 1

    monkeypatch.setattr(Trials, "report", second_ends)
    for epochs, name in (("20", "both"), ("-1", "steps")):
        steps = ("--trainer.max_epochs", epochs, "--trainer.max_steps", "10", "--name", name)
        assert tune("--sampler", "grid", *steps) == 0
        rows, results = trials_of(name), results_of(name)
        assert [(row["planned"], row["epochs"]) for row in rows] == [(2, 2), (2, 1), (4, 4), (4, 1), (10, 10), (10, 1)]
        assert (results["saved_epochs"], results["epochs"]) == (13, 19)
        assert "that saved 13 of 32 epochs" in (STUDIES / name / "index.html").read_text()
    assert set(asked) == {10}  # what the pruner goes by


@pytest.mark.parametrize(
    ("space", "flags", "epochs"),
    [
        ({"model.lr": [0.1, 0.2]}, ("--trainer.max_epochs", "20", "--trainer.max_steps", "40"), 7),
        ({"model.lr": [0.1, 0.2]}, ("--trainer.max_epochs", "20"), 20),
        ({"trainer.max_epochs": [2, 30], "data.batch_size": [16, 110]}, ("--trainer.max_steps", "28"), 28),
        ({"trainer.max_steps": [7, 18]}, ("--trainer.limit_train_batches", "1.0", "--trainer.max_epochs", "-1"), 3),
        (
            {"trainer.accumulate_grad_batches": [1, 7]},
            ("--trainer.max_epochs", "-1", "--trainer.max_steps", "3", "--trainer.limit_train_batches", "6"),
            3,
        ),
    ],
)
def test_the_longest_trial_is_known_before_the_first(space, flags, epochs: int, workdir: Path) -> None:
    settings = tuple(Setting(key, "choices", choices=tuple(values)) for key, values in space.items())
    assert make_tuning((*BASE[2:], *flags), settings, None, "tpe", "median", None, None, None).epochs == epochs
