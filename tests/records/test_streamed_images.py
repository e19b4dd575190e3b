"""Test images on the disk: what was written is read, in bounded memory, and damage is told."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.records.predictions import read_arrays
from fashion_tl.records.thumbnails import Pixels, read_thumbnails, write_thumbnails

SIZE = 2**40


def drawn(shape: tuple[int, ...], seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "set.npz"


@pytest.mark.parametrize("shape", [(2500, 5, 4), (1025, 3, 3, 3), (1, 2, 2)])
def test_what_is_written_is_read(path: Path, shape: tuple[int, ...]) -> None:
    images, labels = drawn(shape), np.arange(shape[0])
    write_thumbnails(path, (images[at : at + 400] for at in range(0, shape[0], 400)), labels)
    with np.load(path) as file:  # an npz file as any other
        np.testing.assert_array_equal(file["images"], images)
        np.testing.assert_array_equal(file["label"], labels)
    positions = [shape[0] - 1, 0, shape[0] // 2, 0]
    found = read_thumbnails(path, labels, positions, SIZE)
    assert set(found) == set(positions)
    for position, image in found.items():
        np.testing.assert_array_equal(image, images[position])
    each = int(np.prod(shape[1:]))
    assert set(read_thumbnails(path, labels, positions, each)) == {shape[0] - 1}
    assert read_thumbnails(path, labels, positions, each - 1) == {}


def test_memory_is_that_of_a_batch(path: Path) -> None:
    count, batch = 6000, drawn((100, 48, 48, 3))

    def batches() -> Iterator[Pixels]:
        for _ in range(0, count, len(batch)):
            yield batch.copy()

    labels = np.zeros(count, dtype=np.int64)
    whole = count * batch[0].nbytes  # 41 MB
    tracemalloc.start()
    try:
        write_thumbnails(path, batches(), labels)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        read_thumbnails(path, labels, [5999, 3], SIZE)
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written < whole / 10
    assert read < whole / 5


def test_every_flipped_bit_is_told(path: Path) -> None:
    images, labels = drawn((12, 3, 3)), np.arange(12)
    write_thumbnails(path, [images], labels)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        spoilt = bytearray(whole)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with suppress(UserError):  # the general reader of arrays, too: no other error
            read_arrays(path, "images", "label")
        try:
            found = read_thumbnails(path, labels, range(12), SIZE)
        except UserError as error:
            assert str(error).startswith("set.npz ")  # noqa: PT017 - which bytes matter is zip's affair
        else:
            np.testing.assert_array_equal(np.stack([found[at] for at in range(12)]), images)


def test_a_file_cut_short_or_of_other_shape_is_told(path: Path) -> None:
    labels = np.arange(40)
    write_thumbnails(path, [drawn((39, 4, 4))], labels)  # an image is missing
    with pytest.raises(UserError, match="it ends before its last image"):
        read_thumbnails(path, labels, [0], SIZE)
    write_thumbnails(path, [drawn((41, 4, 4))], labels)
    with pytest.raises(UserError, match="it goes on after its last image"):
        read_thumbnails(path, labels, [0], SIZE)
    np.savez(path, images=np.asfortranarray(drawn((40, 4, 4))), label=labels)
    with pytest.raises(UserError, match="another order of memory"):
        read_thumbnails(path, labels, [0], SIZE)
    for shape in [(40, 16), (40, 4, 4, 2), (40, 4, 4, 4), (40, 0, 4), (40, 4, 4, 3, 1)]:
        np.savez(path, images=drawn(shape), label=labels)
        with pytest.raises(UserError, match="does not hold the images"):
            read_thumbnails(path, labels, [0], SIZE)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="is damaged"):
        read_thumbnails(path, labels, [0], SIZE)
    path.unlink()
    with pytest.raises(UserError, match="is missing"):
        read_thumbnails(path, labels, [0], SIZE)


def test_a_failure_in_the_middle_leaves_no_file(path: Path) -> None:
    def broken() -> Iterator[Pixels]:
        yield drawn((10, 4, 4))
        raise UserError("the images are gone")

    with pytest.raises(UserError, match="the images are gone"):
        write_thumbnails(path, broken(), np.arange(20))
    assert list(path.parent.iterdir()) == []
