"""What takes another path on a GPU; skipped without one (`pytest -m gpu`)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fashion_tl.cli import main
from fashion_tl.records.record import read_record

from .conftest import Fit

pytestmark = pytest.mark.gpu
GPU = ("--trainer.accelerator", "gpu", "--trainer.devices", "1")
CPU = ("--trainer.accelerator", "cpu")


@pytest.fixture(autouse=True)
def _(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))


def losses(name: str) -> list[float]:
    with Path(f"lightning_logs/{name}/version_0/metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) for key in ("train/loss", "val/loss")]


def logits(name: str) -> Any:
    return np.load(f"lightning_logs/{name}/version_0/test_predictions.npz")["logits"]


@pytest.mark.parametrize("train", ["all", "head", "{0: head, 1: layer4}"])
@pytest.mark.parametrize("cache", ["auto", "off"])
def test_a_run_on_the_gpu_is_the_run_on_the_cpu(fit: Fit, train: str, cache: str) -> None:
    flags = ["--model.train", train, "--model.optimizer", "sgd", "--model.lr", "0.01", "--cache", cache]
    flags += ["--trainer.precision", "32-true"]
    for name, device in (("cpu", CPU), ("gpu", GPU)):
        assert fit(*flags, *device, name=name, epochs=2) == 0
    assert losses("gpu") == pytest.approx(losses("cpu"), abs=2e-2)
    assert np.abs(logits("gpu") - logits("cpu")).max() < 0.1
    record = read_record(Path("lightning_logs/gpu/version_0"))
    assert record["environment"]["device"] == torch.cuda.get_device_name()
    assert record["peak_memory_bytes"] > 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_cached_features_in_half_precision(fit: Fit, precision: str) -> None:
    flags = ("--model.train", "head", "--trainer.precision", precision, *GPU)
    for cache in ("require", "off"):
        assert fit(*flags, "--cache", cache, name=cache, epochs=2) == 0
    assert losses("require") == pytest.approx(losses("off"), abs=5e-2)


def test_a_stopped_run_goes_on(fit: Fit, stop_at: Any) -> None:
    flags = ("--model.train", "{0: head, 1: layer4}", "--data.augment.hflip", "0.5", *GPU)
    assert fit(*flags, name="whole", epochs=3) == 0
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*flags, name="part", epochs=3) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit(*flags, "--ckpt_path", "last", name="part", epochs=3) == 0
    assert losses("part") == pytest.approx(losses("whole"), abs=1e-3)


@pytest.mark.slow
def test_compiled_code_follows_a_change_of_phase(fit: Fit) -> None:
    flags = ("--model.train", "{0: head, 1: layer4}", "--model.optimizer", "sgd", "--model.lr", "0.01", *GPU)
    assert fit(*flags, name="plain", epochs=2) == 0
    assert fit(*flags, "--compile", "true", name="compiled", epochs=2) == 0
    assert losses("compiled") == pytest.approx(losses("plain"), abs=1e-2)


def test_finished_runs_are_looked_into_on_the_gpu(fit: Fit) -> None:
    assert fit("--model.train", "head", *GPU) == 0
    for verb in ("diagnose", "explain", "robustness"):
        assert main([verb, "run", *(("--images", "20") if verb == "robustness" else ())]) == 0
