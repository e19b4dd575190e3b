"""TensorBoard events: read back as written, closed at once, and never the end of a run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fashion_tl import events
from fashion_tl.callbacks.tensorboard import RunLogger
from fashion_tl.events import EventWriter
from fashion_tl.records.record import RunPaths

from .faults import faults


def scalars(folder: Path, tag: str) -> list[float]:
    accumulator = EventAccumulator(str(folder)).Reload()
    return [event.value for event in accumulator.Scalars(tag)]


def test_events_are_read_as_written_and_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with EventWriter(tmp_path, ".mine") as writer:
        writer.add_scalar("a", 1.0, 1)
        assert scalars(tmp_path, "a") == [1]  # nothing is kept back
        writer.add_image("image", np.zeros((4, 4, 3), np.uint8), dataformats="HWC")
        writer.add_histogram("histogram", np.arange(9.0))
        writer.add_text("text", "words")
        assert threading.active_count() == before
    writer.add_scalar("a", 2.0, 2)
    writer.close()
    accumulator = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in accumulator.Scalars("a")] == [1, 2]
    assert accumulator.Tags()["images"] == ["image"]
    assert accumulator.Tags()["histograms"] == ["histogram"]
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("events.out.tfevents.")
    assert file.name.endswith(".mine")


def test_nothing_is_made_before_the_first_event(tmp_path: Path) -> None:
    EventWriter(tmp_path / "a").close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_full_disk_ends_the_events_alone_and_says_so_once(tmp_path: Path, capsys: Any, n: int) -> None:
    logger = RunLogger(RunPaths(tmp_path / "run" / "version_0", tmp_path))
    with faults(tmp_path, "write", n):
        for step in range(9):
            logger.log_metrics({"a": step}, step)
        began = time.perf_counter()
        logger.save()
        logger.finalize("success")
        assert time.perf_counter() - began < 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "version_0/events.out.tfevents" in said[0]
    assert "is not written further (No space left on device)" in said[0]
    if n > 2:  # the events before are whole
        assert scalars(tmp_path / "run" / "version_0", "a") == list(range(n - 2))


def test_a_folder_that_cannot_be_made_ends_the_events_alone(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with EventWriter(tmp_path / "file" / "deeper") as writer:
        writer.add_scalar("a", 1.0)
        writer.add_scalar("a", 2.0)
    assert capsys.readouterr().err.count("is not written further") == 1


def test_a_stop_at_any_line_of_writing_leaves_whole_events_and_closes_at_once(tmp_path: Path) -> None:
    """Tensorboard's own thread, whose wake-up such a stop can lose, then slept for up to two minutes."""
    stopped = 0
    for n in range(1, 60):
        logger = RunLogger(RunPaths(tmp_path / str(n) / "version_0", tmp_path))
        lines = iter(range(1, n + 1))

        def trace(frame: FrameType, event: str, _: Any, lines: Iterator[int] = lines, n: int = n) -> Any:
            ours = frame.f_code.co_filename == events.__file__
            if ours and event == "line" and next(lines, 0) == n:
                raise KeyboardInterrupt
            return trace if ours else None

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            for step in range(3):
                logger.log_metrics({"a": step}, step)
        except KeyboardInterrupt:
            stopped += 1
        finally:
            sys.settrace(before)
        began = time.perf_counter()
        logger.finalize("failed")
        assert time.perf_counter() - began < 1
        for folder in (tmp_path / str(n)).glob("version_0"):
            accumulator = EventAccumulator(str(folder)).Reload()
            found = scalars(folder, "a") if accumulator.Tags()["scalars"] else []
            assert found == list(range(len(found)))
    assert stopped > 30
