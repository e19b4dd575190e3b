"""What a report over records shows beside figures: first-layer filters, and the test images once for all runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.transforms import visible
from fashion_tl.models.filters import first_convolution
from fashion_tl.records.analysis import write_arrays
from fashion_tl.records.thumbnails import Pixels, thumbnails_path, write_thumbnails

LARGEST = 64


def keep_filters(module: nn.Module, folder: Path) -> None:
    """Write the weights of a network's first convolution, if it has one, to ``filters.npz``."""
    found = first_convolution(module)
    if found is not None:
        write_arrays(folder / "filters.npz", {"weight": found.weight, "layer": np.array(found.name)})


def keep_test_images(data: object, log_dir: Path) -> None:
    """Write the test images to ``test_sets/<test_set>.npz`` below the folder of all records, unless they are there.

    They are kept in the order of the test, at most 64 pixels high and wide, as uint8 (N, H, W) or (N, H, W, 3); of
    images with neither 1 nor 3 channels the mean over the channels.
    """
    test_set = data.describe().get("test_set") if isinstance(data, ImageDataModule) else None
    if not isinstance(data, ImageDataModule) or test_set is None:
        return
    path = thumbnails_path(log_dir, test_set)
    if not path.exists():
        batches = (_small(visible(batch)) for batch in data.in_order("test", 256))
        write_thumbnails(path, batches, data.splits["test"].labels.numpy())


def _small(images: Tensor) -> Pixels:
    """Return thumbnails (B, H, W) or (B, H, W, 3) of images (B, C, H, W), uint8."""
    images = images.cpu()
    if max(images.shape[2:]) > LARGEST:
        resized = F.interpolate(images.float(), size=(LARGEST, LARGEST), mode="bilinear", antialias=True)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = images.permute(0, 2, 3, 1).numpy()
    return pixels[..., 0] if pixels.shape[3] == 1 else pixels
