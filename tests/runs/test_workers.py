"""Processes that share work: each part once, whatever becomes of a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.errors import UserError
from fashion_tl.files import claimed
from fashion_tl.runs import workers
from fashion_tl.runs.workers import Channel, share_work

PARTS = 8


def parts(folder: Path, what: str, channel: Channel) -> None:
    """Do every part that nobody has done, and something else at one of them."""
    left = set(range(PARTS))
    while left:
        left -= {part for part, _ in channel.heard()}
        for part in sorted(left):
            with claimed(folder / f".{part}.claim") as mine:
                if not mine:
                    continue
                left.discard(part)
                if (folder / str(part)).exists():
                    break
                if part == 3 and what == "refused":
                    raise UserError("part 3 is not allowed.")
                if part == 3 and what == "fails":
                    raise ValueError("part 3 fails")
                if part == 3 and what == "always killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                if part == 3 and what in ("SIGKILL", "SIGTERM") and not (folder / "was killed").exists():
                    (folder / "was killed").touch()
                    os.kill(os.getpid(), getattr(signal, what))
                if what == "slow":
                    time.sleep(60)
                time.sleep(0.02)
                (folder / str(part)).write_text(str(os.getpid()))
                (folder / f"threads of {os.getpid()}").write_text(os.environ.get("OMP_NUM_THREADS", ""))
                channel.tell((part, os.getpid()))
                break
        else:
            time.sleep(0.01)


def shared(folder: Path, what: str, processes: int = 2) -> list[Any]:
    told: list[Any] = []
    share_work(partial(parts, folder, what), processes, told.append)
    return told


def test_alone_the_work_is_done_in_this_process(tmp_path: Path) -> None:
    assert shared(tmp_path, "", 1) == [(part, os.getpid()) for part in range(PARTS)]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["", "SIGKILL", "SIGTERM"])
def test_every_part_is_done_once_also_if_a_worker_is_killed(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = shared(tmp_path, what)
    assert sorted(part for part, _ in told) == list(range(PARTS))
    assert all((tmp_path / str(part)).read_text() == str(process) for part, process in told)
    assert os.getpid() not in dict(told).values()
    import torch  # here, so that a worker need not

    assert {path.read_text() for path in tmp_path.glob("threads of *")} == {str(max(1, torch.get_num_threads() // 2))}
    lines = [line for line in capsys.readouterr().out.splitlines() if "killed" in line]
    assert len(lines) == bool(what)
    assert all(f"was killed by {what}; another one takes up its run" in line for line in lines)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("refused", UserError, r"^part 3 is not allowed\.$"),
        ("always killed", UserError, "4 workers were killed, the last one by SIGKILL.*Give fewer --processes"),
        ("fails", RuntimeError, "worker . has failed"),
    ],
)
def test_a_worker_that_cannot_go_on_ends_all(
    tmp_path: Path, what: str, error: type[Exception], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=message):
        shared(tmp_path, what)
    assert not multiprocessing.active_children()
    assert ("ValueError: part 3 fails" in capfd.readouterr().err) == (what == "fails")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_all_workers_at_once(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(news: Any) -> None:
        raise AssertionError("no part is done so soon")

    began: list[float] = []

    def begun(connections: Any) -> list[Any]:
        if any(path.name.endswith(".claim") for path in tmp_path.iterdir()):
            began.append(time.monotonic())
            os.kill(os.getpid(), number)
        return wait(connections, 0.05)

    from multiprocessing.connection import wait

    monkeypatch.setattr("fashion_tl.runs.workers.wait", begun)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        share_work(partial(parts, tmp_path, "slow"), 2, told)
    assert time.monotonic() - began[0] < 3
    assert not multiprocessing.active_children()
    assert number == signal.SIGINT or getattr(stopped.value, "code", None) == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def look(channel: Channel) -> None:
    """Tell what a worker finds in the process that it was forked into."""
    import torch

    channel.tell(
        {
            "process": os.getpid(),
            "parent": os.getppid(),
            "no GPU was looked for": not torch.cuda._is_in_bad_fork(),
            "threads": torch.get_num_threads(),
            "process threads": len(list(Path("/proc/self/task").iterdir())),
            "imported": "fashion_tl.runs.fit" in sys.modules,
            "mark": os.environ.get("MARK"),
            "folder": os.getcwd(),  # noqa: PTH109
        }
    )


@pytest.mark.slow
@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork")
def test_workers_are_forked_from_a_process_that_has_imported_and_done_nothing_else(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    found: list[dict[str, Any]] = []
    for mark in ("one", "two"):
        monkeypatch.setenv("MARK", mark)
        share_work(look, 2, found.append)
    assert len({one["process"] for one in found}) == 4
    assert len({one["parent"] for one in found} - {os.getpid()}) == 1
    assert [one["mark"] for one in found] == ["one", "one", "two", "two"]
    assert {one["folder"] for one in found} == {str(workdir)}
    assert {one["threads"] for one in found} == {max(1, torch.get_num_threads() // 2)}
    assert {one["imported"] for one in found} == {one["no GPU was looked for"] for one in found} == {True}
    assert {one["process threads"] for one in found} == {1}


def test_each_worker_has_a_gpu_of_its_own_in_turn() -> None:
    assert [workers._gpu(place, {}, 2) for place in range(3)] == ["0", "1", "0"]
    assert [workers._gpu(place, {"CUDA_VISIBLE_DEVICES": "5, 7"}, 2) for place in range(3)] == ["5", "7", "5"]
    assert workers._gpu(1, {"CUDA_VISIBLE_DEVICES": "5"}, 1) is workers._gpu(1, {}, 0) is None


def test_a_claim_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "runs" / ".a.claim"
    with claimed(path) as mine:
        assert mine
        with claimed(path) as other:
            assert not other
        assert path.exists()
    assert not path.exists()
    with claimed(path) as mine:
        assert mine
