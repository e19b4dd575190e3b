"""Whether something can be written to a folder."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from fashion_tl.errors import shown
from fashion_tl.files import draft_beside


def obstacle(folder: Path) -> str:
    """Say why a folder cannot be made, or nothing be made in it; "" if it can. Nothing is left by this."""
    there = folder
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder.lstat()
        while not there.exists():
            if there.is_symlink():
                return f"{_shown(there)} is a link to nowhere"
            there = there.parent
        if not there.is_dir():
            return f"{_shown(there)} is no folder"
        draft = draft_beside(there / folder.name)
        draft.mkdir()
        draft.rmdir()
    except (OSError, ValueError) as error:  # a ValueError: a path that no file can have
        return f"cannot write to {_shown(folder)}: {getattr(error, 'strerror', None) or error}"
    return ""


def _shown(path: Path) -> str:
    return shown(str(path))[1:-1]
