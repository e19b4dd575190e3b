"""Ablations: which switches a configuration turns on, and each turned off alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from fashion_tl.errors import UserError
from fashion_tl.plain_text import duration
from fashion_tl.runs.fit import Run
from fashion_tl.runs.parser import parse
from fashion_tl.tournament.page import signed
from fashion_tl.tournament.progress import Timed
from fashion_tl.tournament.switches import turned_off

from ..conftest import Fit
from .conftest import RESULTS, Verb, results_of, shown_in

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
ON = ("--data.augment.hflip", "0.5", "--model.label_smoothing", "0.1")


def off(*flags: str, names: str | None = None) -> dict[str, dict[str, object]]:
    return {each.name: each.changes for each in turned_off(parse("fit", flags), names)}


def test_switches_are_what_differs_from_the_defaults() -> None:
    assert off(*ON) == {
        "without_label_smoothing": {"model.label_smoothing": 0.0},
        "without_hflip": {"data.augment.hflip": 0.0},
    }
    assert off(*ON, names="hflip") == {"without_hflip": {"data.augment.hflip": 0.0}}
    # What a run is about is no switch, nor what a switch brings along.
    same = ("--name", "x", "--data.label_budget", "9", "--model.lr", "0.1", "--trainer.max_epochs", "3")
    focal = ("--model.objective", "focal", "--model.objective_args", "{gamma: 3}", "--trainer.gradient_clip_val", "1")
    assert off(*same, *focal) == {
        "without_objective": {"model.objective": "cross_entropy", "model.objective_args": None},
        "without_gradient_clip_val": {"trainer.gradient_clip_val": None},
    }


def test_switches_of_an_experiment() -> None:
    assert set(off("-c", str(EXPERIMENTS / "phase2.yaml"))) == {
        f"without_{name}" for name in ("init_from", "backbone_lr", "weight_decay", "dropout", "hflip", "translate")
    }
    # The arguments of a network say which network it is.
    assert set(off("-c", str(EXPERIMENTS / "best" / "scratch.yaml"))) == {
        f"without_{name}" for name in ("weight_decay", "schedule", "warmup", "hflip", "translate", "random_erasing")
    }


def test_what_belongs_together_is_turned_off_together() -> None:
    # Adapters belong to what trains them; smoothing by confusion is nothing without label smoothing.
    confused = ("--model.label_smoothing", "0.1", "--model.smoothing_confusion", "teacher")
    assert off(*confused, "--model.train", "lora", "--model.lora", "{rank: 2}") == {
        "without_label_smoothing": {"model.label_smoothing": 0.0, "model.smoothing_confusion": None},
        "without_smoothing_confusion": {"model.smoothing_confusion": None},
    }


@pytest.mark.thorough
def test_a_switch_that_cannot_go_off_alone_is_left_out_and_told_unless_it_is_named(verb: Verb, capsys) -> None:
    Path("picky_classifier.py").write_text(
        "from fashion_tl import TransferClassifier\nfrom fashion_tl.errors import UserError\n\n"
        "class Picky(TransferClassifier):\n"
        "    def __init__(self, class_names, tuned: bool = False, **kwargs):\n"
        "        super().__init__(class_names, **kwargs)\n"
        "        if not tuned:\n"
        "            raise UserError('it must be tuned')\n"
    )
    small = ("--model.backbone", "test_resnet", "--model.pretrained", "false", "--plan_only", "--seeds", "1")
    picky = ("--model", "picky_classifier.Picky", "--model.tuned", "true", *ON, *small)
    assert verb("ablate", *picky) == 0
    shown = capsys.readouterr().out
    assert "3 variants x 1 seed = 3 runs" in shown
    assert "  without_tuned is left out: it must be tuned" in shown
    assert verb("ablate", *picky, "--switches", "tuned,hflip") == 2
    assert "without_tuned (model.tuned=false): it must be tuned" in capsys.readouterr().err


def test_a_class_of_ones_own_with_an_argument_that_has_no_default(workdir: Path) -> None:
    Path("sized_classifier.py").write_text(
        "from fashion_tl import ScratchClassifier\n\n"
        "class Sized(ScratchClassifier):\n"
        "    def __init__(self, class_names, size: int, sharp: bool = False, **kwargs):\n"
        "        super().__init__(class_names, **kwargs)\n"
    )
    own = ("--model", "sized_classifier.Sized", "--model.size", "3", "--model.sharp", "true")
    assert off(*own, "--model.label_smoothing", "0.1") == {
        "without_sharp": {"model.sharp": False},
        "without_label_smoothing": {"model.label_smoothing": 0.0},
    }


def test_nothing_turned_on_and_unknown_switches() -> None:
    with pytest.raises(UserError, match="turns nothing on"):
        turned_off(parse("fit", []))
    with pytest.raises(UserError, match="did you mean 'hflip'"):
        turned_off(parse("fit", ON), "hflp")


@pytest.mark.slow
def test_each_switch_is_turned_off_alone(verb: Verb, capsys) -> None:
    assert verb("ablate", *ON, "--seeds", "2") == 0
    results = results_of("tiny")
    assert [cell["strategy"] for cell in results["cells"]] == ["base", "without_label_smoothing", "without_hflip"]
    expected = {"base": (0.5, 0.1), "without_label_smoothing": (0.5, 0.0), "without_hflip": (0.0, 0.1)}
    correct = {}
    for name, values in expected.items():
        runs = [RESULTS / "tiny" / "runs" / f"{name}.seed{seed}" / "version_0" for seed in (0, 1)]
        config = yaml.safe_load((runs[1] / "config.yaml").read_text())
        assert (config["data"]["augment"]["hflip"], config["model"]["init_args"]["label_smoothing"]) == values
        arrays = [np.load(run / "test_predictions.npz") for run in runs]
        correct[name] = np.mean([(each["logits"].argmax(1) == each["label"]).mean() for each in arrays])
    assert [(pair["a"], pair["b"]) for pair in results["pairs"]] == [("base", name) for name in list(expected)[1:]]
    for pair in results["pairs"]:
        assert pair["difference"] == pytest.approx(correct["base"] - correct[pair["b"]], abs=1e-12)
    assert "base" in capsys.readouterr().out
    assert (RESULTS / "tiny" / "plots" / "differences.svg").is_file()
    for row, cell in zip(shown_in("tiny", "accuracy"), results["cells"], strict=True):
        assert list(row) == ["Variant", "Accuracy", "Deviation", "Seconds", "Trained parameters"]
        assert row["Accuracy"].startswith(f"{cell['mean']:.4f}")
        assert row["Trained parameters"] == f"{cell['trained_parameters']:,}"
    change = signed(correct["without_hflip"] - correct["base"])
    assert f"| without\\_hflip | {change} |" in (RESULTS / "tiny" / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.thorough
def test_a_base_that_diverges_leaves_nothing_to_compare(verb: Verb) -> None:
    calm = "{a: {model.optimizer: adamw, model.lr: 0.003}, b: {model.optimizer: adamw, model.lr: 0.001}}"
    wild = ("--model.train", "all", "--model.optimizer", "sgd", "--model.lr", "1e18", "--trainer.max_epochs", "1")
    assert verb("ablate", *wild, "--add", calm, "--seeds", "1") == 0
    results = results_of("tiny")
    assert [cell["diverged"] for cell in results["cells"]] == [1, 0, 0]
    assert results["pairs"] == []
    assert results["conclusion"] == ["There is nothing to compare with the base."]
    assert "diverged" in (RESULTS / "tiny" / "index.html").read_text()


@pytest.mark.slow
def test_runs_that_changes_name_are_those_of_the_user_and_fix_the_split(verb: Verb, capsys) -> None:
    # On another split, a seed would validate on images that the run it names was trained on.
    assert verb("fit", "--name", "teacher") == 0
    taught = "{taught: {model.terms: {distillation: {teachers: teacher}}}, started: {model.init_from: teacher}}"
    assert verb("ablate", "--add", taught, "--seeds", "2", "--name", "added") == 0
    assert {cell["strategy"] for cell in results_of("added")["cells"]} == {"base", "taught", "started"}
    assert results_of("added")["split_seeds"] == [0, 0]
    assert "one split: all seeds have the same split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), ""),
        (("--model.init_from", "teacher.ckpt"), "one split"),
        (("--data.mix.pairs", "teacher.ckpt"), "one split"),
    ],
)
@pytest.mark.thorough(keep=1)
def test_seeds_have_the_same_split_where_something_else_knows_it(flags, told, verb: Verb, capsys) -> None:
    Path("teacher.ckpt").touch()
    status = verb("ablate", *ON, *flags, "--seeds", "2", "--plan_only")
    shown = capsys.readouterr().out
    assert status == 0
    assert ("all seeds have the same split" in shown) == bool(told)
    assert told in shown


def test_what_is_computed_once_is_not_counted_for_each_epoch(verb: Verb, monkeypatch, capsys) -> None:
    def timed(config: list[str], changes: dict[str, Any], tested: bool) -> Run:
        seconds = [1000.0, 0.01][: changes["trainer.max_epochs"]]  # such as what teachers say, computed once
        return Run(None, {"time": {"epoch_seconds": seconds, "images_per_second": 96 * len(seconds) / sum(seconds)}})

    monkeypatch.setattr("fashion_tl.tournament.progress.fit", timed)
    assert verb("ablate", *ON, "--seeds", "1", "--plan_only") == 0
    assert re.search(r"3 runs; about \d s on this machine", capsys.readouterr().out)


def test_phases_are_timed_one_by_one_and_features_are_computed_once(verb: Verb, monkeypatch, capsys) -> None:
    clock, timed = [0.0], []

    def short(config: list[str], changes: dict[str, Any], tested: bool) -> Run:
        timed.append(changes)
        epochs = [5.0, 0.96, 5.0, 9.6]  # of 96 images
        clock[0] += 192 + sum(epochs)
        spent = {"epoch_seconds": epochs, "images_per_second": 4 * 96 / sum(epochs), "cache_seconds": 192.0}
        return Run(None, {"time": spent})

    monkeypatch.setattr("fashion_tl.tournament.progress.fit", short)
    monkeypatch.setattr("fashion_tl.tournament.progress.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    plateau = "{0: {train: head, until: plateau}, 3: all}"
    given = (*ON, "--model.train", plateau, "--trainer.max_epochs", "5", "--seeds", "1", "--plan_only")
    assert verb("ablate", *given) == 0
    # 110 training and 60 test images. The first epochs of phases take 8.88 s more than others do, whoever runs.
    run = 110 * (3 * 0.01 + 2 * 0.1) + 0.4 * 0.01 * 60 - 0.56
    features = 2 * (110 + 60)  # 2 seconds an image, again for the variant without flips
    assert f"3 runs; about {duration(3 * run + 2 * features)} on" in capsys.readouterr().out
    assert [changes["model.train"] for changes in timed] == [{0: {"train": "head"}, 2: "all"}] * 4  # one to warm up


@pytest.mark.thorough
def test_switches_and_changes_go_together(verb: Verb, capsys) -> None:
    added = ("--add", "{smooth: {model.label_smoothing: 0.2}}")
    assert verb("ablate", *ON, "--switches", "hflip", *added, "--seeds", "1", "--plan_only", "true") == 0
    out = capsys.readouterr().out
    assert "3 variants" in out
    assert "without_hflip" in out
    assert "smooth" in out


def test_changes_are_added_alone(verb: Verb) -> None:
    assert verb("ablate", "--add", "{smooth: {model.label_smoothing: 0.2}}", "--seeds", "1", "--name", "added") == 0
    results = results_of("added")
    assert [cell["strategy"] for cell in results["cells"]] == ["base", "smooth"]
    config = yaml.safe_load((RESULTS / "added/runs/smooth.seed0/version_0/config.yaml").read_text())
    assert config["model"]["init_args"]["label_smoothing"] == 0.2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "turns nothing on"),
        ((*ON, "--switches", "hflop"), "did you mean 'hflip'"),
        ((*ON, "--switches", "hflip", "--add", "{without_hflip: {model.lr: 1}}"), "that switch turned off. Choose"),
        (("--add", "{a: {model.label_smoothing: 2}}"), "label_smoothing is 2"),
        (("--add", "{base: {model.lr: 1}}"), "Choose another one"),
        (("--add", "{a: 3}"), "no changes"),
        (("--add", "nothing.yaml"), "cannot be read"),
        ((*ON, "--seeds", "0"), "at least one of each"),
        (("--find_lr", "true", "--add", "{a: {model.lr: 0.1}}"), "a (model.lr=0.1): --find_lr true sets model.lr"),
    ],
)
def test_mistakes_leave_nothing(verb: Verb, capsys, args: tuple[str, ...], told: str) -> None:
    assert verb("ablate", *args) == 2
    assert told in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ("{data.test_fraction: 0.5}", "more (data.test_fraction=0.5): the validation and test images would be others"),
        ("{data.label_budget: 8}", "more (data.label_budget=8): the validation images would be others"),
        ("{trainer.limit_val_batches: 1}", "more (trainer.limit_val_batches=1): the validation images would be others"),
        ("{trainer.limit_test_batches: 1}", "more (trainer.limit_test_batches=1): the test images would be others"),
        ("{data.split_seed: 3}", "an ablation sets data.split_seed itself"),
    ],
)
def test_runs_that_would_be_judged_by_other_images_are_refused(
    changes: str, told: str, verb: Verb, folder_of_images: tuple[str, ...], capsys
) -> None:
    assert verb("ablate", "--add", f"{{more: {changes}}}", *folder_of_images, "--seeds", "2") == 2
    assert told in capsys.readouterr().err
    assert not Path("lightning_logs").exists()


def test_runs_of_images_that_have_changed_are_refused_before_another_one_trains(
    verb: Verb, folder_of_images: tuple[str, ...], capsys
) -> None:
    flags = ("--add", "{small: {data.image_size: 16}}", *folder_of_images, "--trainer.max_epochs", "1")
    assert verb("ablate", *flags, "--seeds", "1") == 0
    shutil.copyfile("data/photos/dark/1.png", "data/photos/dark/more.png")
    for seeds in ("1", "2"):
        assert verb("ablate", *flags, "--seeds", seeds) == 2
        assert "have changed since: their fingerprint is another. Give another --name." in capsys.readouterr().err
    assert len(list(RESULTS.rglob("run.json"))) == 2


ALONE = ("--add", "{more: {model.weight_decay: 0.5}}", "--seeds", "1", "--trainer.max_epochs", "1")
BOTH = ("--add", "{more: {model.weight_decay: 0.5}, most: {model.weight_decay: 0.9}}", *ALONE[2:])


def test_runs_of_other_weights_of_the_same_name_are_refused_before_another_one_trains(
    verb: Verb, put_weights, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    flags = ("--model.backbone", put_weights(0), "--model.pretrained", "true", "--model.train", "head")
    assert verb("ablate", *flags, *ALONE) == 0
    put_weights(1)
    assert verb("ablate", *flags, *BOTH) == 2
    assert "other weights than those that lie there now. Give another --name." in capsys.readouterr().err
    assert len(list(RESULTS.rglob("run.json"))) == 2
    # Nor are they set beside each other where the weights change while runs are made.
    monkeypatch.setattr("fashion_tl.tournament.progress.check_same_start", lambda *_: None)
    assert verb("ablate", *flags, *BOTH) == 2
    assert "have started from different weights of the same name" in capsys.readouterr().err


def test_runs_of_another_teacher_of_the_same_path_are_refused(verb: Verb, fit: Fit, capsys) -> None:
    for seed in ("1", "2"):
        assert fit("--seed_everything", seed, "--data.split_seed", "0", name="teacher") == 0
    place = Path("checkpoints/teacher")
    flags = ("--model.terms", f"{{distillation: {{teachers: {place / 'version_0' / 'best.ckpt'}}}}}")
    assert verb("ablate", *flags, *ALONE) == 0
    shutil.copyfile(place / "version_1" / "best.ckpt", place / "version_0" / "best.ckpt")
    assert verb("ablate", *flags, *BOTH) == 2
    assert "had another model.terms.distillation.teachers than the checkpoint" in capsys.readouterr().err
    assert len(list(RESULTS.rglob("run.json"))) == 2


def test_runs_of_a_given_rate_are_not_set_beside_those_that_searched_theirs(
    verb: Verb, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("fashion_tl.tournament.progress._time", lambda *_: Timed())
    flags = ("--model.train", "head", "--model.lr", "0.00001", *ALONE)
    assert verb("ablate", *flags) == 0
    for more, told in (((), "2 runs, 2 of them done"), (("--find_lr", "true"), "2 runs; ")):
        capsys.readouterr()
        assert verb("ablate", *flags, *more, "--plan_only") == 0
        assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, 2),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}, 4),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "interactive"}, 1),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "tune"}, 1),
    ],
)
def test_processes_of_a_launcher_are_refused_with_what_to_type(
    verb: Verb, monkeypatch: pytest.MonkeyPatch, capsys, variables: dict[str, str], count: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert verb("ablate", *ALONE, "--plan_only") == (0 if count == 1 else 2)
    said = capsys.readouterr().err
    told = f"torchrun or srun has started {count} processes: an ablation starts its own. Start it once"
    assert (told in said) == (count > 1)
    assert f"--processes {count}" in said or count == 1
    assert not Path("lightning_logs").exists()


def test_what_leaves_the_images_is_compared(verb: Verb, folder_of_images: tuple[str, ...], capsys) -> None:
    added = "{few: {data.per_class: 5}, small: {data.image_size: 16}}"
    assert verb("ablate", "--add", added, *folder_of_images, "--seeds", "2", "--plan_only") == 0
