"""The store of computed arrays: what is read is whole, whatever happened to the file or to the run that wrote it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.cache import eviction, store
from fashion_tl.cache.store import CacheWriteError
from fashion_tl.errors import UserError

posix = pytest.mark.skipif(sys.platform == "win32", reason="mapped files cannot be removed there")

DESCRIPTION: dict[str, store.Plain] = {"backbone": "résnet18", "size": 64, "views": ["identity", "mirror"], "std": 0.25}
GIB = 2**30


def values_of(rows: int = 5) -> dict[str, np.ndarray[Any, Any]]:
    draw = np.random.default_rng(0)
    return {
        "layer3": draw.normal(size=(rows, 4, 3, 3)).astype(np.float16),
        "layer4": draw.normal(size=(rows, 7)).astype(np.float32),
        "views": draw.integers(0, 256, size=(rows, 2, 5), dtype=np.uint8),
        "labels": np.arange(rows, dtype=np.int64),
        "seen": np.arange(rows) % 2 == 0,
    }


def spec(values: dict[str, np.ndarray[Any, Any]]) -> dict[str, tuple[Any, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in values.items()}


def write(
    folder: Path, description: dict[str, store.Plain] = DESCRIPTION, values: dict[str, Any] | None = None
) -> Path:
    values = values_of() if values is None else values
    with store.write(folder, description, spec(values)) as arrays:
        for name, array in values.items():
            arrays[name](array[:2])
            arrays[name](array[2:])
    return folder / store.key_of(description)


def write_bytes(folder: Path, name: str, size: int, last_used: float) -> Path:
    """Write an entry with a file of a given size that was used last at a given time."""
    path = write(folder, {"name": name}, {"x": np.zeros(size - 128, np.uint8)})
    os.utime(path, (last_used, last_used))
    return path


def assert_refused(folder: Path, match: str) -> None:
    """An entry of DESCRIPTION is told by one warning, is removed, and is absent from then on."""
    path = folder / store.key_of(DESCRIPTION)
    with pytest.warns(UserWarning, match=match) as told:
        assert store.read(folder, DESCRIPTION) is None
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert not path.exists()
    assert store.read(folder, DESCRIPTION) is None  # silent: warnings are errors here


def names(folder: Path) -> set[str]:
    """List a folder, but for the locks, which stay."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


# --- whole entries ---------------------------------------------------------------------------------------------------


def test_round_trip_of_dtypes(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on demand"
    assert store.read(folder, DESCRIPTION) is None

    path = write(folder)

    assert names(folder) == {store.key_of(DESCRIPTION)} == {path.name}
    found = store.read(folder, DESCRIPTION)
    assert found is not None
    assert list(found) == list(values_of())
    for name, array in values_of().items():
        assert isinstance(found[name], np.memmap)
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable
    assert found["layer3"][[0, 2]].flags.writeable  # a copy of rows, which torch may have
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    assert sizes.keys() == {"meta.json", *(f"{name}.npy" for name in values_of())}
    assert sum(sizes.values()) <= store.required_bytes(spec(values_of()))


def test_a_key_stands_for_the_values_and_not_for_their_order() -> None:
    assert store.key_of({"a": 1, "b": [1, 2]}) == store.key_of({"b": (1, 2), "a": 1})
    keys = [store.key_of({"a": value}) for value in (1, 1.5, "1", True, None, [1], {"a": 1})]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.key_of({"a": Path("x")})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.key_of({"a": float("nan")})


def test_the_later_of_two_writers_of_a_key_stays_and_a_map_of_the_earlier_keeps_its_values(tmp_path: Path) -> None:
    write(tmp_path, values={"x": np.zeros(3)})
    earlier = store.read(tmp_path, DESCRIPTION)
    write(tmp_path, values={"x": np.ones(3)})
    later = store.read(tmp_path, DESCRIPTION)

    assert earlier is not None
    assert later is not None
    assert (earlier["x"].tolist(), later["x"].tolist()) == ([0, 0, 0], [1, 1, 1])
    assert len(names(tmp_path)) == 1


def test_a_description_that_changes_while_an_entry_is_written_changes_nothing(tmp_path: Path) -> None:
    views: list[store.Plain] = ["identity"]
    with store.write(tmp_path, {"views": views}, {"x": (np.uint8, (2,))}) as arrays:
        views.extend(["mirror"] * 2000)
        arrays["x"](np.array([1, 2]))
    found = store.read(tmp_path, {"views": ["identity"]})
    assert found is not None
    assert found["x"].tolist() == [1, 2]


# --- damage ----------------------------------------------------------------------------------------------------------


def test_every_changed_byte_of_the_description_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, values={"x": np.arange(3)})
    meta = path / "meta.json"
    whole = meta.read_bytes()
    accepted = []
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7
        meta.write_bytes(damaged)
        (entry,) = store.entries(tmp_path)
        if not entry.damaged:
            accepted.append(position)
    assert all(whole[position : position + 1].isspace() for position in accepted)  # one blank for another
    meta.write_bytes(whole[:-5])
    assert_refused(tmp_path, r"damaged meta\.json")


