"""How long the runs of a study take: what is expected before the first one, and what is left after each."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fashion_tl.data.batches import Split
from fashion_tl.errors import UserError
from fashion_tl.plain_text import duration
from fashion_tl.records.record import check_same_data, check_same_start, versions
from fashion_tl.runs.checks import settle
from fashion_tl.runs.fit import fit
from fashion_tl.runs.named import check_same_named
from fashion_tl.runs.parser import arguments, parse
from fashion_tl.runs.resume import WAY, Version, find_version, start_of
from fashion_tl.tournament.plan import Cell, Study
from fashion_tl.tournament.strategies import Changes
from fashion_tl.training.plan import Plan

Found = tuple[Version, Changes]  # a version, and the candidate that has made it
BATCHES = 6  # of the short run that times a strategy
TEST_SHARE = 0.4  # seconds of an image in evaluation as a share of those in training


def _print(text: str) -> None:
    print(text, flush=True)


class Progress:
    """Counts the runs of a study and prints a line for each, with the time that is left.

    Args:
        study: The study.
        expected: Seconds that one run of each cell is expected to take, by the cell's name.
        finished: The runs that are done, or have diverged, before it begins, by their names, as ``finished`` finds.
        processes: Processes that share the runs.
        say: What prints a line.
    """

    def __init__(
        self,
        study: Study,
        expected: Mapping[str, float],
        finished: Mapping[str, Found],
        processes: int = 1,
        say: Callable[[str], None] = _print,
    ) -> None:
        self.cells = {cell.name: cell for cell in study.cells}
        self.finished = finished
        self.left = {
            cell.name: {name for name in study.run_names(cell) if name not in finished} for cell in study.cells
        }
        self.count, self.expected = len(self.cells) * study.runs_per_cell, expected
        self.processes, self.say = processes, say
        self._measured: dict[str, tuple[float, float]] = {}  # seconds spent and expected, by strategy

    @property
    def done(self) -> int:
        """Runs that are done."""
        return self.count - sum(map(len, self.left.values()))

    def seconds_left(self) -> float:
        """Return what the runs that are left are expected to take, by how those before have kept to it."""
        spent, thought = (
            (sum(part) for part in zip(*self._measured.values(), strict=True)) if self._measured else (1, 1)
        )
        overall = spent / thought if thought else 1.0
        total = 0.0
        for name, runs in self.left.items():
            own = self._measured.get(self.cells[name].strategy.name)
            total += len(runs) * self.expected.get(name, 0.0) * (own[0] / own[1] if own and own[1] else overall)
        return total / self.processes

    def add(self, cell: Cell, run_name: str, what: str, made: Version, seconds: float) -> None:
        """Count a run and print its line.

        Args:
            cell: Its cell.
            run_name: Its name.
            what: Which of the cell's runs it is.
            made: What has become of it.
            seconds: What it took.
        """
        if run_name in self.left[cell.name]:  # else it is the test of a trial, which takes no time worth counting
            self.left[cell.name].discard(run_name)
            spent, thought = self._measured.get(cell.strategy.name, (0.0, 0.0))
            self._measured[cell.strategy.name] = spent + seconds, thought + self.expected.get(cell.name, 0.0)
        left = self.seconds_left()
        more = f", about {duration(left)} left" if left else ""
        self.say(f"{self._place()} {cell.name} {what}: {_figure(made)} ({seconds:.1f} s{more})")

    def leave_out(self, cell: Cell, why: str) -> None:
        """Leave out what is left of a cell, and print why."""
        self.left[cell.name].clear()
        self.say(f"{self._place()} {cell.name}: {why}")

    def _place(self) -> str:
        return f"[{self.done:{len(str(self.count))}}/{self.count}]"


def expected_seconds(study: Study, done: Mapping[str, Found]) -> dict[str, float]:
    """Say how long one run of each cell takes: from its finished runs, else from a short run of its strategy."""
    found: dict[str, float] = {}
    timed: dict[str, Timed] = {}
    cached: set[str] = set()
    warm = False
    for cell in study.cells:
        known = _of_records(study, cell, done)
        if known is not None:
            found[cell.name] = known
            continue
        if cell.strategy.name not in timed:
            if not warm:  # the first run of a process also pays for what is loaded once
                _time(study, cell)
                warm = True
            timed[cell.strategy.name] = _time(study, cell)
        each, images = timed[cell.strategy.name], study.images[cell.budget.name if cell.budget else ""]
        found[cell.name] = each.overhead + _epochs_seconds(study, cell, each, images)
        what_is_cached = _of_cache(study, cell)
        if what_is_cached not in cached:  # one of the cell's runs computes it, others read
            cached.add(what_is_cached)
            found[cell.name] += each.cached * (images + study.images["test"]) / len(study.run_names(cell))
    return found


def finished(study: Study) -> dict[str, Found]:
    """Find the runs of a study, with its settings, that are done or have diverged; by their names.

    Raises:
        UserError: If a run of other settings has begun and is not done, so that this one could not go on.
    """
    found: dict[str, Found] = {}
    starts: dict[str, dict[str, Any]] = {}
    for cell in study.cells:
        candidates = study.candidates(cell.strategy)
        names = study.run_names(cell)
        trials = study.trials if study.trials > 1 else 0
        for i, name in enumerate(names):
            # A seed is of the candidate that validation has chosen, whichever that is.
            tried, place = ([candidates[i]], 0) if i < trials else (candidates, i - trials + (trials > 0))
            made = _version(study, cell, name, place, tried, starts)
            if made is not None and (made[0].done or made[0].trained or made[0].diverged):
                found[name] = made
    return found


def _version(
    study: Study,
    cell: Cell,
    name: str,
    place: int,
    candidates: Sequence[Changes],
    starts: dict[str, dict[str, Any]],
) -> Found | None:
    """Find the version of a run's name that one of the candidates has made."""
    refused: UserError | None = None
    for candidate in candidates if versions(study.records, name) else ():
        config = parse("fit", arguments(study.args, study.run_settings(cell, candidate, name, place)))
        settle(config)
        try:
            version = find_version(config, study=True)
        except UserError as error:
            refused = error
        else:
            if version is not None:
                check_same_data(version.paths.logs, version.record, study.data, WAY)
                check_same_start(version.paths.logs, version.record, start_of(config, starts), WAY)
                check_same_named(version.paths.logs, version.record, config)
                return version, candidate
    if refused is not None:
        raise UserError(f"{study.kind} {study.name}: {refused}") from refused
    return None


