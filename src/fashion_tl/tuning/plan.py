"""A study of hyperparameters: what it tries on which configuration, and whether all of it is allowed."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.errors import UserError, check_options
from fashion_tl.files import read_json, write_json
from fashion_tl.plain_text import flatten
from fashion_tl.records.record import check_name, smaller_is_better
from fashion_tl.runs.configs import read_yaml
from fashion_tl.runs.named import hashes_of_named
from fashion_tl.runs.parser import arguments, dump, parse
from fashion_tl.runs.resume import HASHES, STARTS, check_earlier, decisive, start_of
from fashion_tl.runs.search import words
from fashion_tl.runs.studies import (
    NamedRuns,
    among,
    bounds,
    build,
    check_base,
    check_images,
    check_run,
    check_searched,
    load_data,
    run_settings,
)
from fashion_tl.tuning.space import Space, grid

FOLDER, STUDY, JOURNAL = "tuning", "study.json", "journal.log"
TRIALS = 40
# What is compared where both studies have it: earlier versions have noted less, and weights may not be at hand.
NOT_ALWAYS = ("storage", "weights", "configuration.find_lr", "configuration.cache")
STARTING = tuple(f"model.{name}" for name in STARTS)


@dataclass(frozen=True)
class Tuning:
    """A study: what is tried, and where its files lie.

    Attributes:
        name: Its name, which is also that of the tested runs.
        args: Command-line arguments of the base configuration.
        space: The settings that are searched.
        trials: Number of trials.
        sampler: "tpe", "random" or "grid".
        pruner: "none", "median" or "hyperband".
        seed: Seed of the sampler.
        storage: URL of a database; None for the journal beside the results.
        logs: Folder of the results.
        checkpoints: Folder of the trials' checkpoints, which none keeps.
        monitor: The validation figure that decides.
        epochs: Epochs of the longest trial; None if nothing says how many.
        about: What another study of the same name differs in, as plain values.
        folder: A word that stands for the folder of the results, wherever it is mounted.
        runs: The runs that the configuration and its space name.
    """

    name: str
    args: tuple[str, ...]
    space: Space
    trials: int
    sampler: str
    pruner: str
    seed: int
    storage: str | None
    logs: Path
    checkpoints: Path
    monitor: str
    epochs: int | None
    about: Mapping[str, Any] = field(repr=False)
    folder: str = ""
    runs: NamedRuns = field(default=NamedRuns(()), repr=False)

    @property
    def records(self) -> Path:
        """Folder of the trials' records."""
        return self.logs / "runs"

    @property
    def minimises(self) -> bool:
        """Whether less is better."""
        return smaller_is_better(self.monitor)

    def trial_name(self, place: int) -> str:
        """Name the run of a trial, by its place from 0."""
        return f"trial{place:04}"

    def run_settings(self, changes: Mapping[str, Any], place: int) -> dict[str, Any]:
        """Return all that the run of a trial changes."""
        return {
            **self.runs.settle(changes),
            **run_settings(self.records, self.checkpoints),
            "name": self.trial_name(place),
        }