@pytest.mark.parametrize("length", ["shorter by one", "longer by one", "half", "empty"])
def test_any_other_length_is_noticed(tmp_path: Path, length: str) -> None:
    file = write(tmp_path) / "layer4.npy"
    size = file.stat().st_size
    os.truncate(file, {"shorter by one": size - 1, "longer by one": size + 1, "half": size // 2}.get(length, 0))
    assert_refused(tmp_path, rf"instead of {size} in layer4\.npy")


@pytest.mark.parametrize("name", ["meta.json", "layer4.npy"])
def test_a_missing_file_and_a_file_of_zeros_are_noticed(tmp_path: Path, name: str) -> None:
    file = write(tmp_path) / name
    size = file.stat().st_size
    file.unlink()
    assert_refused(tmp_path, r"damaged meta\.json|has 0 bytes")
    write(tmp_path)
    file.write_bytes(bytes(size))  # what a disk may make of a file after a power cut
    assert_refused(tmp_path, "damaged .*; removed")


@pytest.mark.parametrize("position", [0, 1_234_567, -1])
def test_one_changed_bit_anywhere_is_noticed(tmp_path: Path, position: int) -> None:
    file = write(tmp_path, values={"small": np.ones(7, np.uint8), "large": np.ones(3_000_001, np.uint8)}) / "large.npy"
    assert store.read(tmp_path, DESCRIPTION) is not None
    damaged = bytearray(file.read_bytes())
    damaged[position] ^= 1
    time.sleep(0.02)  # the clock of a file system ticks every few milliseconds
    file.write_bytes(damaged)
    assert_refused(tmp_path, r"damaged values in large\.npy; removed, to be computed again")


def test_values_are_verified_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    read: list[str] = []
    crc = store._crc

    def counted(path: Path) -> str:
        read.append(path.name)
        return crc(path)

    monkeypatch.setattr(store, "_crc", counted)
    for _ in range(3):
        assert store.read(tmp_path, DESCRIPTION) is not None
    assert sorted(read) == sorted(f"{name}.npy" for name in values_of())


def test_a_disk_that_cannot_read_an_entry_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    write(tmp_path)
    monkeypatch.setattr(store, "_crc", fail)
    with pytest.warns(UserWarning, match="cache: cannot read .*: Input/output error"):
        assert store.read(tmp_path, DESCRIPTION) is None


def test_another_version_of_the_format_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "VERSION", 9)
        write(tmp_path)
        assert store.read(tmp_path, DESCRIPTION) is not None
    assert_refused(tmp_path, "version 9 of the format, not 3")


def test_an_entry_under_another_name_is_noticed(tmp_path: Path) -> None:
    other = write(tmp_path, {"size": 32})
    other.rename(tmp_path / store.key_of(DESCRIPTION))
    assert [entry.damaged for entry in store.entries(tmp_path)] == [True]
    assert_refused(tmp_path, "belongs to another key")


def test_another_description_with_the_same_key_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "key_of", lambda description: "0" * 32)
    write(tmp_path, {"size": 32})
    assert_refused(tmp_path, "belongs to another description")


