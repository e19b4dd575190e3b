"""Transfer-learning experiments on images: a run is a YAML file, what it leaves behind is a complete record."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fashion_tl.callbacks.features import FeatureCache as FeatureCache
    from fashion_tl.data.csv_table import CSV as CSV
    from fashion_tl.data.datamodule import ImageDataModule as ImageDataModule
    from fashion_tl.data.fashion_mnist import FashionMNIST as FashionMNIST
    from fashion_tl.data.garments import SyntheticGarments as SyntheticGarments
    from fashion_tl.data.hugging_face import HuggingFace as HuggingFace
    from fashion_tl.data.image_folder import ImageFolder as ImageFolder
    from fashion_tl.data.objects import SyntheticObjects as SyntheticObjects
    from fashion_tl.data.torchvision_sets import TorchVision as TorchVision
    from fashion_tl.data.web_dataset import WebDataset as WebDataset
    from fashion_tl.runs.fit import fit as fit
    from fashion_tl.runs.search import repeat as repeat
    from fashion_tl.runs.search import search as search
    from fashion_tl.training.freezing import FreezeUnfreeze as FreezeUnfreeze
    from fashion_tl.training.loading import load_classifier as load_classifier
    from fashion_tl.training.scratch import ScratchClassifier as ScratchClassifier
    from fashion_tl.training.transfer import TransferClassifier as TransferClassifier

_HOMES = {
    "CSV": "data.csv_table",
    "FashionMNIST": "data.fashion_mnist",
    "FeatureCache": "callbacks.features",
    "FreezeUnfreeze": "training.freezing",
    "HuggingFace": "data.hugging_face",
    "ImageDataModule": "data.datamodule",
    "ImageFolder": "data.image_folder",
    "ScratchClassifier": "training.scratch",
    "SyntheticGarments": "data.garments",
    "SyntheticObjects": "data.objects",
    "TorchVision": "data.torchvision_sets",
    "TransferClassifier": "training.transfer",
    "WebDataset": "data.web_dataset",
    "fit": "runs.fit",
    "load_classifier": "training.loading",
    "repeat": "runs.search",
    "search": "runs.search",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the public names
    """Import a public name when it is asked for: torch and Lightning take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
