"""The verbs ``tournament`` and ``ablate``: a study from its flags to its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_tl.commands import Flag
from fashion_tl.errors import UserError, check_options

if TYPE_CHECKING:
    from fashion_tl.tournament.plan import Study


def tournament(
    *flags: Flag,
    strategies: Path | None = None,
    only: str | None = None,
    budgets: str | None = None,
    seeds: int = 3,
    trials: int = 3,
    name: str | None = None,
    processes: int = 1,
    keep_checkpoints: bool = False,
    plan_only: bool = False,
) -> None:
    """Compare strategies of training on one source and backbone, at one or several label budgets.

    Each strategy gets the same number of trials on validation; the chosen candidate is trained with several seeds and
    tested. The results lie in ``LOG_DIR/tournaments/NAME``: a page, a table, plots. The same command goes on where it
    was stopped.

    Args:
        flags: All flags of ``fashion-tl fit``, -c FILE first: the configuration that the strategies change.
        strategies: A YAML file of strategies; else the default ones.
        only: Names of the strategies to compare, separated by commas; all if not given.
        budgets: Labelled images a class, separated by commas, such as 10,30,100,all; or a YAML file that has them with
            changes at each, {10: {trainer.max_epochs: 30}}; those of the configuration if not given.
        seeds: Seeds to train the chosen candidate with, from that of the configuration on.
        trials: Candidates of each strategy to try; with 1 the first one is taken.
        name: Name of the tournament; that of the configuration if not given.
        processes: Processes that share the runs, each with its share of the CPU's cores, or a GPU of its own. The same
            command on other machines that share LOG_DIR and the checkpoints' folder takes part too.
        keep_checkpoints: Keep the checkpoints of runs that are done.
        plan_only: Print the plan with its estimated time, and stop.

    Raises:
        UserError: If a strategy, a budget or a flag is not allowed.
    """
    from fashion_tl.tournament.plan import make_study
    from fashion_tl.tournament.strategies import Budget, pick, read_budgets, read_strategies

    check_options(processes=(processes, 1))
    picked = pick(read_strategies(strategies), only)
    chosen: Sequence[Budget | None] = [None] if budgets is None else read_budgets(budgets)
    study = make_study("tournament", name, flags, picked, chosen, trials, seeds, keep_checkpoints)
    run_study(study, processes, plan_only)


def ablate(
    *flags: Flag,
    switches: str | None = None,
    add: str | None = None,
    seeds: int = 3,
    name: str | None = None,
    processes: int = 1,
    keep_checkpoints: bool = False,
    plan_only: bool = False,
) -> None:
    """Turn off switches of a configuration, each alone, or add changes alone, and measure what that changes.

    A switch is a setting that the configuration sets to another value than its default and that is a technique; data,
    sizes, network, learning rate, phases and length of the training are none. The results lie in
    ``LOG_DIR/tournaments/NAME``. The same command goes on where it was stopped.

    Args:
        flags: All flags of ``fashion-tl fit``, -c FILE first: the configuration.
        switches: Names of the switches to turn off, separated by commas; without it and ``add`` all.
        add: Changes to add, each alone: a YAML file, or ``{NAME: {FLAG: VALUE}}``.
        seeds: Seeds of each variant, from that of the configuration on.
        name: Name of the ablation; that of the configuration and ".ablation" if not given.
        processes: Processes that share the runs, each with its share of the CPU's cores, or a GPU of its own. The same
            command on other machines that share LOG_DIR and the checkpoints' folder takes part too.
        keep_checkpoints: Keep the checkpoints of runs that are done.
        plan_only: Print the plan with its estimated time, and stop.

    Raises:
        UserError: If a switch, a change or a flag is not allowed, or nothing is turned on.
    """
    from fashion_tl.runs.parser import parse
    from fashion_tl.tournament.plan import make_study
    from fashion_tl.tournament.strategies import Strategy, read_changes
    from fashion_tl.tournament.switches import turned_off

    check_options(processes=(processes, 1))
    base = parse("fit", flags)
    off = turned_off(base, switches) if add is None or switches is not None else []
    variants = [*off, *(read_changes(add) if add is not None else [])]
    taken = {"base": "the configuration as it is", **{each.name: "that switch turned off" for each in off}}
    for variant in variants[len(off) :]:
        if variant.name in taken:
            raise UserError(f"--add: {variant.name!r} is the name of {taken[variant.name]}. Choose another one.")
    everything = [Strategy("base"), *variants]
    study = make_study(
        "ablation", name or f"{base.name}.ablation", flags, everything, [None], 1, seeds, keep_checkpoints
    )
    run_study(study, processes, plan_only)


def run_study(study: Study, processes: int = 1, plan_only: bool = False) -> None:
    """Print the plan of a study, make its runs and write its report.

    Args:
        study: The study.
        processes: Processes that share the runs.
        plan_only: Whether to stop after the plan.
    """
    from fashion_tl.plain_text import duration
    from fashion_tl.process import threads_of_worker
    from fashion_tl.report.compare import write_report
    from fashion_tl.report.exports import PAGE
    from fashion_tl.runs.studies import stoppable
    from fashion_tl.tournament.engine import play
    from fashion_tl.tournament.page import contents_of
    from fashion_tl.tournament.plan import describe
    from fashion_tl.tournament.progress import Progress, expected_seconds, finished
    from fashion_tl.tournament.results import results_of

    print(describe(study), flush=True)
    with stoppable():
        found = finished(study)
        with threads_of_worker(processes):
            expected = expected_seconds(study, found)
        progress = Progress(study, expected, found, processes)
        done = f", {progress.done} of them done" if progress.done else ""
        print(f"{progress.count} runs{done}; about {duration(progress.seconds_left())} on this machine", flush=True)
        if plan_only:
            return
        played = play(study, progress, processes)
    results = results_of(study, played)
    write_report(study.logs, contents_of(results))
    print("\n".join(results["conclusion"]))
    print(f"{study.kind} {study.name}: {study.logs / PAGE}")