def _of_records(study: Study, cell: Cell, done: Mapping[str, Found]) -> float | None:
    found = [done[name][0] for name in study.run_names(cell) if name in done and done[name][0].done]
    seconds = [_seconds(each.record) for each in found if each.record.get("test")]
    known = [each for each in seconds if each is not None]
    return sum(known) / len(known) if known else None


def _seconds(record: Mapping[str, object]) -> float | None:
    spent = record.get("time")
    if not isinstance(spent, Mapping):
        return None
    return float(spent.get("fit_seconds") or 0.0) + float(spent.get("test_seconds") or 0.0)


@dataclass(frozen=True)
class Timed:
    """What a short run has taken.

    Attributes:
        overhead: Seconds beside its images.
        phases: Seconds of a training image in each phase.
        cached: Seconds of a training image whose features are computed for the cache, with all of its views, and with
            its share of the validation images.
    """

    overhead: float = 0.0
    phases: Sequence[float] = (0.0,)
    cached: float = 0.0


class FewImages(Callback):
    """Cuts training and validation images, so that what is computed once for all of them takes little.

    The same share of both is left: what a training image takes then counts as many validation images as in a run.

    Args:
        images: Training images to leave.
    """

    def __init__(self, images: int) -> None:
        self.images = images

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Cut them, before anything is computed."""
        splits = getattr(getattr(trainer, "datamodule", None), "splits", {})
        lengths = {part: len(splits[part]) for part in ("train", "val") if part in splits}
        for part, length in lengths.items():
            whole, count = splits[part], max(1, round(length * min(1.0, self.images / lengths["train"])))
            splits[part] = Split(whole.images, _spread(whole.indices, count), whole.fingerprint)


def _spread(indices: Tensor, count: int) -> Tensor:
    """Return so many of the indices, over all of them: neighbours may be of one class."""
    return indices[:: max(1, len(indices) // count)][:count]


def _time(study: Study, cell: Cell) -> Timed:
    """Make a short run of a cell, two epochs of each phase: the first of them pays for what is computed once."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of phases beyond a short run, which say nothing of the runs to come
        first = _first(study, cell)
        config = parse("fit", arguments(study.args, first))
        phases, images = _phases(config), BATCHES * config.data.batch_size
        short = {
            "name": "timing",
            "log_dir": str(Path(folder) / "logs"),
            "checkpoint_dir": str(Path(folder) / "checkpoints"),
            "resume": False,
            "patience": None,
            "trainer.callbacks+": {"class_path": f"{__name__}.FewImages", "init_args": {"images": images}},
            "trainer.max_epochs": 2 * len(phases),
            "trainer.max_steps": -1,
            "trainer.check_val_every_n_epoch": 1,
            "trainer.val_check_interval": 1.0,
            "trainer.limit_train_batches": BATCHES,
            "trainer.limit_val_batches": 1,
        }
        if len(phases) > 1:
            first = {key: value for key, value in first.items() if not f"{key}.".startswith("model.train.")}
            short["model.train"] = {2 * i: _without_end(entry) for i, entry in enumerate(phases.values())}
        try:
            run = fit(list(study.args), {**first, **study.settings(0), **short}, tested=False)
        except UserError:  # diverged or refused, which its runs will say: an estimate keeps no study from running
            return Timed()
    spent = run.record["time"]
    epochs, cached = spent["epoch_seconds"], spent.get("cache_seconds") or 0.0
    trained = spent["images_per_second"] * sum(epochs) / len(epochs)
    steady = epochs[1::2] or epochs
    overhead = time.perf_counter() - began - 2 * sum(steady) - cached
    return Timed(overhead, [each / trained for each in steady], cached / trained)


