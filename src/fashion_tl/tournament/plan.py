"""The runs of a tournament or an ablation: which there are, what each changes, and whether all of it is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.errors import UserError
from fashion_tl.plain_text import with_article
from fashion_tl.records.record import check_name
from fashion_tl.runs.named import named_runs
from fashion_tl.runs.parser import arguments, parse
from fashion_tl.runs.search import words
from fashion_tl.runs.studies import (
    OWN,
    NamedRuns,
    among,
    bounds,
    build,
    check_base,
    check_images,
    check_run,
    check_searched,
    divide_as,
    load_data,
    run_settings,
)
from fashion_tl.tournament.strategies import ALL, Budget, Changes, Strategy

FOLDER = "tournaments"


@dataclass(frozen=True)
class Cell:
    """One strategy at one label budget: its trials and its seeds.

    Attributes:
        budget: The label budget; None for what the configuration says.
        strategy: The strategy.
    """

    budget: Budget | None
    strategy: Strategy

    @property
    def name(self) -> str:
        """What the names of its runs begin with."""
        return f"{self.budget.name}.{self.strategy.name}" if self.budget else self.strategy.name

    @property
    def changes(self) -> Changes:
        """What all of its runs change."""
        if self.budget is None:
            return self.strategy.changes
        special = self.strategy.budgets.get(self.budget.name, {})
        return {**self.budget.settings, **self.strategy.changes, **special}


@dataclass(frozen=True)
class Study:
    """All runs of one question.

    Attributes:
        kind: "tournament" or "ablation".
        name: Its name.
        args: Command-line arguments of the base configuration.
        runs: The runs that it and its changes name.
        strategies: What is compared.
        budgets: Label budgets; a single None for what the configuration says.
        trials: Candidates that are tried of each strategy; one needs no trial.
        seeds: Seeds of the runs that are tested.
        split_seeds: Seed of the split of each of them.
        same_split: Why all of them have the same split; None if each has its own.
        logs: Folder of the results; records lie below.
        checkpoints: Folder of the checkpoints.
        images: Training images at each label budget, by its name, "" for what the configuration says; "test" for the
            test images.
        data: What the data module says of the images that all runs have, see ``check_same_data``.
        keep_checkpoints: Whether runs that are done keep them.
        left_out: Why optional strategies are left out, by their names.
    """

    kind: str
    name: str
    args: tuple[str, ...]
    runs: NamedRuns
    strategies: tuple[Strategy, ...]
    budgets: tuple[Budget | None, ...]
    trials: int
    seeds: tuple[int, ...]
    split_seeds: tuple[int, ...]
    same_split: str | None
    logs: Path
    checkpoints: Path
    images: Mapping[str, int]
    data: Mapping[str, Any]
    keep_checkpoints: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order in which they run."""
        return [Cell(budget, strategy) for budget in self.budgets for strategy in self.strategies]

    @property
    def runs_per_cell(self) -> int:
        """Trials of a cell, one of which is the run of its first seed, and its other seeds."""
        return len(self.seeds) + (self.trials - 1 if self.trials > 1 else 0)

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.logs / "runs"

    def changes(self, cell: Cell, candidate: Changes) -> Changes:
        """Return all that the runs of a candidate change, with the checkpoints of the runs that it names.

        Raises:
            UserError: If it names a run that is not completed.
        """
        return self.runs.settle({**cell.changes, **candidate})

    # Every run has a name of its own, so that one that has failed never stands in the way of the others.
    def trial_name(self, cell: Cell, number: int) -> str:
        """Name the run of a trial, by its number from 1."""
        return f"{cell.name}.trial{number}"

    def seed_name(self, cell: Cell, seed: int) -> str:
        """Name the run of a seed."""
        return f"{cell.name}.seed{seed}"

    def run_names(self, cell: Cell) -> list[str]:
        """Name all runs of a cell: its trials, then its seeds but for the first one, which is the chosen trial's."""
        trials = [self.trial_name(cell, i + 1) for i in range(self.trials)] if self.trials > 1 else []
        return [*trials, *(self.seed_name(cell, seed) for seed in self.seeds[bool(trials) :])]

    def run_settings(self, cell: Cell, candidate: Changes, name: str, seed: int) -> Changes:
        """Return all that a run changes, by its name and the place of its seed."""
        return {**self.changes(cell, candidate), **self.settings(seed), "name": name}

    def settings(self, seed: int) -> Changes:
        """Return what belongs to the study itself in a run, by the place of its seed."""
        return {
            **run_settings(self.records, self.checkpoints),
            "seed_everything": self.seeds[seed],
            "data.split_seed": self.split_seeds[seed],
        }

    def candidates(self, strategy: Strategy) -> Sequence[Changes]:
        """Return the candidates of a strategy that are tried."""
        return strategy.candidates[: self.trials]


