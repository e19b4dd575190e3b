"""Memory that a process can still take, from files that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fashion_tl.data.memory import available_memory, memory_limit

UNLIMITED = "9223372036854771712"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = """35 31 0:32 {shown} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"""


def write(root: Path, files: dict[str, str | int]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def machine(root: Path, kilobytes: int, cgroup: str, mountinfo: str) -> Path:
    files: dict[str, str | int] = {
        "proc/meminfo": f"MemTotal:  99999999 kB\nMemFree:   1 kB\nMemAvailable:   {kilobytes} kB",
        "proc/self/cgroup": cgroup,
        "proc/self/mountinfo": f"1 0 8:1 / / rw - ext4 /dev/a rw\n{mountinfo}",
    }
    return write(root, files)


def v2(folder: str, limit: str | int, usage: int, inactive: int = 0) -> dict[str, str | int]:
    stat = f"anon 5\nfile 7\ninactive_anon 3\ninactive_file {inactive}\nactive_file 2"
    at = f"sys/fs/cgroup{folder}"
    return {f"{at}/memory.max": limit, f"{at}/memory.current": usage, f"{at}/memory.stat": stat}


def v1(folder: str, limit: str | int, usage: int, inactive: int = 0) -> dict[str, str | int]:
    stat = f"cache 9\ninactive_file 1\nhierarchical_memory_limit 5\ntotal_inactive_file {inactive}"
    at = f"sys/fs/cgroup/memory{folder}"
    return {f"{at}/memory.limit_in_bytes": limit, f"{at}/memory.usage_in_bytes": usage, f"{at}/memory.stat": stat}


def test_without_control_groups_it_is_the_machines(tmp_path: Path):
    write(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    123 kB"})
    assert available_memory(tmp_path) == 123 * 1024
    assert available_memory(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("limit", "usage", "inactive", "left"),
    [
        (10_000, 4_000, 0, 6_000),
        (10_000, 9_900, 5_000, 5_100),  # page cache is given back before anything fails
        (10_000, 12_000, 0, 0),
        (10_000, 100, 5_000, 10_000),
        ("max", 4_000, 0, 1024 * 1024),
        (10**12, 4_000, 0, 1024 * 1024),
    ],
)
def test_version_2_leaves_its_limit_less_what_is_taken(tmp_path: Path, limit, usage, inactive, left):
    write(machine(tmp_path, 1024, "0::/", V2), v2("", limit, usage, inactive))
    assert available_memory(tmp_path) == left


def test_groups_around_the_own_one_count(tmp_path: Path):
    root = machine(tmp_path, 1024, "0::/user.slice/job 7/task", V2)
    write(root, {**v2("/user.slice/job 7/task", "max", 10), **v2("/user.slice/job 7", 9_000, 2_000)})
    assert available_memory(root) == 7_000
    write(root, v2("/user.slice", 8_000, 7_500, 500))
    assert available_memory(root) == 1_000
    write(root, v2("/other.slice", 3, 2))
    assert available_memory(root) == 1_000


@pytest.mark.parametrize("shown", ["/", "/docker/abc"])
def test_version_1_in_the_whole_tree_and_in_a_container(tmp_path: Path, shown: str):
    # In a container the group is named as on the machine, but mounted alone.
    root = machine(tmp_path, 1024, "5:cpu:/docker/abc\n4:memory,hugetlb:/docker/abc\n0::/", V1.format(shown=shown))
    folder = "/docker/abc" if shown == "/" else ""
    write(root, v1(folder, 50_000, 30_000, 10_000))
    assert available_memory(root) == 30_000
    if folder:
        write(root, v1("", UNLIMITED, 10**6))
        assert available_memory(root) == 30_000
        write(root, v1("/docker", 40_000, 35_000))
        assert available_memory(root) == 5_000


def test_a_group_of_another_container_counts_as_its_mount(tmp_path: Path):
    root = machine(tmp_path, 1024, "4:memory:/elsewhere", V1.format(shown="/docker/abc"))
    write(root, v1("", 5_000, 1_000))
    assert available_memory(root) == 4_000


def test_mount_points_may_have_blanks(tmp_path: Path):
    root = machine(tmp_path, 1024, "0::/", r"31 23 0:28 / /sys/my\040groups rw - cgroup2 cgroup2 rw")
    write(root, {"sys/my groups/memory.max": 700, "sys/my groups/memory.current": 100})
    assert available_memory(root) == 600


def test_this_machine_tells():
    assert available_memory() is None or available_memory() > 2**20  # type: ignore[operator]


def test_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_limit() > 2**20

    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert memory_limit() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    monkeypatch.setattr(os, "sysconf", refuse)
    assert memory_limit() == 2**31
