"""Files that one process holds; a lock ends with its process, however that ends. Needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def claim(path: Path) -> int | None:
    """Open and lock a file, making it if absent.

    Returns:
        Its descriptor, to be closed by the caller; None if another process has the lock, or had it and removed the file
        meanwhile. Where files cannot be locked (Windows, some network disks) every process gets a descriptor.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform != "win32":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        return descriptor
    os.close(descriptor)
    return None
