"""The test images that runs share, once in a folder of records: never all of them in memory, however many."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.files import replacing
from fashion_tl.records.predictions import why_unreadable
from fashion_tl.records.record import BROKEN_ARRAYS

Pixels = npt.NDArray[np.uint8]
_AT_ONCE = 2**20  # bytes read at a time


def thumbnails_path(log_dir: Path, test_set: str) -> Path:
    """Return the file of a test set's images in a folder of records."""
    return log_dir / "test_sets" / f"{test_set}.npz"


def write_thumbnails(path: Path, batches: Iterable[Pixels], labels: npt.NDArray[np.int64]) -> None:
    """Write an NPZ file with ``images`` and ``label``.

    Args:
        path: The file.
        batches: All images in their order, some (B, H, W) or (B, H, W, 3) at a time.
        labels: Their classes (N,).
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            for number, batch in enumerate(batches):
                if number == 0:
                    shape = (len(labels), *batch.shape[1:])
                    np.lib.format.write_array_header_1_0(
                        member, {"descr": "|u1", "fortran_order": False, "shape": shape}
                    )
                member.write(batch.tobytes())
        with archive.open("label.npy", "w") as member:
            np.lib.format.write_array(member, labels, allow_pickle=False)


def read_thumbnails(
    path: Path, labels: npt.NDArray[np.int64], positions: Sequence[int], budget: int
) -> dict[int, Pixels]:
    """Read images (H, W) or (H, W, 3) by their positions, the first of these as far as a budget goes.

    Args:
        path: The file.
        labels: Classes (N,) that the test images should have.
        positions: Which images.
        budget: Bytes of pixels.

    Raises:
        UserError: If the file is missing or damaged, or holds the images of other labels. The message begins with the
            name of the file, without its folder.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if missing := [name for name in ("images", "label") if f"{name}.npy" not in archive.namelist()]:
                raise ValueError(f"it holds no {' and no '.join(missing)}")
            with archive.open("label.npy") as member:
                same = np.array_equal(np.lib.format.read_array(member, allow_pickle=False), labels)
            with archive.open("images.npy") as member:
                shape, dtype = _header(member)
                pixels = len(shape) >= 3 and min(shape) > 0 and shape[3:] in ((), (3,)) and dtype == np.uint8
                if not same or not pixels or shape[:1] != labels.shape:
                    raise UserError(f"{path.name} does not hold the images of these predictions")
                return _rows(member, shape, positions, budget)
    except BROKEN_ARRAYS as error:
        raise UserError(why_unreadable(path, error)) from error


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(member)
    if fortran_order:
        raise ValueError("its images are in another order of memory")
    return shape, dtype


def _rows(member: IO[bytes], shape: tuple[int, ...], positions: Sequence[int], budget: int) -> dict[int, Pixels]:
    """Read all rows, which compares the checksum, and keep some."""
    size = math.prod(shape[1:])
    wanted = np.unique(np.asarray(positions[: budget // size], dtype=np.int64))
    kept: dict[int, Pixels] = {}
    rows = max(1, _AT_ONCE // size)
    for start in range(0, shape[0], rows):
        end = min(start + rows, shape[0])
        content = member.read((end - start) * size)
        if len(content) != (end - start) * size:
            raise EOFError("it ends before its last image")
        read = np.frombuffer(content, np.uint8).reshape(end - start, *shape[1:])
        kept.update((int(at), read[at - start].copy()) for at in wanted[(wanted >= start) & (wanted < end)])
    if member.read(1):  # at the end the checksum is compared
        raise ValueError("it goes on after its last image")
    return kept