def make_study(
    kind: str,
    name: str | None,
    args: Sequence[str],
    strategies: Sequence[Strategy],
    budgets: Sequence[Budget | None],
    trials: int,
    seeds: int,
    keep_checkpoints: bool = False,
) -> Study:
    """Plan a study and check everything that can be known before its first run.

    Args:
        kind: "tournament" or "ablation".
        name: Its name; that of the configuration if None.
        args: Command-line arguments of the base configuration.
        strategies: What is compared, at least two.
        budgets: Label budgets; a single None for what the configuration says.
        trials: Candidates to try of each strategy.
        seeds: Number of seeds, from that of the configuration on.
        keep_checkpoints: Whether runs that are done keep their checkpoints.

    Raises:
        UserError: If a strategy, budget or number is not allowed; nothing has been written.
    """
    base = parse("fit", args)
    check_base(base, kind)
    _check_counts(kind, strategies, trials, seeds)
    name = check_name(name or base.name)
    runs = NamedRuns(tuple(args))
    args = runs.base
    data, first_stage = load_data(args, {"data.label_budget": None})
    own_test = data.loaded is not None and data.loaded.test is not None
    labelled = _labelled(data)
    first, split = base.seed_everything, base.data.split_seed
    study = Study(
        kind,
        name,
        tuple(args),
        runs,
        tuple(strategy.with_first_stage(first_stage) for strategy in strategies),
        tuple(budget and budget.with_first_stage(first_stage) for budget in budgets),
        trials,
        tuple(range(first, first + seeds)),
        (split,) * seeds,
        None,
        base.log_dir / FOLDER / name,
        base.checkpoint_dir / FOLDER / name,
        {
            **{each.name if each else "": _training_images(data, labelled, each, base) for each in budgets},
            "test": len(data.splits["test"]),
        },
        # Splits are of a run's own seed and budget.
        {key: value for key, value in data.describe().items() if key in ("fingerprint", "class_names")},
        keep_checkpoints,
    )
    if (same := _same_split(study, own_test)) is not None:
        study = replace(study, same_split=same)
    else:
        study = replace(study, split_seeds=tuple(split + i for i in range(seeds)))
    _check_budgets(labelled, budgets)
    left_out = _check_runs(study, {each.name if each else "": _images(study, each, data) for each in budgets})
    kept = tuple(each for each in study.strategies if each.name not in left_out)
    if left_out:
        _check_counts(kind, kept, trials, seeds)
    return replace(study, strategies=kept, left_out=left_out)


def _same_split(study: Study, own_test: bool) -> str | None:
    """Say why all seeds of a study have the same split; None if each has its own."""
    if not own_test:  # another split has other test images
        return "the source has no test set of its own"
    for cell in study.cells:
        for candidate in study.candidates(cell.strategy):
            with suppress(UserError):  # which is told when the runs are checked
                if named_runs(parse("fit", arguments(study.args, {**cell.changes, **candidate}))):
                    return "runs are named that were trained on the images of one split"
    return None


def _check_counts(kind: str, strategies: Sequence[Strategy], trials: int, seeds: int) -> None:
    if seeds < 1 or trials < 1:
        raise UserError(f"--seeds {seeds}, --trials {trials}: {with_article(kind)} needs at least one of each.")
    if len(strategies) < 2:
        raise UserError(f"{with_article(kind)} needs at least two things to compare; there is {len(strategies)}.")
    few = [f"{each.name} has {len(each.candidates)}" for each in strategies if len(each.candidates) < trials]
    if trials > 1 and few:
        raise UserError(
            f"--trials {trials}: each strategy gets as many, but {', '.join(few)} candidates. Give fewer trials, or "
            "more candidates in --strategies FILE."
        )


def _labelled(data: ImageDataModule) -> dict[str, int]:
    """Count the images of each class that there are to learn from."""
    labels = torch.cat([data.splits[name].labels for name in ("train", "val")])
    return dict(zip(data.class_names, torch.bincount(labels, minlength=len(data.class_names)).tolist(), strict=True))


