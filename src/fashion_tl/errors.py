"""The one exception for mistakes a user can make, and near spellings for its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user gave is wrong: the command line prints the message alone and exits with status 2.

    A message says what is wrong, where, what is allowed, and what to type next.
    """


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
    message = f"unknown {what} {given!r}"
    if near:
        message += f"; did you mean {' or '.join(repr(name) for name in near)}?"
    else:
        message += "."
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return UserError(f"{message} Allowed: {shown}.{' ' + hint if hint else ''}")


def check_at_least(*options: tuple[str, float, float]) -> None:
    """Raise one UserError for all options below their least values.

    Args:
        options: Name, value and least value of each.
    """
    problems = [f"--{name} is {value}, it must be at least {least}" for name, value, least in options if value < least]
    if problems:
        raise UserError("; ".join(problems) + ".")
