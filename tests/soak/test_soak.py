"""The harness itself: what it compares, damages and writes down; and its smallest piece from end to end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.soak.children import Ended
from tests.soak.compare import differences, leftovers
from tests.soak.damage import DAMAGES, harm
from tests.soak.results import DIFFERENT, IDENTICAL, SKIPPED, Result
from tests.soak.settings import DIMENSIONS, draw
from tests.soak.table import BEGIN, END, table, write

ROOT = Path(__file__).parent.parent.parent


def run(root: Path, weight: float = 1.0, accuracy: float = 0.5) -> Path:
    """Write the files of a finished run that are compared."""
    logs, checkpoints = (root / name / "run" / "version_0" for name in ("lightning_logs", "checkpoints"))
    logs.mkdir(parents=True)
    checkpoints.mkdir(parents=True)
    record = {"status": "completed", "seed": 0, "model": {"lr": 0.1}, "test": {"accuracy": accuracy}}
    (logs / "run.json").write_text(json.dumps(record))
    (logs / "metrics.csv").write_text(f"epoch,val/accuracy,seconds\n0,{accuracy},{random.random()}\n")
    np.savez(logs / "test_predictions.npz", logits=np.ones(3))
    for name in ("best.ckpt", "last.ckpt"):
        torch.save({"epoch": 1, "state_dict": {"w": torch.tensor([weight])}}, checkpoints / name)
    return root


def test_equal_runs_are_equal_but_for_their_seconds(tmp_path: Path) -> None:
    assert differences(run(tmp_path / "a"), run(tmp_path / "b")) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"weight": 1.0000001}, "best.ckpt state_dict.w differs"), ({"accuracy": 0.25}, "run.json test: ")],
)
def test_a_difference_is_named(changes: dict[str, float], told: str, tmp_path: Path) -> None:
    assert any(told in text for text in differences(run(tmp_path / "a"), run(tmp_path / "b", **changes)))


def test_a_run_that_is_missing_or_too_much_is_named(tmp_path: Path) -> None:
    whole = run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert differences(whole, tmp_path / "b") == ["run, seed 0, lr 0.1 was not completed"]
    assert differences(tmp_path / "b", whole) == ["run, seed 0, lr 0.1 is too much"]


def test_drafts_are_leftovers_and_locks_are_none(tmp_path: Path) -> None:
    whole, other = run(tmp_path / "a"), run(tmp_path / "b")
    (other / "checkpoints/run/version_0/.last.77").touch()
    (other / "lightning_logs/run/.version_0.lock").touch()
    assert leftovers(whole, other) == ["checkpoints/run/version_0/.last.77"]


@pytest.mark.parametrize("damage", dict.fromkeys(DAMAGES))
def test_damage_is_one_place_of_a_file(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = bytes(range(1, 251)) * 8
    path.write_bytes(before)
    harm(path, damage, random.Random(0))
    after = path.read_bytes()
    if damage == "cut":
        assert before.startswith(after)
        assert len(after) < len(before)
    else:
        bits = sum((a ^ b).bit_count() for a, b in zip(before, after, strict=True))
        assert bits == 1 if damage == "flip" else bits > 1


def test_settings_cover_every_value_and_repeat_with_their_seed(tmp_path: Path) -> None:
    drawn = [draw(3, number, tmp_path) for number in range(10)]
    for name, choices in DIMENSIONS.items():
        used = {setting.values[name] for setting in drawn}
        assert used == set(choices) or name in ("end", "schedule")
    assert [setting.args for setting in drawn] == [draw(3, number, tmp_path).args for number in range(10)]


def test_one_message_is_a_refusal_and_a_traceback_is_none() -> None:
    assert Ended(2, 1.0, None, False, "fashion-tl: error: no.\n").message == "fashion-tl: error: no."
    for text in ("", "Traceback (most recent call last):\nfashion-tl: error: no.\n"):
        assert Ended(2, 1.0, None, False, text).message == ""


def test_the_page_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    results = [Result("kills", "a", IDENTICAL), Result("kills", "b", DIFFERENT), Result("kills", "c", SKIPPED)]
    write(page, table(results))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| kills | 2 | identical 1 | different 1 |" in text
    assert BEGIN in (ROOT / "docs" / "reliability.md").read_text()


@pytest.mark.slow
@pytest.mark.thorough
def test_the_smallest_soak_ends_with_a_table(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.soak", "--cases", "1", "--lanes", "1", "--minutes", "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # what it finds is not this test's
    for row in ("| kills", "| Ctrl-C", "| damage"):
        assert row in done.stdout
