"""Files that one process holds; a lock ends with its process, however that ends. Needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def claim(path: Path, create: bool = True) -> tuple[int, bool] | None:
    """Open and lock a file.

    Args:
        path: The file.
        create: Whether to make it if it is absent.

    Returns:
        Its descriptor, to be closed by the caller, and whether it could be locked (not on Windows and some network
        disks); None if another process has the lock, or had it and removed the file meanwhile.
    """
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
    locked = False
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor, locked
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        return descriptor, False
    os.close(descriptor)
    return None
