"""A finished run, opened again: its classifier, its data, its record."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.augment import Augment
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.sources import Source, loading_once
from fashion_tl.data.transforms import to_float, visible
from fashion_tl.errors import UserError
from fashion_tl.imports import import_class
from fashion_tl.metrics.metrics import Ints
from fashion_tl.process import own_device
from fashion_tl.records.record import (
    COMPLETED,
    CONFIG,
    FITTED,
    RunPaths,
    check_same_data,
    folder_paths,
    newest_completed,
    read_record,
    verify,
)
from fashion_tl.runs.configs import read_config
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.loading import load_classifier

FASHION_MNIST: dict[str, Any] = {"class_path": "fashion_tl.FashionMNIST"}  # where the configuration names no source

_USE_OF_IMAGES = ("augment", "batch_size", "eval_batch_size", "num_workers")
_UNREADABLE = (OSError, KeyError, TypeError)


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

    @property
    def fitted_to_validation(self) -> bool:
        """Whether it was fitted to the validation images, so that nothing can be chosen on them."""
        return bool(self.record.get(FITTED))

    @cached_property
    def labels(self) -> Ints:
        """True classes (N,) of the test images."""
        labels: Ints = self.data.splits["test"].labels.numpy()
        return labels

    def images(self, positions: Sequence[int] | Ints) -> Tensor:
        """Return test images (B, C, H, W), uint8, by their positions in the test set."""
        return self.data.splits["test"].reading.read(torch.as_tensor(np.asarray(positions)))

    def pictures(self, positions: Sequence[int] | Ints) -> list[np.ndarray]:
        """Return test images as they are drawn; see ``picture``."""
        return [picture(image) for image in self.images(positions)]


def picture(image: Tensor) -> np.ndarray:
    """Turn an image (C, H, W), uint8 or 0 to 1, into what is drawn: (H, W) or (H, W, 3), 0 to 1; see ``visible``."""
    values = to_float(visible(image[None]))[0]
    drawn: np.ndarray = (values[0] if len(values) == 1 else values.permute(1, 2, 0)).cpu().numpy()
    return drawn


def open_run(
    run: str, log_dir: Path, checkpoint_dir: Path, root: str | None = None, others: Sequence[OpenedRun] = ()
) -> OpenedRun:
    """Open a completed run by its name (the newest version), or by its version's folder of logs or of checkpoints.

    Args:
        run: A name such as "phase1", or a folder such as "lightning_logs/phase1/version_2", or a best.ckpt.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the run.
        others: Runs that are open, with the same ``root``: images that one of them holds are not loaded again.

    Raises:
        UserError: If there is no such completed run, its data have changed, or files are missing or damaged.
    """
    paths = folder_paths(run, log_dir, checkpoint_dir) or newest_completed(log_dir, checkpoint_dir, run)
    record = read_record(paths.logs)
    if record["status"] != COMPLETED or not paths.best.is_file():
        raise UserError(f"{paths.logs} is not a completed run with a checkpoint (its status is {record['status']}).")
    try:
        verify(paths.logs, CONFIG, record)
    except UserError as error:
        raise UserError(f"{paths.logs}: {error}. Put the original back, or train the run again.") from error
    images = _images(_settings_of(paths))
    data = next((one.data for one in others if _images(_settings_of(one.paths)) == images), None)
    if data is None:
        data = data_of(paths, root)
        data.prepare_data()
        data.setup()
    check_same_data(paths.logs, record, data.describe())
    module = load_classifier(paths.best)
    return OpenedRun(paths, record, module.to(own_device()), data)


def open_runs(runs: Iterable[str], log_dir: Path, checkpoint_dir: Path, root: str | None = None) -> list[OpenedRun]:
    """Open completed runs; images that several of them have are loaded once. See ``open_run``."""
    with loading_once():
        return [open_run(run, log_dir, checkpoint_dir, root) for run in runs]


def _settings_of(paths: RunPaths) -> dict[str, Any]:
    path = paths.logs / CONFIG
    try:
        return dict(read_config(path)["data"])
    except (*_UNREADABLE, UserError) as error:
        raise _unreadable(path) from error


def _images(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that images and splits depend on."""
    return {key: value for key, value in settings.items() if key not in _USE_OF_IMAGES}


def data_of(paths: RunPaths, root: str | None = None) -> ImageDataModule:
    """Build the data module of a run from its configuration.

    Args:
        paths: The folders of the run.
        root: Folder with the data, where it lies elsewhere than for the run.

    Raises:
        UserError: If the configuration cannot be read, or says nothing of the data.
    """
    settings = _settings_of(paths)
    try:
        augment = settings.pop("augment", None)
        settings.pop("mix", None)  # of training alone
        chosen: dict[str, Any] = settings.pop("source") or FASHION_MNIST
        kind = import_class(chosen["class_path"], Source, "data.source")  # type: ignore[type-abstract]
        given = dict(chosen.get("init_args") or {})
        if root is not None and "root" in inspect.signature(kind).parameters:
            given["root"] = root
        return ImageDataModule(kind(**given), **settings, augment=Augment(**augment) if augment else None)
    except _UNREADABLE as error:
        raise _unreadable(paths.logs / CONFIG) from error


def _unreadable(path: Path) -> UserError:
    return UserError(f"{path} is missing, damaged or of another version: it says what data the run had.")
