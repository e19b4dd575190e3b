"""The page of the verbs, which is read from the source, says what the command line takes."""

from __future__ import annotations

import argparse
import importlib

import pytest

from fashion_tl import cli
from fashion_tl.commands import parser_of
from website import verbs


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the arguments of a parser by the name that the page gives them."""
    return {
        ", ".join(action.option_strings) or str(action.metavar): action
        for action in parser._actions
        if action.dest != "help"
    }


@pytest.mark.parametrize("verb", cli.FUNCTIONS)
def test_every_argument_of_a_verb_is_on_the_page_and_no_other(verb: str) -> None:
    home = cli.FUNCTIONS[verb][0]
    module, _, name = home.partition(":")
    command = getattr(importlib.import_module(f"fashion_tl.{module}"), name)
    taken = options(parser_of(command, verb))
    told = {one.name: one for one in verbs.arguments(home) if one.kind != "flags of `fit`"}
    assert told.keys() == taken.keys()
    for name, action in taken.items():
        default = action.default if isinstance(action.default, list | tuple) else [action.default]
        shown = " ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in default)
        assert told[name].default == (None if shown in ("None", "") else shown)
        assert told[name].told
        assert f"| `{name}` |" in verbs.section(verb, home)


PARTS = ("trainer", "model", "data", "help", "print_")


def test_flags_of_a_run_are_those_of_its_parser() -> None:
    from fashion_tl.runs.parser import parser_of as run_parser_of

    for verb in cli.CONFIGURED:
        own = {
            ", ".join(name for name in action.option_strings if not name.endswith("+"))
            for action in run_parser_of(verb)._actions
            if action.option_strings and not action.dest.startswith(PARTS)
        }
        assert {flag.name for flag in verbs.run_flags(verb)} == own


def test_the_page_has_a_section_for_every_verb() -> None:
    headings = [line[3:] for line in verbs.page().splitlines() if line.startswith("## ")]
    assert headings == [*cli.VERBS]
    assert "`timm`, `safetensors`, `torch`, `onnx`" in verbs.page()  # of a name for a Literal
