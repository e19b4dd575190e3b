"""Objectives that need other runs, from the command line: by name, with and without the cache, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ..conftest import Fit

GROUPS = "{tops: [T-shirt/top, Pullover, Dress, Coat, Shirt], shoes: [Sandal, Sneaker, Ankle boot]}"
LOSS, WEIGHT = 2e-5, 2e-4  # as of tests/test_cache.py


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"lightning_logs/{name}/version_0/run.json").read_text())
    return found


def losses(name: str) -> list[float]:
    with Path(f"lightning_logs/{name}/version_0/metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def state(name: str, version: int = 0) -> dict[str, torch.Tensor]:
    kept: dict[str, Any] = torch.load(f"checkpoints/{name}/version_{version}/last.ckpt", weights_only=True)
    found: dict[str, torch.Tensor] = kept["state_dict"]
    return found


@pytest.mark.slow
def test_a_run_by_name_teaches_smooths_and_chooses_pairs(fit: Fit, workdir: Path, capsys) -> None:
    assert fit(name="big") == 0
    flags = ["--model.terms", "{distillation: {teachers: [big], weight: 0.5}, l2_sp: {alpha: 0.1}}"]
    flags += ["--model.label_smoothing", "0.1", "--model.smoothing_confusion", "big"]
    flags += ["--data.mix", "{mixup: 0.2, cutmix: 1.0, pairs: big}"]
    capsys.readouterr()
    assert fit(*flags, "--model.train", "head", name="small") == 0
    out = capsys.readouterr().out
    assert "mixed pairs: " in out
    assert "cache: not used, training images are mixed (data.mix)" in out
    assert record("small")["model"]["objective"] == "CrossEntropy + distillation + l2_sp"
    config = yaml.safe_load(Path("lightning_logs/small/version_0/config.yaml").read_text())
    best = str(Path("checkpoints", "big", "version_0", "best.ckpt"))
    assert config["data"]["mix"]["pairs"] == best
    assert config["model"]["init_args"]["smoothing_confusion"] == best
    assert config["model"]["init_args"]["terms"]["distillation"]["teachers"] == [best]
    assert fit("-c", "lightning_logs/small/version_0/config.yaml") == 0
    for key, value in state("small").items():
        assert torch.equal(value, state("small", 1)[key]), key


@pytest.mark.slow
@pytest.mark.thorough
def test_terms_on_cached_features_are_those_on_images(fit: Fit, workdir: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(workdir / "cache"))
    assert fit(name="big") == 0
    terms = f"{{distillation: {{teachers: big}}, auxiliary: {{groups: {GROUPS}}}, l2_sp: {{}}}}"
    flags = ["--model.terms", terms, "--model.train", "{0: head, 1: 1, 2: 2}", "--data.augment.hflip", "0.5"]
    for mode in ("off", "require"):
        assert fit(*flags, "--cache", mode, name=mode, epochs=3) == 0
    assert capsys.readouterr().out.count(" says of 110 images computed, 2 views") == 2
    assert fit(*flags, name="again", epochs=3) == 0
    assert "computed" not in capsys.readouterr().out
    assert losses("again") == losses("require")
    assert losses("require") == pytest.approx(losses("off"), abs=LOSS)
    for key, value in state("off").items():
        torch.testing.assert_close(state("require")[key], value, atol=WEIGHT, rtol=WEIGHT)
    # A run without the auxiliary head, and another with it, start from one that has it.
    start = ["--model.init_from", "off", "--model.train", "head"]
    assert fit(*start, name="plain") == 0
    assert fit(*start, "--model.terms", f"{{auxiliary: {{groups: {GROUPS}}}}}", name="with") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.terms", "{distillation: {teachers: other}}"], "tells the classes"),
        (["--model.terms", "{distillation: {teachers: othr}}"], "othr"),
        (["--model.terms", "{distillation: {teachers: gone.ckpt}}"], "there is no checkpoint gone.ckpt"),
        (["--model.label_smoothing", "0.1", "--model.smoothing_confusion", "other"], "tells the classes"),
        (["--model.label_smoothing", "0.1", "--model.smoothing_confusion", "[[1, 2], [3, 4]]"], "it needs 10 rows"),
        (["--data.mix", "{mixup: 1, pairs: other}"], "tells the classes"),
        (["--data.mix", "{mixup: 1, pairs: othr}"], "othr"),
        (["--data.mix", "{mixup: 1, pairs: [[Coat, Shrt]]}"], "unknown class 'Shrt'; did you mean 'Shirt'"),
        (["--data.mix", "{mixup: -1}"], "data.mix.mixup is -1"),
        (["--data.mix", "{mixup: 0.2}", "--model.train", "head", "--cache", "require"], "training images are mixed"),
        (["--model.terms", "{auxiliary: {groups: {a: [Shrt]}}}"], "unknown class 'Shrt'"),
    ],
)
@pytest.mark.thorough(keep=4)
def test_what_does_not_fit_is_one_message_and_leaves_nothing(
    fit: Fit, workdir: Path, capsys, flags: list[str], message: str
) -> None:
    if "other" in " ".join(flags):
        photographs = ["--data.source", "SyntheticObjects", "--data.source.num_train", "120"]
        assert fit(*photographs, name="other") == 0
    capsys.readouterr()
    assert fit(*flags, name="small") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("fashion-tl: error: ")
    assert len(err.splitlines()) == 1
    assert not Path("lightning_logs/small").exists()
    assert not Path("checkpoints/small").exists()


@pytest.mark.slow
def test_what_cannot_be_sent_to_a_spawned_process_is_one_message(fit: Fit, workdir: Path, capsys) -> None:
    adapted = ["--model.lora", "{rank: 2}", "--model.train", "lora"]
    assert fit(*adapted, name="taught") == 0
    spawned = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp_spawn"]
    for flags in (adapted, ["--model.terms", "{distillation: {teachers: taught}}"]):
        capsys.readouterr()
        assert fit(*flags, *spawned, name="small") == 2
        (err,) = capsys.readouterr().err.splitlines()
        assert "Use --trainer.strategy ddp." in err
        assert not Path("lightning_logs/small").exists()
        assert not Path("checkpoints/small").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.label_smoothing", "0.1", "--model.smoothing_confusion", "big"], "smoothing_confusion (weights)"),
        (["--model.terms", "{distillation: {teachers: big}}"], "terms.distillation.teachers (weights)"),
    ],
)
@pytest.mark.thorough
def test_a_run_does_not_go_on_with_what_another_checkpoint_tells(
    fit: Fit, workdir: Path, capsys, flags: list[str], message: str
) -> None:
    for name, seed in (("big", "0"), ("other", "1")):
        assert fit("--seed_everything", seed, name=name) == 0
    assert fit(*flags, name="small") == 0
    going_on = ["--ckpt_path", "checkpoints/small/version_0/last.ckpt"]
    assert fit(*flags, *going_on, name="small", epochs=2) == 0
    for file in Path("checkpoints/other/version_0").glob("best.ckpt*"):
        shutil.copy(file, Path("checkpoints/big/version_0", file.name))
    capsys.readouterr()
    assert fit(*flags, *going_on, name="small", epochs=2) == 2
    assert f"model.{message}: " in capsys.readouterr().err