# --- writing that fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt, FileNotFoundError])
def test_an_exception_while_writing_leaves_nothing_and_stays_what_it_was(
    tmp_path: Path, problem: type[BaseException]
) -> None:
    with pytest.raises(problem) as told, store.write(tmp_path, DESCRIPTION, spec(values_of())) as arrays:  # noqa: PT012
        arrays["labels"](np.array([1, 2]))
        assert len(names(tmp_path)) == 1
        raise problem("an image")
    assert not isinstance(told.value, CacheWriteError)
    assert names(tmp_path) == set()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_disk_that_is_full_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(descriptor: int, offset: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CacheWriteError, match=r"cannot write the cache .*: No space left") as told:
        write(tmp_path)
    assert told.value.errno == errno.ENOSPC
    assert names(tmp_path) == set()
    monkeypatch.undo()
    assert asked == [(write(tmp_path) / "layer3.npy").stat().st_size]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_disk_that_cannot_reserve_blocks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    write(tmp_path)
    assert store.read(tmp_path, DESCRIPTION) is not None


def test_a_full_disk_that_cannot_reserve_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on the size of files stands for the full disk: every write beyond it fails in the system itself."""
    resource = pytest.importorskip("resource")
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CacheWriteError, match="cannot write the cache"):
            write(tmp_path, values={"x": np.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("count", [0, 2, 4])
def test_an_entry_with_rows_missing_or_too_many_is_none(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match="has not as many rows"), store.write(tmp_path, {}, {"x": ("f4", (3, 2))}) as x:
        x["x"](np.ones((count, 2)))
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_refusal_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os if name == "fsync" else Path, name, refuse)
    with pytest.raises(CacheWriteError, match="Input/output error"):
        write(tmp_path)
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheWriteError, match="cannot write the cache"):
        write(tmp_path / "file" / "cache")
    with pytest.raises(CacheWriteError, match="cannot write the cache"), store.lock(tmp_path / "file", "k"):
        pass
    reason = eviction.room(tmp_path / "file" / "cache", 1, GIB)
    assert reason is not None
    assert "Not a directory" in reason


# --- runs at once, and killed ones -----------------------------------------------------------------------------------

KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from fashion_tl.cache import eviction, store

assert not {"torch", "lightning", "fashion_tl.cli"} & set(sys.modules)
folder = Path(sys.argv[1])
with store.lock(folder, store.key_of({"a": 1})), store.write(folder, {"a": 1}, {"x": ("f4", (1000, 8))}) as arrays:
    arrays["x"](np.ones((500, 8)))
    print("half", flush=True)
    sys.stdin.read()
"""


@posix
def test_a_killed_run_leaves_nothing_that_is_read_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "half\n"
        suffixes = {path.suffix for path in tmp_path.iterdir()}
        assert store.clear(tmp_path) == (0, 0, [])  # it lives
        assert {path.suffix for path in tmp_path.iterdir()} == suffixes == {".partial", ".lock"}
        killed.send_signal(signal.SIGKILL)

    assert {path.suffix for path in tmp_path.iterdir()} == {".partial", ".lock"}
    assert store.read(tmp_path, {"a": 1}) is None
    assert store.entries(tmp_path) == []
    with store.lock(tmp_path, store.key_of({"a": 1}), waiting=lambda: pytest.fail("the lock outlived its process")):
        write(tmp_path, {"a": 1}, {"x": np.ones(3)})
    assert names(tmp_path) == {store.key_of({"a": 1})}


@posix
def test_clear_removes_what_a_killed_run_left(tmp_path: Path) -> None:
    write(tmp_path)
    (entry,) = store.entries(tmp_path)
    key = entry.key
    (tmp_path / f".{key}.lock").touch()
    for name in (f".{key}.partial", f".{key}.01234567.removed", f".{key}.partial.01234567.removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.npy").write_bytes(bytes(100))
    assert store.clear(tmp_path) == (2, entry.bytes + 100, [])
    assert list(tmp_path.iterdir()) == []
    assert store.clear(tmp_path / "absent") == (0, 0, [])


