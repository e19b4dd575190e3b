"""The order of flags, and flags that reach into mappings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.cli import main
from fashion_tl.errors import UserError
from fashion_tl.runs.parser import arguments, parse

SCRATCH = ("--data.source", "SyntheticGarments", "--model", "ScratchClassifier")
TERMS = ("--model.terms", "{distillation: {teachers: s}, l2_sp: {alpha: 1}}")


def model(*args: str, changes: dict[str, Any] | None = None) -> Any:
    return parse("fit", arguments(args, changes)).model.init_args


@pytest.mark.parametrize("name", [("--model", "ScratchClassifier"), ("--model=ScratchClassifier",)])
@pytest.mark.parametrize("flag", [("--model.init_from", "a.ckpt"), ("--model.lora.rank=4",)])
def test_what_a_class_does_not_take_is_refused_in_either_order(workdir, capsys, name, flag) -> None:
    for args in ((*name, *flag), (*flag, *name), (*name, *flag, *name)):
        assert main(["fit", "--data.source", "SyntheticGarments", *args]) == 2
        said = capsys.readouterr().err
        assert "unknown " in said
        assert flag[0].partition("=")[0].removeprefix("--") in said
    assert list(workdir.iterdir()) == []


def test_arguments_of_a_class_may_come_before_its_name(workdir: Path) -> None:
    source = ("--data.source.folder", "photos", "--data.source.root=.", "--data.source", "ImageFolder")
    found = parse("fit", [*source, "--data.image_size", "8"]).data.source
    assert (found.class_path, found.init_args.folder) == ("fashion_tl.ImageFolder", "photos")
    found = parse("fit", ["--trainer.logger.save_dir", "logs", "--trainer.logger", "CSVLogger"]).trainer.logger
    assert found.init_args.save_dir == "logs"
    Path("base.yaml").write_text("model: {class_path: TransferClassifier, init_args: {lr: 0.5, pretrained: false}}")
    given = model("--model.lr", "0.1", "--model.lr", "0.2", "-c", "base.yaml", "--model", "ScratchClassifier")
    assert given.lr == 0.2
    twice = (
        "--data.source",
        "SyntheticGarments",
        "--data.source.num_train",
        "90",
        *source[3:],
        *source[:3],
        "--data.image_size",
        "8",
    )
    assert parse("fit", twice).data.source.init_args.folder == "photos"


def test_changes_come_after_what_they_change() -> None:
    given = model("--model.pretrained", "false", "--model.lr", "0.5", changes={"model": "ScratchClassifier"})
    assert (given.lr, "pretrained" in given) == (0.5, False)
    again = arguments(arguments(["--model.pretrained", "false"], {"model": "ScratchClassifier"}), {"model.lr": 0.2})
    assert model(*again).lr == 0.2
    given = parse("fit", arguments([], {"model.pretrained": False, "model": "TransferClassifier"})).model.init_args
    assert given.pretrained is False
    with pytest.raises(UserError, match=r"unknown setting model\.pretrained"):
        parse("fit", arguments([], {"model.pretrained": False, "model": "ScratchClassifier"}))
    with pytest.raises(UserError, match="unknown model 'Scratch'"):
        parse("fit", arguments([], {"model": "Scratch"}))


@pytest.mark.parametrize(
    ("args", "terms"),
    [
        (
            (*TERMS, "--model.terms.distillation.temperature", "2", "--model.terms.l2_sp.alpha=1e-3"),
            {"distillation": {"teachers": "s", "temperature": 2}, "l2_sp": {"alpha": 0.001}},
        ),
        (
            ("--model.terms.distillation.teachers", "[a, b]", "--model.init_args.terms.distillation.weight", "0.5"),
            {"distillation": {"teachers": ["a", "b"], "weight": 0.5}},
        ),
        (("--model.terms.l2_sp.alpha", "2", *TERMS), {"distillation": {"teachers": "s"}, "l2_sp": {"alpha": 1}}),
        (
            ("--model.terms", "{mine.Term: {a: 1}}", "--model.terms.mine.Term.b.c", "2"),
            {"mine.Term": {"a": 1, "b": {"c": 2}}},
        ),
    ],
)
def test_flags_reach_into_mappings(args: Sequence[str], terms: dict[str, Any]) -> None:
    assert model(*SCRATCH, *args).terms == terms


def test_they_change_what_a_file_says_and_epochs_are_numbers(workdir: Path) -> None:
    Path("base.yaml").write_text(
        "model: {class_path: ScratchClassifier, init_args: {train: {0: {train: head, lr: 1}, 2: all}}}"
    )
    given = model("-c", "base.yaml", "--model.train.0.lr", "0.5", "--model.train.1", "head")
    assert given.train == {0: {"train": "head", "lr": 0.5}, 2: "all", 1: "head"}
    changes = {"model.train": {0: "head"}}
    given = model("-c", "base.yaml", changes={**changes, "model.train.1": "all", "model.network_args.widths": [3, 4]})
    assert {int(epoch): trains for epoch, trains in given.train.items()} == {0: "head", 1: "all"}
    assert given.network_args == {"widths": [3, 4]}


def test_what_is_no_mapping_is_not_replaced_by_one(capsys) -> None:
    assert main(["fit", *SCRATCH, "--model.train", "{0: {train: head}, 2: all}", "--model.train.2.lr", "0.5"]) == 2
    told = "--model.train.2.lr reaches into model.train.2, which is 'all' and no mapping: give --model.train.2 as a"
    assert told in capsys.readouterr().err


def test_a_search_of_what_lies_in_a_mapping(workdir: Path, capsys) -> None:
    auxiliary = (
        "{auxiliary: {groups: {a: [T-shirt/top, Pullover, Dress, Trouser, Coat], b: [Sandal, Shirt, Sneaker, "
        "Bag, Ankle boot]}}}"
    )
    args = [*SCRATCH, "--model.terms", auxiliary]
    assert parse("fit", [*args, "--search", "{model.terms.auxiliary.weight: [0.5, 2]}"]).search
    assert main(["fit", *args, "--search", "{model.terms.auxiliary.weight: [0.5, many]}"]) == 2
    assert "weight is 'many', a number is needed" in capsys.readouterr().err
