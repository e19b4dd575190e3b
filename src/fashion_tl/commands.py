"""A function as a command: its signature and its docstring are the command line.

jsonargparse's ``auto_cli`` takes lists as ``[a,b]`` and flags as ``--flag true``; these verbs take files as a shell
gives them.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object

from fashion_tl.errors import UserError, check_known

BOOLEANS = {"true": True, "false": False}


class Flag(str):
    """An argument for another parser: ``*flags: Flag`` takes what this one does not know, in its order."""

    __slots__ = ()


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one message."""

    def error(self, message: str) -> NoReturn:
        for given in re.findall(r"(?<!\S)--?\w+", message.partition("unrecognized arguments:")[2]):
            near = difflib.get_close_matches(given, self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        end = "" if message.endswith("?") else "."
        raise UserError(f"{message.rstrip('.')}{end} `{self.prog} --help` explains its arguments.")


def call(command: Callable[..., Any], prog: str, args: Sequence[str]) -> None:
    """Call a function with command-line arguments.

    Parameters without a default are positional, ``*names`` takes any number of values; all others are options. A list
    takes several values, a ``bool`` is a flag (``--name``, ``--name true`` or ``--name false``), a ``Literal`` has
    choices, and ``*flags: Flag`` is handed the rest.

    Args:
        command: The function. The summary of its docstring (Google style) describes it, and ``Args`` the arguments.
        prog: The name of the command in its help.
        args: Command-line arguments.

    Raises:
        UserError: If arguments are missing, unknown or not allowed.
        SystemExit: After ``--help``.
    """
    parameters, rest = inspect.signature(command).parameters, list[str]()
    args = _with_values(args, {f"--{name}" for name, hint in hints_of(command).items() if hint is bool})
    if any(_takes_rest(parameter, hints_of(command)) for parameter in parameters.values()):
        known, rest = parser_of(command, prog).parse_known_args(args)
        given = vars(known)
    else:
        given = vars(parser_of(command, prog).parse_args(args))
    values: list[Any] = []
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            values += given.pop(name, rest)
        elif parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            values.append(given.pop(name))
    command(*values, **given)


def parser_of(command: Callable[..., Any], prog: str) -> argparse.ArgumentParser:
    """Build the parser of a command; see ``call``."""
    doc = parse_from_object(command)
    told = {p.arg_name.lstrip("*"): " ".join((p.description or "").split()) for p in doc.params}
    about = " ".join(filter(None, (doc.short_description, doc.long_description)))
    parser = _Parser(prog=prog, description=about.replace("``", "`"), allow_abbrev=False)
    hints = hints_of(command)
    for name, parameter in inspect.signature(command).parameters.items():
        if _takes_rest(parameter, hints):
            parser.usage = f"{prog} [OPTIONS] [{name.upper()}]"
            parser.epilog = f"{name.upper()}: {told.get(name, '')}".replace("``", "`")
            continue
        _add(parser, parameter, hints[name], told.get(name, "").replace("``", "`").replace("%", "%%"))
    return parser


def _with_values(args: Sequence[str], flags: set[str]) -> list[str]:
    """Give each flag that stands alone its value, so that it takes none of what follows."""
    given = list(args)
    end = given.index("--") if "--" in given else len(given)
    for i, arg in enumerate(given[:end]):
        if arg in flags and (i + 1 == len(given) or given[i + 1] not in BOOLEANS):
            given[i] = f"{arg}=true"
    return given


def hints_of(command: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters; that of its return may name what is not imported."""
    parameters = {name: hint for name, hint in command.__annotations__.items() if name != "return"}
    annotated: Any = types.SimpleNamespace(__annotations__=parameters)
    return get_type_hints(annotated, command.__globals__)


def _takes_rest(parameter: inspect.Parameter, hints: dict[str, Any]) -> bool:
    return parameter.kind is parameter.VAR_POSITIONAL and hints[parameter.name] is Flag


def _add(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: Any, told: str) -> None:  # noqa: ANN401
    name, default = parameter.name, parameter.default
    kind = _without_none(hint)
    settings: dict[str, Any]
    if kind is bool:
        choose = _choice(name, tuple(BOOLEANS))
        settings = {"help": f"{told} (default: {str(default).lower()})", "metavar": "{true,false}", "default": default}
        parser.add_argument(f"--{name}", type=lambda text: BOOLEANS[choose(text)], **settings)
        return
    several = get_origin(kind) is list
    kind = get_args(kind)[0] if several else kind
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    settings = {"help": told, "type": _choice(name, choices) if choices else kind}
    metavar = "{" + ",".join(choices) + "}" if choices else name.upper()
    if parameter.kind is parameter.VAR_POSITIONAL:
        parser.add_argument(name, nargs="*", metavar=metavar.removesuffix("S"), **settings)
    elif default is parameter.empty:
        one = metavar.removesuffix("S") if several else metavar
        parser.add_argument(name, nargs="+" if several else None, metavar=one, **settings)
    else:
        if several:
            settings |= {"nargs": "*", "action": "extend"}
        if default is not None:
            settings["help"] += f" (default: {default})"
        flags = ("-c", f"--{name}") if name == "config" else (f"--{name}",)
        parser.add_argument(*flags, default=default, metavar=metavar, **settings)


def _without_none(hint: Any) -> Any:  # noqa: ANN401 - a type
    if get_origin(hint) in (Union, types.UnionType):
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    return hint


def _choice(name: str, choices: Sequence[str]) -> Callable[[str], str]:
    def choose(text: str) -> str:
        check_known(name, text, choices)
        return text

    return choose
