"""``fashion-tl probe`` on a few synthetic garments: its files, its checkpoint, what a user can get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fashion_tl.cache.store import CacheWriteError
from fashion_tl.cli import main
from fashion_tl.features.extraction import Extraction
from fashion_tl.inspection.run import open_run
from fashion_tl.models.split import SplitError
from fashion_tl.probe.verb import Probe
from fashion_tl.probe.verb import probe as solve
from fashion_tl.training.loading import load_classifier

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "data": {"source": {"class_path": "SyntheticGarments", "init_args": {"num_train": 150}}, "image_size": 32},
    "model": {"class_path": "TransferClassifier", "init_args": {"backbone": "test_resnet", "pretrained": False}},
}
VIT = {"backbone": "test_vit", "pretrained": False}


def changes(folder: Path) -> dict[str, str]:
    return {"log_dir": str(folder / "logs"), "checkpoint_dir": str(folder / "checkpoints")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def found(folder) -> Probe:
    return solve({**SMALL, "name": "other"}, {**changes(folder), "pool": "both", "knn": True})


def test_it_leaves_these_files_and_no_others(folder, found) -> None:
    assert found.paths.name == "probe"  # the name in a file is that of its training
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    logs = "logs/probe/version_0"
    own = {f"{logs}/{name}" for name in ("run.json", "config.yaml", "test_predictions.npz")}
    own |= {f"{logs}/analysis/{name}" for name in ("probe.json", "probe-depth.png")}
    shared = {path for path in files if path.startswith("logs/test_sets/")}
    assert files == own | shared | {"checkpoints/probe/version_0/best.ckpt"}
    assert len(shared) == 1
    document = json.loads((folder / logs / "analysis" / "probe.json").read_text())
    stages = document["figures"]["stages"]
    assert [stage["boundary"] for stage in stages] == ["layer1", "layer2", "layer3", "layer4", "head"]
    assert all(stage["converged"] and stage["gradient"] <= 1e-5 for stage in stages)
    for table in document["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])


def test_what_a_probe_does_not_follow_is_told_and_recorded(folder, found, capsys) -> None:
    assert found.record["left_aside"] == []
    settings = {"model.class_weights": "balanced", "model.label_smoothing": 0.1, "data.mix": {"mixup": 0.2}}
    again = solve({**SMALL, "name": "other"}, {**changes(folder), **settings, "name": "aside"})
    assert again.record["left_aside"] == ["model.class_weights", "model.label_smoothing", "data.mix"]
    assert "left aside: model.class_weights, model.label_smoothing, data.mix; a probe" in capsys.readouterr().out
    assert again.record["test"] == found.record["test"]


def test_the_checkpoint_gives_the_recorded_logits(folder, found) -> None:
    opened = open_run("probe", folder / "logs", folder / "checkpoints")
    module = opened.module.eval()
    with np.load(found.paths.logs / "test_predictions.npz") as file:
        index, label, logits = file["index"], file["label"], file["logits"]
    assert (label == opened.labels).all()
    with torch.inference_mode():
        recomputed = module(module.preprocess(opened.images(index))).numpy()
    np.testing.assert_allclose(recomputed, logits, atol=2e-4)
    accuracy = np.mean(recomputed.argmax(1) == label)
    assert found.record["test"]["accuracy"] == accuracy == found.stages[-1].accuracy["test"]


def test_training_starts_from_the_checkpoint(folder, found, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    places = ("--log_dir", "logs2", "--checkpoint_dir", "checkpoints", "--trainer.enable_progress_bar", "false")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    args = ("fit", "-c", str(config), "--model.init_from", str(found.paths.best), "--model.train", "head")
    assert main([*args, "--name", "next", "--model.lr", "1e-12", "--trainer.max_epochs", "1", *places]) == 0
    record = json.loads((folder / "logs2" / "next" / "version_0" / "run.json").read_text())
    assert record["test"]["accuracy"] == found.record["test"]["accuracy"]
    assert str(found.paths.best) in record["model"]["weights"]


def test_the_report_and_the_list_show_it(folder, found, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert main(["runs", "--log_dir", "logs"]) == 0
    assert "probe" in capsys.readouterr().out
    assert main(["compare", "--log_dir", "logs", "--output", "reports"]) == 0
    page = (folder / "reports" / "index.html").read_text()
    assert "Linear probes by depth" in page
    assert "head solved on frozen features" in page


def test_a_second_call_computes_no_features(folder, found, monkeypatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(Extraction, "_compute", refuse)
    again = solve(SMALL, {**changes(folder), "pool": "both", "name": "again"})
    assert again.paths.name == "again"
    for one, other in zip(found.stages, again.stages, strict=True):
        assert one.accuracy == other.accuracy
        assert torch.equal(one.weight, other.weight)


def test_features_are_those_of_the_network_in_eval_mode(folder, found) -> None:
    module = load_classifier(found.paths.best)
    opened = open_run("probe", folder / "logs", folder / "checkpoints")
    images = opened.images(np.arange(8))
    backbone = module.network.backbone
    with torch.inference_mode():
        features = backbone(module.preprocess(images))
    logits = features @ found.stages[-1].weight.T + found.stages[-1].bias
    np.testing.assert_allclose(logits.numpy(), found.stages[-1].test_logits[:8], atol=2e-4)


@pytest.mark.parametrize(
    "model",
    [{"class_path": "TransferClassifier", "init_args": VIT}, {"class_path": "ScratchClassifier"}],
    ids=["tokens", "scratch"],
)
def test_any_network_with_a_linear_head(tmp_path, model) -> None:
    found = solve({**SMALL, "model": model}, changes(tmp_path))
    assert len(found.stages) >= 2
    assert found.stages[-1].boundary == len(load_classifier(found.paths.best).network.stage_names)


def test_a_network_from_a_checkpoint(folder, found, tmp_path) -> None:
    again = solve(SMALL, {**changes(tmp_path), "ckpt_path": str(found.paths.best), "pool": "both"})
    assert again.record["test"]["accuracy"] == found.record["test"]["accuracy"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--pool", "men"), "did you mean 'mean'"),
        (("--strengths", "[]"), "strengths is an empty list"),
        (("--strengths", "[0.1, -1]"), "strengths[1] is -1"),
        (("--strengths", "[many]"), "strengths"),
        (("--seeds", "3"), "--seeds is for training"),
        (("--resume", "true"), "--resume is for training"),
        (("--model.init_from", "probe"), "no completed run 'probe'"),
        (("--poll", "max"), "--pool"),
    ],
)
def test_wrong_input_is_told_and_leaves_nothing(
    args: tuple[str, ...], words: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = workdir / "small.yaml"
    config.write_text(yaml.safe_dump(SMALL))
    assert main(["probe", "-c", str(config), *args]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert [path.name for path in workdir.iterdir()] == ["small.yaml"]


def test_a_head_that_is_not_linear_is_refused(workdir: Path, monkeypatch, capsys) -> None:
    (workdir / "deep_head.py").write_text(
        "from torch import nn\nfrom fashion_tl import TransferClassifier\n\n\n"
        "class Deep(TransferClassifier):\n    caches_features = True\n\n"
        "    def build(self, network, *rest):\n"
        "        width = network.head[-1].in_features\n"
        "        network.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), network.head[-1])\n"
        "        super().build(network, *rest)\n"
    )
    monkeypatch.syspath_prepend(str(workdir))
    model = {**SMALL["model"], "class_path": "deep_head.Deep"}
    (workdir / "small.yaml").write_text(yaml.safe_dump({**SMALL, "model": model}))
    assert main(["probe", "-c", "small.yaml"]) == 2
    assert "the head of Deep is no linear layer with a bias" in capsys.readouterr().err
    assert not (workdir / "lightning_logs").exists()


def test_a_name_among_arguments_is_taken(workdir: Path) -> None:
    (workdir / "small.yaml").write_text(yaml.safe_dump(SMALL))
    assert solve(["-c", "small.yaml", "--name", "mine"]).paths.name == "mine"
    assert solve(["-c", "small.yaml"]).paths.name == "probe"


def test_a_full_cache_is_told_where_stages_are_read_one_by_one(workdir: Path, monkeypatch, capsys) -> None:
    def ensure(self: Extraction, *args: object) -> None:
        raise SplitError("not at once") if len(self.functions) > 1 else CacheWriteError("the disk is full")

    monkeypatch.setattr(Extraction, "ensure", ensure)
    (workdir / "small.yaml").write_text(yaml.safe_dump(SMALL))
    assert main(["probe", "-c", "small.yaml"]) == 2
    assert "the disk is full. `fashion-tl cache clear` frees space" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_told(workdir: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", "0.000001")
    (workdir / "small.yaml").write_text(yaml.safe_dump({**SMALL, "seed_everything": 5}))
    assert main(["probe", "-c", "small.yaml"]) == 2
    assert "FASHION_TL_CACHE_LIMIT" in capsys.readouterr().err
    assert not (workdir / "lightning_logs").exists()
