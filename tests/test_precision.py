"""Whole runs in the precisions of the trainer: what is prepared and augmented fits the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fashion_tl.records.record import read_record

from .conftest import Fit

AUGMENTED = (
    "--data.augment",
    "{hflip: 0.5, translate: 2, rotation: 10, brightness: 0.2, contrast: 0.2, random_erasing: 0.5}",
)
TRUE_HALF = ("bf16-true", "16-true")


@pytest.mark.slow
@pytest.mark.parametrize("augmented", [(), AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("precision", [*TRUE_HALF, "bf16-mixed", "64-true"])
@pytest.mark.thorough(keep=2)
def test_a_run_is_completed_in_every_precision(fit: Fit, precision, augmented):
    assert fit("--trainer.precision", precision, "--model.optimizer", "sgd", *augmented, epochs=2) == 0
    record = read_record(Path("lightning_logs/run/version_0"))
    assert (record["status"], record["environment"]["precision"]) == ("completed", precision)
    assert all(math.isfinite(record["test"][name]) for name in ("accuracy", "loss", "macro_f1", "calibration_error"))
    with np.load("lightning_logs/run/version_0/test_predictions.npz") as file:
        assert np.isfinite(file["logits"]).all()
        assert file["logits"].std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", TRUE_HALF)
def test_a_checkpoint_keeps_exact_statistics_and_scratch_networks_train_too(fit: Fit, precision):
    mean = ("--model.mean", "[0.485, 0.456, 0.406]", "--model.optimizer", "sgd")
    assert fit("--trainer.precision", precision, *mean) == 0
    saved = torch.load("checkpoints/run/version_0/best.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["mean"] == pytest.approx([0.485, 0.456, 0.406], rel=1e-6)
    flags = ("--trainer.precision", precision, "--model.optimizer", "sgd")
    small = ("--model.network", "plain", "--model.network_args", "{widths: [3, 4]}")
    assert fit(*flags, *small, classifier="ScratchClassifier", name="scratch") == 0
    assert read_record(Path("lightning_logs/scratch/version_0"))["status"] == "completed"


def test_wrong_statistics_are_told_with_their_key(fit: Fit, capsys):
    assert fit("--model.mean", "[0.5, 0.5]", "--model.std", "[0.2, 0.0, 0.2]") == 2
    told = capsys.readouterr().err
    assert "model.mean has 2 values; the network takes 3 channels: give 1 or 3" in told
    assert "model.std is [0.2, 0.0, 0.2]" in told
    assert not Path("lightning_logs").exists()


@pytest.mark.slow
def test_a_network_of_four_channels_takes_grey_images(fit: Fit):
    assert fit("--model.backbone_args", "{in_chans: 4}") == 0
    assert read_record(Path("lightning_logs/run/version_0"))["model"]["input"]["channels"] == 4


def test_a_precision_that_is_slow_here_is_told_once(fit: Fit, slow_halves: Callable[[float], None], capsys):
    slow_halves(9)
    assert fit("--trainer.precision", "bf16-mixed", "--seeds", "2") == 0
    told = capsys.readouterr().out
    assert told.count("precision: bf16-mixed takes 9 times as long as 32-true on this processor") == 1
    assert "--trainer.precision 32-true is faster" in told
    assert fit("--trainer.precision", "32-true", name="other") == 0
    assert "precision:" not in capsys.readouterr().out
