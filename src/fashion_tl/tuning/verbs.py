"""The verb ``tune``: a study of hyperparameters from its flags to its report."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fashion_tl.commands import Flag
from fashion_tl.errors import UserError, check_options
from fashion_tl.imports import is_installed

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from fashion_tl.tuning.plan import Tuning
    from fashion_tl.tuning.trials import Trials


def tune(
    *flags: Flag,
    space: Path | None = None,
    trials: int | None = None,
    sampler: Literal["tpe", "random", "grid"] = "tpe",
    pruner: Literal["none", "median", "hyperband"] = "median",
    storage: str | None = None,
    processes: int = 1,
    sampler_seed: int | None = None,
    seeds: int = 1,
    name: str | None = None,
    plan_only: bool = False,
) -> None:
    """Search the settings of a configuration by validation alone, then train and test the best (Optuna).

    The results lie in ``LOG_DIR/tuning/NAME``: a page, a table, plots, and ``best.yaml``, which ``fashion-tl fit -c``
    runs. The same command goes on where it was stopped; more --trials go on from those that are done.

    Args:
        flags: All flags of ``fashion-tl fit``, -c FILE first: the configuration that the trials change.
        space: A YAML file of settings and the values to try: ``model.lr: {float: [1.0e-4, 0.1], log: true}``,
            ``data.batch_size: {int: [16, 256], step: 16}``, ``model.optimizer: {choices: [sgd, adamw]}``.
        trials: Number of trials; 40, or all combinations of a grid, if not given.
        sampler: What draws the values: a tree-structured Parzen estimator, chance, or all combinations.
        pruner: What ends trials early by their validation figures.
        storage: URL of a database that several machines share, such as postgresql://HOST/NAME; a journal beside the
            results if not given.
        processes: Processes that share the trials, each with its share of the CPU's cores, or a GPU of its own. The
            same command on other machines that share LOG_DIR, or the storage, takes part too.
        sampler_seed: Seed of the sampler; that of the configuration if not given.
        seeds: Seeds to train and test the best trial with, from that of the configuration on.
        name: Name of the study and of the tested runs; that of the configuration and ".tuned" if not given.
        plan_only: Print the plan, and stop.

    Raises:
        UserError: If a setting, a value or a flag is not allowed, or Optuna is not there.
    """
    if not is_installed("optuna"):
        raise UserError("`fashion-tl tune` needs Optuna: pip install 'fashion-tl[tune]'.")
    if space is None:
        raise UserError("`fashion-tl tune` needs the settings to search: --space FILE.")
    from fashion_tl.tuning.plan import describe, make_tuning
    from fashion_tl.tuning.space import read_space

    check_options(processes=(processes, 1), seeds=(seeds, 1))
    tuning = make_tuning(flags, read_space(space), trials, sampler, pruner, storage, sampler_seed, name)
    print(describe(tuning), flush=True)
    if not plan_only:
        run_tuning(tuning, processes, seeds)


def run_tuning(tuning: Tuning, processes: int = 1, seeds: int = 1) -> None:
    """Run the trials of a study, test the best one and write the report.

    Args:
        tuning: The study.
        processes: Processes that share the trials.
        seeds: Seeds to test the best one with.
    """
    from fashion_tl.runs.studies import stoppable
    from fashion_tl.runs.workers import share_work
    from fashion_tl.tuning.plan import note_folder
    from fashion_tl.tuning.progress import Progress
    from fashion_tl.tuning.study import storage_errors
    from fashion_tl.tuning.trials import Trials
    from fashion_tl.tuning.worker import work

    with stoppable(), storage_errors(tuning):
        if tuning.storage is not None:  # one that cannot be reached leaves nothing here
            with Trials(tuning, make=True):
                pass
        tuning = replace(tuning, folder=note_folder(tuning))
        with Trials(tuning, make=True) as trials:
            done = len(trials.finished)
        if done:
            print(f"{done} trials are finished already", flush=True)
        with Progress(tuning, done, processes) as progress:
            share_work(partial(work, tuning), processes, progress.add)
        with Trials(tuning) as trials:
            finish(tuning, trials, seeds, processes)


def finish(tuning: Tuning, trials: Trials, seeds: int, processes: int) -> None:
    """Write the report of a study, test its best trial and write that into it, unless another process does.

    Raises:
        UserError: If no trial has a figure, or the best one diverges with another seed or is refused.
    """
    from fashion_tl.files import claimed
    from fashion_tl.report.compare import write_report
    from fashion_tl.report.exports import PAGE
    from fashion_tl.runs.search import repeat
    from fashion_tl.training.divergence import DivergedError
    from fashion_tl.tuning.page import contents_of
    from fashion_tl.tuning.results import results_of

    page = tuning.logs / PAGE
    with claimed(tuning.logs / ".best.claim") as mine:
        if not mine:
            print("another process tests the best trial and writes the report")
            return
        best = None if trials.best is None else write_best(tuning, trials, trials.best)
        # The trials are worth a page, whatever becomes of the test.
        write_report(tuning.logs, contents_of(results_of(tuning, trials, [])))
        if best is None:
            raise UserError(f"no trial of {tuning.name} has a finite validation figure: {page} says why.")
        path, settings = best
        try:
            # Versions of the name with other settings, such as of an earlier best trial, are left as they are.
            runs = repeat(path, seeds, {"resume": True}, min(processes, seeds), varied=settings)
        except (DivergedError, UserError) as error:
            raise UserError(f"the best trial of {tuning.name}, trained again: {error} The trials: {page}") from error
        write_report(tuning.logs, contents_of(results_of(tuning, trials, runs)))
    print(f"study {tuning.name}: {page}")


def write_best(tuning: Tuning, trials: Trials, best: FrozenTrial) -> tuple[Path, tuple[str, ...]]:
    """Write the configuration of the best trial; returns its path, and the names of all settings and sections in it."""
    from fashion_tl.files import write_text
    from fashion_tl.runs.checks import to_record
    from fashion_tl.runs.parser import arguments, dump, parse
    from fashion_tl.tuning.space import brief

    changes = {**trials.settings(best), "name": tuning.name}
    path = tuning.logs / "best.yaml"
    # With the names of runs: each seed has the runs of its own seed in their place.
    config = to_record(parse("fit", arguments(tuning.runs.args, changes)))
    write_text(path, dump("fit", config))
    print(f"best is trial {trials.place(best)}, {brief(trials.settings(best))}: {tuning.monitor} {best.value:.4f}")
    return path, tuple(vars(config))
