"""``fashion-tl cache``: what is kept of frozen stages, of teachers and of image files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fashion_tl.cache.store import cache_dir, clear, entries
from fashion_tl.errors import UserError


def cache(action: Literal["list", "clear"]) -> None:
    """List or clear what is cached: features of frozen stages, logits, decoded images, indices of folders.

    Args:
        action: What to do: list the entries with their sizes, or remove them all. Other files are left alone.

    Raises:
        UserError: If an entry cannot be removed.
    """
    folder = cache_dir()
    if action == "clear":
        count, size, left = clear(folder)
        print(f"removed {count} entries, {size / 2**20:,.1f} MiB, from {folder}")
        if left:
            raise UserError(
                f"{len(left)} entries in {folder} cannot be removed, such as {left[0].name}: they are another user's, "
                "or the folder cannot be written. Ask their owner, or set FASHION_TL_CACHE_DIR to a folder of your own."
            )
        return
    found = entries(folder)
    for entry in found:
        what = "damaged" if entry.damaged else _what(entry.description)
        print(f"{entry.key[:12]}  {entry.bytes / 2**20:10,.1f} MiB  {what}")
    print(f"{len(found)} entries, {sum(entry.bytes for entry in found) / 2**20:,.1f} MiB in {folder}")


def _what(about: Mapping[str, Any]) -> str:
    """Say what an entry holds, by the description of its key."""
    if about.get("kind") == "index":
        return f"index of the files in {about.get('folder')}"
    if about.get("kind") == "decoded images":
        return f"{about.get('images'):,} decoded images, {about.get('image_size')} px"
    if about.get("kind") == "logits":
        images, views = about.get("images"), "+".join(about.get("views", ()))
        return f"logits of {about.get('architecture')}, {images:,} images ({views}), {about.get('image_size')} px"
    place = f"{about.get('architecture')} at {about.get('boundary')}, {about.get('part')}"
    return f"{place}, {about.get('image_size')} px{', pooled' if 'pooled' in about else ''}"
