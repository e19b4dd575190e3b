"""Building a classifier from its checkpoint alone."""

from __future__ import annotations

from pathlib import Path

from fashion_tl.errors import UserError
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

CLASSIFIERS: dict[str, type[ImageClassifier]] = {c.__name__: c for c in (ScratchClassifier, TransferClassifier)}


def load_classifier(path: Path) -> ImageClassifier:
    """Build the classifier that a checkpoint holds, from the checkpoint alone.

    Raises:
        UserError: If the checkpoint cannot be read.
    """
    name = load_checkpoint(path)["fashion_tl_module"]
    if name not in CLASSIFIERS:
        raise UserError(f"{path} holds a {name}, which this version of fashion_tl does not know.")
    return CLASSIFIERS[name].load_from_checkpoint(path, map_location="cpu").eval()
