"""Mistakes of a user on the command line: one clear message, exit status 2, nothing written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.errors import out_of_range
from fashion_tl.records.record import read_record

from .conftest import Fit


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the message on standard error."""
    error = capsys.readouterr().err.strip()
    assert error.startswith("fashion-tl: error: ")
    assert "Traceback" not in error
    return error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--model", "ScratchClasifier"], ["unknown model 'ScratchClasifier'", "did you mean 'ScratchClassifier'"]),
        (["--model.backbone", "resnet81"], ["unknown backbone 'resnet81'", "did you mean", "resnet18"]),
        (["--model.train", "layer5"], ["unknown stage 'layer5'", "did you mean 'layer4'", "head"]),
        (["--model.train", "9"], ["cannot train the top 9 stages", "0 to 5"]),
        (["--model.train", "{2: head}"], ["first phase must start at epoch 0"]),
        (["--model.train", "{0: {trane: head}}"], ["cannot read the phase", "{0: head, 5: layer4}"]),
        (["--model.optimizer", "adamv"], ["unknown optimizer 'adamv'", "'adamw'", "sgd"]),
        (["--model.schedule", "cosin"], ["unknown schedule 'cosin'", "did you mean 'cosine'", "one_cycle"]),
        (["--model.batch_norm", "trian"], ["unknown batch_norm 'trian'", "'train'"]),
        (["--model.lr", "0"], ["model.lr is 0"]),
        (["--data.source", "FashionMNITS"], ["unknown source 'FashionMNITS'", "did you mean 'FashionMNIST'"]),
        (["--data.interpolation", "bilinar"], ["unknown interpolation", "did you mean 'bilinear'"]),
        (["--data.augment.hflip", "2"], ["hflip is 2", "0 to 1"]),
        (["--data.val_fraction", "2", "--data.batch_size", "0"], ["val_fraction is 2", "batch_size is 0"]),
        (["--data.source", "ImageFolder", "--data.source.root", "nowhere"], ["nowhere", "does not exist"]),
        (["--data.source", "FashionMNIST", "--data.image_size", "2"], ["image_size is 2"]),
        (["--model.backbone", "vgg11", "--data.image_size", "16"], ["16 px do not fit", "--data.image_size"]),
        (["--model.init_from", "phase1"], ["no completed run 'phase1'", "make phase1"]),
        (["--model.init_from", "gone.ckpt"], ["there is no checkpoint gone.ckpt"]),
        (["--ckpt_path", "gone.ckpt"], ["there is no checkpoint gone.ckpt"]),
        (["--model.dropout", "1.5"], ["model.dropout is 1.5", "0 to 1"]),
        (["--monitor", "val/acuracy"], ["unknown monitor", "val/accuracy"]),
        (["--name", "../up"], ["--name '../up'"]),
        (["--trainer.accelerator", "gpuu"], ["gpuu"]),
        (["-c", "gone.yaml"], ["gone.yaml cannot be read"]),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(fit: Fit, workdir: Path, capsys, flags, parts):
    assert fit(*flags) == 2
    error = said(capsys)
    for part in parts:
        assert part in error
    assert list(workdir.rglob("*")) == []


@pytest.mark.parametrize(
    "flags", [["--model.larning_rate", "1"], ["--trainer.max_epochs", "many"], ["--model.lr", "x"]]
)
def test_what_the_parser_refuses_has_status_2(fit: Fit, workdir: Path, capsys, flags):
    assert fit(*flags) == 2
    assert flags[0].removeprefix("--").split(".")[-1] in capsys.readouterr().err
    assert list(workdir.rglob("*")) == []


def test_unknown_verb_suggests(capsys):
    assert main(["fitt"]) == 2
    assert "did you mean 'fit'" in said(capsys)


def test_help_and_version_need_nothing(capsys):
    assert main(["--help"]) == 0
    assert "predict" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fashion-tl ")


def photographs(root: Path) -> Path:
    for part in ("train", "test"):
        for name in ("cats", "dogs"):
            folder = root / "pets" / part / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.new("RGB", (40, 40), (40 * i, 0, 200 if name == "cats" else 0)).save(folder / f"{i}.png")
    return root / "pets"


FOLDER = ("--data.source", "ImageFolder", "--data.source.root", ".", "--data.source.folder", "pets")


@pytest.mark.slow
def test_an_unreadable_image_is_named_or_skipped_and_listed(fit: Fit, workdir: Path, capsys):
    folder = photographs(workdir)
    (folder / "train" / "cats" / "broken.jpg").write_bytes(b"\xff\xd8 not an image")
    assert fit(*FOLDER) == 2
    error = capsys.readouterr().err
    assert "broken.jpg" in error
    assert "--data.source.skip_unreadable" in error
    assert not (workdir / "lightning_logs").exists()
    assert fit(*FOLDER, "--data.source.skip_unreadable", "true") == 0
    skipped = read_record(workdir / "lightning_logs/run/version_0")["data"]["skipped"]
    assert [Path(path).name for path in skipped] == ["broken.jpg"]


def test_an_empty_class_folder_and_one_missing_from_test_are_named(fit: Fit, workdir: Path, capsys):
    folder = photographs(workdir)
    (folder / "train" / "birds").mkdir()
    assert fit(*FOLDER) == 2
    assert "birds" in said(capsys)
    Image.new("RGB", (40, 40)).save(folder / "train" / "birds" / "0.png")
    assert fit(*FOLDER) == 2
    assert "birds" in said(capsys)
    assert not (workdir / "lightning_logs").exists()


@pytest.mark.slow
def test_phase_2_refuses_a_phase_1_of_another_backbone_or_other_classes(fit: Fit, workdir: Path, capsys):
    assert fit("--model.train", "head", name="phase1") == 0
    photographs(workdir)
    capsys.readouterr()
    assert fit("--model.init_from", "phase1", "--model.backbone", "test_vit", "--data.image_size", "160") == 2
    error = said(capsys)
    assert "test_resnet" in error
    assert "test_vit" in error
    assert fit("--model.init_from", "phase1", *FOLDER) == 2
    assert "other classes" in said(capsys)
    assert sorted(p.name for p in (workdir / "lightning_logs").iterdir()) == ["phase1", "test_sets"]


def test_too_little_room_on_the_disk_is_said_before_anything_is_written(fit: Fit, workdir: Path, capsys, monkeypatch):
    import shutil

    usage = shutil.disk_usage(workdir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    assert fit() == 2
    assert "1 MiB free" in said(capsys)
    assert list(workdir.rglob("*")) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_run_is_named_and_the_record_says_so(
    fit: Fit, workdir: Path, capsys, monkeypatch
):
    from lightning.pytorch import Trainer

    save = Trainer.save_checkpoint

    def full(trainer, path, *args, **kwargs):
        if "best" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(trainer, path, *args, **kwargs)

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    assert fit() == 2
    error = said(capsys)
    assert "the disk is full" in error
    assert "best.ckpt" in error
    record = read_record(workdir / "lightning_logs/run/version_0")
    assert record["status"] == "failed"
    assert "No space left" in record["reason"]
    assert not (workdir / "checkpoints/run/version_0/best.ckpt").exists()


def test_what_is_no_number_is_told_as_such() -> None:
    ranges = {"a": ("2", 0, 1), "b": ([1], 0, 1), "c": (2, 0, 1), "d": (None, 0, 1), "e": (0.5, 0, 1)}
    assert out_of_range(ranges, "x.") == [  # type: ignore[arg-type]
        "x.a is '2', a number is needed",
        "x.b is [1], a number is needed",
        "x.c is 2, allowed is 0 to 1",
    ]
