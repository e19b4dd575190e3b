"""The space of a search as data: what a user writes, checked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from fashion_tl.errors import UserError, check_known, shown
from fashion_tl.runs.configs import read_config
from fashion_tl.runs.parser import written
from fashion_tl.runs.search import words

FLOAT, INT, CHOICES = "float", "int", "choices"
KINDS = (FLOAT, INT, CHOICES)
HOW = "KEY: {float: [LOW, HIGH], log: true}, {int: [LOW, HIGH], step: 2} or {choices: [A, B]}"


@dataclass(frozen=True)
class Setting:
    """One setting and the values that it may take.

    Attributes:
        key: Its flag without the dashes.
        kind: "float", "int" or "choices".
        low: Lowest value; 0 of choices.
        high: Highest value that steps reach.
        log: Whether values are drawn from the logarithm of the range.
        step: Distance of neighbouring values; None for none.
        choices: What there is to choose from.
        end: End of the range as it was given; None where steps reach it.
    """

    key: str
    kind: str
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    end: float | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The choices as text, which is what Optuna chooses from: it takes plain values alone."""
        return tuple(written(choice) for choice in self.choices)

    @property
    def ends(self) -> Sequence[Any]:
        """The values that are tried on the parser: both ends, or every choice."""
        return self.choices if self.kind == CHOICES else (self.low, self.high)

    @property
    def about(self) -> dict[str, Any]:
        """The setting as a file has it."""
        if self.kind == CHOICES:
            return {CHOICES: list(self.choices)}
        more: dict[str, Any] = {"log": True} if self.log else {}
        high = self.high if self.end is None else self.end
        return {self.kind: [self.low, high], **more, **({} if self.step is None else {"step": self.step})}

    @property
    def text(self) -> str:
        """The setting for people."""
        if self.kind == CHOICES:
            return f"{self.key}: {', '.join(self.labels)}"
        step = f", step {_text(self.step)}" if self.step is not None else ""
        past = f", which never reaches {_text(self.end)}" if self.end is not None else ""
        return f"{self.key}: {_text(self.low)} to {_text(self.high)}{', logarithmic' if self.log else ''}{step}{past}"

    def value(self, param: Any) -> Any:  # noqa: ANN401 - as Optuna has it
        """Return the value of a parameter of Optuna, which knows the choices by their text."""
        return self.choices[self.labels.index(param)] if self.kind == CHOICES else param

    def params(self) -> list[Any]:
        """List the parameters of a grid.

        Raises:
            UserError: If the values of the range cannot be counted.
        """
        if self.kind == CHOICES:
            return list(self.labels)
        step = 1 if self.kind == INT and self.step is None and not self.log else self.step
        if step is None:
            raise UserError(
                f"{self.key}: a grid needs values that can be counted. Give choices, or a range with a step and "
                "without log."
            )
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + place * step for place in range(count)]


Space = tuple[Setting, ...]


def read_space(path: Path) -> Space:
    """Read a file of settings: ``KEY: {float: [LOW, HIGH]}``, ``{int: [LOW, HIGH]}`` or ``{choices: [A, B]}``.

    Raises:
        UserError: If the file is not that.
    """
    content = _dotted(read_config(path))
    if not content:
        raise UserError(f"{path} has no settings to search: it needs {HOW}.")
    return tuple(_setting(key, value, f"{path}: {key}") for key, value in content.items())


def grid(space: Space) -> list[dict[str, Any]]:
    """List all combinations of the parameters of a space, the last setting changing fastest.

    Raises:
        UserError: If a range has no step.
    """
    every = [setting.params() for setting in space]
    if math.prod(map(len, every)) > MOST:
        raise UserError(f"the grid has {math.prod(map(len, every)):,} combinations, more than {MOST:,}: give fewer.")
    keys = [setting.key for setting in space]
    return [dict(zip(keys, each, strict=True)) for each in itertools.product(*every)]


