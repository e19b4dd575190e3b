"""Labelled images that a DataLoader reads a whole batch at a time, from memory or from files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fashion_tl.data.files import decode_image


class ImageSet(Dataset[tuple[Tensor, Tensor]], ABC):
    """Labelled images of one size, read by lists of indices.

    `torch.utils.data.Subset` passes such lists through, and a DataLoader whose `collate_fn` is the identity yields what
    `__getitems__` returns.

    Attributes:
        labels: int64 (N,), the class of each image.
    """

    def __init__(self, count: int, labels: Tensor) -> None:
        if labels.dtype != torch.int64 or labels.shape != (count,):
            raise ValueError(f"labels must be int64 ({count},), not {labels.dtype} {tuple(labels.shape)}")
        self.labels = labels

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, uint8 (C, H, W), and its label, int64 ().

        Raises:
            IndexError: If the index is not in -N to N - 1.
        """
        images, labels = self.__getitems__([range(len(self))[index]])
        return images[0], labels[0]

    @abstractmethod
    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of B images, uint8 (B, C, H, W), and their labels, int64 (B,).

        Args:
            indices: B indices in 0 to N - 1, in any order, repeated or not; a list, or a tensor (B,).
        """


class InMemoryImages(ImageSet):
    """Images held as one tensor, without a copy; a batch is one gather.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).

    Raises:
        ValueError: If a shape or a type differs from these.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        super().__init__(len(images), labels)
        self.images = images

    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, see `ImageSet.__getitems__`."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self.images.index_select(0, index), self.labels.index_select(0, index)


class FolderImages(ImageSet):
    """Image files that are decoded for every batch, in the workers of the DataLoader; see `decode_image`.

    Args:
        paths: N image files.
        labels: int64 (N,).
        size: Height and width of the decoded images, in pixels.
        resize: "crop", "stretch" or "pad".
        crop: Share of the shorter side that is kept.

    Raises:
        ValueError: If the labels are not int64 (N,).
    """

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, size: int, resize: str = "crop", crop: float = 1.0
    ) -> None:
        super().__init__(len(paths), labels)
        self.paths, self.size, self.resize, self.crop = paths, size, resize, crop

    def __getitems__(self, indices: list[int] | Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch, see `ImageSet.__getitems__`.

        Raises:
            UnreadableImageError: If a file cannot be decoded.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        images = [decode_image(self.paths[index], self.size, self.resize, self.crop) for index in chosen.tolist()]
        return torch.stack(images), self.labels[chosen]
