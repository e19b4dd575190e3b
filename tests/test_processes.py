"""Two processes on a CPU against one: the same weights, one record, one cache, whichever way they are started."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fashion_tl import ImageDataModule, SyntheticGarments
from fashion_tl.records.record import read_record, write_record
from fashion_tl.seeds import seed_batch
from fashion_tl.training.loading import load_classifier

from .conftest import Fit
from .launch import two_processes

ALONE = (sys.executable, "-m", "fashion_tl")
LAUNCHED = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "fashion_tl")
THREE_PHASES = ("--model.train", "{0: head, 1: layer4, 2: {train: all, lr: 0.02}}", "--model.batch_norm", "eval")
WEIGHTS = ("--model.class_weights", "[9, 1, 1, 1, 1, 1, 1, 1, 1, 0]")  # batches of two processes weigh differently
SHARED = ("--model.optimizer", "sgd", "--model.lr", "0.05", "--data.source.num_test", "41", *WEIGHTS, *THREE_PHASES)
TWO = ("--trainer.accelerator", "cpu", "--trainer.devices", "2")
# Two processes of 16 images each take the batches of one that takes 32.
SMALL = (
    *(
        "--data.source",
        "SyntheticGarments",
        "--data.source.num_train",
        "120",
        "--data.batch_size",
        "16",
        "--data.image_size",
        "32",
    ),
    *("--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false"),
    *("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false"),
)


def start(command: tuple[str, ...], *flags: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "fit", *SMALL, *SHARED, *TWO, *flags], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forked(*flags: str) -> str:
    """As ``start``, from a server that has imported everything."""
    return two_processes("fit", *SMALL, *SHARED, *TWO, *flags)


def weights(name: str) -> dict[str, torch.Tensor]:
    return torch.load(f"checkpoints/{name}/version_0/last.ckpt", weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def rows(name: str) -> list[dict[str, float]]:
    with Path(f"lightning_logs/{name}/version_0/metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_one_run(name: str, alone: str) -> None:
    """One version and one record, which say what one process says."""
    assert [p.name for p in Path(f"lightning_logs/{name}").iterdir()] == ["version_0"]
    record, expected = (read_record(Path(f"lightning_logs/{each}/version_0")) for each in (name, alone))
    assert record["status"] == "completed"
    assert record["environment"]["processes"] == 2
    first, second = weights(name), weights(alone)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=0, msg=key)
    with (
        np.load(f"lightning_logs/{name}/version_0/test_predictions.npz") as ours,
        np.load(f"lightning_logs/{alone}/version_0/test_predictions.npz") as theirs,
    ):
        assert ours["index"].tolist() == list(range(41))
        assert np.array_equal(ours["label"], theirs["label"])
        np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-5)
    assert record["test"]["accuracy"] == expected["test"]["accuracy"]
    for one, two in zip(rows(name), rows(alone), strict=True):
        for key in (
            *("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/balanced_accuracy", "val/macro_f1"),
            *("lr", "images", "step"),
        ):
            assert one[key] == pytest.approx(two[key], abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "strategy"),
    [(ALONE, "ddp"), (ALONE, "ddp_spawn"), (LAUNCHED, "auto")],
    ids=["ddp", "spawn", "torchrun"],
)
@pytest.mark.thorough(keep=1)
def test_two_processes_do_what_one_does(fit: Fit, command: tuple[str, ...], strategy: str) -> None:
    assert fit(*SHARED, name="one", epochs=3) == 0
    out = start(command, "--name", "two", "--trainer.strategy", strategy)
    assert out.count("two version 0: test_resnet") == 1
    for part in ("train", "val"):
        # The first run has computed them; nobody does again.
        assert f"features of {part} below" not in out
    assert_one_run("two", "one")


TRAINED_NORMS = ("--model.train", "{0: head, 1: all}", "--model.batch_norm", "train", "--trainer.strategy", "ddp")


@pytest.mark.slow
@pytest.mark.thorough
def test_batch_norm_of_an_average_is_of_the_images_of_all_processes(workdir: Path) -> None:
    flags = ("--data.val_fraction", "0.2", "--data.source.num_train", "200", "--trainer.max_epochs", "2")
    forked(*TRAINED_NORMS, *flags, "--swa", "0.9", "--name", "two")
    module = load_classifier("checkpoints/two/version_0/last.ckpt")
    data = ImageDataModule(SyntheticGarments(num_train=200), image_size=32, val_fraction=0.2)
    data.setup()
    images = torch.cat(list(data.in_order("train", 100)))
    assert len(images) == 160  # whole batches of both
    first = module.network.get_submodule("backbone.conv1.0")(module.preprocess(images))
    mean = module.network.get_buffer("backbone.conv1.1.running_mean")
    torch.testing.assert_close(mean, first.mean((0, 2, 3)).detach(), atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_end_a_phase_at_the_same_plateau(fit: Fit) -> None:
    phases = "{0: {train: head, lr: 0.0, until: plateau, patience: 1}, 3: ['layer4.*.conv*', head]}"
    flags = ("--model.train", phases, "--trainer.max_epochs", "4")
    assert fit(*SHARED, *flags, name="one", epochs=4) == 0
    forked("--name", "two", "--trainer.strategy", "ddp", *flags)
    assert_one_run("two", "one")
    assert len(rows("two")) == 3
    folder = Path("lightning_logs/two/version_0")
    record = read_record(folder)
    assert [phase["began"] for phase in record["model"]["phases"]] == [0, 2]
    write_record(folder, {**record, "status": "interrupted", "test": None})  # as if killed before the test
    forked("--name", "two", "--trainer.strategy", "ddp", *flags, "--resume", "true")
    assert read_record(folder)["test"] == record["test"]


@pytest.mark.slow
def test_what_a_teacher_says_is_computed_by_one_of_two_processes(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "own"))
    assert fit(*SHARED, name="teacher", epochs=3) == 0
    flags = (
        "--trainer.max_epochs",
        "1",
        "--model.train",
        "head",
        "--model.terms",
        "{distillation: {teachers: teacher}}",
    )
    assert forked("--name", "first", *flags).count("best.ckpt says of") == 1
    assert forked("--name", "second", *flags).count("best.ckpt says of") == 0
    assert rows("first")[0]["train/loss"] == rows("second")[0]["train/loss"]


@pytest.mark.slow
def test_a_search_and_seeds_by_two_processes(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "own"))
    one_epoch = ("--trainer.max_epochs", "1", "--model.train", "head")
    out = forked("--name", "run", "--search", "{model.momentum: [0.5, 0.9]}", "--seeds", "2", *one_epoch)
    assert out.count("search: best is") == 1
    assert out.count("cache: features of train below head computed once") == 2  # one for each seed's own weights
    assert sorted(p.name for p in Path("lightning_logs/run").iterdir()) == ["version_0", "version_1"]
    assert sorted(p.name for p in Path("lightning_logs/run.search").iterdir()) == ["version_0", "version_1"]
    records = [read_record(Path(f"lightning_logs/run/version_{n}")) for n in range(2)]
    assert [record["seed"] for record in records] == [0, 1]
    assert [record["status"] for record in records] == ["completed"] * 2
    assert [p.name for p in Path("lightning_logs/run").glob(".*")] == []


def test_processes_draw_different_augmentation() -> None:
    drawn = []
    for rank in (0, 1):
        seed_batch(3, rank, 0, 0, torch.device("cpu"))
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] != drawn[1]