MOST = 10_000  # combinations of a grid


def brief(settings: Mapping[str, Any]) -> str:
    """Write values of settings for a line, numbers with four digits."""
    return words({key: float(f"{each:.4g}") if isinstance(each, float) else each for key, each in settings.items()})


def _dotted(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the names of nested sections by dots, down to the values that a setting may take."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and not set(value) & {*KINDS, "log", "step"}:
            if all(isinstance(each, dict) for each in value.values()):
                found |= _dotted(value, f"{name}.")
                continue
            raise UserError(f"{name}: {shown(value)} are no values to search: give {HOW}.")
        found[name] = value
    return found


def _setting(key: str, value: object, where: str) -> Setting:
    if not isinstance(value, dict) or not value:
        hint = f" Did you mean {{choices: {value}}}?" if isinstance(value, list) else ""
        raise UserError(f"{where} is {shown(value)}: give {HOW}.{hint}")
    for each in value:
        check_known(f"key in {where}", str(each), (*KINDS, "log", "step"))
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        raise UserError(f"{where} has {' and '.join(kinds) or 'none of them'}: give one of {', '.join(KINDS)}.")
    if kinds == [CHOICES]:
        return _choices(key, value, where)
    return _range(key, kinds[0], value, where)


def _choices(key: str, value: Mapping[str, Any], where: str) -> Setting:
    given = value[CHOICES]
    if len(value) > 1:
        raise UserError(f"{where}: choices have neither log nor step. Leave them out.")
    if not isinstance(given, list) or len(given) < 2:
        raise UserError(f"{where}: choices is {shown(given)}, it must be a list of at least two values.")
    try:
        setting = Setting(key, CHOICES, choices=tuple(given))
        labels = setting.labels
    except (TypeError, ValueError) as error:  # such as a date, which no flag can have
        raise UserError(f"{where}: choices is {shown(given)}: {error}. Write it as text.") from error
    if len(set(labels)) < len(labels):
        raise UserError(f"{where}: choices is {shown(given)}, two of them are the same.")
    return setting


def _range(key: str, kind: str, value: Mapping[str, Any], where: str) -> Setting:
    given, log = value[kind], value.get("log", False)
    if not isinstance(given, list) or len(given) != 2:
        raise UserError(f"{where}: {kind} is {shown(given)}, it must be [LOW, HIGH].")
    low, high = (_number(each, kind, where) for each in given)
    step = None if value.get("step") is None else _number(value["step"], kind, f"{where}: step")
    if not isinstance(log, bool):
        raise UserError(f"{where}: log is {shown(log)}, it must be true or false.")
    if low >= high:
        raise UserError(f"{where}: {kind} is [{low}, {high}], the first must be the lower one.")
    if log and low <= 0:
        raise UserError(f"{where}: {kind} is [{low}, {high}], the logarithm needs a range above 0.")
    if step is None:
        return Setting(key, kind, low, high, log)
    # As it is written: in binary 0.1 three times is more than 0.3.
    length, distance = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
    if not 0 < distance <= length:
        raise UserError(f"{where}: step is {step}, allowed is more than 0 to {length}.")
    if log:
        raise UserError(f"{where}: step and log exclude each other. Leave one of them out.")
    last = type(high)(Decimal(str(low)) + length // distance * distance)
    return Setting(key, kind, low, last, log, step, end=None if last == high else high)


def _text(value: float) -> str:
    """Write a number of a range: a whole one with all its digits."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _number(value: object, kind: str, where: str) -> float:
    """Return a finite number; YAML takes 1e-4, without a point, for text."""
    if not isinstance(value, bool):
        if kind == INT and isinstance(value, int):
            return value
        with suppress(ValueError):
            if kind == FLOAT and isinstance(value, int | float | str) and math.isfinite(float(value)):
                return float(value)
    raise UserError(f"{where}: {shown(value)} is no {'whole' if kind == INT else 'finite'} number.")
