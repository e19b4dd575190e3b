"""Features of test images for TensorBoard's projector, with small pictures and labels."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.transforms import visible
from fashion_tl.files import replacing_folder

FOLDER = "projector"
LARGEST_SPRITE = 8192  # pixels on a side; browsers show no larger one
LARGEST_PICTURE = 48
MOST_COLOURS = 50  # the projector colours by a column of at most as many values


def sample(labels: npt.ArrayLike, count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw images at random, as evenly over the classes as they allow; sorted indices of at most ``count``."""
    truth = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(truth))
    rank = np.empty(len(truth), dtype=np.int64)
    for label in np.unique(truth):
        own = order[truth[order] == label]
        rank[own] = np.arange(len(own))
    # First one of each class, then a second of each, and so on.
    turns = order[np.argsort(rank[order], kind="stable")]
    return np.sort(turns[:count])


def write_projector(
    logs: Path,
    features: npt.NDArray[np.float32],
    images: Tensor,
    index: npt.NDArray[np.int64],
    labels: Sequence[str],
    predicted: Sequence[str],
    confidence: Sequence[float],
) -> Path:
    """Write features for the projector into a folder of their own, which TensorBoard lists as a run.

    A second writer in the same folder would overwrite the list of all embeddings, and the sprite has a largest size:
    so the folder is written anew each time, whole, and the pictures shrink with their number.

    Args:
        logs: Log folder of the run.
        features: Features (N, F).
        images: Images (N, C, H, W), uint8.
        index: Position of each in the test set (N,).
        labels: Names of the true classes (N,).
        predicted: Names of the predicted classes (N,).
        confidence: Probability of the predicted class (N,).

    Returns:
        The folder.
    """
    from tensorboard.compat.proto.event_pb2 import Event

    from fashion_tl.events import EventWriter

    side = min(LARGEST_PICTURE, max(images.shape[2:]), LARGEST_SPRITE // math.ceil(math.sqrt(len(images))))
    small = F.interpolate(visible(images).float() / 255, size=(side, side), mode="bilinear", antialias=True).clamp(0, 1)
    # More than one column, so that the file has a heading; a tab or a new line in a name would shift all that follows.
    rows = [
        [_clean(truth), _clean(guess), "right" if truth == guess else "wrong", f"{sure:.3f}", str(place)]
        for truth, guess, sure, place in zip(labels, predicted, confidence, index.tolist(), strict=True)
    ]
    folder = logs / FOLDER
    with replacing_folder(folder) as draft:
        with EventWriter(draft) as writer:
            writer.events.add_event(Event())  # without a file of events TensorBoard lists no run
            writer.add_embedding(
                torch.from_numpy(features),
                metadata=rows,
                label_img=small,
                tag="features",
                metadata_header=["class", "predicted", "verdict", "confidence", "test image"],
            )
        if folder.exists():
            shutil.rmtree(folder)
    return folder


def _clean(name: str) -> str:
    return " ".join(name.split()) or "-"
