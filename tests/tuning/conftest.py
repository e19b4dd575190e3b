"""A tiny study of hyperparameters on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

BASE = (
    *("--name", "tiny", "--data.source", "SyntheticGarments", "--data.source.num_train", "120"),
    *("--data.source.num_test", "60", "--data.batch_size", "16", "--data.image_size", "32"),
    *("--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"),
    *("--model.backbone", "test_resnet", "--model.pretrained", "false", "--model.train", "head"),
)
SPACE = {
    "model.lr": {"float": [1e-4, 1e-1], "log": True},
    "data.batch_size": {"int": [16, 64], "step": 16},
    "model.optimizer": {"choices": ["sgd", "adamw"]},
}
STUDIES = Path("lightning_logs/tuning")

Tune = Callable[..., int]


@pytest.fixture
def tune(workdir: Path) -> Tune:
    """Run ``fashion-tl tune`` on a tiny configuration; returns the exit status."""
    from fashion_tl.cli import main

    write_space(SPACE)

    def run(*args: str) -> int:
        return main(["tune", *BASE, "--space", "space.yaml", *args])

    return run


def write_space(space: object) -> None:
    """Write the file of the space."""
    Path("space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))


def results_of(name: str) -> dict[str, Any]:
    """Read the results of a study."""
    found: dict[str, Any] = json.loads((STUDIES / name / "results.json").read_text())
    return found


def trials_of(name: str) -> list[dict[str, Any]]:
    """Read the trials of a study without their seconds, which no two executions have in common."""
    return [{key: item for key, item in row.items() if key != "seconds"} for row in results_of(name)["trials"]]
