"""A source whose classes are of very different sizes, with a test set of its own or without."""

from __future__ import annotations

from dataclasses import replace

import torch

from fashion_tl import SyntheticGarments
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded


class LongTail(SyntheticGarments):
    """Synthetic garments of which the first class keeps all training images and each next one fewer, down to a few."""

    rarest = 0.1  # share that the last class keeps

    def load(self) -> Loaded:
        loaded = super().load()
        images, labels = loaded.train.__getitems__(list(range(len(loaded.train))))
        kept = []
        for label in range(len(self.class_names)):
            members = (labels == label).nonzero().flatten()
            share = self.rarest ** (label / (len(self.class_names) - 1))
            kept.append(members[: max(4, round(len(members) * share))])
        chosen = torch.cat(kept).sort().values
        return replace(loaded, train=InMemoryImages(images[chosen], labels[chosen]))


class Untested(LongTail):
    """The same without a test set."""

    def load(self) -> Loaded:
        return replace(super().load(), test=None)
