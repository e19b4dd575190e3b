"""Strategies, label budgets and changes as data: what a user writes, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from fashion_tl.errors import UserError, check_known, shown
from fashion_tl.runs.configs import read_config, read_yaml

Changes = dict[str, Any]
ALL = "all"
FIRST_STAGE = "FIRST_STAGE"  # stands for the lowest stage of whatever network
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,59}")
_KEYS = ("changes", "candidates", "budgets")


@dataclass(frozen=True)
class Strategy:
    """What is compared: changes to a base configuration, by flag without the dashes.

    Attributes:
        name: Its name.
        changes: What it changes.
        candidates: More changes, among which validation chooses.
        budgets: More changes at some label budgets, by the budget's name.
        optional: Whether it is left out where its runs would be refused.
    """

    name: str
    changes: Changes = field(default_factory=dict)
    candidates: tuple[Changes, ...] = ({},)
    budgets: dict[str, Changes] = field(default_factory=dict)
    optional: bool = False

    def with_first_stage(self, stage: str) -> Strategy:
        """Return the strategy with the name of the network's lowest stage wherever it says FIRST_STAGE."""
        return replace(
            self,
            changes=_replaced(self.changes, stage),
            candidates=tuple(_replaced(each, stage) for each in self.candidates),
            budgets=_replaced(self.budgets, stage),
        )


@dataclass(frozen=True)
class Budget:
    """Labelled images a class, to train and to validate on.

    Attributes:
        name: Its number as text, or "all".
        labels: The number; None for all.
        changes: What it changes beside that, such as the number of epochs.
    """

    name: str
    labels: int | None
    changes: Changes = field(default_factory=dict)

    @property
    def settings(self) -> Changes:
        """The changes with the budget itself."""
        return {"data.label_budget": self.labels, **self.changes}

    def with_first_stage(self, stage: str) -> Budget:
        """Return the budget with the name of the network's lowest stage wherever it says FIRST_STAGE."""
        return replace(self, changes=_replaced(self.changes, stage))


def read_strategies(path: Path | None) -> list[Strategy]:
    """Read a file of strategies, or the default ones.

    Args:
        path: A YAML file: ``strategies``, by name with ``changes``, ``candidates`` and ``budgets``.

    Raises:
        UserError: If the file is not that.
    """
    if path is None:
        text = (files("fashion_tl.tournament") / "strategies.yaml").read_text(encoding="utf-8")
        content, what = read_yaml(text, "the default strategies"), "the default strategies"
    else:
        content, what = read_config(path), str(path)
    _check_keys(content, ("strategies",), what)
    given = content.get("strategies")
    if not isinstance(given, dict) or not given:
        raise UserError(f"{what} has no strategies: it needs `strategies: {{NAME: {{changes: {{FLAG: VALUE}}}}}}`.")
    return [_strategy(name, value, what) for name, value in given.items()]


def read_changes(given: str) -> list[Strategy]:
    """Read named changes, ``{NAME: {FLAG: VALUE}}``, from a YAML file or from the text itself.

    Raises:
        UserError: If they are not that.
    """
    inline = given.lstrip().startswith("{")
    content = read_yaml(given, "--add") if inline else read_config(Path(given))
    if not isinstance(content, dict) or not content:
        raise UserError(f"--add {shown(given)}: give a YAML file, or changes by name: {{NAME: {{FLAG: VALUE}}}}.")
    what = "--add" if inline else given
    return [
        Strategy(check_strategy_name(name, what), _changes(value, f"{what}: {name}")) for name, value in content.items()
    ]


def pick(strategies: Sequence[Strategy], names: str | None) -> list[Strategy]:
    """Pick strategies by their names, separated by commas; all if None.

    Raises:
        UserError: If there is no such strategy.
    """
    if names is None:
        return list(strategies)
    by_name = {strategy.name: strategy for strategy in strategies}
    picked = [name.strip() for name in names.split(",")]
    for name in picked:
        check_known("strategy", name, by_name, "Name them with --only A,B.")
    return [by_name[name] for name in dict.fromkeys(picked)]


def read_budgets(given: str) -> list[Budget]:
    """Read label budgets and put them into rising order.

    Args:
        given: Whole numbers from 2, or "all", separated by commas; or a YAML file that has such names, each with the
            changes at that budget: ``{10: {trainer.max_epochs: 30}, all: {}}``.

    Raises:
        UserError: If there is no budget, or one is neither.
    """
    if given.endswith((".yaml", ".yml")):
        changes = _by_budget(read_yaml(_text(Path(given)), given) or {}, given)
    else:
        changes = {name.strip(): {} for name in given.split(",") if name.strip()}
    wrong = [name for name in changes if name != ALL and not (name.isdecimal() and name.isascii() and int(name) > 1)]
    if wrong or not changes:
        raise UserError(
            f"--budgets {shown(given)}: {f'{shown(wrong[0])} is no budget' if wrong else 'it is empty'}. "
            "Give labels a class from 2, or all, separated by commas: 10,30,all."
        )
    found = [Budget(name, None if name == ALL else int(name), each) for name, each in changes.items()]
    return sorted(found, key=lambda budget: budget.labels or math.inf)


def check_strategy_name(name: object, what: str) -> str:
    """Return the name of a strategy, or raise a UserError if it cannot be part of a run's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{what}: {shown(name)} is no name: give at most 60 letters, digits, '_', '-' and '+'.")
    return name


def _strategy(name: object, value: object, what: str) -> Strategy:
    where = f"{what}: {check_strategy_name(name, what)}"
    if not isinstance(value, dict):
        raise UserError(f"{where} is {shown(value)}, it must be a mapping of {', '.join(_KEYS)}.")
    _check_keys(value, _KEYS, where)
    candidates = value.get("candidates", [{}])
    if not isinstance(candidates, list) or not candidates:
        raise UserError(f"{where}: candidates is {shown(candidates)}, it must be a list of changes.")
    return Strategy(
        str(name),
        _changes(value.get("changes") or {}, where),
        tuple(_changes(each, f"{where}: candidates") for each in candidates),
        _by_budget(value.get("budgets"), where),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"--budgets: {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def _by_budget(value: object, what: str) -> dict[str, Changes]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{what}: budgets is {shown(value)}, it must be a mapping {{LABELS: {{FLAG: VALUE}}}}.")
    return {str(name): _changes(changes, f"{what}: budgets: {name}") for name, changes in value.items()}


def _changes(value: object, what: str) -> Changes:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{what}: {shown(value)} are no changes: give {{FLAG: VALUE}}, such as {{model.lr: 0.01}}.")
    return dict(value)


def _check_keys(content: dict[Any, Any], allowed: Sequence[str], what: str) -> None:
    for key in content:
        check_known(f"key in {what}", str(key), allowed)


def _replaced(value: Any, stage: str) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(value, dict):
        return {key: _replaced(each, stage) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, stage) for each in value]
    return stage if value == FIRST_STAGE else value
