"""What several runs want is computed by one of them, kept, and read by all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fashion_tl.cache import store
from fashion_tl.cache.eviction import room


def computed_once(
    folder: Path,
    about: Mapping[str, store.Plain],
    arrays: store.Arrays,
    fill: Callable[[Mapping[str, store.Append]], None],
) -> dict[str, NDArray[Any]]:
    """Return an entry of the cache; one process computes and keeps it first if there is none, others wait for that.

    Args:
        folder: The cache's folder; made if absent.
        about: All that the values depend on.
        arrays: Dtype and shape of each array.
        fill: Computes the arrays and appends their rows.

    Returns:
        The arrays, mapped, by name.

    Raises:
        CacheWriteError: If the entry cannot be kept: there is no room, or the disk refuses.
    """
    found = store.read(folder, about)
    if found is not None:
        return found
    with store.lock(folder, store.key_of(about), waiting=tell_waiting):
        found = store.read(folder, about)
        if found is None:
            reason = room(folder, store.required_bytes(arrays), store.limit_bytes())
            if reason is not None:
                raise store.CacheWriteError(reason)
            with store.write(folder, about, arrays) as append:
                fill(append)
            found = store.read(folder, about)
    if found is None:
        raise store.CacheWriteError(f"another process has removed the entry from {folder}")
    return found


def tell_waiting() -> None:
    """Say that another run holds the lock of an entry."""
    print("cache: another run computes the same, waiting for it")
