"""Many files: lists as arrays, what is known of their contents, decoded images that are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fashion_tl.cache import store
from fashion_tl.cache.listing import cache
from fashion_tl.data import decoded as decoded_module
from fashion_tl.data import file_index, image_folder
from fashion_tl.data.csv_table import CSV
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.file_list import UNKNOWN, FileList, find_images
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.data.images import FolderImages, InMemoryImages
from fashion_tl.data.sources import Loaded, loading_once
from fashion_tl.data.sources import load as load_source
from fashion_tl.data.threads import in_order
from fashion_tl.errors import UserError

LONG_AGO = 10**18  # ns


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(file_index, "INDEXED_FROM", 1)
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for number in range(4):
                picture(tmp_path / "photos" / split / label / f"{number}.png", len(split + label) * 10 + number)
    return tmp_path / "photos"


def noting(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, seen: list[Path]) -> None:
    """Note the paths that a function of a module is called with."""
    real = getattr(module, name)

    def noted(path: Path, *args: Any) -> Any:
        seen.append(path)
        return real(path, *args)

    monkeypatch.setattr(module, name, noted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each file that is opened to be hashed."""
    seen: list[Path] = []
    noting(monkeypatch, file_index, "check_image", seen)
    noting(monkeypatch, file_index, "read_image", seen)
    return seen


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "memory_limit", lambda: 0)


def load(folder: Path, **settings: Any) -> Loaded:
    return ImageFolder(folder, storage_size=8, **settings).load()


def entries_of(kind: str) -> list[store.Entry]:
    return [each for each in store.entries(store.cache_dir()) if each.description.get("kind") == kind]


# Lists


NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: not name.startswith(".")
    ),
    min_size=1,
    max_size=12,
    unique=True,
)


@given(NAMES, st.randoms(use_true_random=False))
def test_a_list_holds_what_it_was_made_of(names: list[str], random: Any) -> None:
    entries = [(Path("/photos") / name, random.randrange(3)) for name in names]
    files = FileList.of(entries)
    assert files == entries
    assert list(files.paths) == [path for path, _ in entries]
    assert files[-1] == entries[-1]
    assert files[1:3] == entries[1:3]
    chosen = np.array([random.random() < 0.5 for _ in names])
    kept = files.take(chosen)
    assert kept == [entry for entry, keep in zip(entries, chosen, strict=True) if keep]
    assert FileList.joined([kept, files.take(~chosen)]) == [*kept, *files.take(~chosen)]
    with pytest.raises(IndexError):
        files[len(files)]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    picture(path, 0)
    (found,) = FileList.below(tmp_path, [tmp_path], [0]).paths
    assert found == path
    assert found.stat().st_size == path.stat().st_size


def test_sizes_and_times_are_those_of_the_files(photos: Path) -> None:
    files = FileList.below(photos, [photos / "train"], [0])
    status = [path.stat() for path in files.paths]
    assert files.sizes.tolist() == [each.st_size for each in status]
    assert files.times.tolist() == [each.st_mtime_ns for each in status]
    assert list(files.paths) == find_images(photos / "train")
    (photos / "train/cat/0.png").unlink()
    (photos / "train/cat/0.png").symlink_to(photos / "nowhere.png")
    again = FileList.below(photos, [photos / "train"], [0])
    assert again.sizes[0] == FileList.of(files).sizes[0] == UNKNOWN


def test_relative_and_absolute_paths_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = FileList.of([(Path("a/x.png"), 0), (tmp_path / "b/y.png", 1)])
    assert list(files.paths) == [tmp_path / "a/x.png", tmp_path / "b/y.png"]
    assert list(FileList.of([(Path("a/x.png"), 0), (Path("y.png"), 1)]).paths) == [Path("a/x.png"), Path("y.png")]


@pytest.mark.usefixtures("photos")
def test_equal_lists_share_their_images_and_others_do_not(photos: Path) -> None:
    with loading_once():
        first = load_source(ImageFolder(photos, storage_size=8))
        assert load_source(ImageFolder(photos, storage_size=8)) is first
        picture(photos / "train/cat/4.png", 9)
        assert load_source(ImageFolder(photos, storage_size=8)) is not first


# Threads


def test_results_come_in_order_and_not_far_ahead() -> None:
    started: list[int] = []

    def task(index: int) -> int:
        started.append(index)
        return index * index

    results = in_order(task, 10_000, ahead=100)
    assert next(results) == 0
    time.sleep(0.2)
    assert len(started) <= 100 + 32
    assert [0, *results] == [index * index for index in range(10_000)]


