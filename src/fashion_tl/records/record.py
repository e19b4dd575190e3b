"""Where the files of a run lie, and reading and writing its record; needs neither torch nor Lightning."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_tl.errors import UserError, shown, unknown_name, wrong_types
from fashion_tl.files import claimed, read_json, sha256, write_json
from fashion_tl.plain_text import flatten

# What NumPy raises for an archive that is cut short or has other bytes; RuntimeError for one that seems encrypted.
BROKEN_ARRAYS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)
COMPLETED, RUNNING, INTERRUPTED, FAILED = "completed", "running", "interrupted", "failed"
FITTED = "fitted_to_validation"  # the entry of a record that says so of a stack, and of what is made of one
TRAINED = "trained"  # the test is left
PRUNED = "pruned"  # of a trial that its study has ended early: it is no whole run
RECORD, CONFIG, METRICS, PREDICTIONS = "run.json", "config.yaml", "metrics.csv", "test_predictions.npz"
CHECKED = (CONFIG, METRICS, PREDICTIONS)  # whose checksums a record holds
NAMED = {  # settings that hold the checkpoint of another run, or a list of them, and what that run did
    "model.init_args.init_from": "started from",
    "model.init_args.terms.distillation.teachers": "was taught by",
    "model.init_args.smoothing_confusion": "smooths by the mistakes of",
    "data.mix.pairs": "mixes by the mistakes of",
}
MADE = ("phase1", "phase2", "scratch")  # runs with a target of make
TYPES: dict[str, type] = {  # what is read of a record; all but the status may be missing or null
    "status": str,
    "files": dict,
    "data": dict,
    "model": dict,
    "data.class_counts": dict,
    "data.class_counts.train": list,
    "data.fold": int,
    "data.folds": int,
    "test": dict,
    "time": dict,
    "best": dict,
    "kind": str,
    "members": list,
    "rate_search": dict,
    "environment": dict,
    "test.accuracy": float,
    "test.balanced_accuracy": float,
    "test.macro_f1": float,
    "test.loss": float,
    "time.epoch_seconds": list,
    "time.fit_seconds": float,
    "model.parameters": int,
    "model.phases": list,
    "certificate": list,
    "model.phases.trained_parameters": int,
    "model.phases.began": int,
}


@dataclass(frozen=True)
class RunPaths:
    """The two folders of one version of a named run.

    Attributes:
        logs: TensorBoard events, configuration, metrics and the record.
        checkpoints: ``best.ckpt`` and ``last.ckpt``.
    """

    logs: Path
    checkpoints: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.logs.parent.name

    @property
    def version(self) -> int:
        """Number of the version, from 0."""
        return int(self.logs.name.removeprefix("version_"))

    @property
    def best(self) -> Path:
        """The checkpoint that validation chose."""
        return self.checkpoints / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last whole epoch, to resume from."""
        return self.checkpoints / "last.ckpt"


def check_name(name: str) -> str:
    """Return a run's name, or raise a UserError if it cannot be the name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}", name):
        raise UserError(
            f"--name {shown(name)}: a run's name is made of at most 128 letters, digits, '_', '-', '+' and '.'."
        )
    return name


def versions(folder: Path, name: str) -> list[int]:
    """List the version numbers of a run's name below a folder, ascending."""
    found = (re.fullmatch(r"version_(\d+)", p.name) for p in (folder / name).glob("version_*"))
    return sorted(int(match.group(1)) for match in found if match)


def paths_of(log_dir: Path, checkpoint_dir: Path, name: str, version: int) -> RunPaths:
    """Return the folders of one version of a run."""
    folder = f"version_{version}"
    return RunPaths(log_dir / name / folder, checkpoint_dir / name / folder)


def next_paths(log_dir: Path, checkpoint_dir: Path, name: str) -> RunPaths:
    """Return the folders of the next version of a run; none of them exists yet."""
    taken = [*versions(log_dir, name), *versions(checkpoint_dir, name)]
    return paths_of(log_dir, checkpoint_dir, check_name(name), max(taken, default=-1) + 1)


Fold = tuple[int | None, int | None, int | None]


def _fold_words(fold: Fold) -> str:
    number, folds, seed = fold
    return "no fold" if number is None else f"fold {number} of {folds} (split seed {seed})"


class TakenError(UserError):
    """A new version of a run has a number that another process has just taken."""