def test_files_of_others_are_never_removed(tmp_path: Path) -> None:
    """A cache folder by a slip: the home folder, say."""
    folder, key = tmp_path / "home", store.key_of(DESCRIPTION)
    for name in (
        *("photos/a.png", "old.ftl", ".git.partial/x.npy", ".x.lock", ".a.b.removed/x.npy"),
        *(f"{'0' * 32}/thesis.tex", f"{'1' * 32}/deep/x.npy", f".{'2' * 32}.partial/y.txt", f"{'3' * 32}.npy"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"mine")
    (folder / ("4" * 32)).symlink_to(folder / "photos")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/meta.json").touch()
    (folder / ("5" * 32)).symlink_to(tmp_path / "elsewhere")
    before = sorted(folder.rglob("*"))

    assert store.entries(folder) == []
    assert store.clear(folder) == (0, 0, [])
    assert eviction.room(folder, 1, GIB) is None
    assert eviction.room(folder, GIB, GIB // 2) is not None
    (folder / key).mkdir()
    (folder / key / "mine.txt").touch()
    with pytest.warns(UserWarning, match="cannot be removed"):
        assert store.read(folder, DESCRIPTION) is None
    with pytest.raises(CacheWriteError, match="cannot write the cache"):
        write(folder)

    assert sorted(folder.rglob("*")) == sorted([*before, folder / key, folder / key / "mine.txt"])
    assert (tmp_path / "elsewhere/meta.json").exists()


@posix
def test_entries_of_another_user_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path)
    whole = sorted(path.iterdir())

    def keep(folder: Path, ignore_errors: bool) -> None:
        assert ignore_errors

    monkeypatch.setattr(shutil, "rmtree", keep)
    assert store.clear(tmp_path) == (0, 0, [path])
    assert sorted(path.iterdir()) == whole
    assert store.read(tmp_path, DESCRIPTION) is not None


@posix
def test_runs_that_want_the_same_entry_at_once_compute_it_once(tmp_path: Path) -> None:
    computed, waited, found = [], [], []
    begin = threading.Barrier(4)

    def run(number: int) -> None:
        begin.wait()
        with store.lock(tmp_path, store.key_of(DESCRIPTION), waiting=lambda: waited.append(number)):
            entry = store.read(tmp_path, DESCRIPTION)
            if entry is None:
                computed.append(number)
                time.sleep(0.1)
                write(tmp_path)
                entry = store.read(tmp_path, DESCRIPTION)
            found.append(entry)

    runs = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()

    assert len(computed) == 1
    assert sorted(computed + waited) == [0, 1, 2, 3]
    assert len(found) == 4
    assert all(entry is not None for entry in found)
    assert names(tmp_path) == {store.key_of(DESCRIPTION)}


@posix
def test_a_lock_of_one_key_does_not_hold_up_another_and_is_released_by_an_exception(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.lock(tmp_path, "a"), store.lock(tmp_path, "b"):
        raise RuntimeError
    with store.lock(tmp_path, "a", waiting=lambda: pytest.fail("the lock was not released")):
        pass


# --- room ------------------------------------------------------------------------------------------------------------


def test_entries_are_listed_by_their_last_use(tmp_path: Path) -> None:
    now = time.time()
    oldest, newest, middle = (write_bytes(tmp_path, n, 200, now - age) for n, age in (("a", 30), ("b", 10), ("c", 20)))
    assert [entry.path for entry in store.entries(tmp_path)] == [oldest, middle, newest]

    assert store.read(tmp_path, {"name": "a"}) is not None  # it becomes the newest

    listed = store.entries(tmp_path)
    assert [entry.path for entry in listed] == [middle, newest, oldest]
    assert listed[-1].last_used == pytest.approx(now, abs=60)
    assert (listed[0].key, listed[0].bytes) == (middle.name, 200 + (middle / "meta.json").stat().st_size)
    assert (listed[0].description, listed[0].damaged) == ({"name": "c"}, False)
    assert store.entries(tmp_path / "absent") == []


def test_a_damaged_entry_is_listed_and_is_the_first_to_go(tmp_path: Path) -> None:
    used = write_bytes(tmp_path, "used long ago", 4100, 1000.0)
    damaged = write_bytes(tmp_path, "damaged", 4100, 2000.0)
    os.truncate(damaged / "x.npy", 4000)
    assert [(e.path, e.damaged, bool(e.description)) for e in store.entries(tmp_path)] == [
        (used, False, True),
        (damaged, True, False),
    ]
    assert eviction.room(tmp_path, 4100, 3 * 4000) is None
    assert names(tmp_path) == {used.name}


@pytest.mark.parametrize(("limit", "left"), [(40_000, "abc"), (35_000, "bc"), (25_000, "c"), (15_000, ""), (9_000, "")])
def test_the_least_recently_used_entries_make_room(tmp_path: Path, limit: int, left: str) -> None:
    paths = {name: write_bytes(tmp_path, name, 9_700, 1000.0 + i) for i, name in enumerate("abc")}
    assert all(9_800 < entry.bytes <= 10_000 for entry in store.entries(tmp_path))
    assert eviction.room(tmp_path, 9_000, limit) is None
    assert names(tmp_path) == {paths[name].name for name in left}


def test_an_entry_larger_than_the_limit_is_refused_and_nothing_is_removed(tmp_path: Path) -> None:
    kept = write(tmp_path)
    reason = eviction.room(tmp_path, 3 * GIB, 2 * GIB)
    assert reason is not None
    assert "needs 3.0 GiB, the limit of all entries is 2.0 GiB (FASHION_TL_CACHE_LIMIT" in reason
    assert names(tmp_path) == {kept.name}


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100 * GIB, 100 * GIB - free, free))


