"""Building a classifier from its checkpoint alone."""

from __future__ import annotations

from pathlib import Path

from fashion_tl.errors import UserError
from fashion_tl.imports import import_class
from fashion_tl.training.checkpoints import BROKEN, load_checkpoint
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
