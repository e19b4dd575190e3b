"""Stored predictions: the one reader of ``test_predictions.npz``, and of any other file of arrays; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.plain_text import clean
from fashion_tl.records.record import BROKEN_ARRAYS, PREDICTIONS, verify


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier says about some images, ordered by their index.

    Attributes:
        index: Index of each image in its data set (N,).
        labels: True classes (N,).
        logits: Logits (N, K).
    """

    index: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.floating[Any]]


def read_predictions(folder: Path, record: dict[str, Any], classes: int) -> Predictions:
    """Read the test predictions of a run.

    Args:
        folder: Its log folder.
        record: Its record.
        classes: Number of classes that its record names.

    Raises:
        UserError: If the file is missing or damaged, or its arrays cannot be the predictions of one test.
    """
    verify(folder, PREDICTIONS, record)
    index, labels, logits = read_arrays(folder / PREDICTIONS, "index", "label", "logits")
    wrong = None
    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1] or index.shape != labels.shape:
        wrong = f"index {index.shape}, label {labels.shape} and logits {logits.shape} do not go together"
    elif logits.shape[1] != classes:
        wrong = f"it has logits of {logits.shape[1]} classes where run.json names {classes}"
    elif logits.dtype.kind != "f" or labels.dtype.kind not in "iu" or index.dtype.kind not in "iu":
        wrong = "index and label must be whole numbers, and logits floating-point numbers"
    elif labels.min() < 0 or labels.max() >= classes or len(np.unique(index)) < len(index):
        wrong = "a label is no class, or an image comes twice"
    elif broken := int((~np.isfinite(logits)).any(axis=1).sum()):
        wrong = f"the logits of {broken} of {len(labels)} images are not finite: training has diverged"
    if wrong:
        raise UserError(f"{PREDICTIONS} is damaged: {wrong}")
    order = np.argsort(index, kind="stable")
    return Predictions(index[order].astype(np.int64), labels[order].astype(np.int64), logits[order])


def read_arrays(path: Path, *names: str) -> list[npt.NDArray[Any]]:
    """Read arrays of an npz file.

    Raises:
        UserError: If the file is missing or damaged or lacks an array. The message begins with the name of the file,
            without its folder.
    """
    try:
        # An open file, because NumPy leaves one behind that it opened itself and could not read.
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                raise ValueError("it is not an npz file")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                missing = [name for name in names if name not in arrays]
                if missing:
                    raise ValueError(f"it holds no {' and no '.join(missing)}")
                if broken := arrays.zip.testzip():  # NumPy may stop reading before a checksum is compared
                    raise ValueError(f"the checksum of {broken} is wrong")
                return [np.asarray(arrays[name]) for name in names]
    except BROKEN_ARRAYS as error:
        raise UserError(why_unreadable(path, error)) from error


def why_unreadable(path: Path, error: BaseException) -> str:
    """Say in one line, from the name of the file on, why it cannot be read."""
    if isinstance(error, FileNotFoundError):
        return f"{path.name} is missing"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return clean(f"{path.name} is damaged: {' '.join(str(reason).split())[:200] or type(error).__name__}")
