"""Every experiment under experiments/ runs, on tiny data and with a tiny backbone."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.records.record import read_record, write_record
from fashion_tl.runs.parser import parse

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = sorted(
    p
    for p in FOLDER.rglob("*.yaml")
    if p.name not in ("base.yaml", "budgets.yaml", "additions.yaml", "additions_more.yaml", "boundaries.yaml")
    and p.parent.name != "tuning"  # spaces of a search: tests/tuning
)


def content(path: Path) -> dict[str, Any]:
    """Read an experiment with all that it extends."""
    own: dict[str, Any] = yaml.safe_load(path.read_text())
    base = content(path.parent / own["extends"]) if "extends" in own else {}
    merged = {**base, **own}
    for key in ("data", "model", "trainer"):
        merged[key] = {**base.get(key, {}), **own.get(key, {})}
    arguments = [given.get("model", {}).get("init_args", {}) for given in (base, own)]
    return {**merged, "model": {**merged["model"], "init_args": {**arguments[0], **arguments[1]}}}


def flags(path: Path) -> list[str]:
    """Return the flags that make an experiment tiny without leaving out any of its settings but the sizes."""
    settings = content(path)
    tiny = ["--trainer.limit_train_batches", "2", "--trainer.enable_progress_bar", "false", "--data.batch_size", "16"]
    data = settings.get("data", {})
    source = data["source"] if isinstance(data["source"], str) else data["source"]["class_path"]
    if source == "ImageFolder":
        tiny += ["--data.image_size", "32"]
    else:
        name = "SyntheticObjects" if source == "SyntheticObjects" else "SyntheticGarments"
        tiny += ["--data.source", name, "--data.source.num_train", "120", "--data.source.num_test", "40"]
    train = settings["model"].get("init_args", {}).get("train")
    tiny += ["--trainer.max_epochs", str(2 + max(train if isinstance(train, dict) else [0]))]
    if settings.get("model", {}).get("class_path") != "ScratchClassifier":
        tiny += ["--model.backbone", "test_resnet", "--model.pretrained", "false"]
        tiny += [] if source == "ImageFolder" else ["--data.image_size", "32"]
    return tiny


def write_photographs(root: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cats", "dogs"):
            folder = root / "cats_vs_dogs" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8, generator=generator)
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(FOLDER)) for p in FILES])
@pytest.mark.thorough(keep=3)
def test_experiment_runs(path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "FASHION_TL_DATA_DIR", str(workdir))
    write_photographs(workdir)
    settings = content(path)["model"]["init_args"]
    start = settings.get("init_from") or settings.get("terms", {}).get("distillation", {}).get("teachers")
    if start:
        before = next(p for p in FILES if content(p)["name"] == start)
        assert main(["fit", "-c", str(before), *flags(before)]) == 0
    assert main(["fit", "-c", str(path), *flags(path)]) == 0
    record = read_record(next((workdir / "lightning_logs" / content(path)["name"]).iterdir()))
    assert record["status"] == "completed"
    assert all(phase["trained_parameters"] > 0 for phase in record["model"]["phases"])
    assert record["study"] == content(path).get("study")


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(FOLDER)) for p in FILES])
def test_experiment_is_allowed_holds_differences_only_and_says_what_it_asks(path: Path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# Question: ")
    assert any(line.startswith("# Command:") for line in lines)
    assert sum(not line.startswith("#") for line in lines) <= 30
    assert yaml.safe_load(path.read_text())["extends"]
    assert parse("fit", ["-c", str(path), *flags(path)]).name == content(path)["name"]


@pytest.fixture
def studies(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    """The programme behind ``make studies``, whose runs only note their command; those of the set fail."""
    spec = importlib.util.spec_from_file_location("experiments_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    commands: list[list[str]] = []
    failing: set[str] = set()

    def call(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, int(Path(command[command.index("-c") + 1]).stem in failing))

    monkeypatch.setattr(module.subprocess, "run", call)
    return module.main, commands, failing


def test_studies_go_on_after_a_failure_and_hand_on_other_flags(studies, capsys):
    run, commands, failing = studies
    failing.add("light_cnn")
    assert run(["studies", "--quick", "--seeds", "3", "--trainer.accelerator", "cpu"]) == 1
    assert len(commands) == len(list((FOLDER / "studies").glob("*.yaml")))
    assert all(command[-4:] == ["--seeds=3", "--resume=true", "--trainer.accelerator", "cpu"] for command in commands)
    assert any("--model.pretrained" in command for command in commands)
    outcome = capsys.readouterr().out
    assert "light_cnn" in outcome
    assert "failed with status 1" in outcome


@pytest.mark.parametrize(("status", "signalled"), [(130, False), (1, True)])
def test_ctrl_c_ends_with_what_became_of_each(
    studies, status: int, signalled: bool, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    run, *_ = studies

    def call(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        if "light_cnn" not in command[command.index("-c") + 1]:
            return subprocess.CompletedProcess(command, 0)
        if signalled:  # a terminal tells both, and the run may have been about to end
            signal.raise_signal(signal.SIGINT)
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", call)
    names = ("standard_cnn", "light_cnn", "four_layer_cnn")
    assert run(["studies", *(part for name in names for part in ("--only", name))]) == 130
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-3:]]
    assert told == [["standard_cnn", "done"], ["light_cnn", "stopped"], ["four_layer_cnn", "not begun"]]


def test_one_study_is_chosen_by_name_and_what_is_done_is_skipped(studies, workdir: Path, capsys):
    run, commands, _ = studies
    assert run(["studies", "--only", "light_cnn", "--backbone", "resnet18"]) == 0
    assert [Path(command[command.index("-c") + 1]).stem for command in commands] == ["light_cnn"]
    assert "--model.backbone" not in commands[0]
    assert run(["studies", "--only", "light_cmm"]) == 2
    assert "light_cnn" in capsys.readouterr().err
    done = workdir / "lightning_logs/light_cnn/version_0"
    write_record(done, {"status": "completed"})
    (workdir / "checkpoints/light_cnn/version_0").mkdir(parents=True)
    (workdir / "checkpoints/light_cnn/version_0/best.ckpt").touch()
    commands.clear()
    assert run(["studies"]) == 0
    assert "light_cnn" not in [Path(command[command.index("-c") + 1]).stem for command in commands]
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "backbone", "name"),
    [
        ((), None, "resnet18_frozen"),
        (("--backbone", "local-dir:/w/tf_x.in1k"), "local-dir:/w/tf_x.in1k", "resnet18_frozen.tf_x"),
        (("--backbone", "resnet50.a1_in1k"), "resnet50.a1_in1k", "resnet18_frozen.resnet50"),
        (("--weights", "/w"), "local-dir:/w/resnet18.tv_in1k", "resnet18_frozen"),
    ],
)
def test_a_run_with_another_backbone_says_so_in_its_name(studies, given, backbone, name) -> None:
    run, commands, _ = studies
    assert run(["studies", "--only", "resnet18_frozen", *given]) == 0
    command = commands[0]
    assert command[command.index("--name") + 1] == name
    assert (command[command.index("--model.backbone") + 1] if "--model.backbone" in command else None) == backbone


def test_recipes_are_run_with_seeds_and_the_probe_is_solved_once(studies) -> None:
    run, commands, _ = studies
    assert run(["best", "--seeds", "3", "--processes", "2"]) == 0
    verbs = {Path(command[command.index("-c") + 1]).stem: command[3] for command in commands}
    assert set(verbs) == {path.stem for path in (FOLDER / "best").glob("*.yaml")}
    assert {stem for stem, verb in verbs.items() if verb == "probe"} == {"lite0_probe"}
    names = [command[command.index("--name") + 1] for command in commands]
    for path in (FOLDER / "best").glob("*.yaml"):  # a teacher is trained before its students
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        terms = settings.get("model", {}).get("init_args", {}).get("terms", {})
        if "distillation" in terms:
            assert names.index(terms["distillation"]["teachers"]) < names.index(settings["name"])
    for command in commands:
        assert ("--seeds=3" in command and "--processes=2" in command) == (command[3] == "fit")


@pytest.mark.parametrize(
    ("times", "given", "expected"), [(8, (), ["32-true"]), (1, (), []), (8, ("16-mixed",), ["16-mixed"])]
)
def test_recipes_give_up_half_precision_where_it_is_slow(studies, slow_halves, times, given, expected, capsys) -> None:
    run, commands, _ = studies
    slow_halves(times)
    flags = [f"--trainer.precision={value}" for value in given]
    assert run(["best", "--only", "scratch", "--only", "lite0", *flags]) == 0
    for command, wanted in zip(commands, [expected, list(given)], strict=True):
        parts = [part for flag in command for part in flag.split("=")]
        assert [parts[i + 1] for i, part in enumerate(parts) if part == "--trainer.precision"] == wanted
    assert ("8 times as long" in capsys.readouterr().out) == (expected == ["32-true"])
