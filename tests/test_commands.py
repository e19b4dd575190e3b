"""Functions as commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from fashion_tl.commands import Flag, call
from fashion_tl.errors import UserError

Called = dict[str, Any]


@pytest.fixture
def called() -> Called:
    return {}


def command(called: Called) -> Any:
    def measure(
        folder: Path,
        *names: str,
        method: Literal["fast", "exact"] = "fast",
        shares: list[float] | None = None,
        limit: int | None = None,
        seed: int = 3,
        verbose: bool = False,
    ) -> UnknownHere:  # type: ignore[name-defined]  # noqa: F821 - as a name that is imported for types alone
        """Measure a folder at 100 %.

        Args:
            folder: Where.
            names: Which.
            method: How.
            shares: Shares of the images, such as ``0.5``.
            limit: At most so many.
            seed: Seed.
            verbose: Tell more.
        """
        called.update(locals())

    return measure


def test_defaults(called: Called) -> None:
    call(command(called), "x measure", ["here"])
    del called["called"]
    assert called == {
        "folder": Path("here"), "names": (), "method": "fast", "shares": None, "limit": None, "seed": 3,
        "verbose": False,
    }  # fmt: skip


def test_values(called: Called) -> None:
    shares = ["--shares", "0.5", "1", "--shares", "2"]
    args = ["here", "a", "b", "--method", "exact", *shares, "--limit", "4", "--seed=5", "--verbose"]
    call(command(called), "x measure", args)
    del called["called"]
    assert called == {
        "folder": Path("here"), "names": ("a", "b"), "method": "exact", "shares": [0.5, 1, 2], "limit": 4, "seed": 5,
        "verbose": True,
    }  # fmt: skip


def test_a_list_may_be_empty(called: Called) -> None:
    call(command(called), "x measure", ["here", "--shares"])
    assert called["shares"] == []


@pytest.mark.parametrize(
    ("args", "names", "verbose"),
    [
        (["--verbose", "true", "here", "a"], ("a",), True),
        (["--verbose", "false", "here", "a"], ("a",), False),
        (["here", "--verbose=false"], (), False),
        (["--verbose", "here", "a"], ("a",), True),
        (["--verbose", "--", "here", "true"], ("true",), True),
    ],
)
def test_a_flag_takes_true_or_false_and_nothing_else(
    called: Called, args: list[str], names: tuple[str, ...], verbose: bool
) -> None:
    call(command(called), "x measure", args)
    assert (called["folder"], called["names"], called["verbose"]) == (Path("here"), names, verbose)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["here", "--verbose=maybe"], "unknown verbose 'maybe'. Allowed: true, false."),
        ([], "the following arguments are required: FOLDER"),
        (["here", "--metod", "fast"], "unrecognized arguments: --metod fast; did you mean --method?"),
        (["here", "--meth", "fast"], "unrecognized arguments: --meth"),
        (["here", "--method", "exakt"], "unknown method 'exakt'; did you mean 'exact'?"),
        (["here", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
        (["here", "--seed"], "argument --seed: expected one argument"),
    ],
)
def test_wrong_arguments_are_one_message(called: Called, args: list[str], message: str) -> None:
    with pytest.raises(UserError) as told:
        call(command(called), "x measure", args)
    assert message in str(told.value)
    assert not called


def test_help(called: Called, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        call(command(called), "x measure", ["-h"])
    assert stopped.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for told in (
        "usage: x measure",
        "Measure a folder at 100 %.",
        "{fast,exact}",
        "(default: 3)",
        "`0.5`",
        "[NAME ...]",
    ):
        assert told in out


def test_what_a_command_does_not_know_is_handed_on_in_order(called: Called, capsys) -> None:
    def study(*flags: Flag, seeds: int = 3) -> None:
        """Study.

        Args:
            flags: Flags of another parser.
            seeds: Seeds.
        """
        called.update(flags=flags, seeds=seeds)

    call(study, "x study", ["-c", "a.yaml", "--seeds", "2", "--model.lr=1", "--data.size", "3"])
    assert called == {"flags": ("-c", "a.yaml", "--model.lr=1", "--data.size", "3"), "seeds": 2}
    with pytest.raises(SystemExit):
        call(study, "x study", ["--help"])
    assert "FLAGS: Flags of another parser." in capsys.readouterr().out
