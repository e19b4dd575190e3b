"""A tiny tournament on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.report.conftest import read_page

STRATEGIES = """
strategies:
  probe:
    changes: {model.train: head}
    candidates: [{model.lr: 0.03}, {model.lr: 0.0001}]
  all:
    changes: {model.train: all}
    candidates: [{model.lr: 0.003}, {model.lr: 0.0001}]
"""
BASE = (
    *("--name", "tiny", "--data.source", "SyntheticGarments", "--data.source.num_train", "120"),
    *(
        "--data.source.num_test",
        "60",
        "--data.batch_size",
        "16",
        "--data.image_size",
        "32",
        "--trainer.max_epochs",
        "2",
    ),
    *("--model.backbone", "test_resnet", "--model.pretrained", "false"),
)
RESULTS = Path("lightning_logs/tournaments")

Verb = Callable[..., int]


@pytest.fixture
def verb(workdir: Path) -> Verb:
    """Run a verb on a tiny configuration; returns the exit status."""
    from fashion_tl.cli import main

    (workdir / "strategies.yaml").write_text(STRATEGIES)

    def run(name: str, *args: str) -> int:
        return main([name, *BASE, *args])

    return run


def results_of(name: str) -> dict[str, Any]:
    """Read the results of a study."""
    found: dict[str, Any] = json.loads((RESULTS / name / "results.json").read_text())
    return found


def shown_in(name: str, part: str) -> list[dict[str, str]]:
    """Read the tables of a part of a study's page: for each row its cells by the texts of their heads."""
    page = read_page((RESULTS / name / "index.html").read_text())
    rows = []
    for table in page.one("section", aria_labelledby=part).all("table"):
        heads = [cell.text.strip() for cell in table.one("thead").all("th")]
        for row in table.one("tbody").all("tr"):
            cells = [cell.text.strip() for cell in row.children if not isinstance(cell, str)]
            rows.append(dict(zip(heads, cells, strict=True)))
    return rows


def without_seconds(value: Any) -> Any:
    """Leave out what no two executions have in common."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if "seconds" not in key and key != "fronts"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value
