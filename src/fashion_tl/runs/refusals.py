"""What the parser refuses, as one message: which setting, which value, what is allowed."""

from __future__ import annotations

import difflib
import inspect
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fashion_tl.errors import UserError, one_line, shown, unknown_name
from fashion_tl.imports import import_class
from fashion_tl.runs.configs import read_config

LINKED = ("class_names", "input_spec")  # of a classifier, set from the data
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "Iterable": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Tell as mistakes of the user what shows only while a run is made.

    Raises:
        UserError: If Lightning refuses a setting, or the memory of a device is full.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"trainer: {one_line(error)}") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the memory of the device is full: {one_line(error)} Give a smaller --data.batch_size (and "
            "--trainer.accumulate_grad_batches to make up for it), or --trainer.precision bf16-mixed."
        ) from error


def refusal(
    message: str, args: Sequence[str], settings: Iterable[str], classes: Mapping[str, Sequence[str]]
) -> UserError:
    """Build the error for what jsonargparse refuses, from its message.

    Args:
        message: What it says: nested lines that begin with ``Parser key "NAME":``.
        args: The arguments that it was given, configurations as ``-c FILE``.
        settings: All settings by their dotted names.
        classes: The names of classes that need no module, by setting.
    """
    if found := re.search(r"unrecognized arguments: (.*)", message):
        name, given = found[1].split()[0].partition("=")[0], [arg.partition("=")[0] for arg in args]
        # Of a class in a class only the last part is told.
        whole = (arg for arg in given if name.startswith("--") and arg.endswith(f".{name.removeprefix('--')}"))
        return _unknown_flag(name if name in given else next(whole, name), settings)
    if found := re.search(r"argument (\S+): expected", message):
        return UserError(f"{found[1].split('/')[-1]} needs a value.")
    key = ""
    for name in re.findall(r'Parser key "([\w.]+)"', message):
        key = name if not key or name.startswith(f"{key}.") else key if name == key else f"{key}.{name}"
    kind = re.search(r"Problem with given class_path '([^']+)'", message)
    if found := re.search(r"(?:Group '(\S+)' does not accept o|O)ption '([^']*)'(?: is not accepted)?", message):
        key = ".".join(filter(None, (key or found[1], found[2])))
        names = parameters_of(kind[1]) if kind else _below(settings, key.rpartition(".")[0])
        return _unknown(key, names, _origin(key, args))
    where, reason = _origin(key, args), one_line(message.split('":')[-1])
    return (
        _of_class(message, key, where, kind[1] if kind else "", classes)
        or _of_type(message, key, where)
        or UserError(f"{where}{key or 'the configuration'} cannot be read: {reason}.")
    )


def _unknown_flag(name: str, settings: Iterable[str]) -> UserError:
    if not name.startswith("-"):
        return UserError(
            f"{shown(name)} is neither a flag nor the value of one: flags begin with --, as in --name NAME."
        )
    return _unknown(name, [f"--{setting}" for setting in settings], "", "flag")


def _unknown(name: str, allowed: Iterable[str], where: str, what: str = "setting") -> UserError:
    prefix, _, last = name.rpartition(".")
    names = sorted(set(allowed))
    near = difflib.get_close_matches(name if what == "flag" else last, names, n=3, cutoff=0.6)
    if what == "flag" and not near and name.strip("-"):
        near = [full for full in names if full.startswith(name)][:3]
    full = [one if what == "flag" or not prefix else f"{prefix}.{one}" for one in near]
    if full:
        hint = f"; did you mean {' or '.join(full)}?"
    elif what == "flag":
        hint = ". `--help` lists all of them."
    else:
        hint = f". Allowed: {', '.join(names[:30]) or 'none'}."
    return UserError(f"{where}unknown {what} {shown(name)[1:-1]}{hint}")


def _below(settings: Iterable[str], section: str) -> list[str]:
    start = f"{section}." if section else ""
    return [name.removeprefix(start).partition(".")[0] for name in settings if name.startswith(start)]


