"""Two runs compared bit for bit, and what a run leaves behind."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Of the record: what was trained, what was found, and how it ended.
COMPARED = ("status", "reason", "seed", "best", "test", "data", "model")
DRAFT = re.compile(r"\d+|[0-9a-f]{8,}")


def runs(root: Path) -> dict[tuple[Any, ...], Path]:
    """Find the completed runs below a working directory: the log folder of the newest one of each kind."""
    found = {}
    for path in sorted(root.glob("lightning_logs/*/version_*/run.json"), key=_version):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            continue
        if record.get("status") == "completed":
            rate = record.get("model", {}).get("lr", float("nan"))  # a record without a model is one too much
            found[path.parent.parent.name, record["seed"], rate] = path.parent
    return found


def _version(path: Path) -> int:
    return int(path.parent.name.removeprefix("version_"))


def differences(whole: Path, other: Path, exact: bool = True, names: Collection[str] = ()) -> list[str]:
    """Compare all completed runs of two working directories.

    Args:
        whole: Where nothing was stopped.
        other: Where something was.
        exact: Whether they must be equal to the end; else the epochs that both have must be.
        names: Names of the runs to compare; all if empty.
    """
    ours, theirs = (
        {key: folder for key, folder in runs(root).items() if not names or key[0] in names} for root in (whole, other)
    )
    told = [f"{_named(key)} was not completed" for key in ours.keys() - theirs.keys()]
    told += [f"{_named(key)} is too much" for key in theirs.keys() - ours.keys()]
    for key in sorted(ours.keys() & theirs.keys()):
        compare = run_differences if exact else history_differences
        told += [f"{_named(key)}: {text}" for text in compare(ours[key], theirs[key])]
    return told


def _named(key: tuple[Any, ...]) -> str:
    return f"{key[0]}, seed {key[1]}, lr {key[2]:g}"


def run_differences(whole: Path, other: Path) -> list[str]:
    """Compare two runs, each named by its log folder: record, figures, predictions, checkpoints, names of files."""
    one, two = (json.loads((folder / "run.json").read_text(encoding="utf-8")) for folder in (whole, other))
    told = [
        f"run.json {name}: {one.get(name)} and {two.get(name)}" for name in COMPARED if one.get(name) != two.get(name)
    ]
    if _rows(whole) != _rows(other):
        told.append(f"metrics.csv: {_first_difference(_rows(whole), _rows(other))}")
    told += _arrays(whole / "test_predictions.npz", other / "test_predictions.npz")
    for name in ("best.ckpt", "last.ckpt"):
        told += [f"{name} {text}" for text in _checkpoints(_checkpoint(whole, name), _checkpoint(other, name))]
    if missing := _names(whole) ^ _names(other):
        told.append(f"files of only one of them: {', '.join(sorted(missing))}")
    return told


def history_differences(whole: Path, other: Path) -> list[str]:
    """Compare the epochs that two runs share; the clock may end the last one anywhere."""
    one, two = _rows(whole), _rows(other)
    shared = min(len(one), len(two)) - 1
    return [] if one[:shared] == two[:shared] else [f"metrics.csv: {_first_difference(one[:shared], two[:shared])}"]


def _rows(folder: Path) -> list[dict[str, str]]:
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def _first_difference(one: list[dict[str, str]], two: list[dict[str, str]]) -> str:
    if len(one) != len(two):
        return f"{len(one)} and {len(two)} epochs"
    for number, (a, b) in enumerate(zip(one, two, strict=True)):
        if a != b:
            names = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key)]
            return f"epoch {number}: " + ", ".join(f"{key} {a.get(key)} and {b.get(key)}" for key in sorted(names))
    return "nothing"


def _arrays(one: Path, two: Path) -> list[str]:
    if not one.is_file() or not two.is_file():
        return [] if one.is_file() == two.is_file() else [f"only one of them has {one.name}"]
    with np.load(one) as first, np.load(two) as second:
        if set(first) != set(second):
            return [f"{one.name}: {sorted(first)} and {sorted(second)}"]
        return [f"{one.name}: {name}" for name in first if not np.array_equal(first[name], second[name])]


def _checkpoint(logs: Path, name: str) -> Path:
    return logs.parent.parent.parent / "checkpoints" / logs.parent.name / logs.name / name


def _checkpoints(one: Path, two: Path) -> list[str]:
    if not one.is_file() or not two.is_file():
        return [] if one.is_file() == two.is_file() else ["is in only one of them"]
    first, second = (torch.load(path, weights_only=True, map_location="cpu") for path in (one, two))
    names = ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers")
    return [text for name in names for text in _values(name, first.get(name), second.get(name))][:3]


def _values(name: str, one: Any, two: Any) -> list[str]:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return [] if torch.equal(one, two) else [f"{name} differs"]
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return [text for key in {**one, **two} for text in _values(f"{name}.{key}", one.get(key), two.get(key))]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        return [text for i, (a, b) in enumerate(zip(one, two, strict=True)) for text in _values(f"{name}.{i}", a, b)]
    return [] if one == two else [f"{name}: {one} and {two}"]


def _names(logs: Path) -> set[str]:
    checkpoints = _checkpoint(logs, "best.ckpt").parent
    folders = [folder for folder in (logs, checkpoints) if folder.is_dir()]
    names = {path.name for folder in folders for path in folder.iterdir()}
    return {name for name in names if ".tfevents." not in name and not name.startswith(".")}  # drafts are leftovers


def leftovers(whole: Path, other: Path) -> list[str]:
    """List hidden files that a whole run does not leave.

    A lock ends with its process and blocks nobody. A version killed before it had a record is left aside, as it is.
    """

    def hidden(root: Path) -> set[str]:
        places = [path for name in ("lightning_logs", "checkpoints", "cache") for path in (root / name).rglob(".*")]
        begun = (path for path in places if path.name[:6] != ".draft" or _has_record(root, path.parent))
        return {path.relative_to(root).as_posix() for path in begun if path.suffix != ".lock"}

    usual = {DRAFT.sub("N", name) for name in hidden(whole)}
    return sorted(name for name in hidden(other) if DRAFT.sub("N", name) not in usual)


def _has_record(root: Path, folder: Path) -> bool:
    return folder.parent.parent != root / "lightning_logs" or (folder / "run.json").is_file()
