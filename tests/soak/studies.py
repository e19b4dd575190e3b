"""Tournaments and ablations killed at random moments: the same command again ends with the same table."""

from __future__ import annotations

import functools
import json
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.soak.children import Ended, Stop, call
from tests.soak.compare import run_differences
from tests.soak.results import DIFFERENT, HANG, IDENTICAL, SKIPPED, TRACEBACK, Case, Result

PER_STUDY = 6
VERSION = re.compile(r"/version_\d+$")
SMALL = (
    *("--name=study", "--data.source=SyntheticGarments", "--data.source.num_train=80", "--data.source.num_test=20"),
    *("--data.batch_size=16", "--data.image_size=32", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
    *("--model.backbone=test_resnet", "--model.pretrained=false", "--seeds=2"),
)
STRATEGIES = """
strategies:
  probe:
    changes: {model.train: head}
    candidates: [{model.lr: 0.03}, {model.lr: 0.001}]
  norms:
    changes: {model.train: norms}
    candidates: [{model.lr: 0.01}, {model.lr: 1.0e+18}]
"""
STUDIES = {
    "tournament": ("--strategies=strategies.yaml", "--budgets=5,7", "--trials=2"),
    "ablate": ("--model.label_smoothing=0.1", "--data.augment.hflip=0.5"),
}


def cases(seed: int, lane: int, lanes: int, root: Path) -> Iterator[Case]:
    """Yield killed studies without an end."""
    turn, whole = lane, dict[str, Ended]()
    while True:
        verb = list(STUDIES)[turn // PER_STUDY % len(STUDIES)]
        yield functools.partial(_case, verb, root / f"whole-{verb}", whole, f"study {seed}.{verb}.{turn}")
        turn += lanes


def _call(verb: str, folder: Path, stop: Stop | None = None) -> Ended:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "strategies.yaml").write_text(STRATEGIES, encoding="utf-8")
    return call([verb, *SMALL, *STUDIES[verb]], folder, stop, tweaks=["every epoch"], limit=120.0)


def _case(verb: str, root: Path, whole: dict[str, Ended], label: str, folder: Path) -> Result:
    row, rng = f"kills, {verb}", random.Random(label)
    if verb not in whole:
        whole[verb] = _call(verb, root)
    expected = whole[verb]
    if expected.status:
        return Result(row, label, TRACEBACK, f"not stopped: {expected.output[-1500:]}")
    told, stopped = [], 0
    for _ in range(rng.randint(1, 3)):
        number = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        stop = Stop(number, rng.uniform(0.03, 0.9) * expected.seconds, "group")
        told.append(f"{number.name} at {stop.after:.2f} s")
        ended = _call(verb, folder, stop)
        stopped += ended.signalled is not None
        if ended.hung or (ended.traceback and number != signal.SIGKILL):
            kind = HANG if ended.hung else TRACEBACK
            return Result(row, f"{label}: {', then '.join(told)}", kind, ended.output[-1500:])
        if ended.status == 0:
            break
    else:
        ended = _call(verb, folder)
    case = f"{label}: {', then '.join(told)}"
    if ended.status or ended.traceback:
        return Result(row, case, TRACEBACK, ended.output[-1500:])
    if wrong := _differences(root, folder):
        return Result(row, case, DIFFERENT, "; ".join(wrong[:6]))
    return Result(row, case, IDENTICAL if stopped else SKIPPED)


def _differences(root: Path, folder: Path) -> list[str]:
    place = "lightning_logs/tournaments"
    ours, theirs = ({p.relative_to(each): p for p in each.glob(f"{place}/*/results.json")} for each in (root, folder))
    told = [f"{path} is in only one of them" for path in ours.keys() ^ theirs.keys()]
    for path in ours.keys() & theirs.keys():
        one, two = (_kept(json.loads(each[path].read_text(encoding="utf-8"))) for each in (ours, theirs))
        told += [f"{path}: {key}" for key in one if one[key] != two.get(key)]
    runs = [_runs(each / place) for each in (root, folder)]
    told += [f"{name} is in only one of them" for name in runs[0].keys() ^ runs[1].keys()]
    for name in sorted(runs[0].keys() & runs[1].keys()):
        told += [f"{name}: {text}" for text in run_differences(runs[0][name], runs[1][name])]
    return told


def _runs(place: Path) -> dict[str, Path]:
    """Find the newest version of each run: one that was killed before it had a record is left aside."""
    found = sorted(place.glob("*/runs/*/*/run.json"), key=lambda path: int(path.parent.name.removeprefix("version_")))
    return {path.parent.parent.name: path.parent for path in found}


def _kept(value: Any) -> Any:
    """Leave out what no two executions have in common."""
    if isinstance(value, dict):
        return {key: _kept(item) for key, item in value.items() if "seconds" not in key and key != "fronts"}
    if isinstance(value, str):  # a version that was killed before it had a record is left aside
        return VERSION.sub("", value)
    return [_kept(item) for item in value] if isinstance(value, list) else value
