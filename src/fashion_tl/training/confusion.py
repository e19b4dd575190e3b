"""Which classes are confused, on validation images: a matrix, the pairs in it, and where smoothing goes by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.errors import UserError, shown
from fashion_tl.training.certificate import hash_tensors

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier

BATCH = 256


def confusion_of(
    given: Any,  # noqa: ANN401 - what a configuration holds
    module: ImageClassifier,
    data: Any,  # noqa: ANN401 - any data module, or None
    where: str,
    device: torch.device,
) -> tuple[Tensor, str | None]:
    """Return a confusion matrix (K, K), true classes in rows, and a hash of the weights that tell it, if a run does.

    That of a run sums, over the validation images of each class, the probability that it gives to each class: of few
    images probabilities tell more than decisions do.

    Args:
        given: K rows of K numbers, or the checkpoint of a run.
        module: The classifier that trains.
        data: Its data module, after ``setup``.
        where: The setting, for messages.
        device: Where the run is computed.

    Raises:
        UserError: If the numbers are no such matrix, or the run tells other classes.
    """
    classes = len(module.class_names)
    if not isinstance(given, str):
        try:
            matrix = torch.tensor(given, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            matrix = torch.empty(0)
        if matrix.shape != (classes, classes) or not bool((matrix.isfinite() & (matrix >= 0)).all()):
            raise UserError(
                f"{where} is {shown(given)}: it needs {classes} rows (true classes) of {classes} numbers from 0 up, or "
                "a run's name or checkpoint."
            )
        return matrix, None
    from fashion_tl.training.loading import load_classifier

    if "val" not in (getattr(data, "splits", None) or {}):
        raise UserError(f"{where} names a run, and the data module has no `splits` to validate it on: give the matrix.")
    run = load_classifier(given)
    if run.class_names != module.class_names:
        raise UserError(
            f"{where}: {given} tells the classes {', '.join(run.class_names)}; this run has "
            f"{', '.join(module.class_names)}. Name a run on the same classes."
        )
    module.origins[f"{where}: {given}"] = run.seen
    state = run.network.state_dict()
    told = hash_tensors(state, state)
    run.to(device)
    split = data.splits["val"]
    with torch.no_grad():
        rows = [run.logits(images.to(run.device)).float().softmax(1).cpu() for images in split.in_order(BATCH)]
    return F.one_hot(split.labels, classes).float().T @ torch.cat(rows), told


def spread_of(confusion: Tensor) -> Tensor:
    """Say where smoothing takes the target of each class (K, K): to the others, in proportion to confusion.

    Rows sum to one. A class that is never confused keeps its target.
    """
    off = confusion * (1 - torch.eye(len(confusion)))
    total = off.sum(1, keepdim=True)
    return torch.where(total > 0, off / total.clamp(min=1e-12), torch.eye(len(confusion)))


def confused_pairs(confusion: Tensor, class_names: Sequence[str]) -> list[list[str]]:
    """Return the pairs of classes that are confused most, most first: the fewest that make up half of all confusions.

    Raises:
        UserError: If no classes are confused.
    """
    both = np.triu((confusion + confusion.T).double().numpy(), 1)
    first, second = np.unravel_index(np.argsort(-both, axis=None, kind="stable"), both.shape)
    values = both[first, second]
    if not values.sum() > 0:
        raise UserError("data.mix.pairs: the run confuses no classes; name another, or give pairs of class names.")
    count = int(np.searchsorted(values.cumsum(), values.sum() / 2)) + 1
    return [[class_names[i], class_names[j]] for i, j in zip(first[:count], second[:count], strict=True)]