def test_what_a_task_raises_is_raised_and_the_rest_is_not_run() -> None:
    started: list[int] = []

    def task(index: int) -> None:
        started.append(index)
        if index == 50:
            raise UserError("fifty")

    with pytest.raises(UserError, match="fifty"):
        list(in_order(task, 100_000, ahead=100))
    assert len(started) < 1000


# The index


@pytest.mark.usefixtures("on_disk")
def test_a_second_start_opens_no_file(photos: Path, reads: list[Path]) -> None:
    first = load(photos)
    assert len(reads) == 16
    again = load(photos)
    assert len(reads) == 16
    assert again.fingerprint == first.fingerprint
    assert isinstance(again.train, FolderImages)
    cache("list")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def touch(path: Path) -> None:
    content = bytearray(path.read_bytes())
    picture(path, 999)
    assert content != path.read_bytes()
    os.utime(path, ns=(LONG_AGO, LONG_AGO + 1))


def replace_by_another(path: Path) -> None:
    path.unlink()
    picture(path.with_name("new.png"), 77)


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("change", [grow, touch, replace_by_another, lambda path: picture(path.with_name("7.png"), 1)])
def test_what_has_changed_is_read_again_and_nothing_else(
    photos: Path, reads: list[Path], change: Callable[[Path], None]
) -> None:
    before = load(photos).fingerprint
    reads.clear()
    change(photos / "train/dog/2.png")
    after = load(photos).fingerprint
    assert after != before
    assert len(reads) == 1
    with file_index.reading_anew():
        assert load(photos).fingerprint == after
    reads.clear()
    assert load(photos).fingerprint == after
    assert reads == []
    assert len(entries_of("index")) == 1


@pytest.mark.usefixtures("on_disk")
def test_a_file_removed_is_forgotten(photos: Path, reads: list[Path]) -> None:
    load(photos)
    (photos / "train/dog/2.png").unlink()
    reads.clear()
    loaded = load(photos)
    with file_index.reading_anew():
        assert load(photos).fingerprint == loaded.fingerprint
    assert len(loaded.train) == 7
    (entry,) = entries_of("index")
    found = store.read(store.cache_dir(), entry.description)
    assert found is not None
    assert b"dog/2" not in found["text"].tobytes()[: len(b"test/cat/0.png" * 7)]
    assert len(found["ends"]) == 15


@pytest.mark.usefixtures("on_disk")
def test_a_file_that_was_just_written_is_not_trusted(photos: Path, reads: list[Path]) -> None:
    path = photos / "train/dog/2.png"
    path.touch()
    first = load(photos).fingerprint
    status = path.stat()
    picture(path, 1234)
    assert path.stat().st_size == status.st_size or path.write_bytes(path.read_bytes()[: status.st_size]) is not None
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))  # within a tick of the clock
    reads.clear()
    assert load(photos).fingerprint != first
    assert reads == [path]


@pytest.mark.usefixtures("on_disk")
def test_to_skip_files_each_must_have_been_decoded_once(photos: Path, reads: list[Path]) -> None:
    path = photos / "train/dog/2.png"
    path.write_bytes(path.read_bytes()[:300])  # its header is whole
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert load(photos).skipped == []
    assert load(photos, skip_unreadable=True).skipped == [str(path)]
    reads.clear()
    loaded = load(photos, skip_unreadable=True)
    assert loaded.skipped == [str(path)]
    assert len(loaded.train) == 7
    assert reads == [path]  # it may be mended without a new time
    picture(path, 5)
    assert load(photos, skip_unreadable=True).skipped == []


@pytest.mark.usefixtures("on_disk")
def test_unreadable_files_are_named_at_each_start(photos: Path) -> None:
    (photos / "train/dog/2.png").write_text("no image")
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of 16 files(.|\n)*2\.png: not an image"):
            load(photos)


@pytest.mark.usefixtures("on_disk")
def test_tables_of_one_folder_have_an_index_each(photos: Path, reads: list[Path]) -> None:
    for name, count in (("one", 4), ("two", 3)):
        rows = [f"train/{label}/{number}.png,{label}" for label in ("cat", "dog") for number in range(count)]
        (photos / f"{name}.csv").write_text("\n".join(["path,label", *rows]))
    for _ in range(2):
        for name in ("one", "two"):
            CSV(photos / f"{name}.csv", storage_size=8).load()
    assert len(reads) == 14
    assert len(entries_of("index")) == 2


@pytest.mark.usefixtures("on_disk")
def test_a_damaged_index_is_made_again(photos: Path, reads: list[Path]) -> None:
    first = load(photos).fingerprint
    (entry,) = entries_of("index")
    path = entry.path / "digests.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    reads.clear()
    with pytest.warns(UserWarning, match="damaged values in digests"):
        assert load(photos).fingerprint == first
    assert len(reads) == 16


