"""Tournaments as a user meets them: from the command line to the table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.errors import UserError
from fashion_tl.records.record import versions
from fashion_tl.runs.parser import arguments, parse
from fashion_tl.tournament.plan import Cell
from fashion_tl.tournament.progress import FewImages
from fashion_tl.tournament.strategies import Strategy, read_budgets

from .conftest import RESULTS, Verb, results_of, shown_in, without_seconds

FILE = ("--strategies", "strategies.yaml")
SMALL = (*FILE, "--budgets", "4,8", "--seeds", "2", "--trials", "2")
TIMER = "lightning.pytorch.callbacks.Timer"


@pytest.mark.slow
def test_a_tournament_from_its_plan_to_its_table(verb: Verb, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verb("tournament", *SMALL, "--plan_only") == 0
    shown = capsys.readouterr().out
    assert "2 strategies x 2 budgets x (2 trials, the best one with 2 seeds) = 12 runs" in shown
    assert not Path("lightning_logs").exists()

    assert verb("tournament", *SMALL) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("[")]
    assert len(lines) == 16  # each trial, the test of the chosen one, and the other seed
    assert lines[0].startswith("[ 1/12] 4.probe trial 1 model.lr=0.03: val/accuracy 0.")
    assert lines[-1].startswith("[12/12] 8.all seed 1: test accuracy 0.")
    folder = RESULTS / "tiny"
    plots = {f"accuracy_{end}" for end in ("by_labels", "by_seconds_4", "by_seconds_8")}
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if "runs" not in p.parts and p.is_file()} == {
        *("index.html", "table.md", "results.json", "manifest.json"),
        *(f"plots/{name}.{kind}" for name in plots for kind in ("svg", "png")),
    }
    assert not list(Path("checkpoints").rglob("*.ckpt"))

    results = results_of("tiny")
    assert [(cell["budget"], cell["strategy"], cell["labels"]) for cell in results["cells"]] == [
        ("4", "probe", 40), ("4", "all", 40), ("8", "probe", 80), ("8", "all", 80),
    ]  # fmt: skip
    for cell in results["cells"]:
        name = f"{cell['budget']}.{cell['strategy']}"
        assert [versions(folder / "runs", f"{name}.seed{seed}") for seed in (0, 1)] == [[], [0]]
        # The candidate that validation prefers, the first of equally good ones.
        best = [trial["best"]["value"] for trial in cell["trials"]]
        candidates = next(each for each in results["strategies"] if each["name"] == cell["strategy"])["candidates"]
        assert cell["chosen"] == candidates[int(np.argmax(best))]
        accuracies, splits = [], []
        best_trial = f"{name}.trial{int(np.argmax(best)) + 1}"  # which is the run of the first seed
        assert cell["runs"] == [f"{best_trial}/version_0", f"{name}.seed1/version_0"]
        other = json.loads((folder / "runs" / f"{name}.trial{2 - int(np.argmax(best))}/version_0/run.json").read_text())
        assert other["status"] == "trained"
        assert "test" not in other
        for version in cell["runs"]:
            run = folder / "runs" / version
            arrays = np.load(run / "test_predictions.npz")
            accuracies.append((arrays["logits"].argmax(1) == arrays["label"]).mean())
            config = yaml.safe_load((run / "config.yaml").read_text())
            splits.append((config["seed_everything"], config["data"]["split_seed"], config["data"]["label_budget"]))
            assert config["model"]["init_args"]["lr"] == cell["chosen"]["model.lr"]
        assert splits == [(0, 0, int(cell["budget"])), (1, 1, int(cell["budget"]))]
        assert cell["accuracies"] == pytest.approx(accuracies, abs=1e-12)
        assert cell["mean"] == pytest.approx(np.mean(accuracies), abs=1e-12)

    shown_cells = {
        (row["Accuracy"][:6], row["Trained parameters"], row["Trials, s"]) for row in shown_in("tiny", "accuracy")
    }
    assert shown_cells == {
        (f"{cell['mean']:.4f}", f"{cell['trained_parameters']:,}", f"{cell['search_seconds']:,.1f}")
        for cell in results["cells"]
    }

    monkeypatch.setattr("fashion_tl.tournament.engine.fit", None)
    assert verb("tournament", *SMALL) == 0  # nothing is run again, or asked for
    assert "12 of them done" in (again := capsys.readouterr().out)
    assert not [line for line in again.splitlines() if line.startswith("[")]
    assert results_of("tiny") == results


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_make_the_same_table_as_one(verb: Verb, capfd: pytest.CaptureFixture[str]) -> None:
    few = (*FILE, "--budgets", "4", "--seeds", "2", "--trials", "2")
    assert verb("tournament", *few, "--name", "one") == 0
    capfd.readouterr()
    assert verb("tournament", *few, "--name", "two", "--processes", "2") == 0
    told = [line.partition("]")[0] for line in capfd.readouterr().out.splitlines() if line.startswith("[")]
    assert (len(told), set(told), told[-1]) == (8, {f"[{n}/6" for n in range(1, 7)}, "[6/6")  # two are tests of trials
    one, two = (without_seconds(results_of(name)) for name in ("one", "two"))
    assert {**two, "name": "one"} == one
    assert not list((RESULTS / "two" / "runs").glob(".*"))
    assert {path.name for path in (RESULTS / "two" / "runs").glob("*/version_*")} == {"version_0"}


def not_timed(*args: Any, **kwargs: Any) -> Any:
    """Stand in for the short run that times a strategy, which is to be stopped by no test."""
    raise UserError("not timed")


@pytest.mark.slow
@pytest.mark.thorough
def test_stopped_twice_it_ends_with_the_same_table(
    verb: Verb, stop_at: Callable[[int, int, BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fashion_tl.runs import fit

    fitting: Any = fit

    few = (*FILE, "--budgets", "4", "--seeds", "2", "--trials", "2")
    monkeypatch.setattr("fashion_tl.tournament.progress.fit", not_timed)
    assert verb("tournament", *few, "--name", "whole") == 0
    callbacks_of = fitting.callbacks_of
    stop_at(1, 0, KeyboardInterrupt())  # in the second epoch of the first run
    assert verb("tournament", *few, "--name", "stopped") == 130
    stopping, runs = fitting.callbacks_of, count(1)
    # Again, after two trials and the test of one: in the other seed.
    monkeypatch.setattr(fitting, "callbacks_of", lambda *a: (stopping if next(runs) == 4 else callbacks_of)(*a))
    assert verb("tournament", *few, "--name", "stopped") == 130
    assert not (RESULTS / "stopped" / "results.json").exists()
    monkeypatch.setattr(fitting, "callbacks_of", callbacks_of)
    assert verb("tournament", *few, "--name", "stopped") == 0
    whole, stopped = (without_seconds(results_of(name)) for name in ("whole", "stopped"))
    assert {**stopped, "name": "whole"} == whole


@pytest.mark.slow
@pytest.mark.thorough
def test_runs_of_other_settings_are_not_counted_and_refused_where_they_are_not_done(
    verb: Verb, stop_at: Callable[[int, int, BaseException], None], monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    few = (*FILE, "--seeds", "1", "--trials", "1")
    assert verb("tournament", *few) == 0
    assert verb("tournament", *few, "--plan_only") == 0
    assert "2 of them done" in capsys.readouterr().out
    other = (*few, "--model.label_smoothing", "0.1")
    assert verb("tournament", *other, "--plan_only") == 0
    assert "2 runs; about" in capsys.readouterr().out
    monkeypatch.setattr("fashion_tl.tournament.progress.fit", not_timed)
    stop_at(1, 0, KeyboardInterrupt())
    assert verb("tournament", *few, "--name", "stopped") == 130
    capsys.readouterr()
    assert verb("tournament", *other, "--name", "stopped") == 2
    said = capsys.readouterr().err
    assert "probe.seed0/version_0 is not done, but of another configuration: model.label_smoothing" in said.replace(
        "model.init_args.", "model."
    )
    assert "or give another --name." in said
    assert "--resume" not in said


def test_budgets_bring_changes_of_their_own(workdir: Path) -> None:
    Path("budgets.yaml").write_text("all: {}\n30: {trainer.max_epochs: 4}\n4: {data.batch_size: 8}\n")
    four, thirty, everything = read_budgets("budgets.yaml")
    assert four.settings == {"data.label_budget": 4, "data.batch_size": 8}
    assert thirty.settings == {"data.label_budget": 30, "trainer.max_epochs": 4}
    assert everything.settings == {"data.label_budget": None}
    strategy = Strategy("a", {"trainer.max_epochs": 9}, budgets={"30": {"model.lr": 1}})
    assert Cell(thirty, strategy).changes == {"data.label_budget": 30, "trainer.max_epochs": 9, "model.lr": 1}


@pytest.mark.slow
def test_candidates_and_budgets_name_runs_and_the_first_stage(verb: Verb) -> None:
    # With another budget it would have trained on what these runs validate on.
    assert verb("fit", "--name", "teacher", "--trainer.max_epochs", "1", "--data.label_budget", "4") == 0
    Path("own.yaml").write_text(
        "strategies:\n"
        "  a:\n"
        "    candidates: [{model.init_from: teacher, model.train: {0: head, 1: [FIRST_STAGE, head]}}]\n"
        "  b:\n"
        "    budgets: {4: {model.train: [FIRST_STAGE, head]}}\n"
    )
    Path("budgets.yaml").write_text("4: {model.init_from: teacher}\n")
    own = ("--strategies", "own.yaml", "--budgets", "budgets.yaml", "--trials", "1", "--seeds", "1")
    assert verb("tournament", *own) == 0
    started = Path("checkpoints/teacher/version_0/best.ckpt")
    for name, train in (("4.a", {"0": "head", "1": ["stem", "head"]}), ("4.b", ["stem", "head"])):
        config = yaml.safe_load((RESULTS / f"tiny/runs/{name}.seed0/version_0/config.yaml").read_text())
        given = config["model"]["init_args"]
        assert Path(given["init_from"]) == started
        assert given["train"] == train


@pytest.mark.slow
@pytest.mark.thorough
def test_a_strategy_that_diverges_is_told_and_the_others_are_compared(verb: Verb, capsys) -> None:
    Path("wild.yaml").write_text(
        "strategies:\n"
        "  calm: {changes: {model.train: head}}\n"
        "  other: {changes: {model.train: all}}\n"
        "  wild: {changes: {model.train: all, model.optimizer: sgd, model.lr: 1.0e+18, model.warmup: 0}}\n"
    )
    assert verb("tournament", "--strategies", "wild.yaml", "--trials", "1", "--seeds", "2") == 0
    results = results_of("tiny")
    cells = {cell["strategy"]: cell for cell in results["cells"]}
    assert (cells["wild"]["diverged"], cells["wild"]["mean"], cells["wild"]["accuracies"]) == (2, None, [])
    assert [(pair["a"], pair["b"]) for pair in results["pairs"]] == [("calm", "other")]
    assert "wild seed 0: diverged" in capsys.readouterr().out
    assert "diverged" in (RESULTS / "tiny" / "index.html").read_text()


@pytest.mark.thorough
def test_validations_between_epochs_hinder_no_estimate(verb: Verb, capsys) -> None:
    plan = (*FILE, "--trials", "1", "--seeds", "1", "--plan_only")
    assert verb("tournament", *plan, "--trainer.check_val_every_n_epoch", "2") == 0
    assert verb("tournament", *plan, "--trainer.val_check_interval", "3", "--trainer.max_epochs", "3") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("2 runs; about ")]
    assert len(told) == 2
    assert not any("about 0 s" in line for line in told)


def test_a_timing_run_that_is_refused_hinders_no_study(verb: Verb, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("fashion_tl.tournament.progress.fit", not_timed)
    assert verb("tournament", *FILE, "--trials", "1", "--seeds", "1", "--plan_only") == 0
    assert "2 runs; about 0 s" in capsys.readouterr().out


@pytest.mark.thorough
def test_runs_are_expected_to_take_as_many_epochs_as_their_steps(verb: Verb, capsys) -> None:
    told = []
    for flags in (("--trainer.max_epochs", "40"), ("--trainer.max_epochs", "-1", "--trainer.max_steps", "280")):
        assert verb("tournament", *FILE, "--only", "probe,all", "--trials", "1", "--plan_only", *flags) == 0
        (line,) = re.findall(r"6 runs; about (\d+) s on", capsys.readouterr().out)
        told.append(int(line))
    assert 0.4 < told[0] / told[1] < 2.5  # 7 batches an epoch


@pytest.mark.parametrize("one", [TIMER, {"class_path": TIMER}, [{"class_path": TIMER}]], ids=["name", "class", "list"])
def test_the_cut_of_a_timing_run_joins_callbacks_that_are_given_in_any_form(one: Any, tmp_path: Path) -> None:
    cut = {"class_path": "fashion_tl.tournament.progress.FewImages", "init_args": {"images": 5}}
    (tmp_path / "it.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": one}}))
    given = ["-c", str(tmp_path / "it.yaml"), "--data.source", "SyntheticGarments"]
    config = parse("fit", arguments(given, {"trainer.callbacks+": cut}))
    assert [each.class_path for each in config.trainer.callbacks] == [TIMER, cut["class_path"]]


def test_a_timing_run_takes_few_images() -> None:
    data = ImageDataModule(SyntheticGarments(num_train=240, num_test=40))
    data.setup("fit")
    before = data.splits["train"].indices
    FewImages(40).setup(cast(Any, SimpleNamespace(datamodule=data)), cast(Any, None), "fit")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 40,
        "val": 4,
        "test": 40,
    }  # of 220 and 20
    assert data.splits["train"].indices.tolist() == before[::5].tolist()[:40]  # from all over it
    FewImages(40).setup(cast(Any, SimpleNamespace(datamodule=None)), cast(Any, None), "fit")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--only", "prob"), "did you mean 'probe'"),
        (("--budgets", "4,1"), "'1' is no budget"),
        (("--budgets", "13"), "has 12 images"),
        (("--budgets", "none.yaml"), "none.yaml cannot be read"),
        (("--seeds", "0"), "at least one of each"),
        (("--trials", "3"), "probe has 2, all has 2 candidates"),
        (("--only", "probe"), "at least two"),
        (("--seed_everything", "true"), "number of its first seed"),
        (("--ckpt_path", "last"), "for one run"),
        (("--trainer.devices", "2"), "one process"),
        (("--model.init_from", "nothing"), "nothing"),
        (("--model.lrr", "1"), "did you mean model.lr"),
        (("--strategies", "missing.yaml"), "missing.yaml cannot be read"),
        (("--strategies", "{}"), "cannot be read"),
    ],
)
def test_mistakes_leave_nothing(verb: Verb, capsys, args: tuple[str, ...], told: str) -> None:
    assert verb("tournament", *FILE, "--trials", "2", *args) == 2
    assert told in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("strategies", "told"),
    [
        ("{a: {changes: {model.train: layer99}}, b: {}}", "a (model.train=layer99): "),
        ("{a: {changes: {model.lrr: 1}}, b: {}}", "did you mean model.lr"),
        ("{a: {changes: {name: x}}, b: {}}", "sets name itself"),
        ("{a: {changes: {data.split_seed: 1}}, b: {}}", "sets data.split_seed itself"),
        ("{a: {changes: {trainer.logger: true}}, b: {}}", "sets trainer.logger itself"),
        ("{a: {changes: {trainer.val_check_interval: 4}}, b: {}}", "an epoch has 6 batches"),
        ("{a: {changes: {find_lr: true, model.lr: 0.1}}, b: {}}", "--find_lr true sets model.lr"),
        ("{a: {changes: {model.init_from: no.ckpt}}, b: {}}", "no such checkpoint"),
        ("{a: {change: {}}, b: {}}", "did you mean 'changes'"),
        ("{a.b: {}, b: {}}", "'a.b' is no name"),
        ("{a: {candidates: {}}, b: {}}", "list of changes"),
        ("{a: {candidates: [3]}, b: {}}", "3 are no changes"),
        ("{a: 3, b: {}}", "a is 3"),
        ("{}", "has no strategies"),
    ],
)
def test_strategies_that_cannot_run_are_refused_before_the_first_run(
    verb: Verb, capsys, strategies: str, told: str
) -> None:
    Path("own.yaml").write_text(f"strategies: {strategies}\n")
    assert verb("tournament", "--strategies", "own.yaml", "--trials", "1") == 2
    assert told in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("candidates", "flags", "told"),
    [
        ("[{monitor: val/loss}, {monitor: val/accuracy}]", (), "monitor cannot be searched"),
        ("[{model.lr: 0.1}, {model.lr: 0.2}]", ("--find_lr", "true"), "--find_lr true sets model.lr"),
    ],
)
def test_candidates_that_do_not_compare_are_refused(
    verb: Verb, capsys, candidates: str, flags: tuple[str, ...], told: str
) -> None:
    Path("own.yaml").write_text(f"strategies: {{a: {{candidates: {candidates}}}, b: {{candidates: {candidates}}}}}\n")
    assert verb("tournament", "--strategies", "own.yaml", "--trials", "2", *flags) == 2
    assert told in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


def test_strategies_may_choose_by_figures_of_their_own(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fashion_tl.tournament.progress.expected_seconds", lambda *_: {})
    Path("own.yaml").write_text("strategies: {a: {changes: {monitor: val/loss}}, b: {changes: {find_lr: true}}}\n")
    assert verb("tournament", "--strategies", "own.yaml", "--trials", "1", "--seeds", "1", "--plan_only") == 0


@pytest.mark.slow
@pytest.mark.thorough
def test_the_default_strategies_are_allowed(verb: Verb, capsys) -> None:
    assert verb("tournament", "--plan_only", "--trials", "3") == 0
    shown = capsys.readouterr().out
    assert "probe: model.train=head" in shown
    assert 'surgical_first: model.train=["stem", "head"]' in shown
    assert "scratch: model.train=all model.pretrained=false" in shown


def test_a_budget_has_validation_images_but_no_test_images_of_its_own(
    verb: Verb, folder_of_images: tuple[str, ...], capsys
) -> None:
    few = ("--trials", "1", "--seeds", "1", "--plan_only", "--strategies", "strategies.yaml", *folder_of_images)
    Path("budgets.yaml").write_text("4: {data.val_fraction: 0.5}\nall: {}\n")
    assert verb("tournament", *few, "--budgets", "budgets.yaml") == 0
    Path("budgets.yaml").write_text("4: {data.test_fraction: 0.5}\nall: {}\n")
    assert verb("tournament", *few, "--budgets", "budgets.yaml") == 2
    assert "tournament tiny: budget 4: the test images would be others" in capsys.readouterr().err
    Path("strategies.yaml").write_text("strategies: {a: {}, b: {budgets: {4: {data.val_fraction: 0.5}}}}")
    assert verb("tournament", *few, "--budgets", "4,all") == 2
    assert "4.b (data.label_budget=4 data.val_fraction=0.5): the validation images" in capsys.readouterr().err
