"""Paths of this machine in text that leaves it."""

from __future__ import annotations

import html
import json
import re
import shlex
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

import yaml

# Where a path can begin: not within a word, an address of the web or another path, but behind a flag of one letter.
_BEGIN = r"(?:(?<![\w./~\\-])|(?<=-\w)(?<![\w-]-\w))"
_ROOT = r"(?P<url>file:(?://[^/\s]*)?)?/(?=[^/\s])|(?P<windows>[A-Za-z]:[\\/]|\\\\(?=\w))"
_ABSOLUTE = re.compile(f"{_BEGIN}(?:{_ROOT})")
_OUTSIDE = re.compile(rf"{_BEGIN}(?:{_ROOT}|(?:~[\w.-]*|\.\.(?:/\.\.)*)/(?=[^/\s]))")  # of the working directory, too
# Where one ends in prose, if no folder that is known goes on.
_END = r"\s'\"`|,;\]})<>"
_POSIX, _WINDOWS = "/", r"\\/"
_FOLDERS = {mark: re.compile(f"(?:[^{mark}{_END}]+[{mark}])*") for mark in (_POSIX, _WINDOWS)}
_FOLDER = {mark: re.compile(rf"[^\n{mark}]+[{mark}]") for mark in (_POSIX, _WINDOWS)}
_NAME = {mark: re.compile(f"[^{mark}{_END}]*") for mark in (_POSIX, _WINDOWS)}
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]|#])")  # in Markdown
_ADDRESS = re.compile(r"\b(?!file:)[A-Za-z][\w+.-]*://\S*")


@dataclass(frozen=True)
class _Found:
    """An absolute path in prose.

    Attributes:
        start: Where it begins.
        end: Where it ends.
        path: What it names.
        folders: Whether it names folders, not only something right below the root.
    """

    start: int
    end: int
    path: str
    folders: bool


def without_folders(text: str, named: Iterable[str] = ()) -> str:
    """Leave the last name of each absolute path in prose.

    A path ends at a blank, a comma, a quote or a bracket, unless that is in the name of a folder of this machine.

    Args:
        text: The prose.
        named: Paths of any machine whose folders count as those of this one.

    >>> without_folders("local-dir:/home/ada/weights/resnet18, as of https://example.org/a/b, in runs/one")
    'local-dir:.../resnet18, as of https://example.org/a/b, in runs/one'
    """
    known = {str(folder) for path in named for folder in (PurePosixPath(path), *PurePosixPath(path).parents)}
    known |= {str(folder) for path in named for folder in PureWindowsPath(path).parents}
    parts, done = [], 0
    for found in _paths(text, known):
        if found.folders:
            parts += [text[done : found.start], _shortened(text[found.start : found.end])]
            done = found.end
    return "".join(parts) + text[done:]


def weights_without_folders(weights: str) -> str:
    """Leave the last name of each path that initial weights are named by.

    >>> weights_without_folders("local-dir:/home/ada/my weights/resnet18, then /home/ada/a, b/best.ckpt")
    'local-dir:.../resnet18, then .../best.ckpt'
    """
    return ", then ".join(_changed(one, _shortened) for one in weights.split(", then "))


def command_without_folders(command: str) -> str:
    """Leave the last name of each path in a command line that leads out of the working directory.

    >>> command_without_folders("fit --data.source.root '/home/ada/my photos/pets' -c/home/ada/x.yaml -c runs/own.yaml")
    'fit --data.source.root .../pets -c.../x.yaml -c runs/own.yaml'
    """
    try:
        parts = shlex.split(command)
    except ValueError:
        return without_folders(command)
    return shlex.join(_changed(part, _shortened) for part in parts)


def named_paths(command: str, weights: str) -> list[str]:
    """List the paths that a command line and the name of initial weights hold."""
    found: list[str] = []

    def note(path: str) -> str:
        found.append(path)
        return path

    try:
        parts = shlex.split(command)
    except ValueError:
        parts = []
    for part in (*parts, *weights.split(", then ")):
        _changed(part, note)
    return found


def paths_of_this_machine(text: str) -> list[str]:
    """Find paths in a text, of Markdown too, that lie in a folder of this machine; and those of its user that it names.

    The folders of its user are the home folder, the working directory and that of temporary files.
    """
    found: dict[str, None] = {}
    for shown in (text, html.unescape(_ESCAPED.sub(r"\1", text))):
        found |= {one.path: None for one in _paths(shown, ()) if one.folders and _is_here(Path(one.path))}
        rest = _ADDRESS.sub(" ", shown)
        found |= {str(folder): None for folder in _own_folders() if _names(rest, folder)}
    return list(found)


def _paths(text: str, known: Collection[str]) -> Iterator[_Found]:
    """Find absolute paths in prose; the name of a folder that is there, or known, counts as a whole."""
    at = 0
    while root := _ABSOLUTE.search(text, at):
        mark = _WINDOWS if root["windows"] else _POSIX
        start = root.start() if root["windows"] else root.end() - 1
        last = root.end()
        while one := _FOLDER[mark].match(text, last):
            folder = _read(text[start : one.end() - 1], root)
            if folder not in known and not _is_folder(folder):
                break
            last = one.end()
        last = _end(_FOLDERS[mark], text, last)
        at = _end(_NAME[mark], text, last)
        yield _Found(root.start(), at, _read(text[start:at], root), last > root.end())


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()


def _read(path: str, root: re.Match[str]) -> str:
    return unquote(path) if root["url"] else path


def _changed(value: str, change: Callable[[str], str]) -> str:
    """Change each path in an argument of a command: all that follows where one begins is the path."""
    flag, equals, rest = value.partition("=") if value.startswith("-") else ("", "", value)
    if rest.startswith(("{", "[")):
        with suppress(yaml.YAMLError):
            return f"{flag}{equals}{_changed_yaml(rest, change)}"
    found = _OUTSIDE.search(value)
    return value if found is None else value[: found.start()] + change(value[found.start() :])


def _changed_yaml(text: str, change: Callable[[str], str]) -> str:
    """Change each path in a mapping or a list, and leave the rest of it as it is written."""
    parts, done = [], 0
    for token in yaml.scan(text):
        if isinstance(token, yaml.ScalarToken) and (after := _changed(token.value, change)) != token.value:
            parts += [
                text[done : token.start_mark.index],
                after if token.plain else json.dumps(after, ensure_ascii=False),
            ]
            done = token.end_mark.index
    return "".join(parts) + text[done:]


def _shortened(path: str) -> str:
    marks = _POSIX if path.startswith(("/", "file:", "~", ".")) else "\\/"
    return f".../{re.split(f'[{re.escape(marks)}]', path.rstrip(marks))[-1]}"


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # a name that is too long, or a folder that is not to be read
        return False


def _is_here(path: Path) -> bool:
    """Say whether a path, or a folder of its way but for those right below the root, is there."""
    try:
        return any(one.exists() for one in (path, *path.parents) if len(one.parts) > 2)
    except OSError:  # a name that is too long
        return True


def _own_folders() -> list[Path]:
    folders = [Path.cwd(), Path(tempfile.gettempdir())]
    with suppress(RuntimeError):  # there is none
        folders.append(Path.home())
    return [folder for folder in dict.fromkeys([*folders, *map(Path.resolve, folders)]) if len(folder.parts) > 1]


def _names(text: str, folder: Path) -> bool:
    """Say whether a text holds the name of a folder; one right below the root may be part of a relative path."""
    begin = _BEGIN if len(folder.parts) == 2 else ""
    return re.search(rf"{begin}{re.escape(str(folder))}(?![\w-])", text) is not None
