"""Image files decoded once and kept in the cache, memory-mapped: the next start reads instead of decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from fashion_tl.cache import store
from fashion_tl.cache.eviction import room, size_text
from fashion_tl.data.file_list import LabelledFiles
from fashion_tl.data.files import decode_image
from fashion_tl.data.threads import in_order, tracked
from fashion_tl.errors import UserError

VERSION = 1
_BLOCK = 2**25  # bytes that are written at once, and decoded ahead of that


def decoded_on_disk(
    files: LabelledFiles, digests: NDArray[np.uint8], size: int, resize: str, crop: float
) -> NDArray[np.uint8]:
    """Return the images of files from the cache, decoding them first if they are not there.

    An entry depends on the contents of the files in their order, and on how they are decoded; not on names and classes.
    Of several processes one decodes, and the others wait.

    Args:
        files: Files that can be read.
        digests: uint8 (N, 32), SHA-256 of the content of each.
        size: Height and width of the decoded images, in pixels.
        resize: How an image becomes square, see `decode_image`.
        crop: Share of the shorter side that is kept, see `decode_image`.

    Returns:
        Images (N, 3, size, size), mapped: the system reads and drops them as it needs memory.

    Raises:
        UserError: If they cannot be kept, or a file turns out to be unreadable.
    """
    folder = store.cache_dir()
    about: dict[str, store.Plain] = {
        "kind": "decoded images",
        "version": VERSION,
        "libraries": {"Pillow": PIL.__version__},
        "images": len(files),
        "contents": hashlib.sha256(np.ascontiguousarray(digests).data).hexdigest(),
        "image_size": size,
        "resize": resize,
        "crop": crop,
    }
    found = store.read(folder, about)
    try:
        if found is None:
            with store.lock(folder, store.key_of(about)):
                found = store.read(folder, about)
                if found is None:
                    _write(files, folder, about, size, resize, crop)
                    found = store.read(folder, about)
    except store.CacheWriteError as error:
        raise _refused(str(error)) from error
    if found is None:
        raise _refused(f"another process has removed them from {folder}")
    return found["images"]


def _write(
    files: LabelledFiles, folder: Path, about: Mapping[str, store.Plain], size: int, resize: str, crop: float
) -> None:
    arrays: store.Arrays = {"images": (np.uint8, (len(files), 3, size, size))}
    needed = store.required_bytes(arrays)
    reason = room(folder, needed, store.limit_bytes())
    if reason is not None:
        raise _refused(reason)
    block = max(1, _BLOCK // (3 * size**2))
    decoded = in_order(lambda index: decode_image(files.file(index), size, resize, crop).numpy(), len(files), block)
    rows = tracked(decoded, len(files), f"keeping {size_text(needed)} of decoded images")
    waiting = []
    with store.write(folder, about, arrays) as append:
        for row in rows:
            waiting.append(row)
            if len(waiting) == block:
                append["images"](np.stack(waiting))
                waiting.clear()
        if waiting:
            append["images"](np.stack(waiting))


def _refused(reason: str) -> UserError:
    return UserError(
        f"data.source.keep_decoded: decoded images cannot be kept ({reason}). Leave it out, make room, or choose "
        "another folder with FASHION_TL_CACHE_DIR."
    )