@pytest.mark.usefixtures("on_disk")
def test_a_cache_that_cannot_be_written_is_told(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(photos).fingerprint
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "file/cache"))
    with pytest.warns(UserWarning, match="index of the files is not kept .*read again"):
        assert load(photos).fingerprint == first
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "other"))
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", "0")
    with pytest.warns(UserWarning, match="index of the files is not kept .*FASHION_TL_CACHE_LIMIT"):
        assert load(photos).fingerprint == first


def test_fingerprints_are_the_same_whether_decoded_at_once_or_not(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(photos)
    assert isinstance(first.train, InMemoryImages)
    assert entries_of("index") == []
    assert load(photos, keep_decoded=True).fingerprint == first.fingerprint
    monkeypatch.setattr(image_folder, "memory_limit", lambda: 0)
    assert load(photos).fingerprint == first.fingerprint


# Decoded images that are kept


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each file that is decoded to be kept."""
    seen: list[Path] = []
    noting(monkeypatch, decoded_module, "decode_image", seen)
    return seen


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.usefixtures("on_disk")
def test_kept_images_are_those_of_the_files(photos: Path, decoded: list[Path], resize: str) -> None:
    expected = load(photos, resize=resize)
    for _ in range(2):
        loaded = load(photos, resize=resize, keep_decoded=True)
        assert isinstance(loaded.train, InMemoryImages)
        for name, images in loaded.sets.items():
            everything = torch.arange(len(images))
            for one, other in zip(
                images.__getitems__(everything), expected.sets[name].__getitems__(everything), strict=True
            ):
                assert torch.equal(one, other)
    assert len(decoded) == 16
    load(photos, resize=resize, crop=0.5, keep_decoded=True)
    assert len(decoded) == 32


def test_another_picture_in_a_file_is_another_image(photos: Path) -> None:
    before = load(photos, keep_decoded=True).train.__getitems__([1])[0].clone()
    picture(photos / "train/cat/1.png", 4321)
    os.utime(photos / "train/cat/1.png", ns=(LONG_AGO, LONG_AGO + 1))
    after = load(photos, keep_decoded=True).train.__getitems__([1])[0]
    assert not torch.equal(after, before)
    assert torch.equal(after, load(photos).train.__getitems__([1])[0])


def test_a_copy_with_other_names_decodes_nothing(photos: Path, tmp_path: Path, decoded: list[Path]) -> None:
    load(photos, keep_decoded=True)
    (photos / "train/cat").rename(photos / "train/ant")
    (photos / "test/cat").rename(photos / "test/ant")
    photos.rename(tmp_path / "moved")
    decoded.clear()
    load(tmp_path / "moved", keep_decoded=True)
    assert decoded == []


def test_unreadable_files_are_left_out_of_what_is_kept(photos: Path, decoded: list[Path]) -> None:
    path = photos / "train/cat/1.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        load(photos, keep_decoded=True)
    assert entries_of("decoded images") == []
    assert not list(store.cache_dir().glob(".*.partial"))
    loaded = load(photos, keep_decoded=True, skip_unreadable=True)
    assert loaded.skipped == [str(path)]
    reference = load(photos, skip_unreadable=True)
    assert loaded.fingerprint == reference.fingerprint
    for name, images in loaded.sets.items():
        everything = torch.arange(len(images))
        assert torch.equal(images.__getitems__(everything)[0], reference.sets[name].__getitems__(everything)[0])


def test_no_room_for_decoded_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", "0.000001")
    with (
        pytest.warns(UserWarning, match="index"),
        pytest.raises(UserError, match=r"keep_decoded: .*FASHION_TL_CACHE_LIMIT"),
    ):
        load(photos, keep_decoded=True)


def test_a_data_module_trains_on_kept_images(photos: Path) -> None:
    batches = {}
    for keep in (False, True):
        data = ImageDataModule(ImageFolder(photos, keep_decoded=keep), image_size=8, batch_size=2, num_workers=0)
        data.setup()
        batches[keep] = [images for batch in data.train_dataloader() if (images := batch.images) is not None]
    assert len(batches[True]) == len(batches[False]) > 0
    assert all(torch.equal(one, other) for one, other in zip(batches[True], batches[False], strict=True))


def test_what_is_kept_is_listed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(photos, keep_decoded=True)
    cache("list")
    listed = capsys.readouterr().out
    assert f"index of the files in {photos}" in listed
    assert "16 decoded images, 8 px" in listed
