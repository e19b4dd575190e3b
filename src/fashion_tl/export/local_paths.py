"""Paths of this machine in text that leaves it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path, PureWindowsPath

# An absolute path, in the notation of Linux and macOS or of Windows; no address of the web, and no part of a path.
_END = r"'\"`|,;\]})<>"
_POSIX = r"(?<![\w./~\\-])/(?:[^/{end}]+/)+[^/{end}]*"
_WINDOWS = r"(?<!\w)[A-Za-z]:[\\/](?:[^\\/{end}]+[\\/])*[^\\/{end}]*"
_IN_TEXT = re.compile("|".join((_POSIX, _WINDOWS)).replace("{end}", _END + r"\s"))
_WITH_SPACES = re.compile("|".join((_POSIX, _WINDOWS)).replace("{end}", _END))


def without_folders(text: str) -> str:
    """Leave the last name of each absolute path in a text.

    >>> without_folders("local-dir:/home/ada/weights/resnet18, as of https://example.org/a/b, in runs/one")
    'local-dir:.../resnet18, as of https://example.org/a/b, in runs/one'
    """
    return _IN_TEXT.sub(_shortened, text)


def command_without_folders(command: str) -> str:
    """Leave the last name of each absolute path in a command line, of those with spaces too.

    >>> command_without_folders("fit --data.source.root '/home/ada/my photos/pets' -c mine.yaml")
    'fit --data.source.root .../pets -c mine.yaml'
    """
    try:
        parts = shlex.split(command)
    except ValueError:
        return without_folders(command)
    return shlex.join(_WITH_SPACES.sub(_shortened, part) for part in parts)


def paths_of_this_machine(text: str) -> list[str]:
    """Find absolute paths in a text that lie in a folder of this machine, in their order."""
    return [found for found in _IN_TEXT.findall(text) if _is_here(Path(found.replace("\\_", "_")))]


def _shortened(found: re.Match[str]) -> str:
    return f".../{PureWindowsPath(found[0]).name}".removesuffix("/")


def _is_here(path: Path) -> bool:
    """Say whether a path, or a folder of its way but for those right below the root, is there."""
    try:
        return any(one.exists() for one in (path, *path.parents) if len(one.parts) > 2)
    except OSError:  # a name that is too long
        return True