def make_tuning(
    flags: Sequence[str],
    space: Space,
    trials: int | None,
    sampler: str,
    pruner: str,
    storage: str | None,
    seed: int | None,
    name: str | None,
) -> Tuning:
    """Plan a study and check everything that can be known before its first trial.

    Args:
        flags: Command-line arguments of the base configuration.
        space: The settings that are searched.
        trials: Number of trials; ``TRIALS``, or all of a grid, if None.
        sampler: "tpe", "random" or "grid".
        pruner: "none", "median" or "hyperband".
        storage: URL of a database; None for a journal.
        seed: Seed of the sampler; that of the configuration if None.
        name: Its name; that of the configuration and ".tuned" if None.

    Raises:
        UserError: If a setting, a value or a number is not allowed, or a study of that name is another one; nothing has
            been written.
    """
    base = parse("fit", flags)
    check_base(base, "study")
    count = TRIALS if trials is None else trials
    if sampler == "grid":
        if trials is not None:
            raise UserError("--trials does not go with --sampler grid, which tries all combinations. Leave it out.")
        count = len(grid(space))
    check_options(trials=(count, 1), sampler_seed=(0 if seed is None else seed, 0))
    if storage is not None and "://" not in storage:
        raise UserError(f"--storage {storage} is no URL of a database, such as sqlite:///trials.db.")
    own_name = check_name(name or f"{base.name}.tuned")
    runs = NamedRuns(tuple(flags))
    args = runs.base
    built = _check_space(args, space, runs)
    data, _ = load_data(args, {})
    for changes, own in built:
        with _at(changes):
            check_images(own.data, data, changes)
    tuning = Tuning(
        own_name,
        tuple(args),
        space,
        count,
        sampler,
        pruner,
        base.seed_everything if seed is None else seed,
        storage,
        base.log_dir / FOLDER / own_name,
        base.checkpoint_dir / FOLDER / own_name,
        base.monitor,
        _longest(args, built, data),
        {
            "space": {setting.key: setting.about for setting in space},
            "sampler": sampler,
            "sampler_seed": base.seed_everything if seed is None else seed,
            "pruner": pruner,
            "configuration": _compared(args, space),
            "data": {key: value for key, value in data.identity.items() if "images" in key or key == "source"},
            **({"runs": dict(runs.checkpoints)} if runs.checkpoints else {}),
            "weights": _weights(args, [changes for changes, _ in built], runs),
        },
        runs=runs,
    )
    _check_earlier(tuning)
    check_earlier(parse("fit", arguments(args, {"name": own_name})))  # what would be in the way of the tested runs
    return tuning


@contextmanager
def _at(changes: Mapping[str, Any]) -> Iterator[None]:
    """Say of what is refused where in the space it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the space at {words(changes)}: {error}") from error


def _check_space(args: Sequence[str], space: Space, runs: NamedRuns) -> list[tuple[Mapping[str, Any], Namespace]]:
    """Refuse a space of which a trial at an end of a range, or with a choice, would be refused.

    Returns:
        The changes of each of these trials, with what it is made of.
    """
    built: list[tuple[Mapping[str, Any], Namespace]] = []
    for setting in space:
        for value in setting.ends:
            changes = {setting.key: value}
            with _at(changes):
                check_searched(changes)
                built.append((changes, check_run(args, runs.settle(changes))))
    return built


def _longest(
    args: Sequence[str], built: Sequence[tuple[Mapping[str, Any], Namespace]], data: ImageDataModule
) -> int | None:
    """Return the epochs of the longest trial; None if nothing says how many.

    Args:
        args: Command-line arguments of the base configuration.
        built: Changes of a single setting each, to the ends of its range or its choices, with what they are made of.
        data: The images of the base configuration.
    """
    base, ends, whole = build(args, {}), [], False
    usual = bounds(base, data, checked=False)
    with suppress(UserError):  # of a run that lacks what is searched, such as its end
        bounds(base, data)
        whole = True
    for changes, own in built:
        with _at(changes):
            ends.append((changes, bounds(own, data, checked=whole)))
    # Without a number of steps the batches of an epoch bound nothing.
    first = 4 if any(steps >= 0 for _, steps, *_ in (usual, *(own for _, own in ends))) else 1
    bounding = dict.fromkeys(key for changes, own in ends if own[:first] != usual[:first] for key in changes)
    lengths, refused = [], None
    for each in itertools.product(*([changes for changes, _ in ends if key in changes] for key in bounding)):
        try:
            run = build(args, {key: value for changes in each for key, value in changes.items()})
            lengths.append(run.model.plan.bounded(*bounds(run, data)).epochs)
        except UserError as error:  # values that are not allowed together, which their trial will say
            refused = error
    if refused is not None and not lengths:
        raise refused
    known = [length for length in lengths if length is not None]
    return max(known) if known and len(known) == len(lengths) else None


def _compared(args: Sequence[str], space: Space) -> dict[str, str]:
    """Return what a study's configuration says of figures, without what is searched, as text by dotted names."""
    settings = decisive(flatten(read_yaml(dump("fit", parse("fit", args)), "it")))
    searched = tuple(f"{setting.key}." for setting in space)
    return {key: value for key, value in settings.items() if not f"{key}.".startswith(searched)}


