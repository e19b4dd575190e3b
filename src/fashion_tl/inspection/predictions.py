"""Logits of a run: the test's from its record, those on the validation images computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fashion_tl.errors import UserError
from fashion_tl.metrics.checks import check_scores
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.records.findings import progress_bar, write_arrays
from fashion_tl.records.record import BROKEN_ARRAYS

if TYPE_CHECKING:
    from torch import Tensor

    from fashion_tl.inspection.opened import OpenedRun
    from fashion_tl.training.classifier import ImageClassifier

TEST, VALIDATION = "test_predictions.npz", "val_predictions.npz"


@dataclass(frozen=True)
class Predictions:
    """What a classifier says about some images.

    Attributes:
        logits: Logits (N, K).
        labels: True classes (N,).
    """

    logits: Floats
    labels: Ints


def check_batch_size(batch_size: int) -> int:
    """Return the batch size, or raise a UserError if there is nothing in a batch."""
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, it must be at least 1.")
    return batch_size


def digest(path: Path) -> str:
    """Hash a file to 16 hexadecimal digits of SHA-256.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def test_predictions(opened: OpenedRun) -> Predictions:
    """Read the logits of the test from a run's record.

    Raises:
        UserError: If the file is missing or damaged, or belongs to other classes or images.
    """
    path = opened.paths.logs / TEST
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            labels, logits = file["label"], file["logits"]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: train and test the run again with this version.") from error
    except BROKEN_ARRAYS as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}): train and test the run again.") from error
    expected = opened.data.splits["test"].labels.numpy()
    if logits.ndim != 2 or logits.shape[1] != len(opened.module.class_names) or not np.array_equal(labels, expected):
        raise UserError(f"{path} does not belong to this run's classes and test images: test the run again.")
    return Predictions(*check_scores(logits, labels))


test_predictions.__test__ = False  # type: ignore[attr-defined]  # no test, though pytest would take its name for one


def validation_predictions(opened: OpenedRun, batch_size: int = 512) -> Predictions:
    """Compute the logits of the best checkpoint on the validation images, or read those that were kept.

    ``val_predictions.npz`` beside the record holds index (N,) into the source's images, label (N,), logits (N, K), and
    the hash of the checkpoint: logits of another one are computed again.
    """
    path, checkpoint = opened.paths.logs / VALIDATION, digest(opened.paths.best)
    split = opened.data.splits["val"]
    index, labels = split.indices.numpy(), split.labels.numpy()
    kept = _read_kept(path, checkpoint, index)
    if kept is None:
        batches = opened.data.in_order("val", check_batch_size(batch_size))
        kept = compute_logits(opened.module, batches, "validation images", len(split))
        arrays = {"index": index, "label": labels, "logits": kept, "checkpoint": np.array(checkpoint)}
        write_arrays(path, arrays)
    return Predictions(*check_scores(kept, labels))


def _read_kept(path: Path, checkpoint: str, index: np.ndarray) -> np.ndarray | None:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if str(file["checkpoint"]) == checkpoint and np.array_equal(file["index"], index):
                logits: np.ndarray = file["logits"]
                return logits if logits.ndim == 2 and len(logits) == len(index) else None
    except BROKEN_ARRAYS:
        return None
    return None


def to_best_device(module: ImageClassifier) -> None:
    """Move a classifier to the GPU if there is one."""
    import torch

    if torch.cuda.is_available():
        module.to("cuda")


def classify(module: ImageClassifier, images: Tensor) -> Tensor:
    """Compute logits (B, K) of images (B, C, H, W) as held, uint8 or float in 0 to 1, where the classifier lies."""
    import torch

    module.eval()
    with torch.inference_mode():
        logits: Tensor = module(module.preprocess(images.to(module.device)))
        return logits.float()


def compute_logits(module: ImageClassifier, batches: Iterable[Tensor], what: str, total: int) -> np.ndarray:
    """Classify images as a run holds them, with a progress bar.

    Args:
        module: A classifier; it is used in eval mode, where it lies.
        batches: Images (B, C, H, W), uint8 or float in 0 to 1.
        what: What they are, for the bar.
        total: Images in all.

    Returns:
        Logits (N, K), float32.
    """
    import torch

    found = []
    with progress_bar() as bar:
        task = bar.add_task(what, total=total)
        for images in batches:
            found.append(classify(module, images).cpu())
            bar.advance(task, len(images))
    logits: np.ndarray = torch.cat(found).numpy()
    return logits
