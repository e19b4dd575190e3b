"""Flags before they are parsed: the class of a setting ahead of its arguments, and what lies deep in a mapping."""

from __future__ import annotations

import copy
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader

from fashion_tl.errors import UserError, shown
from fashion_tl.runs.configs import SECTIONS

_FLAG = re.compile(r"--[A-Za-z_]|-[a-z]$")
_CLASS = re.compile(r"[A-Za-z_][\w.]*")
Unit = tuple[str, ...]  # a flag with its value
UNREADABLE = (ArgumentError, TypeError, ValueError, AttributeError, RecursionError)  # what jsonargparse raises


def names_class(value: object) -> bool:
    """Say whether a value can be the name of a class: other settings than a class are true, false, null or mappings."""
    return isinstance(value, str) and bool(_CLASS.fullmatch(value)) and isinstance(yaml.safe_load(value), str)


def classes_first(args: Sequence[str], settings: Collection[str]) -> list[str]:
    """Put flags of a class that come before any that names one behind the first that does, which would discard them.

    Others belong to the class that was named before them, and go with it where a later flag names another. So does what
    comes before a mapping with ``class_path``, which changes the setting from there on.

    Args:
        args: Command-line arguments.
        settings: The settings that take the name of a class.
    """
    units = _units(args)
    for setting in settings:
        naming = (i for i, unit in enumerate(units) if _name(unit) == setting and names_class(_value(unit)))
        if first := next(naming, 0):
            before, named = units[:first], units[first]
            early = [_name(unit).startswith(f"{setting}.") for unit in before]
            others = [unit for unit, moves in zip(before, early, strict=True) if not moves]
            moved = [unit for unit, moves in zip(before, early, strict=True) if moves]
            units[: first + 1] = [*others, named, *moved]
    return [arg for unit in units for arg in unit]


def mappings_merged(args: Sequence[str], config: Namespace, parse: Callable[[list[str]], Namespace]) -> list[str]:
    """Write flags that reach into mappings, such as ``--model.terms.l2_sp.alpha 1``, as one flag for each mapping.

    Of these jsonargparse replaces what lies at the first key, and takes what lies deeper for text.

    Args:
        args: Command-line arguments, as they are parsed.
        config: What they are parsed to.
        parse: The parser.

    Raises:
        UserError: If one reaches into what is no mapping.
    """
    units = _units(args)
    inner = [_in_mapping(unit, config) for unit in units]
    if not any(inner):
        return list(args)
    without = [arg for unit, place in zip(units, inner, strict=True) if place is None for arg in unit]
    try:
        given: Namespace | None = parse(without)
    except UNREADABLE:  # a class needs what these flags alone give
        given = None
    merged: dict[str, Any] = {}
    for unit, place in zip(units, inner, strict=True):
        if place is None:
            if _plain(_name(unit)) in merged:
                del merged[_plain(_name(unit))]  # what is given as a whole, later
            continue
        setting, keys = place
        if setting not in merged:
            before = None if given is None else _reached(given, setting.split("."))[0]
            merged[setting] = copy.deepcopy(before) if isinstance(before, dict) else {}
        _put(merged[setting], keys, _read(_value(unit)), setting)
    last = {place[0]: i for i, place in enumerate(inner) if place is not None}
    written: list[str] = []
    for i, (unit, place) in enumerate(zip(units, inner, strict=True)):
        if place is None:
            written += unit
        elif last[place[0]] == i and place[0] in merged:
            written.append(f"--{place[0]}={_dumped(merged[place[0]])}")
    return written


def _units(args: Sequence[str]) -> list[Unit]:
    units: list[Unit] = []
    for arg in args:
        if units and (not _FLAG.match(arg) or units[-1] in (("-c",), ("--config",))):
            units[-1] += (arg,)
        else:
            units.append((arg,))
    return units


def _name(unit: Unit) -> str:
    return unit[0].partition("=")[0].removeprefix("--")


def _value(unit: Unit) -> str:
    return unit[0].partition("=")[2] if "=" in unit[0] else " ".join(unit[1:])


def _plain(name: str) -> str:
    return name.replace(".init_args.", ".")


def _in_mapping(unit: Unit, config: Namespace) -> tuple[str, list[str]] | None:
    """Return the mapping that a flag reaches into, and the keys that it follows there; None if there is none."""
    name = _plain(_name(unit))
    if name.partition(".")[0] not in SECTIONS:
        return None
    parts = name.split(".")
    value, keys = _reached(config, parts)
    if not keys or not isinstance(value, dict):
        return None
    return ".".join(parts[: -len(keys)]), keys


def _reached(config: Any, parts: Sequence[str]) -> tuple[Any, list[str]]:  # noqa: ANN401 - any part of a configuration
    """Follow a dotted name through namespaces; returns what lies there, and the parts that lead further."""
    left = list(parts)
    while left and isinstance(config, Namespace):
        below = config.get("init_args") if left[0] not in config and "init_args" in config else config
        if not isinstance(below, Namespace) or left[0] not in below:
            return None, left
        config = below[left.pop(0)]
    return config, left


def _put(mapping: dict[Any, Any], keys: Sequence[str], value: Any, where: str) -> None:  # noqa: ANN401 - of YAML
    """Set what lies at keys; a new key of digits is a number, as in YAML, and a known one may hold dots."""
    known = {str(key): key for key in mapping}
    count = next((n for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in known), 1)
    text = ".".join(keys[:count])
    key = known.get(text, int(text) if text.isdecimal() else text)
    if count < len(keys):
        inner = {} if mapping.get(key) is None else mapping[key]
        if not isinstance(inner, dict):
            rest = ".".join(keys[count:])
            raise UserError(
                f"--{where}.{text}.{rest} reaches into {where}.{text}, which is {shown(inner)} and no mapping: "
                f"give --{where}.{text} as a whole, with {rest} in it."
            )
        mapping[key] = inner
        _put(inner, keys[count:], value, f"{where}.{text}")
    else:
        mapping[key] = value


def _read(text: str) -> Any:  # noqa: ANN401 - a value of YAML
    try:
        return get_loader("yaml")(text)
    except yaml.YAMLError:
        return text


def _dumped(value: Mapping[Any, Any]) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize, sort_keys=False, allow_unicode=True)
    return text.strip()
