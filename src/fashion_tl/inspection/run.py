"""A finished run, opened again: its classifier, its data, its record."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from fashion_tl.data.augment import Augment
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.sources import Source
from fashion_tl.data.transforms import to_float, visible
from fashion_tl.errors import UserError
from fashion_tl.imports import import_class
from fashion_tl.metrics.metrics import Ints
from fashion_tl.records.record import COMPLETED, CONFIG, RunPaths, newest_completed, paths_of, read_record, verify
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.loading import load_classifier

FASHION_MNIST: dict[str, Any] = {"class_path": "fashion_tl.FashionMNIST"}  # where the configuration names no source


@dataclass(frozen=True)
class OpenedRun:
    """A completed run.

    Attributes:
        paths: Its folders.
        record: Its ``run.json``.
        module: The classifier of its best checkpoint, in eval mode, on the GPU if there is one.
        data: Its data module, after ``setup``.
    """

    paths: RunPaths
    record: dict[str, Any]
    module: ImageClassifier
    data: ImageDataModule

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.paths.name} version {self.paths.version}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return self.module.class_names

    @cached_property
    def labels(self) -> Ints:
        """True classes (N,) of the test images."""
        labels: Ints = self.data.splits["test"].labels.numpy()
        return labels

    def images(self, positions: Sequence[int] | Ints) -> Tensor:
        """Return test images (B, C, H, W), uint8, by their positions in the test set."""
        split = self.data.splits["test"]
        return split.images.__getitems__(split.indices[torch.as_tensor(np.asarray(positions))])[0]

    def pictures(self, positions: Sequence[int] | Ints) -> list[np.ndarray]:
        """Return test images as they are drawn; see ``picture``."""
        return [picture(image) for image in self.images(positions)]


def picture(image: Tensor) -> np.ndarray:
    """Turn an image (C, H, W), uint8 or 0 to 1, into what is drawn: (H, W) or (H, W, 3), 0 to 1; see ``visible``."""
    values = to_float(visible(image[None]))[0]
    drawn: np.ndarray = (values[0] if len(values) == 1 else values.permute(1, 2, 0)).cpu().numpy()
    return drawn


def open_run(run: str, log_dir: Path, checkpoint_dir: Path, root: str | None = None) -> OpenedRun:
    """Open a completed run by its name (the newest version), or by its version's folder of logs or of checkpoints.

    Args:
        run: A name such as "phase1", or a folder such as "lightning_logs/phase1/version_2", or a best.ckpt.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the run.

    Raises:
        UserError: If there is no such completed run, its data have changed, or files are missing or damaged.
    """
    folder = Path(run)
    if folder.suffix == ".ckpt":
        folder = folder.parent
    number = folder.name.removeprefix("version_")
    if folder.name.startswith("version_") and number.isdigit():
        if folder.parent.parent.resolve() not in (log_dir.resolve(), checkpoint_dir.resolve()):
            raise UserError(
                f"{folder} lies neither in {log_dir} nor in {checkpoint_dir}: say with --log_dir and --checkpoint_dir "
                "where the run's records and checkpoints are."
            )
        paths = paths_of(log_dir, checkpoint_dir, folder.parent.name, int(number))
    else:
        paths = newest_completed(log_dir, checkpoint_dir, run)
    record = read_record(paths.logs)
    if record["status"] != COMPLETED or not paths.best.is_file():
        raise UserError(f"{paths.logs} is not a completed run with a checkpoint (its status is {record['status']}).")
    try:
        verify(paths.logs, CONFIG, record)
    except UserError as error:
        raise UserError(f"{paths.logs}: {error}. Put the original back, or train the run again.") from error
    data = _data_of(paths, root)
    data.prepare_data()
    data.setup()
    described, recorded = data.describe(), record.get("data") or {}
    for what in ("fingerprint", "class_names", "test_set"):
        if what in recorded and described[what] != recorded[what]:
            raise UserError(f"the data of {paths.logs} have changed since: their {what.replace('_', ' ')} is another.")
    module = load_classifier(paths.best)
    module.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return OpenedRun(paths, record, module, data)


def _data_of(paths: RunPaths, root: str | None) -> ImageDataModule:
    path = paths.logs / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings: dict[str, Any] = dict(config["data"])
        augment = settings.pop("augment", None)
        settings.pop("mix", None)  # of training alone
        chosen: dict[str, Any] = settings.pop("source") or FASHION_MNIST
        kind = import_class(chosen["class_path"], Source, "data.source")  # type: ignore[type-abstract]
        given = dict(chosen.get("init_args") or {})
        if root is not None and "root" in inspect.signature(kind).parameters:
            given["root"] = root
        return ImageDataModule(kind(**given), **settings, augment=Augment(**augment) if augment else None)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} is missing, damaged or of another version: it says what data the run had.") from error