def _training_images(data: ImageDataModule, labelled: Mapping[str, int], budget: Budget | None, base: Namespace) -> int:
    """Say about how many images a run trains on."""
    limit = budget.labels if budget is not None else base.data.label_budget
    if limit is None:
        return len(data.splits["train"])
    return round(sum(min(count, limit) for count in labelled.values()) * (1 - (base.data.val_fraction or 1 / 5)))


def _check_budgets(labelled: Mapping[str, int], budgets: Sequence[Budget | None]) -> None:
    least = min(labelled, key=lambda name: labelled[name])
    over = [each.name for each in budgets if each is not None and (each.labels or 0) > labelled[least]]
    if over:
        raise UserError(
            f"--budgets {','.join(over)}: the class {least!r} has {labelled[least]:,} images. Give at most "
            "as many, or all."
        )


def _images(study: Study, budget: Budget | None, data: ImageDataModule) -> ImageDataModule:
    """Split the images as a label budget does, which has validation images of its own, but no test images."""
    changes = budget.settings if budget is not None else {}
    own: ImageDataModule = build(study.args, changes).data
    try:
        divide_as(own, data)
        check_images(own, data, budget.changes if budget is not None else {}, ("test",))
    except UserError as error:
        raise UserError(f"{study.kind} {study.name}: budget {budget.name if budget else ALL}: {error}") from error
    return own


def _check_runs(study: Study, images: Mapping[str, ImageDataModule]) -> dict[str, str]:
    """Refuse a study of which a run would be refused; returns why optional strategies are left out, by their names.

    Args:
        study: The study.
        images: The images at each label budget, by its name, "" for what the configuration says.
    """
    left_out: dict[str, str] = {}
    for cell in study.cells:
        candidates = study.candidates(cell.strategy)
        # What a candidate changes is allowed at every budget if it is at the first one.
        for candidate in candidates if cell.budget is study.budgets[0] else candidates[:1]:
            try:
                _check_run(study, cell, candidate, images[cell.budget.name if cell.budget else ""])
            except UserError as error:
                if cell.strategy.optional:
                    left_out[cell.strategy.name] = str(error)
                    continue
                changes = {**cell.changes, **candidate}
                told = f" ({words(changes)})" if changes else ""
                raise UserError(f"{study.kind} {study.name}: {cell.name}{told}: {error}") from error
    return left_out


def _check_run(study: Study, cell: Cell, candidate: Changes, images: ImageDataModule) -> None:
    """Refuse a run that would be refused, or judged by other images than those of its budget."""
    budget = cell.budget.settings.items() if cell.budget else ()
    own = {key: value for key, value in {**cell.changes, **candidate}.items() if (key, value) not in budget}
    for key in among({**cell.changes, **candidate}, (*OWN, "data.split_seed")):
        raise UserError(f"{with_article(study.kind)} sets {key} itself; a strategy cannot change it.")
    if study.trials > 1:  # validation chooses among the candidates
        check_searched(candidate)
    changes = study.changes(cell, candidate)
    built = check_run(study.args, {**changes, **study.settings(0), "name": cell.name})
    check_images(built.data, images, own)
    bounds(built, images)


def describe(study: Study) -> str:
    """Say in a few lines what is about to run."""
    count = len(study.cells) * study.runs_per_cell
    seeds = f"{len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    each = f"({study.trials} trials, the best one with {seeds})" if study.trials > 1 else seeds
    budgets = [budget for budget in study.budgets if budget is not None]
    at = f" x {len(budgets)} budget{'s' * (len(budgets) > 1)}" if budgets else ""
    what = "strategies" if study.kind == "tournament" else "variants"
    lines = [f"{study.kind} {study.name}: {len(study.strategies)} {what}{at} x {each} = {count} runs in {study.logs}"]
    lines += [f"  {each.name}: {words(each.changes) or 'the configuration as it is'}" for each in study.strategies]
    lines += [f"  {each.name} labels a class {words(each.changes)}".rstrip() for each in budgets]
    lines += [f"  {name} is left out: {why}" for name, why in study.left_out.items()]
    if study.same_split is not None and len(study.seeds) > 1:
        lines.append(f"  {study.same_split}: all seeds have the same split")
    return "\n".join(lines)
