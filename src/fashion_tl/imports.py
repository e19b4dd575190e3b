"""Classes named by their import path, and what is installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from fashion_tl.errors import UserError

T = TypeVar("T")


def class_path(kind: type) -> str:
    """Return the import path of a class, such as "fashion_tl.training.transfer.TransferClassifier"."""
    return f"{kind.__module__}.{kind.__qualname__}"


def search_working_directory() -> None:
    """Let modules in the working directory be found, after all others."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def import_class(path: str, base: type[T], what: str) -> type[T]:
    """Import a class by its path; modules in the working directory are found too.

    Args:
        path: Such as "mine.data.Shoes".
        base: The class that it must be a subclass of.
        what: What is named, for messages, such as "data.source".

    Raises:
        UserError: If it cannot be imported, or is no such class.
    """
    module, _, name = path.rpartition(".")
    search_working_directory()
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{what}: cannot import {path!r} ({error}). Give the path of a class, MODULE.CLASS.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{what}: {path} is no subclass of {class_path(base)}.")
    return found


def is_installed(name: str) -> bool:
    """Say whether a library can be imported; it is not."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def installed_version(name: str) -> str | None:
    """Return the version of a library by its name on PyPI; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