@contextmanager
def taken(paths: RunPaths, new: bool) -> Iterator[None]:
    """Hold a version of a run: no other process can start it, or go on with it, until this one is done or dead.

    Args:
        paths: The folders of the version.
        new: Whether its log folder is to be made.

    Raises:
        TakenError: If another process has begun a new version of that number.
        UserError: If another process goes on with the version.
    """
    with claimed(paths.logs.with_name(f".{paths.logs.name}.lock")) as mine:
        if new and (not mine or paths.logs.exists()):
            raise TakenError(f"another process has taken {paths.logs}: start this one again.")
        if not mine:
            raise UserError(f"another process has taken {paths.logs}: wait until it is done, or stop it.")
        if new:
            paths.logs.mkdir()
        yield


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write ``run.json`` into the log folder of a run; of one that has ended, with the checksums of its other files."""
    files = {
        name: sha256(folder / name) for name in CHECKED if record["status"] != RUNNING and (folder / name).is_file()
    }
    kept = {key: value for key, value in record.items() if key != "files"}
    write_json(folder / RECORD, {**kept, "files": files} if files else kept)


def read_record(folder: Path) -> dict[str, Any]:
    """Read ``run.json`` from the log folder of a run.

    Raises:
        UserError: If there is no record, or it is damaged.
    """
    path = folder / RECORD
    try:
        record: dict[str, Any] = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: {folder} is not the log folder of a run.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("status") is None:
        raise UserError(f"{path} is damaged: it is not the record of a run.")
    if wrong := wrong_types(record, TYPES):
        raise UserError(f"{path} is damaged: {'; '.join(wrong)}.")
    return record


def measured(record: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return a section of a record without what was not measured: null is as missing, at any depth.

    ``read_record`` keeps nulls: in settings they say none, as of a run without a label budget or an average of weights.
    """
    found = _without_nulls(record.get(section) or {})
    return found if isinstance(found, dict) else {}


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - any plain value
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def verify(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Compare a file beside a record with the checksum in the record, if it has one.

    Raises:
        UserError: If it is another. The message begins with the name of the file, without its folder.
    """
    expected = record.get("files", {}).get(name)
    try:
        if expected not in (None, sha256(folder / name)):
            raise UserError(f"{name} is damaged: it is not the file whose checksum {RECORD} holds")
    except OSError:
        return  # whoever reads it says why it cannot be read


def smaller_is_better(monitor: str) -> bool:
    """Say whether less of a metric is better.

    >>> [smaller_is_better(monitor) for monitor in ("val/loss", "val/accuracy")]
    [True, False]
    """
    return monitor.endswith("loss")


def check_same_data(folder: Path, record: Mapping[str, Any], described: Mapping[str, Any], way: str = "") -> None:
    """Refuse a run of other images than those at hand.

    Args:
        folder: Its log folder.
        record: Its record.
        described: What the data module says of the images at hand, or part of it.
        way: What to do then, as a sentence.

    Raises:
        UserError: If they are others.
    """
    recorded = record.get("data") or {}
    for what in ("fingerprint", "class_names", "test_set"):
        if what in recorded and what in described and described[what] != recorded[what]:
            told = f"the data of {folder} have changed since: their {what.replace('_', ' ')} is another."
            raise UserError(f"{told} {way}".rstrip())


def check_same_start(folder: Path, record: Mapping[str, Any], started: Mapping[str, Any], way: str = "") -> None:
    """Refuse a run that started from other weights than those at hand.

    Args:
        folder: Its log folder.
        record: Its record; an earlier version may have noted less.
        started: What ``model`` of a record says of the weights at hand: their name and hashes.
        way: What to do then, as a sentence.

    Raises:
        UserError: If they are others.
    """
    recorded = record.get("model") or {}
    if any(recorded.get(what) not in (None, each) for what, each in started.items() if each is not None):
        told = f"{folder} started from other weights than those that lie there now"
        raise UserError(f"{told}. {way}".rstrip())


def as_given(settings: Mapping[str, str], record: Mapping[str, Any]) -> dict[str, str]:
    """Return a run's settings as it was given them: without the rates that it has found itself.

    Args:
        settings: Its ``config.yaml``, by dotted names, as text: it runs again without a search.
        record: Its record.
    """
    given = record.get("rate_search")
    return {**settings, **(flatten({"find_lr": True, "model": {"init_args": given}}) if given else {})}


def all_records(log_dir: Path) -> Iterator[tuple[Path, dict[str, Any] | UserError]]:
    """Yield the log folder and the record of every run, or what is wrong with it, by name and version."""
    for name in sorted(p.name for p in log_dir.glob("*") if p.is_dir()):
        for version in versions(log_dir, name):
            folder = log_dir / name / f"version_{version}"
            try:
                yield folder, read_record(folder)
            except UserError as error:
                yield folder, error


NO_FOLD: Fold = (None, None, None)  # of a run that is no part of a cross-validation


def fold_of(record: dict[str, Any]) -> Fold:
    """Return which fold a run has held out to test on, of how many, divided by which seed."""
    data = record.get("data") or {}
    return NO_FOLD if data.get("fold") is None else (data["fold"], data.get("folds"), data.get("split_seed"))


def completed(log_dir: Path, checkpoint_dir: Path, name: str) -> Iterator[tuple[RunPaths, dict[str, Any]]]:
    """Yield the folders and the record of each completed version of a run that has its checkpoint, newest first."""
    return (each for each in _done(log_dir, checkpoint_dir, name) if each[0].best.is_file())


def _done(log_dir: Path, checkpoint_dir: Path, name: str) -> Iterator[tuple[RunPaths, dict[str, Any]]]:
    for version in reversed(versions(log_dir, name)):
        paths = paths_of(log_dir, checkpoint_dir, name, version)
        try:
            record = read_record(paths.logs)
        except UserError:
            continue
        if record["status"] == COMPLETED:
            yield paths, record


def without_checkpoint(paths: RunPaths, record: Mapping[str, Any]) -> UserError:
    """Return the error that says what to do about a completed version whose checkpoint is not there."""
    members = [str(each.get("name")) for each in record.get("members") or ()]
    if not members:
        return UserError(f"{paths.best} does not exist: train {paths.name} again, or name a checkpoint.")
    named = ", ".join(dict.fromkeys(members))
    return UserError(
        f"{paths.name} version {paths.version} combines {named}, which are no single network, so that it has no "
        "checkpoint: name one of them."
    )


def newest_completed(log_dir: Path, checkpoint_dir: Path, name: str, fold: Fold | None = None) -> RunPaths:
    """Find the newest completed version of a run.

    Args:
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        name: Name of the run.
        fold: The fold that it must have held out, as ``fold_of`` tells it; any if not given.

    Raises:
        UserError: If no run of that name was completed, the message names the command that makes one; or if none of
            them held out that fold.
    """
    other: Fold | None = None
    for paths, record in completed(log_dir, checkpoint_dir, name):
        if fold is None or fold_of(record) == fold:
            return paths
        other = other or fold_of(record)
    if fold is not None and other is not None:
        raise UserError(
            f"no completed version of the run {name!r} in {log_dir} held out {_fold_words(fold)}, the newest held out "
            f"{_fold_words(other)}: its network may have trained on images that this run tests. Run it in the same "
            "way (--folds, --data.split_seed), or name a checkpoint by its path that has seen none of them."
        )
    for paths, record in _done(log_dir, checkpoint_dir, name):
        if record.get("members") and not paths.best.is_file():
            raise without_checkpoint(paths, record)
    known = sorted({p.parent.parent.name for p in log_dir.glob("*/version_*/run.json")})
    if known and name not in known:
        raise unknown_name("run", name, known, f"No run of that name is in {log_dir}; {_command(name)} makes one.")
    raise UserError(
        f"there is no completed run {name!r} in {log_dir} (with its checkpoint in {checkpoint_dir}). "
        f"Run it first: {_command(name)}."
    )


def _command(name: str) -> str:
    """Return the command that makes a run: of the experiment of its name, wherever it lies, if one is at hand."""
    folder = Path("experiments")
    if name in MADE:
        return f"`make {name}`, or `fashion-tl fit -c {folder / name}.yaml`"
    own = re.compile(rf"^name: *{re.escape(name)} *$", re.MULTILINE)
    for path in sorted(folder.glob("**/*.yaml")):
        if own.search(path.read_text(encoding="utf-8", errors="replace")):
            return f"`fashion-tl fit -c {path}`"
    return f"`fashion-tl fit -c FILE --name {name}`"


def run_paths(run: str, log_dir: Path, checkpoint_dir: Path) -> RunPaths:
    """Find a run by its name, or by its version's folder of logs or of checkpoints, or its best.ckpt.

    A name stands for its newest version that is completed, or whose record is damaged: whoever reads it says so.

    Raises:
        UserError: If there is no such run, or its folder lies elsewhere.
    """
    if (own := folder_paths(run, log_dir, checkpoint_dir)) is not None:
        return own
    for version in reversed(versions(log_dir, run)):
        paths = paths_of(log_dir, checkpoint_dir, run, version)
        try:
            done = read_record(paths.logs)["status"] == COMPLETED
        except UserError:
            done = (paths.logs / RECORD).exists()
        if done:
            return paths
    return newest_completed(log_dir, checkpoint_dir, run)


def folder_paths(run: str, log_dir: Path, checkpoint_dir: Path) -> RunPaths | None:
    """Return the folders of a version that is named by one of them, or by its best.ckpt; None of any other text.

    Raises:
        UserError: If the folder lies elsewhere than all records and checkpoints.
    """
    folder = Path(run)
    if folder.suffix == ".ckpt":
        folder = folder.parent
    number = folder.name.removeprefix("version_")
    if not (folder.name.startswith("version_") and number.isdigit()):
        return None
    if folder.parent.parent.resolve() not in (log_dir.resolve(), checkpoint_dir.resolve()):
        raise UserError(
            f"{folder} lies neither in {log_dir} nor in {checkpoint_dir}: say with --log_dir and --checkpoint_dir "
            "where the run's records and checkpoints are."
        )
    return paths_of(log_dir, checkpoint_dir, folder.parent.name, int(number))