def parameters_of(path: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class by their names, those that it passes on included."""
    found: dict[str, inspect.Parameter] = {}
    for kind in import_class(path, object, "the class").__mro__:
        init: Any = kind.__init__  # type: ignore[misc]
        parameters = inspect.signature(init).parameters.values()
        named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        found = named | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return {name: parameter for name, parameter in found.items() if name not in ("self", *LINKED)}


def _of_class(
    message: str, key: str, where: str, problem: str, classes: Mapping[str, Sequence[str]]
) -> UserError | None:
    """Say what is wrong with a class that was named, if that is what is wrong."""
    hint = f"Set it with --{key}; MODULE.CLASS names one of your own."
    text = message.replace("\n", " ")
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        if key in classes:
            return unknown_name(key.removeprefix("data."), found[1], classes[key], hint)
        return UserError(f"{where}{key} is {shown(found[1])}; allowed is MODULE.CLASS, or a mapping of settings.")
    if found := re.search(r"[Ii]mport path(?: (\S+))? does not correspond to a subclass of (\w+)", text):
        given = found[1] or _value(message)
        return UserError(f"{where}{key}: {given} is no subclass of {found[2]}, and was not called. {hint}")
    if "Expected an instantiatable class, but is abstract" in text:
        return UserError(f"{where}{key}: {_value(message)} is abstract. Name a subclass of it. {hint}")
    if found := re.search(r"Multiple subclasses with name (\w+)\..*?: ([\w., ]+)\.", text):
        return UserError(f"{where}{key}: there are several {found[1]}; give one of {found[2]}.")
    found = re.search(r"(?:No module named|cannot import|module '.*' has no attribute|not found)[^\n]*", message)
    if found and problem:
        return UserError(f"{where}{key}: cannot import {problem!r} ({found[0]}). Give MODULE.CLASS.")
    if found := re.search(r"the following arguments are required: ([\w., ]+)", text):
        if not problem:
            return UserError(f"{where}{found[1]} is missing or null; give it a value. `--help` tells which.")
        return UserError(f"{where}{key}: {problem} needs {found[1].strip()}.")
    return None


def _of_type(message: str, key: str, where: str) -> UserError | None:
    """Say which value is not of which type, if that is what is wrong."""
    inner = message[message.rindex("Parser key") :] if "Parser key" in message else message
    single = re.match(r'Parser key "[^"]*":\s+Expected an? (.*)\. Got value:', inner)
    pattern = re.compile(r"Expected an? (.*?)(?:\. Got value.*)?$", re.MULTILINE)
    allowed: list[str] = []
    for each in [single[1]] if single else pattern.findall(inner.partition("Given value")[0]):
        if names := re.match(r"typing\.Literal\[(.*)\]", each):
            allowed += [name.strip("' ") for name in names[1].split(",")]
        elif named := re.match(r"<(?:class|enum) '(?:\w+\.)*(\w+)'", each):
            allowed.append(_WORDS.get(named[1], named[1]))
    if "Unable to load config" in inner:
        allowed = ["a mapping of settings"]
    if "Not of type Path" in inner:
        allowed = ["a path"]
    if allowed == ["null"]:
        allowed = ["MODULE.CLASS", "a mapping of class_path and init_args"]
    if not allowed:
        return None
    words = list(dict.fromkeys(allowed))
    listed = ", ".join(words[:-1]) + (" or " if words[1:] else "") + words[-1]
    value = _value(inner)
    return UserError(f"{where}{key} is {value}, allowed is {listed}." if value else f"{where}{key} must be {listed}.")


def _value(message: str) -> str:
    """Find the value that was given, as it was written; empty if it is not told."""
    found = re.search(r"(?:Got value|Given value): ?(.*)|Unable to load config ['\"](.*)['\"]", message)
    text = found[1] or found[2] or "empty" if found else ""
    if nested := re.match(r"NestedArg\(key='.*?', val=(.*)\)$", text):
        text = nested[1].strip("'\"")
    return "a mapping" if text.startswith("Namespace(") else shown(text)[1:-1]


def _origin(key: str, args: Sequence[str]) -> str:
    """Name the configuration that a setting comes from; empty if it was a flag."""
    for flag, value in reversed(list(itertools.pairwise((*args, "")))):
        if flag.partition("=")[0] == f"--{key}":
            return ""
        if flag == "-c" and "\n" not in value and _holds(read_config(Path(value)), key.split(".")):
            return f"{value}: "
    return ""


def _holds(content: Any, names: Sequence[str]) -> bool:  # noqa: ANN401 - whatever a file holds
    """Say whether a mapping has a setting, by its dotted name; arguments of a class may lie below ``init_args``."""
    if not names or not isinstance(content, dict):
        return not names
    below = names[0] in content and _holds(content[names[0]], names[1:])
    return below or _holds(content.get("init_args"), names)
