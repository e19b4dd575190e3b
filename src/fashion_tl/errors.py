"""The one exception for mistakes a user can make; near spellings and ranges for its messages."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Collection, Iterable, Mapping
from typing import Any


class UserError(Exception):
    """Something the user gave is wrong: the command line prints the message alone and exits with status 2.

    A message says what is wrong, where, what is allowed, and what to type next.
    """


def shown(value: object) -> str:
    """Write a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-10:]}"


def one_line(text: object) -> str:
    """Bring what others say of an error to one line of at most 300 characters."""
    words = " ".join(str(text).split())
    return words if len(words) <= 300 else f"{words[:297]}..."


def unknown_name(what: str, given: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """Build the error for a name that is not in a list of allowed names.

    Args:
        what: The kind of thing named, such as "optimizer".
        given: The name as the user wrote it.
        allowed: All names that would have been accepted.
        hint: One more sentence, such as the command that lists the names.

    Returns:
        An error that suggests near spellings and lists at most 20 of the allowed names.
    """
    names = list(allowed)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    message = f"unknown {what} {shown(given)}"
    if near:
        message += f"; did you mean {' or '.join(repr(name) for name in near)}?"
    else:
        message += "."
    listed = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return UserError(f"{message} Allowed: {listed}.{' ' + hint if hint else ''}")


def check_known(what: str, given: str, allowed: Collection[str], hint: str = "") -> None:
    """Raise the error of ``unknown_name`` for a name that is not allowed."""
    if given not in allowed:
        raise unknown_name(what, given, allowed, hint)


def out_of_range(ranges: Mapping[str, tuple[float | None, float, float]], prefix: str = "") -> list[str]:
    """Describe every number that is out of its range, as infinities and NaN are of every one, and what is no number.

    Args:
        ranges: Value, lowest and highest allowed value, by the setting's name; a value of None is not checked.
        prefix: What comes before the names, such as "data.".
    """
    problems = []
    for name, (value, low, high) in ranges.items():
        if value is not None and not isinstance(value, numbers.Real):  # as in mappings, whose values have no types
            problems.append(f"{prefix}{name} is {shown(value)}, a number is needed")
        elif value is not None and not (low <= value <= high and abs(value) < math.inf):
            allowed = "or more" if high == math.inf else f"to {high}"
            problems.append(f"{prefix}{name} is {value}, allowed is {low} {allowed}")
    return problems


def check_ranges(ranges: Mapping[str, tuple[float | None, float, float]], prefix: str = "") -> None:
    """Raise one UserError for all numbers that ``out_of_range`` describes."""
    if problems := out_of_range(ranges, prefix):
        raise UserError("; ".join(problems) + ".")


def wrong_types(content: dict[str, Any], types: Mapping[str, type]) -> list[str]:
    """Describe entries of a file that are of another type than what reads them takes.

    Args:
        content: The entries.
        types: Type by dotted key; a list on the way stands for each of its items, float for int too. What is missing or
            None passes.
    """
    told: dict[str, str] = {}

    def check(name: str, value: Any, kind: type) -> None:  # noqa: ANN401 - any value of a file
        fits = isinstance(value, (int, float) if kind is float else kind)
        if value is not None and (not fits or (isinstance(value, bool) and kind is not bool)):
            told.setdefault(name, f"{name} has {str(value)[:40]!r}, it must be of type {kind.__name__}")

    for name, kind in types.items():
        values: list[Any] = [content]
        *way, last = name.split(".")
        for depth, key in enumerate((*way, last)):
            values = [item for value in values for item in (value if isinstance(value, list) else [value])]
            for value in values:
                check(".".join(way[:depth]), value, dict)
            values = [value.get(key) for value in values if isinstance(value, dict)]
        for value in values:
            check(name, value, kind)
    return list(told.values())


def check_options(**least: tuple[float, float]) -> None:
    """Raise one UserError for all options of a command that are below their least values.

    Args:
        least: Value and least value, by the option's name.
    """
    check_ranges({name: (value, low, math.inf) for name, (value, low) in least.items()}, "--")