def _phases(config: Namespace) -> dict[int, Any]:
    """Return what the phases of a run are given as, by their first epochs in order."""
    spec = config.model.init_args.get("train")
    if not isinstance(spec, dict):
        return {0: spec}
    return dict(sorted((int(start), entry) for start, entry in spec.items()))


def _without_end(entry: Any) -> Any:  # noqa: ANN401 - a value of YAML
    return {k: v for k, v in entry.items() if k not in ("until", "patience")} if isinstance(entry, dict) else entry


def _first(study: Study, cell: Cell) -> Changes:
    """Return what the first candidate of a cell changes."""
    return study.changes(cell, study.candidates(cell.strategy)[0])


def _of_cache(study: Study, cell: Cell) -> str:
    """Return those of a cell's changes on which cached features depend, as one text."""
    decide = {key: value for key, value in _first(study, cell).items() if key.startswith(("data.", "model.backbone"))}
    return repr(sorted(decide.items(), key=lambda pair: pair[0]))


def _epochs_seconds(study: Study, cell: Cell, each: Timed, images: int) -> float:
    """Return what the epochs of a run on a number of images take, and its test."""
    config = parse("fit", arguments(study.args, {**_first(study, cell), **study.settings(0), "name": "timing"}))
    epochs, steps = config.trainer.max_epochs, config.trainer.max_steps
    batches = max(1, images // config.data.batch_size)
    bounded = Plan().bounded(-1 if epochs is None else epochs, steps, batches, config.trainer.accumulate_grad_batches)
    end = max(1, bounded.epochs or 1)
    starts = [min(start, end) for start in _phases(config)]
    lengths = [after - start for start, after in zip(starts, [*starts[1:], end], strict=True)]
    trained = sum(length * seconds for length, seconds in zip(lengths, each.phases, strict=False))
    return images * trained + TEST_SHARE * each.phases[0] * study.images["test"]


def _figure(made: Version) -> str:
    if made.diverged:
        return "diverged"
    if made.record.get("test"):
        return f"test accuracy {made.record['test']['accuracy']:.4f}"
    best = made.record.get("best") or {}
    return f"{best['monitor']} {best['value']:.4f}" if best else "no validation figure"