def _weights(args: Sequence[str], tried: Sequence[Mapping[str, Any]], runs: NamedRuns) -> dict[str, str]:
    """Return the hashes of the weights that trials start from, by their names, and of other named checkpoints."""
    named = hashes_of_named(parse("fit", arguments(args, runs.settle({}))))
    found = {f"{key} (checkpoint)": " ".join(hashes) for key, hashes in named.items()}
    known: dict[str, dict[str, Any]] = {}
    for changes in ({}, *(each for each in tried if among(each, STARTING))):
        start = start_of(parse("fit", arguments(args, runs.settle(changes))), known)
        for what in HASHES:
            if start.get(what):
                found.setdefault(f"{start['weights']} ({what})", start[what])
    return found


def _check_earlier(tuning: Tuning) -> None:
    """Refuse a study whose folder holds another one."""
    path = tuning.logs / STUDY
    if not path.exists():
        if (tuning.logs / JOURNAL).exists():
            raise UserError(f"{tuning.logs} has trials, but no {STUDY}. Move it away, or give another --name.")
        return
    try:
        earlier = read_json(path)
        check_same(tuning, {**earlier["about"], "storage": earlier["storage"]}, str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}. Move {tuning.logs} away, or give another --name.") from error


def check_same(tuning: Tuning, earlier: Mapping[str, Any], where: str) -> None:
    """Refuse a study that is not the earlier one of its name.

    Args:
        tuning: The study.
        earlier: What was noted of the earlier one.
        where: Where it was noted.

    Raises:
        UserError: The differences are named.
    """
    before_text, now_text = flatten(dict(earlier)), flatten({**tuning.about, "storage": shown_storage(tuning)})
    for key in before_text.keys() ^ now_text.keys():
        if key.startswith(NOT_ALWAYS):
            (before_text if key in before_text else now_text).pop(key)
    told = [
        f"{key}: {before_text.get(key, 'not there')}, now {now_text.get(key, 'not there')}"
        for key in sorted(before_text.keys() | now_text.keys())
        if before_text.get(key) != now_text.get(key)
    ]
    if told:
        more = f" (and {len(told) - 8} more)" if told[8:] else ""
        raise UserError(
            f"{where} is of another study: {'; '.join(told[:8])}{more}. Give its settings, or another --name."
        )


def shown_storage(tuning: Tuning) -> str:
    """Name the storage without a password."""
    if tuning.storage is None:
        return JOURNAL
    scheme, _, rest = tuning.storage.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{place}"


def note_folder(tuning: Tuning) -> str:
    """Note what the study is in its folder, once; returns the word that stands for the folder."""
    path = tuning.logs / STUDY
    if not path.exists():
        noted = {"folder": uuid.uuid4().hex, "storage": shown_storage(tuning), "about": dict(tuning.about)}
        write_json(path, noted)
    return str(read_json(path)["folder"])


def describe(tuning: Tuning) -> str:
    """Say in a few lines what is about to be tried."""
    lines = [
        f"study {tuning.name}: {tuning.trials} trials by {tuning.sampler}, pruner {tuning.pruner}, "
        f"{'least' if tuning.minimises else 'most'} {tuning.monitor} is best; in {tuning.logs}"
    ]
    lines += [f"  {setting.text}" for setting in tuning.space]
    if tuning.storage is not None:
        lines.append(f"  trials are shared by {shown_storage(tuning)}")
    return "\n".join(lines)
