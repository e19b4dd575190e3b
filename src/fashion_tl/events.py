"""TensorBoard events, each written at once, without a thread.

tensorboard's own writer hands events to a thread. A Ctrl-C at the wrong moment loses the thread's wake-up, and closing
then waits for as long as it sleeps: up to 120 seconds. On a full disk the thread dies with a traceback.
"""

from __future__ import annotations

import io
import itertools
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

_NUMBER = itertools.count()


class EventWriter(SummaryWriter):
    """torch's SummaryWriter over an ``EventFile``; after ``close`` it goes on in the same file.

    Args:
        folder: Folder of the events.
        suffix: What the name of its file ends in.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        self.events = _FileWriter(EventFile(folder, suffix))
        super().__init__(str(folder))

    @property
    def file_writer(self) -> Any:  # noqa: ANN401 - torch's attribute is annotated None
        """What writes events; torch would start a thread for each that it makes itself."""
        return self.events

    @file_writer.setter
    def file_writer(self, value: None) -> None:
        pass

    @property
    def all_writers(self) -> Any:  # noqa: ANN401
        """The same by its folder."""
        return {self.log_dir: self.events}

    @all_writers.setter
    def all_writers(self, value: None) -> None:
        pass


class EventFile:
    """Appends events to a file, which is made with the first; where that fails it says so once and writes no more.

    Args:
        folder: Folder of the file.
        suffix: What its name ends in.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        place = f"{platform.node()}.{os.getpid()}.{next(_NUMBER)}"
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.{place}{suffix}"
        self._file: BinaryIO | None = None
        self._failed = False

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self.path.parent)

    def add_event(self, event: Any) -> None:  # noqa: ANN401 - a protocol buffer, which has no types
        """Append an event."""
        if self._failed:
            return
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab", buffering=0)
                if not self._file.tell():
                    _append(self._file, Event(wall_time=time.time(), file_version="brain.Event:2"))
            _append(self._file, event)
        except OSError as error:
            self._failed = True
            self.close()
            print(f"tensorboard: {self.path} is not written further ({error.strerror})", file=sys.stderr)

    def flush(self) -> None:
        """Do nothing: every event is written at once."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None


class _FileWriter(FileWriter):
    def __init__(self, events: EventFile) -> None:
        self.event_writer = events


def _append(file: BinaryIO, event: Any) -> None:  # noqa: ANN401
    """Append a whole event or none: TensorBoard reads nothing after half of one."""
    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    content, start = record.getbuffer(), file.tell()
    try:
        while content:
            content = content[file.write(content) :]
    except OSError:
        file.truncate(start)
        raise
