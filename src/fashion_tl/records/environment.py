"""What a record says of when and where it was made."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

from fashion_tl.imports import installed_version

LIBRARIES = ("fashion_tl", "torch", "torchvision", "lightning", "timm", "torchmetrics", "numpy")


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """Return the versions of Python and libraries and the git commit of the working folder, as plain values."""
    return {
        "python": platform.python_version(),
        "libraries": {name: installed_version(name) for name in LIBRARIES},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    try:
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
