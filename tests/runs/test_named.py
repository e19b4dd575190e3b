"""Runs that name runs: which version a name stands for, and that several seeds repeat the whole way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fashion_tl.records.record import INTERRUPTED, read_record, versions, write_record
from fashion_tl.report.sections import collect
from fashion_tl.runs.named import checkpoint_of
from fashion_tl.runs.parser import parse

from ..conftest import Fit

LOGS, CHECKPOINTS = Path("lightning_logs"), Path("checkpoints")
FROM_FIRST = ("--model.train", "layer4", "--model.init_from", "first")
TAUGHT = ("--model.terms", "{distillation: {teachers: [first, first]}}", "--model.init_from", "second")


def config_of(name: str, version: int) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((LOGS / name / f"version_{version}" / "config.yaml").read_text())
    return read


def best(name: str, version: int) -> str:
    return f"checkpoints/{name}/version_{version}/best.ckpt"


def test_each_seed_repeats_the_whole_way(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    two = ("--seeds", "2")
    assert fit("--model.train", "head", *two, name="first") == 0
    assert fit(*FROM_FIRST, *two, name="second") == 0
    assert fit(*TAUGHT, *two, name="third") == 0
    for version in (0, 1):
        assert config_of("second", version)["model"]["init_args"]["init_from"] == best("first", version)
        third = config_of("third", version)["model"]["init_args"]
        assert third["init_from"] == best("second", version)
        assert third["terms"]["distillation"]["teachers"] == [best("first", version)] * 2
    (section,), left_out = collect(["third"], LOGS)
    assert [run.version for run in section.seeds["third"]] == ["1", "0"]
    assert left_out == []

    # A version of another seed that is not done has other runs in the place of the names; it is not in the way.
    shutil.rmtree(LOGS / "third" / "version_0")
    later = LOGS / "third" / "version_1"
    write_record(later, {**read_record(later), "status": INTERRUPTED})
    capsys.readouterr()
    assert fit(*TAUGHT, *two, "--resume", "true", name="third") == 0
    assert versions(LOGS, "third") == [1, 2]
    assert [read_record(LOGS / "third" / f"version_{version}")["seed"] for version in (1, 2)] == [1, 0]


@pytest.mark.slow
def test_seeds_that_each_searched_a_rate_repeat_the_whole_way_too(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    two, rates = ("--seeds", "2"), iter((0.001, 0.002))
    monkeypatch.setattr("fashion_tl.runs.find_rate.suggested", lambda *_: next(rates))
    assert fit("--model.train", "all", "--find_lr", "true", *two, name="first") == 0
    assert len({read_record(LOGS / "first" / f"version_{version}")["model"]["lr"] for version in (0, 1)}) == 2
    assert fit(*FROM_FIRST, *two, name="second") == 0
    for version in (0, 1):
        assert config_of("second", version)["model"]["init_args"]["init_from"] == best("first", version)
    (section,), left_out = collect(["second", "first"], LOGS)
    assert {name: len(runs) for name, runs in section.seeds.items()} == {"first": 2, "second": 2}
    assert left_out == []


@pytest.fixture
def repeats(fit: Fit) -> Any:
    """Make versions of the run ``first``: copies of one, with some settings changed."""
    assert fit("--model.train", "head", name="original") == 0

    def make(seed: int, split: int, **changes: Any) -> None:
        number = len(versions(LOGS, "first"))
        for folder in (LOGS, CHECKPOINTS):
            shutil.copytree(folder / "original" / "version_0", folder / "first" / f"version_{number}")
        folder = LOGS / "first" / f"version_{number}"
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["seed_everything"], config["data"]["split_seed"] = seed, split
        config["name"] = "first"
        config["model"]["init_args"].update(changes)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        record = json.loads((folder / "run.json").read_text())
        record["seed"], record["data"]["split_seed"] = seed, split
        write_record(folder, record)

    return make


def found(seed: int | str, split: int) -> int:
    config = parse("fit", ["--seed_everything", str(seed), "--data.split_seed", str(split), "--model.backbone", "x"])
    return int(Path(checkpoint_of(config, "first")).parent.name.removeprefix("version_"))


def test_the_split_comes_before_the_seed_and_the_newest_is_taken_of_equals(repeats: Any) -> None:
    for seed, split in ((0, 0), (1, 0), (0, 0), (1, 1), (2, 1)):
        repeats(seed, split)
    assert [found(*seeds) for seeds in ((0, 0), (1, 0), (9, 0), (1, 1), (2, 1), (0, 1), (0, 9), (9, 9))] == [
        *(2, 1, 2, 3, 4, 4, 2, 4)
    ]
    assert [found(seed, 0) for seed in ("true", "false")] == [2, 2]  # neither is seed 1 or 0


def test_only_repeats_of_the_newest_are_chosen_from(repeats: Any) -> None:
    repeats(0, 0)
    repeats(1, 0)
    repeats(2, 0, lr=0.5)
    assert [found(seed, 0) for seed in (0, 1, 2)] == [2, 2, 2]
    repeats(1, 0, lr=0.5)
    assert [found(seed, 0) for seed in (0, 1, 2)] == [3, 3, 2]
    # One whose configuration cannot be read is nobody's repeat.
    (LOGS / "first" / "version_2" / "config.yaml").unlink()
    assert [found(seed, 0) for seed in (0, 1, 2)] == [3, 3, 3]
    (LOGS / "first" / "version_3" / "config.yaml").write_text("]")
    assert [found(seed, 0) for seed in (0, 1, 2)] == [3, 3, 3]
