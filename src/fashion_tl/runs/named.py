"""The runs that a configuration names: to start from, that teach, or whose mistakes smoothing and mixing go by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fashion_tl.errors import UserError
from fashion_tl.files import sha256
from fashion_tl.plain_text import flatten
from fashion_tl.records.record import (
    CONFIG,
    NAMED,
    NO_FOLD,
    RunPaths,
    as_given,
    completed,
    fold_of,
    newest_completed,
    read_record,
)
from fashion_tl.runs.configs import read_config
from fashion_tl.runs.resume import WAY, decisive

SEEDS = ("seed_everything", "data.split_seed")
_VERSION = re.compile(r"/version_\d+(?=/)")


def settle_named_runs(config: Namespace, started: bool = False, known: dict[str, str] | None = None) -> None:
    """Put checkpoints in the place of the runs that a configuration names.

    Args:
        config: The configuration, which is changed.
        started: Whether the run goes on from a checkpoint of its own, so that it needs no other start.
        known: Checkpoints that names stand for already; what is found is added.

    Raises:
        UserError: If there is no such completed run.
    """
    known = {} if known is None else known

    def find(name: str) -> str:
        if name not in known:
            known[name] = checkpoint_of(config, name)
        return known[name]

    for key, named in named_runs(config).items():
        if started and key.endswith(".init_from"):
            continue
        _put(config, key.split("."), [find(each) for each in named] if isinstance(named, list) else find(named))


def named_runs(config: Namespace) -> dict[str, Any]:
    """Return the settings that name a run or its checkpoint, or a list of them, with these names."""
    found = {key: setting(config, key) for key in NAMED}
    return {key: value for key, value in found.items() if value and (isinstance(value, str) or _are_names(value))}


def hashes_of_named(config: Namespace) -> dict[str, list[str]]:
    """Return the SHA-256 of the checkpoints that a settled configuration names, by setting.

    ``init_from`` is left out: a record has hashes of the weights that a run starts from, whatever file they are in.
    Checkpoints that are not there are left out, too, as they cannot be compared.
    """
    found: dict[str, list[str]] = {}
    for key, value in named_runs(config).items():
        paths = [Path(each) for each in (value if isinstance(value, list) else [value])]
        if not key.endswith(".init_from") and all(path.is_file() for path in paths):
            found[key.replace(".init_args.", ".")] = [sha256(path) for path in paths]
    return found


def check_same_named(folder: Path, record: Mapping[str, Any], config: Namespace) -> None:
    """Refuse a run that was taught by, or went by the mistakes of, other checkpoints than lie at the same paths now.

    Args:
        folder: Its log folder.
        record: Its record; one of an earlier version says nothing of them.
        config: The settled configuration.

    Raises:
        UserError: If they are others.
    """
    recorded = record.get("named") or {}
    for key, hashes in hashes_of_named(config).items():
        if recorded.get(key, hashes) != hashes:
            raise UserError(f"{folder} had another {key} than the checkpoint that lies there now. {WAY}")


def _are_names(value: Any) -> bool:  # noqa: ANN401 - whatever a setting has in its place
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def setting(config: Any, key: str) -> Any:  # noqa: ANN401 - any part of a configuration
    """Return a setting by its dotted name, through namespaces and mappings; None if there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Namespace | Mapping) else None
    return config


def _put(config: Any, path: Sequence[str], value: Any) -> None:  # noqa: ANN401 - as above
    """Set what lies at a path; a mapping on the way, which another configuration may share, is copied."""
    first, *rest = path
    if rest:
        inner = config[first]
        inner = dict(inner) if isinstance(inner, Mapping) else inner
        _put(inner, rest, value)
        value = inner
    config[first] = value


def checkpoint_of(config: Namespace, run: Any) -> Any:  # noqa: ANN401 - whatever a setting has in its place
    """Return the best checkpoint of the completed run of a name that belongs to a run; what is no name stays as it is.

    That is the newest version. If it has repeats, versions of the same configuration with other seeds, it is the one
    that has the seeds of this run: several seeds then repeat the whole way, and are independent of one another. Of a
    run of several folds it is a version that held out the same one: any other has trained on images that this run
    tests.

    Raises:
        UserError: If there is none.
    """
    if not isinstance(run, str) or not run or run.endswith(".ckpt"):
        return run
    held = config.data.get("fold"), config.data.get("folds"), config.data.get("split_seed")
    fold = held if held[0] else NO_FOLD
    folders = config.log_dir, config.checkpoint_dir, run
    newest = newest_completed(*folders, fold)
    settings = _settings(newest.logs)
    if settings is None:
        return str(newest.best)
    wanted = str(config.data.get("split_seed")), str(config.seed_everything)  # as text: true is no seed 1

    def near(version: tuple[RunPaths, dict[str, Any]]) -> tuple[bool, bool]:
        """Say which seeds it shares with this run; the split comes first, whose test and validation images count."""
        record = version[1]
        return str((record.get("data") or {}).get("split_seed")) == wanted[0], str(record.get("seed")) == wanted[1]

    same_fold = [version for version in completed(*folders) if fold_of(version[1]) == fold]
    for paths, _ in sorted(same_fold, key=near, reverse=True):  # of equals the newest stays the first
        if _settings(paths.logs) == settings:
            return str(paths.best)
    return str(newest.best)


def _settings(folder: Path) -> dict[str, str] | None:
    """Return what repeats have in common, by dotted names; None if it cannot be read."""
    try:
        read = as_given(flatten(read_config(folder / CONFIG)), read_record(folder))
    except UserError:
        return None
    named = {key: _VERSION.sub("", text) if key in NAMED else text for key, text in read.items()}
    return {key: text for key, text in decisive(named).items() if key not in SEEDS}
