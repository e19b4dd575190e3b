"""Several runs of one configuration: trying values, chosen by validation and never by the test; repeating seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from fashion_tl.errors import UserError
from fashion_tl.records.record import versions
from fashion_tl.runs.fit import Run, fit
from fashion_tl.runs.parser import Config, arguments, parse, written
from fashion_tl.training.divergence import DivergedError

Runner = Callable[..., Run]


def search(
    config: Config, values: Mapping[str, list[Any]], changes: Mapping[str, Any] | None = None, runner: Runner = fit
) -> dict[str, Any]:
    """Train a candidate for every combination of values and return the changes that make the best.

    A candidate is a run of the name ``<name>.search``: it has a record, no test figures and no checkpoints.

    Args:
        config: As for ``fit``.
        values: The values to try of each setting, by its flag without the dashes.
        changes: Settings to change in all of them.
        runner: What trains a candidate, as ``fit`` does.

    Returns:
        The best value of each setting.

    Raises:
        UserError: If a setting has no values, or no candidate has a finite figure.
    """
    empty = [setting for setting, tried in values.items() if not tried]
    if empty:
        raise UserError(f"--search has no values for {', '.join(empty)}.")
    args = arguments(config, changes)
    parsed = parse("fit", args)
    name = parsed.name
    if not parsed.resume and versions(parsed.log_dir, f"{name}.search"):
        _say(f"search: all candidates are trained; --resume true takes those of {name}.search that are done.")
    combinations = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]
    chosen = best_of(args, combinations, f"{name}.search", runner)
    if chosen is None:
        raise UserError("no candidate of the search has a finite validation figure: try lower learning rates.")
    _say(f"search: best is {words(chosen)}")
    return chosen


def best_of(
    args: Sequence[str],
    candidates: Sequence[dict[str, Any]],
    name: str,
    runner: Runner = fit,
) -> dict[str, Any] | None:
    """Train candidates and return the one that validation prefers; of equally good ones the first.

    Args:
        args: Command-line arguments.
        candidates: The settings that each candidate changes.
        name: The name of the candidates' runs.
        runner: What trains a candidate, as ``fit`` does.

    Returns:
        The settings of the best one; None if no candidate has a finite figure.
    """
    records: list[Mapping[str, Any]] = []
    for number, tried in enumerate(candidates, 1):
        what = f"search {number}/{len(candidates)}: {words(tried)}"
        try:
            run = runner(args, {"seeds": 1, "search": None, **tried, "name": name}, tested=False)
        except DivergedError as error:
            _say(f"{what}: {error}")
            records.append({})
            continue
        records.append(run.record)
        found = run.record.get("best") or {}
        _say(f"{what}: {found.get('monitor', '')} {float(found.get('value', math.nan)):.4f}")
    best = preferred(records)
    return None if best is None else candidates[best]


def preferred(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the place of the record that has the best validation figure, of equally good ones the first.

    Args:
        records: Records of runs; those that have diverged do not count.

    Returns:
        The place; None if no record has a finite figure.
    """
    scores = [-math.inf if record.get("diverged") else score(record) for record in records]
    best = max(range(len(scores)), key=lambda place: scores[place], default=None)
    return None if best is None or scores[best] == -math.inf else best


def score(record: Mapping[str, Any]) -> float:
    """Return the best validation figure of a run so that more is better; minus infinity without a finite one."""
    found = record.get("best") or {}
    value = float(found.get("value", math.nan))
    if not math.isfinite(value):
        return -math.inf
    return -value if str(found.get("monitor", "")).endswith("loss") else value


def repeat(config: Config, seeds: int, changes: Mapping[str, Any] | None = None, runner: Runner = fit) -> list[Run]:
    """Run a configuration with its seed and the next ones, each a version of the same name.

    Args:
        config: As for ``fit``.
        seeds: Number of runs.
        changes: Settings to change in all of them.
        runner: What runs each, as ``fit`` does.

    Raises:
        UserError: If the configuration has no seed to count from.
    """
    args = arguments(config, changes)
    first = parse("fit", args).seed_everything
    if isinstance(first, bool):
        raise UserError(f"seed_everything is {str(first).lower()}: give the number of the first seed, such as 0.")
    return [runner(args, {"seeds": 1, "search": None, "seed_everything": first + i}) for i in range(seeds)]


@rank_zero_only
def _say(text: str) -> None:
    print(text)


def words(changes: Mapping[str, Any]) -> str:
    """Write changed settings in one line."""
    return " ".join(f"{setting}={written(value)}" for setting, value in changes.items())
