"""Small finished runs, trained once: a start, two fine-tuned from it, and some that do not belong with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fashion_tl.cli import main

TRANSFER = ("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false")
SCRATCH = ("--model", "ScratchClassifier", "--model.network", "plain", "--model.network_args={widths: [4, 8]}")
GARMENTS = ("--data.source", "SyntheticGarments", "--data.source.num_train", "300")


def fit(name: str, *args: str, seed: int = 0, source: tuple[str, ...] = GARMENTS) -> None:
    """Train a run in the working directory."""
    trainer = ("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false")
    small = ("--data.image_size", "32", "--data.batch_size", "32", "--data.val_fraction", "0.3")
    assert main(["fit", "--name", name, "--seed_everything", str(seed), *source, *small, *trainer, *args]) == 0


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs "start", "one", "two" (both from "start"), "other", "other2", "split", "tested", ...

    From "start" are also "pulled" (l2_sp), "moving" (ema), and "adapted" and "scaled", whose adapters differ in alpha.
    """
    folder: Path = tmp_path_factory.mktemp("combine")
    before = Path.cwd()
    os.chdir(folder)

    try:
        fit("start", *TRANSFER, "--model.train", "head")
        fit("one", *TRANSFER, "--model.init_from", "start")
        fit("two", *TRANSFER, "--model.init_from", "start", seed=1)
        fit("pulled", *TRANSFER, "--model.init_from", "start", "--model.terms={l2_sp: {}}")
        fit("moving", *TRANSFER, "--model.init_from", "start", "--ema", "0.9")
        for name, alpha in (("adapted", 4), ("scaled", 8)):
            lora = (f"--model.lora={{rank: 2, alpha: {alpha}}}", "--model.train", "lora")
            fit(name, *TRANSFER, "--model.init_from", "start", *lora)
        fit("other", *SCRATCH)
        fit("other2", *SCRATCH, seed=1)
        fit("split", *SCRATCH, "--data.split_seed", "1")
        fit("tested", *SCRATCH, "--data.source.num_test", "50")
        fit("objects", *SCRATCH, source=("--data.source", "SyntheticObjects", "--data.source.num_train", "300"))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="session")
def calibrated(folder: Path) -> tuple[str, str]:
    """Two runs that have been calibrated."""
    for name in ("one", "other"):
        places = ["--log_dir", str(folder / "lightning_logs"), "--checkpoint_dir", str(folder / "checkpoints")]
        assert main(["diagnose", name, *places]) == 0
    return "one", "other"


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in the folder of the runs; returns the exit status."""
    monkeypatch.chdir(folder)
    return lambda *args: main(list(args))


def found(folder: Path) -> dict[str, int]:
    """List the files below a folder with their sizes; logits of validation images are kept for later commands."""
    paths = [path for path in folder.rglob("*") if path.name != "val_predictions.npz"]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths if path.is_file()}
