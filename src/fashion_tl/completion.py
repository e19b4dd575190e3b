"""``fashion-tl completion SHELL``: the script with which a shell completes verbs, flags, files and names of runs.

The script is written once and needs no Python when it completes.
"""

from __future__ import annotations

import argparse
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import shtab
from docstring_parser import parse_from_object

from fashion_tl import cli
from fashion_tl.commands import BOOLEANS, Flag, hints_of, parser_of

# Of the default folder of records; names that begin with a dot are those of locks.
RUNS = "find lightning_logs -mindepth 2 -maxdepth 2 -name 'version_*' 2>/dev/null | cut -d/ -f2 | sort -u"
NAMES_RUNS = {"run", "runs", "names", "start", "end"}  # parameters of verbs that name finished runs
FILES = {"config", "ckpt_path"}  # flags of `fit` that take a file


def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print the script that completes verbs, flags, files and names of runs in a shell.

    Bash: `fashion-tl completion bash > ~/.local/share/bash-completion/completions/fashion-tl`. Zsh: into a file
    `_fashion-tl` of a folder in `fpath`. Fish: into `~/.config/fish/completions/fashion-tl.fish`.

    Args:
        shell: The shell.
    """
    print(shtab.complete(whole_parser(), shell=shell))


def whole_parser() -> argparse.ArgumentParser:
    """Build a parser that knows every verb and its flags, with what completes their values; it parses nothing."""
    whole = argparse.ArgumentParser(prog="fashion-tl", description="Transfer-learning experiments on images.")
    whole.add_argument("--version", action="store_true", help="print the version")
    verbs = whole.add_subparsers(dest="verb")
    for verb, (_, told) in cli.CONFIGURED.items():
        _add_flags_of_fit(verbs.add_parser(verb, help=_plain(told)), verb)
    for verb, (home, told) in cli.FUNCTIONS.items():
        _add_function(verbs.add_parser(verb, help=_plain(told)), cli.function_of(home))
    return whole


def _add_function(parser: argparse.ArgumentParser, command: Callable[..., Any]) -> None:
    """Add the arguments of a verb that is a function."""
    hints = hints_of(command)
    for action in parser_of(command, parser.prog)._actions:
        if action.dest == "help":
            continue
        added = parser.add_argument(
            *(action.option_strings or [action.dest]),
            nargs=action.nargs,
            help=_plain(action.help),
            choices=_choices(hints[action.dest]),
        )
        if action.dest in NAMES_RUNS:
            _complete(added, shtab.cmd(RUNS))
        elif "Path" in str(hints[action.dest]):
            _complete(added, shtab.FILE)
    if Flag in hints.values():
        _add_flags_of_fit(parser, "fit")


def _choices(hint: Any) -> list[str] | None:  # noqa: ANN401 - a type
    """Return the values that a parameter may have; None if they have no end."""
    for kind in (hint, *get_args(hint)):
        if kind is bool:
            return list(BOOLEANS)
        if get_origin(kind) is Literal:
            return list(get_args(kind))
    return None


def _complete(action: argparse.Action, completer: Any) -> None:  # noqa: ANN401 - shtab's, a mapping
    action.complete = completer  # type: ignore[attr-defined]  # where shtab looks for it


def _add_flags_of_fit(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the flags of a run, of Trainer, data and model, those of every source and classifier included."""
    from fashion_tl.runs.parser import CLASSES
    from fashion_tl.runs.parser import parser_of as run_parser_of

    known = set(parser._option_string_actions)
    for action in run_parser_of(verb)._actions:
        names = [name for name in action.option_strings if name not in known and not name.endswith("+")]
        if not names or action.dest.startswith(("help", "print_shtab")):
            continue
        kinds = CLASSES.get(action.dest)
        choices = [kind.__name__ for kind in kinds] if kinds else None
        added = parser.add_argument(*names, help=_plain(action.help), choices=choices)
        if action.dest in FILES:
            _complete(added, shtab.FILE)
        elif action.dest == "name":
            _complete(added, shtab.cmd(RUNS))
        known |= set(names)
    for setting, kinds in CLASSES.items():
        for name, told in _arguments(kinds):
            if f"--{setting}.{name}" not in known:
                parser.add_argument(f"--{setting}.{name}", help=_plain(told))
                known.add(f"--{setting}.{name}")


def _arguments(kinds: tuple[type, ...]) -> Iterator[tuple[str, str]]:
    """Yield the arguments of the constructors of classes, with what their docstrings say of them."""
    from fashion_tl.runs.refusals import LINKED

    for kind in kinds:
        for base in kind.__mro__:
            own = inspect.signature(base).parameters
            told = {each.arg_name: each.description or "" for each in parse_from_object(base).params}
            kwargs = [name for name, parameter in own.items() if parameter.kind is parameter.VAR_KEYWORD]
            yield from ((name, told.get(name, "")) for name in own if name not in {*LINKED, *kwargs})
            if not kwargs:  # those of the next base
                break


def _plain(text: str | None) -> str:
    """Return the first sentence without what is in brackets, of characters that stand for themselves in every shell."""
    sentence = re.sub(r"\([^()]*\)", "", " ".join(str(text or "").split())).partition(". ")[0]
    known = sentence.replace(": ", ", ").replace(";", ",").replace("'", "")
    plain = " ".join("".join(mark if mark.isalnum() or mark in ",.-_/" else " " for mark in known).split())
    return textwrap.shorten(plain.replace(" ,", ",").rstrip("."), 90, placeholder=" ...")
