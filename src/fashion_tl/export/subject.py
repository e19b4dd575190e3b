"""What is exported: a checkpoint, and the record of its run where that is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fashion_tl.data.transforms import InputSpec, to_bytes
from fashion_tl.errors import UserError
from fashion_tl.files import sha256
from fashion_tl.inspection.run import OpenedRun, data_of, open_run
from fashion_tl.records.record import RunPaths, folder_paths, read_record, run_paths, without_checkpoint

CHECKED_IMAGES = 1000
CALIBRATION_IMAGES = 256  # twice as many gave the same accuracy
_BATCH = 50


@dataclass(frozen=True)
class Subject:
    """A checkpoint to export.

    Attributes:
        checkpoint: The file.
        paths: The folders of its run; None if it lies in none.
        record: The record of its run; empty where there is none.
        gap: Why there is no record, else "".
        tested: Whether the figures of the record are those of this checkpoint.
    """

    checkpoint: Path
    paths: RunPaths | None
    record: dict[str, Any]
    gap: str
    tested: bool

    @property
    def label(self) -> str:
        """Name and version of the run, or the name of the file."""
        return f"{self.paths.name} version {self.paths.version}" if self.paths else self.checkpoint.name


def find_subject(run: str, log_dir: Path, checkpoint_dir: Path) -> Subject:
    """Find what a user names.

    Args:
        run: The name of a run (its newest completed version), the folder of a version, or a checkpoint, which may lie
            anywhere.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.

    Raises:
        UserError: If there is no such run or checkpoint, or the record of a run that is named is damaged.
    """
    path = Path(run)
    if path.suffix != ".ckpt" and not path.is_file():
        paths = run_paths(run, log_dir, checkpoint_dir)
        record = read_record(paths.logs)
        if not paths.best.is_file():
            raise without_checkpoint(paths, record)
        return Subject(paths.best, paths, record, "", _is_of(record, paths.best))
    try:
        found = folder_paths(run, log_dir, checkpoint_dir) if path.suffix == ".ckpt" else None
        if found is None:
            return Subject(path, None, {}, f"{path.name} lies in no folder of a run", False)
        record = read_record(found.logs)
    except UserError as error:
        return Subject(path, None, {}, str(error).rstrip("."), False)
    return Subject(path, found, record, "", path.is_file() and _is_of(record, path))


def _is_of(record: dict[str, Any], checkpoint: Path) -> bool:
    """Say whether a record is of a checkpoint; one without its hash is of best.ckpt."""
    expected = record.get("checkpoint")
    return checkpoint.name == "best.ckpt" if expected is None else sha256(checkpoint) == expected


def open_subject(subject: Subject, log_dir: Path, checkpoint_dir: Path, root: str | None) -> OpenedRun | str:
    """Open the run of a checkpoint with its test images, without a download; or say why they are not at hand."""
    if subject.paths is None:
        return subject.gap
    try:
        if not data_of(subject.paths, root).source.is_at_hand():
            return "the data of the run are not at hand (--root says where they are)"
        return open_run(str(subject.paths.logs), log_dir, checkpoint_dir, root)
    except (UserError, OSError) as error:
        return str(error).rstrip(".")


def checked_images(opened: OpenedRun | None, spec: InputSpec) -> Iterator[Tensor]:
    """Yield uint8 images (B, C, stored, stored), 1,000 in all: the run's first test images, or generated ones."""
    if opened is not None:
        yield from run_images(opened, CHECKED_IMAGES)
        return
    draw = torch.Generator().manual_seed(0)
    shape = (_BATCH, spec.channels, spec.stored, spec.stored)
    for _ in range(CHECKED_IMAGES // _BATCH):
        yield torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


def run_images(opened: OpenedRun, most: int | None = None) -> Iterator[Tensor]:
    """Yield test images of a run as uint8 (B, C, stored, stored), in order: all of them, or so many at most."""
    count = len(opened.labels) if most is None else min(most, len(opened.labels))
    for start in range(0, count, _BATCH):
        yield to_bytes(opened.images(range(start, min(start + _BATCH, count))))


def calibration_images(opened: OpenedRun) -> Iterator[Tensor]:
    """Yield at most 256 training images of a run, spread evenly, as uint8 (B, C, stored, stored)."""
    split = opened.data.splits["train"]
    count = min(CALIBRATION_IMAGES, len(split))
    chosen = torch.arange(count) * len(split) // count
    for positions in torch.split(chosen, _BATCH):
        yield to_bytes(split.reading.read(positions))
