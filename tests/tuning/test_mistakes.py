"""Mistakes of a user: each one message, status 2, and nothing is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.errors import UserError
from fashion_tl.tuning.space import Setting, grid, read_space
from fashion_tl.tuning.study import distribution

from .conftest import STUDIES, Tune, write_space

LR = "model.lr: {float: [0.001, 0.1]}\n"


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("{", "is not YAML"),
        ("- a\n", "is not a mapping of settings"),
        ("{}", "has no settings to search"),
        ("model.lr: [0.1, 0.01]", "Did you mean {choices: [0.1, 0.01]}"),
        ("model.lr: 0.1", "is 0.1: give KEY"),
        ("model.lr: {flot: [0.1, 0.2]}", "are no values to search"),
        ("model.lr: {float: [0.1, 0.2], logg: true}", "did you mean 'log'"),
        ("model.lr: {float: [0.1, 0.2], int: [1, 2]}", "has float and int: give one of"),
        ("model.lr: {log: true}", "has none of them"),
        ("model.lr: {float: [0.2, 0.1]}", "the first must be the lower one"),
        ("model.lr: {float: [0, 0.1], log: true}", "the logarithm needs a range above 0"),
        ("model.lr: {float: [0.1]}", "must be [LOW, HIGH]"),
        ("model.lr: {float: [a, b]}", "'a' is no finite number"),
        ("model.lr: {float: [.nan, 1]}", "nan is no finite number"),
        ("model.lr: {float: [0.1, .inf]}", "inf is no finite number"),
        ("model.lr: {float: [0.1, 0.2], log: 3}", "log is 3"),
        ("model.lr: {float: [0.1, 0.2], step: 0.5}", "step is 0.5, allowed is more than 0 to 0.1"),
        ("model.lr: {float: [0.1, 0.9], step: 0.1, log: true}", "exclude each other"),
        ("trainer.max_steps: {int: [0, 1234567], step: 2000000}", "allowed is more than 0 to 1234567."),
        ("data.batch_size: {int: [1.5, 3]}", "1.5 is no whole number"),
        ("data.batch_size: {int: [true, 3]}", "True is no whole number"),
        ("model.optimizer: {choices: [sgd]}", "at least two values"),
        ("model.optimizer: {choices: [sgd, sgd]}", "two of them are the same"),
        ("model.optimizer: {choices: sgd}", "must be a list"),
        ("model.optimizer: {choices: [sgd, adamw], log: true}", "neither log nor step"),
        ("model.optimizer: {choices: [2020-01-01, adamw]}", "Write it as text"),
    ],
)
def test_a_space_that_is_none_is_refused(workdir: Path, space: str, told: str) -> None:
    Path("space.yaml").write_text(space)
    with pytest.raises(UserError) as refused:
        read_space(Path("space.yaml"))
    assert told in str(refused.value)


def test_a_space_may_be_written_in_sections_and_without_points(workdir: Path) -> None:
    Path("space.yaml").write_text(
        "model:\n  lr: {float: [1e-4, 1e-1], log: true}\n  optimizer: {choices: [sgd, adamw]}\n"
        "data.augment.hflip: {choices: [0, 0.5]}\ndata: {batch_size: {int: [16, 64], step: 16}}\n"
    )
    found = read_space(Path("space.yaml"))
    assert found == (
        Setting("model.lr", "float", 1e-4, 1e-1, log=True),
        Setting("model.optimizer", "choices", choices=("sgd", "adamw")),
        Setting("data.augment.hflip", "choices", choices=(0, 0.5)),
        Setting("data.batch_size", "int", 16, 64, step=16),
    )
    assert found[3].params() == [16, 32, 48, 64]
    assert found[2].value("0.5") == 0.5
    with pytest.raises(UserError, match=r"model\.lr: a grid needs values that can be counted"):
        grid(found)
    with pytest.raises(UserError, match="11,000 combinations"):
        grid((Setting("a", "int", 1, 110), Setting("b", "int", 1, 100)))


@pytest.mark.filterwarnings("error")
def test_a_range_ends_where_its_steps_do(workdir: Path) -> None:
    Path("space.yaml").write_text(
        "data.batch_size: {int: [16, 60], step: 16}\nmodel.dropout: {float: [0.0, 0.3], step: 0.1}\n"
        "model.lr: {float: [0.1, 0.25], step: 0.1}\ntrainer.max_steps: {int: [1234567, 12345678]}\n"
    )
    found = read_space(Path("space.yaml"))
    assert [setting.text for setting in found] == [
        "data.batch_size: 16 to 48, step 16, which never reaches 60",
        "model.dropout: 0 to 0.3, step 0.1",
        "model.lr: 0.1 to 0.2, step 0.1, which never reaches 0.25",
        "trainer.max_steps: 1234567 to 12345678",
    ]
    assert [setting.ends for setting in found] == [(16, 48), (0.0, 0.3), (0.1, 0.2), (1234567, 12345678)]
    assert found[0].about == {"int": [16, 60], "step": 16}  # as the file has it
    for setting in found:
        kind: Any = distribution(setting)  # of which Optuna says nothing
        assert (kind.low, kind.high) == (setting.low, setting.high)


@pytest.mark.parametrize(
    ("space", "args", "told"),
    [
        (LR, ("--trials", "0"), "--trials is 0"),
        (LR, ("--processes", "0"), "--processes is 0"),
        (LR, ("--seeds", "0"), "--seeds is 0"),
        (LR, ("--sampler_seed", "-1"), "--sampler_seed is -1"),
        (LR, ("--sampler", "tpp"), "did you mean 'tpe'"),
        (LR, ("--sampler", "grid"), "a grid needs values that can be counted"),
        ("data.batch_size: {int: [8, 16]}", ("--sampler", "grid", "--trials", "2"), "does not go with --sampler grid"),
        (LR, ("--storage", "trials.db"), "is no URL of a database"),
        (LR, ("--storage", "nosql://somewhere/trials"), "cannot be used"),
        (LR, ("--storage", "sqlite:////nowhere/at/all/trials.db"), "unable to open database file"),
        (LR, ("--ckpt_path", "last"), "cannot go with a study"),
        (LR, ("--trainer.devices", "2"), "a study runs in one process"),
        (LR, ("--seed_everything", "true"), "number of its first seed"),
        (LR, ("--monitor", "val/acuracy"), "did you mean 'val/accuracy'"),
        (LR, ("--model.lrr", "1"), "did you mean model.lr"),
        (LR, ("--model.init_from", "nothing"), "nothing"),
        (LR, ("--find_lr", "true"), "--find_lr true sets model.lr and model.backbone_lr itself"),
        (LR, ("--name", "a/b"), "a run's name is made of"),
        ("model.lrr: {float: [0.1, 0.2]}", (), "did you mean model.lr"),
        ("model.lr: {float: [-0.1, 0.2]}", (), "model.lr=-0.1"),
        ("model.optimizer: {choices: [sgd, adamx]}", (), "did you mean 'adam"),
        ("model.train: {choices: [head, layer99]}", (), "model.train=layer99"),
        ("data.batch_size: {float: [8, 16]}", (), "data.batch_size=8.0"),
        ("seed_everything: {int: [0, 9]}", (), "seed_everything cannot be searched"),
        ("data.label_budget: {int: [2, 9]}", (), "data.label_budget=2: the validation images would be others"),
        ("data.source.num_train: {int: [60, 90]}", (), "num_train=60: the validation and test images would be others"),
        ("data.split_seed: {int: [0, 9]}", (), "Set data.split_seed for all runs alike"),
        ("data.val_fraction: {float: [0.1, 0.3]}", (), "data.val_fraction=0.3: the validation images would be others"),
        ("trainer.limit_val_batches: {int: [1, 2]}", (), "limit_val_batches=1: the validation images would be others"),
        ("name: {choices: [a, b]}", (), "name cannot be searched"),
        ("find_lr: {choices: [true, false]}", (), "find_lr cannot be searched"),
        ("data: {choices: [{fold: 1, folds: 3}, {fold: 2, folds: 3}]}", (), "data.fold"),
        (
            "trainer.val_check_interval: {choices: [2, 4]}",
            (),
            "the space at trainer.val_check_interval=4: trainer.val_check_interval is 4: an epoch has 6 batches",
        ),
        (LR, ("--trainer.val_check_interval", "4"), "trainer.val_check_interval is 4: an epoch has 6 batches"),
        ("trainer.max_epochs: {choices: [1, -1]}", (), "trainer.max_epochs=-1: schedule 'cosine' needs an end"),
    ],
)
def test_mistakes_leave_nothing(tune: Tune, capsys, space: str, args: tuple[str, ...], told: str) -> None:
    Path("space.yaml").write_text(space)
    assert tune(*args) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith("fashion-tl: error: ")
    assert len(said.splitlines()) == 1
    assert {path.name for path in Path().iterdir()} <= {"space.yaml"}


def test_without_optuna_it_says_what_to_install(tune: Tune, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune() == 2
    assert "pip install 'fashion-tl[tune]'" in capsys.readouterr().err


def test_without_a_space_it_asks_for_one(workdir: Path, capsys) -> None:
    from fashion_tl.cli import main

    assert main(["tune", "--name", "a"]) == 2
    assert "--space FILE" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.thorough
def test_files_that_are_damaged_are_told(tune: Tune, capsys) -> None:
    few = ("--trials", "1", "--trainer.max_epochs", "1")
    assert tune(*few) == 0
    journal, study = STUDIES / "tiny" / "journal.log", STUDIES / "tiny" / "study.json"
    lines, noted = journal.read_bytes(), study.read_text()
    for damaged in (lines[: len(lines) // 2] + b"\xff\n" + lines[len(lines) // 2 :], b"{}\n", b"garbage\n" + lines):
        journal.write_bytes(damaged)
        assert tune(*few) == 2
        assert "journal.log is damaged" in capsys.readouterr().err
        assert journal.read_bytes() == damaged
    # One line that a kill or a full disk has torn is cut off, and what it said is done again.
    journal.write_bytes(lines[:-7])
    assert tune(*few, "--name", "tiny") == 0
    assert journal.read_bytes().startswith(lines[: lines[:-1].rindex(b"\n") + 1])
    assert tune("--trials", "2", "--trainer.max_epochs", "1") == 0
    journal.write_bytes(lines)
    for text in ("{}", noted.replace("median", "none"), "nothing"):
        study.write_text(text)
        assert tune(*few) == 2
        assert "study.json is damaged" in capsys.readouterr().err
    study.unlink()
    assert tune(*few) == 2
    assert "has trials, but no study.json" in capsys.readouterr().err
    study.write_text(noted)
    assert tune(*few) == 0


def test_other_test_images_are_refused_and_what_leaves_them_is_not(
    tune: Tune, folder_of_images: tuple[str, ...], capsys
) -> None:
    write_space({"data.test_fraction": {"choices": [0.1, 0.5]}})
    assert tune(*folder_of_images) == 2
    assert "the space at data.test_fraction=0.1: the validation and test images would be" in capsys.readouterr().err
    assert not Path("lightning_logs").exists()
    # Where the source has test images of its own, it decides on nothing; and files of other sizes are the same images.
    assert tune("--plan_only") == 0
    write_space({"data.image_size": {"choices": [16, 32]}, "data.per_class": {"choices": [4, None]}})
    assert tune(*folder_of_images, "--plan_only") == 0
