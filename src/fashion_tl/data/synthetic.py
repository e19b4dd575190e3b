"""Tasks that the package draws itself: balanced, seeded, without a download."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.batches import fingerprint
from fashion_tl.data.drawing import LOOK_NUMBERS, Artist, Pen, photograph, rasterise
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded, Source
from fashion_tl.errors import UserError, out_of_range

_CHUNK = 256
_LABEL_STREAM = 1 << 32
LARGEST = 10_000_000  # images of a set


class SyntheticSource(Source):
    """A task of grey images on black; a subclass gives its artists, one per class.

    Args:
        num_train: Images to train and validate on.
        num_test: Test images; a third of ``num_train``, at most 2,000, if not given.
        seed: The same seed gives the same pixels with the same versions of NumPy and Pillow, on every machine.

    Attributes:
        task: Tells the random streams of different tasks apart.
    """

    channels = 1
    storage_size = 28
    task: int

    def __init__(self, num_train: int = 6000, num_test: int | None = None, seed: int = 0) -> None:
        classes = len(self.class_names)
        self.num_train, self.seed = num_train, seed
        self.num_test = min(num_train // 3, 2000) if num_test is None else num_test
        ranges = {
            "num_train": (num_train, 4 * classes, LARGEST),
            "num_test": (self.num_test, classes, LARGEST),
            "seed": (seed, 0, 2**62 - 1),
        }
        if problems := out_of_range(ranges, "data.source."):
            raise UserError(f"{type(self).__name__}: {'; '.join(problems)}.")

    @property
    @abstractmethod
    def artists(self) -> Mapping[str, Artist]:
        """What draws each class, by its name, in the order of the labels; a subclass sets it as an attribute."""

    def load(self) -> Loaded:
        """Draw the training and the test images, from different seeds."""
        train = self.draw(self.num_train, 2 * self.seed)
        test = self.draw(self.num_test, 2 * self.seed + 1)
        return Loaded(InMemoryImages(*train), InMemoryImages(*test), fingerprint(*train, *test))

    def draw(self, count: int, seed: int, size: int = 28) -> tuple[Tensor, Tensor]:
        """Draw images; image i and its label depend on (task, seed, i, size) alone.

        Args:
            count: Number of images.
            seed: 0 to 2**63 - 1.
            size: Height and width in pixels, 16 to 256.

        Returns:
            Images, uint8 (count, 1, size, size), and labels, int64 (count,), in shuffled order; the classes' counts
            differ by at most one. A larger count begins with the same images and labels.

        Raises:
            UserError: If an argument is out of its range; all such arguments are named at once.
        """
        ranges = {"count": (count, 1, LARGEST), "seed": (seed, 0, 2**63 - 1), "size": (size, 16, 256)}
        if problems := out_of_range(ranges):
            raise UserError(f"{type(self).__name__} cannot draw these images: {'; '.join(problems)}.")
        artists = list(self.artists.values())
        # One permutation of all classes after the other: every prefix is balanced.
        rng = self._generator(seed, _LABEL_STREAM)
        blocks = [rng.permutation(len(artists)) for _ in range(-(-count // len(artists)))]
        labels = np.concatenate(blocks)[:count].astype(np.int64)
        images = np.empty((count, 1, size, size), dtype=np.uint8)
        for start in range(0, count, _CHUNK):
            chosen = labels[start : start + _CHUNK]
            layers = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
            look = np.empty((len(chosen), LOOK_NUMBERS), dtype=np.float32)
            noise = np.empty((len(chosen), size, size), dtype=np.float32)
            for row, label in enumerate(chosen.tolist()):
                rng = self._generator(seed, start + row)
                rng.random(dtype=np.float32, out=look[row])
                pen = Pen(rng)
                artists[label](pen)
                layers[row] = rasterise(pen, size)
                # Last, because it alone depends on the size: an image keeps its shape and look at every size.
                rng.standard_normal(dtype=np.float32, out=noise[row])
            images[start : start + _CHUNK, 0] = photograph(layers, look, noise)
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _generator(self, seed: int, index: int) -> np.random.Generator:
        # Philox takes (seed, index) as its key as it stands: no two images share a stream, none needs the one before.
        return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, self.task]))
