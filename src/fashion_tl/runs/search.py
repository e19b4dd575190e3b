"""Trying values of settings one after the other: chosen by validation, never by the test."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fashion_tl.errors import UserError
from fashion_tl.records.record import read_record


class Runner(Protocol):
    """What can run again with other flags; ``paths.logs`` is then where the record lies."""

    paths: Any

    def again(self, flags: list[str], tested: bool = True) -> None:
        """Run once."""


def search(runner: Runner, values: dict[str, list[Any]], name: str, say: Callable[[str], None] = print) -> list[str]:
    """Train a candidate for every combination of values and return the flags of the best.

    A candidate is a run of the name ``<name>.search``: it has a record, no test figures and no checkpoints.

    Args:
        runner: What runs.
        values: The values to try of each setting, by its flag without the dashes.
        name: Name of the run that the search is for.
        say: Where each candidate's result goes.

    Returns:
        Flags that set the best values.

    Raises:
        UserError: If a setting has no values, or no candidate has a finite figure.
    """
    empty = [setting for setting, tried in values.items() if not tried]
    if empty:
        raise UserError(f"--search has no values for {', '.join(empty)}.")
    best, chosen = -math.inf, None
    combinations = list(itertools.product(*values.values()))
    for number, combination in enumerate(combinations, 1):
        flags = [f"--{setting}={_written(value)}" for setting, value in zip(values, combination, strict=True)]
        runner.again([*flags, f"--name={name}.search"], tested=False)
        found = read_record(Path(runner.paths.logs)).get("best") or {}
        monitor, value = str(found.get("monitor", "")), float(found.get("value", math.nan))
        words = " ".join(flag.removeprefix("--") for flag in flags)
        say(f"search {number}/{len(combinations)}: {words}: {monitor} {value:.4f}")
        score = -value if monitor.endswith("loss") else value
        if score > best:
            best, chosen = score, flags
    if chosen is None:
        raise UserError("no candidate of the search has a finite validation figure: try lower learning rates.")
    say(f"search: best is {' '.join(flag.removeprefix('--') for flag in chosen)}")
    return chosen


def _written(value: Any) -> str:  # noqa: ANN401 - a value from YAML
    return value if isinstance(value, str) else json.dumps(value)