def test_no_room_on_the_disk_is_told_and_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = write(tmp_path)
    disk(monkeypatch, GIB)
    reason = eviction.room(tmp_path, GIB, 20 * GIB)  # it fits, but nothing would be left for the run
    assert reason is not None
    assert "needs 1.1 GiB; the disk of" in reason
    assert "has 1.0 GiB free" in reason
    assert "\n" not in reason
    assert names(tmp_path) == {kept.name}


def test_entries_make_room_on_the_disk_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = (write_bytes(tmp_path, name, 9_700, last) for name, last in (("old", 1000.0), ("new", 2000.0)))
    disk(monkeypatch, 64 * 2**20 + 10_500 - 1)
    assert eviction.room(tmp_path, 10_000, GIB) is None
    assert names(tmp_path) == {new.name}
    assert not old.exists()


def test_a_folder_is_looked_through_once_and_one_that_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    known = store.entries(tmp_path)
    looked: list[str] = []
    usage = namedtuple("usage", "free")

    def asked(folder: Path) -> Any:
        looked.append("disk")
        return usage(GIB)

    def listed(folder: Path) -> list[store.Entry]:
        looked.append("entries")
        return known

    monkeypatch.setattr(shutil, "disk_usage", asked)
    monkeypatch.setattr(eviction, "entries", listed)
    assert eviction.room(tmp_path, 1, GIB) is None
    assert sorted(looked) == ["disk", "entries"]
    monkeypatch.undo()

    iterdir = Path.iterdir

    def closed(path: Path) -> Any:
        if path == known[0].path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", closed)
    for found in (eviction.room(tmp_path, 1, GIB), eviction.why_no_room(tmp_path, 1, GIB)):
        assert found == f"{tmp_path}: Permission denied"


@posix
def test_a_removed_entry_stays_readable_where_it_is_mapped(tmp_path: Path) -> None:
    write(tmp_path)
    found = store.read(tmp_path, DESCRIPTION)
    assert eviction.room(tmp_path, 10_000, 10_000) is None
    assert names(tmp_path) == set()
    assert found is not None
    np.testing.assert_array_equal(found["layer3"], values_of()["layer3"])


def test_required_bytes_follow_the_arrays() -> None:
    assert store.required_bytes({"x": (np.float16, (60_000, 512)), "y": (np.uint8, (1,))}) == 4096 * (1 + 15_000) + 1


@pytest.mark.parametrize(("given", "limit"), [(None, 20 * GIB), ("", 20 * GIB), ("0.5", GIB // 2), ("0", 0)])
def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, given: str | None, limit: int) -> None:
    monkeypatch.delenv("FASHION_TL_CACHE_LIMIT", raising=False)
    if given is not None:
        monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", given)
    assert store.limit_bytes() == limit


@pytest.mark.parametrize("given", ["20 GB", "-1", "nan", "inf"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", given)
    with pytest.raises(UserError, match=r"FASHION_TL_CACHE_LIMIT=.*number of GiB"):
        store.limit_bytes()


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("FASHION_TL_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert store.cache_dir() == tmp_path / ".cache" / "fashion_tl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert store.cache_dir() == tmp_path / "xdg" / "fashion_tl"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert store.cache_dir() == tmp_path / "Library" / "Caches" / "fashion_tl"
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "chosen"))
    assert store.cache_dir() == tmp_path / "chosen"
