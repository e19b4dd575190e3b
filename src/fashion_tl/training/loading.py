"""Building a classifier from its checkpoint alone, and a checkpoint from a classifier that no trainer holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
from torch import Tensor

from fashion_tl.errors import UserError
from fashion_tl.imports import import_class
from fashion_tl.training.checkpoints import BROKEN, load_checkpoint, packed
from fashion_tl.training.classifier import ImageClassifier


def load_classifier(path: str | Path) -> ImageClassifier:
    """Build the classifier that a checkpoint holds, from the checkpoint alone; a class of your own is imported.

    Raises:
        UserError: If the checkpoint cannot be read, or its class not be imported.
    """
    kind = import_class(load_checkpoint(Path(path))["fashion_tl_module"], ImageClassifier, f"{path} holds a class")
    try:
        return kind.load_from_checkpoint(path, map_location="cpu").eval()
    except BROKEN as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{path} does not build its {kind.__name__} again: {why}") from error


def finished_checkpoint(
    module: ImageClassifier,
    state: Mapping[str, Tensor] | None = None,
    **more: Any,  # noqa: ANN401 - plain values
) -> memoryview:
    """Return the content of a checkpoint of a classifier that no training goes on from.

    Args:
        module: The classifier, whose hyperparameters it holds.
        state: Weights and buffers in the place of the classifier's own; what it lacks is the classifier's.
        **more: More entries of the checkpoint, or others in the place of those that the classifier writes.
    """
    content: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {k: v.detach().cpu() for k, v in {**module.state_dict(), **(state or {})}.items()},
    }
    module.on_save_checkpoint(content)
    content.pop("fashion_tl_figures")  # of an epoch in training
    return packed({**content, **more})
