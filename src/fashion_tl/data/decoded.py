"""Image files decoded once and kept in the cache, memory-mapped: the next start reads instead of decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import PIL
from numpy.typing import NDArray

from fashion_tl.cache import store
from fashion_tl.cache.eviction import size_text
from fashion_tl.cache.once import computed_once
from fashion_tl.data.file_list import LabelledFiles
from fashion_tl.data.files import decode_image
from fashion_tl.data.threads import in_order, tracked
from fashion_tl.errors import UserError

VERSION = 2
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
    arrays: store.Arrays = {"images": (np.uint8, (len(files), 3, size, size))}
    block = max(1, _BLOCK // (3 * size**2))

    def decode(append: Mapping[str, store.Append]) -> None:
        decoded = in_order(lambda index: decode_image(files.file(index), size, resize, crop).numpy(), len(files), block)
        told = f"keeping {size_text(store.required_bytes(arrays))} of decoded images"
        waiting = []
        for row in tracked(decoded, len(files), told):
            waiting.append(row)
            if len(waiting) == block:
                append["images"](np.stack(waiting))
                waiting.clear()
        if waiting:
            append["images"](np.stack(waiting))

    try:
        return computed_once(folder, about, arrays, decode)["images"]
    except store.CacheWriteError as error:
        raise UserError(
            f"data.source.keep_decoded: decoded images cannot be kept ({error}). Leave it out, make room, or choose "
            "another folder with FASHION_TL_CACHE_DIR."
        ) from error
