"""Several runs of one configuration: trying values, chosen by validation and never by the test; repeating seeds."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

from fashion_tl.errors import UserError, one_line
from fashion_tl.files import claimed
from fashion_tl.records.record import NAMED, smaller_is_better, versions
from fashion_tl.runs.fit import Run, fit
from fashion_tl.runs.jobs import work_off
from fashion_tl.runs.parser import Config, arguments, parse, written
from fashion_tl.runs.studies import (
    ONE,
    NamedRuns,
    bounds,
    check_images,
    check_run,
    check_searched,
    decides_on_batches,
    load_data,
)
from fashion_tl.runs.workers import Channel, share_work
from fashion_tl.training.divergence import DivergedError

Runner = Callable[..., Run]


def search(
    config: Config,
    values: Mapping[str, list[Any]],
    changes: Mapping[str, Any] | None = None,
    processes: int = 1,
    runner: Runner = fit,
) -> dict[str, Any]:
    """Train a candidate for every combination of values and return the changes that make the best.

    A candidate is a run of the name ``<name>.search``: it has a record, no test figures and no checkpoints.

    Args:
        config: As for ``fit``.
        values: The values to try of each setting, by its flag without the dashes.
        changes: Settings to change in all of them.
        processes: Processes that share the candidates; with several, those that are done are taken, and a script that
            calls this needs ``if __name__ == "__main__":``, as with ``multiprocessing``.
        runner: What trains a candidate, as ``fit`` does.

    Returns:
        The best value of each setting; of equally good candidates that of the first.

    Raises:
        UserError: If a setting has no values, or values that would be refused; if candidates could not be compared, for
            they would be judged otherwise; or if none has a finite figure.
    """
    empty = [setting for setting, tried in values.items() if not tried]
    if empty:
        raise UserError(f"--search has no values for {', '.join(empty)}.")
    args = arguments(config, changes)
    parsed = parse("fit", args)
    _check(args, values)
    name = f"{parsed.name}.search"
    if processes == 1 and not parsed.resume and versions(parsed.log_dir, name):
        _say(f"search: all candidates are trained; --resume true takes those of {name} that are done.")
    candidates = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    parts = [
        _Part(place, f"search {place + 1}/{len(candidates)}: {words(tried)}", {**tried, "name": name})
        for place, tried in enumerate(candidates)
    ]
    several = _Several(args, parts, tuple(values), parsed.log_dir / name, False, processes > 1, runner)
    runs = several.make(processes)
    best = preferred([{} if run is None else run.record for run in runs])
    if best is None:
        raise UserError("no candidate of the search has a finite validation figure: try lower learning rates.")
    _say(f"search: best is {words(candidates[best])}")
    return candidates[best]


def _check(args: Sequence[str], values: Mapping[str, list[Any]]) -> None:
    """Refuse values with which candidates would be refused, or not be judged as the configuration itself."""
    runs, base = NamedRuns(tuple(args)), None
    each = [{setting: value} for setting, tried in values.items() for value in tried]
    for changes in each:
        check_searched(changes)
    if any(map(decides_on_batches, values)):
        base, _ = load_data(args, ONE)
    for changes in each:
        try:
            built = check_run(args, {**ONE, **runs.settle(changes)})
            if base is not None and any(map(decides_on_batches, changes)):
                check_images(built.data, base, changes)
                bounds(built, base)
        except UserError as error:
            raise UserError(f"--search at {words(changes)}: {error}") from error


def repeat(
    config: Config,
    seeds: int,
    changes: Mapping[str, Any] | None = None,
    processes: int = 1,
    folds: int | None = None,
    varied: Collection[str] = (),
) -> list[Run]:
    """Run a configuration with its seed and the next ones, or hold each of several folds out; versions of one name.

    Args:
        config: As for ``fit``.
        seeds: Number of seeds.
        changes: Settings to change in all of them.
        processes: Processes that share the runs, see ``search``.
        folds: Number of folds: with each seed, as many runs are made, each of which tests another fold; see
            ``ImageDataModule`` and ``conclude_folds``.
        varied: Settings in which other versions of the name may differ, beside those in which these runs do.

    Raises:
        UserError: If the configuration has no seed to count from, or a run diverges.
    """
    args = arguments(config, changes)
    parsed = parse("fit", args)
    first = parsed.seed_everything
    if isinstance(first, bool):
        raise UserError(f"seed_everything is {str(first).lower()}: give the number of the first seed, such as 0.")
    parts = [
        _Part(
            place,
            f"seed {seed}" if fold is None else f"fold {fold} of {folds}, seed {seed}",
            {"seed_everything": seed, **({} if fold is None else {"data.folds": folds, "data.fold": fold})},
        )
        for place, (seed, fold) in enumerate(
            itertools.product(range(first, first + seeds), range(1, folds + 1) if folds else [None])
        )
    ]
    folder = parsed.log_dir / parsed.name
    # A run of another seed or fold has other versions in the place of the runs that it names.
    own = ("seed_everything", *NAMED, *(("data.fold",) if folds else ()))
    several = _Several(args, parts, (*own, *varied), folder, True, processes > 1, fit)
    return [run for run in several.make(processes) if run is not None]


@dataclass(frozen=True)
class _Part:
    """One of several runs.

    Attributes:
        place: Its place, from 0.
        what: What it is, for people.
        changes: What it changes.
    """

    place: int
    what: str
    changes: Mapping[str, Any]


_News = tuple[int, Run | None, str]  # the place of a run, the run itself if it has a figure, what it shows


@dataclass(frozen=True)
class _Several:
    """Runs of one configuration, and of one name.

    Attributes:
        args: The configuration, as command-line arguments.
        parts: The runs.
        varied: The settings in which they differ.
        folder: Where their records lie.
        tested: Whether they are tested; else they are candidates.
        shared: Whether several processes share them: each then says nothing but its result, and takes what is done.
        runner: What makes a run, as ``fit`` does.
    """

    args: Sequence[str]
    parts: Sequence[_Part]
    varied: tuple[str, ...]
    folder: Path
    tested: bool
    shared: bool
    runner: Runner

    def make(self, processes: int) -> list[Run | None]:
        """Make all runs; None stands for a candidate without a figure."""
        made: dict[int, Run | None] = {}

        def hear(news: _News) -> None:
            place, run, shown = news
            if shown and place not in made:  # else another process has found it done before it heard of it
                _say(shown)
            made[place] = run

        share_work(partial(_work, self), processes, hear)
        return [made[part.place] for part in self.parts]

    def run(self, part: _Part) -> _News:
        """Make one of them."""
        changes = {**ONE, **part.changes}
        try:
            if not self.shared:
                run = self.runner(self.args, changes, tested=self.tested, varied=self.varied)
            else:
                with redirect_stdout(io.StringIO()):
                    alone = {"resume": True, "trainer.enable_progress_bar": False}
                    run = self.runner(self.args, {**changes, **alone}, tested=self.tested, varied=self.varied)
        except (DivergedError, torch.OutOfMemoryError) as error:
            if self.tested:
                raise
            return part.place, None, f"{part.what}: {one_line(error)}"
        if not self.tested:
            best = run.record.get("best") or {}
            figure = f"{best.get('monitor', '')} {float(best.get('value', math.nan)):.4f}"
        else:
            figure = f"test accuracy {run.test['accuracy']:.4f}, {run.paths.logs}" if run.paths else ""
        return part.place, run, f"{part.what}: {figure}" if self.shared or not self.tested else ""


def _work(several: _Several, channel: Channel) -> None:
    work_off(_Left(several), channel)


class _Left:
    """Those of several runs that are left, as one process knows them."""

    def __init__(self, several: _Several) -> None:
        self.several, self.made = several, set[int]()

    def left(self) -> Iterator[_Part]:
        return (part for part in self.several.parts if self.is_left(part))

    def claim(self, part: _Part) -> AbstractContextManager[bool]:
        """Hold a run, where several share them; the processes of one run make all of them together."""
        if not self.several.shared:
            return nullcontext(True)
        folder = self.several.folder
        return claimed(folder.with_name(f".{folder.name}.{part.place}.claim"))

    def is_left(self, part: _Part) -> bool:
        return part.place not in self.made

    def do(self, part: _Part) -> _News:
        self.made.add(part.place)
        return self.several.run(part)

    def hear(self, news: _News) -> None:
        self.made.add(news[0])

    def wait(self) -> bool:
        return False


def preferred(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the place of the record that has the best validation figure, of equally good ones the first.

    Args:
        records: Records of runs; those that have diverged do not count.

    Returns:
        The place; None if no record has a finite figure.

    Raises:
        ValueError: If their figures are not of one kind.
    """
    monitors = {best["monitor"] for record in records if (best := record.get("best")) and "monitor" in best}
    if len(monitors) > 1:
        raise ValueError(f"figures of {' and '.join(sorted(monitors))} do not compare")
    scores = [-math.inf if record.get("diverged") else score(record) for record in records]
    best = max(range(len(scores)), key=lambda place: scores[place], default=None)
    return None if best is None or scores[best] == -math.inf else best


def score(record: Mapping[str, Any]) -> float:
    """Return the best validation figure of a run so that more is better; minus infinity without a finite one."""
    found = record.get("best") or {}
    value = float(found.get("value", math.nan))
    if not math.isfinite(value):
        return -math.inf
    return -value if smaller_is_better(str(found.get("monitor", ""))) else value


@rank_zero_only
def _say(text: str) -> None:
    print(text)


def words(changes: Mapping[str, Any]) -> str:
    """Write changed settings in one line."""
    return " ".join(f"{setting}={written(value)}" for setting, value in changes.items())
