"""Duplicates among the images of a data module: what images are compared by, and the pairs that are nearly the same.

Near duplicates are found in two steps. Candidates are the nearest neighbours of each image by the correlation of
thumbnails, plain and mirrored, as they are and centred, and by the cosine of a network's features. Then each candidate
is compared pixel by pixel under small shifts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.transforms import resize_images, to_bytes, to_float, to_grey, visible
from fashion_tl.inspection.corruptions import as_jpeg
from fashion_tl.metrics.duplicates import Singles, aligned_correlation, nearest, unit_rows
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.training.classifier import ImageClassifier

LARGEST, THUMBNAIL = 32, 16  # pixels on a side at which images are compared, and candidates found
SHIFT, NEIGHBOURS = 2, 3  # pixels; candidates of an image by each measure


@dataclass(frozen=True, eq=False)
class Views:
    """What N images are compared by.

    Attributes:
        hashes: SHA-256 of the pixels of each image as stored.
        grey: Grey images (N, S, S), 0 to 1, S at most 32.
        features: Features (N, F) of length 1; None without a network.
    """

    hashes: list[bytes]
    grey: Singles
    features: Singles | None

    @cached_property
    def distinct(self) -> Distinct:
        """One image of each group of equal pixels."""
        places: dict[bytes, int] = {}
        group = np.array([places.setdefault(key, len(places)) for key in self.hashes], dtype=np.int64)
        if len(places) == len(group):
            return Distinct(self, group)
        first = np.unique(group, return_index=True)[1]
        features = None if self.features is None else self.features[first]
        return Distinct(Views([self.hashes[i] for i in first], self.grey[first], features), group)

    @cached_property
    def thumbnails(self) -> Singles:
        """Rows of the small grey images, whose products are correlations."""
        return _thumbnails(self.grey)

    @cached_property
    def centred(self) -> Singles:
        """The same of the images with what stands out moved to the middle."""
        return _thumbnails(_centred(self.grey))

    @property
    def mirrored(self) -> Views:
        """The images mirrored, without features."""
        return Views(self.hashes, np.ascontiguousarray(self.grey[:, :, ::-1]), None)


@dataclass(frozen=True, eq=False)
class Distinct:
    """Images without those of equal pixels.

    Attributes:
        views: The first image of each of G groups of equal pixels, in order.
        group: Group of each of all N images, 0 to G - 1.
    """

    views: Views
    group: Ints


@dataclass(frozen=True, eq=False)
class Pairs:
    """Candidates (P,), the most similar first.

    Attributes:
        query: Index of the one image.
        reference: Index of the other.
        similarity: Correlation of their pixels under the best shift, -1 to 1.
        mirrored: Whether that is with one of them mirrored.
    """

    query: Ints
    reference: Ints
    similarity: Floats
    mirrored: npt.NDArray[np.bool_]

    def above(self, threshold: float) -> Pairs:
        """Return the pairs of at least a similarity."""
        return self.where(self.similarity >= threshold)

    def first(self, count: int) -> Pairs:
        """Return the most similar pairs."""
        return self.where(np.arange(len(self)) < count)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.query[chosen], self.reference[chosen], self.similarity[chosen], self.mirrored[chosen])

    def __len__(self) -> int:
        """Return the number of pairs P."""
        return len(self.query)


def views_of(batches: Iterable[Tensor], module: ImageClassifier | None) -> Views:
    """Compute what images are compared by.

    Args:
        batches: Images as stored (B, C, H, W), uint8.
        module: The classifier whose backbone gives features, on its device; None for none.
    """
    hashes: list[bytes] = []
    grey: list[Tensor] = []
    features: list[Tensor] = []
    for images in batches:
        hashes += [hashlib.sha256(image.tobytes()).digest() for image in images.numpy()]
        shown = visible(images)
        single = to_grey(shown) if shown.shape[1] == 3 else to_float(shown)
        grey.append(resize_images(single, min(LARGEST, single.shape[-1]), "bilinear")[:, 0])
        if module is not None:
            with torch.inference_mode():
                found = module.network.backbone(module.preprocess(images.to(module.device)))
            features.append(found.float().cpu().flatten(1))
    rows = None if module is None else unit_rows(torch.cat(features).numpy(), centred=False)
    return Views(hashes, torch.cat(grey).numpy(), rows)


def near_pairs(queries: Views, references: Views) -> Pairs:
    """Find for each query the references that may be nearly the same, and how similar they are.

    One image of each group of equal pixels is searched for among one of each, so that copies do not fill the places of
    the nearest; then each stands for all of its group. Equal pixels have a similarity of 1, without contrast too.
    """
    one, two = queries.distinct, references.distinct
    found = _nearest_pairs(one.views, two.views)
    places = {key: place for place, key in enumerate(two.views.hashes)}
    twin = np.array([places.get(key, -1) for key in one.views.hashes], dtype=np.int64)
    equal = np.flatnonzero(twin >= 0)
    near = found.where(found.reference != twin[found.query])
    every = Pairs(
        np.concatenate([equal, near.query]),
        np.concatenate([twin[equal], near.reference]),
        np.concatenate([np.ones(len(equal)), near.similarity]),
        np.concatenate([np.zeros(len(equal), dtype=np.bool_), near.mirrored]),
    )
    return _expanded(every, one.group, two.group)


def _expanded(pairs: Pairs, queries: Ints, references: Ints) -> Pairs:
    """Turn pairs of groups into all pairs of their members, of which the arrays hold the group, similar ones first."""
    (one, counts, first), (two, others, start) = (
        (np.argsort(group, kind="stable"), np.bincount(group), np.cumsum(np.bincount(group)) - np.bincount(group))
        for group in (queries, references)
    )
    across = others[pairs.reference]
    sizes = counts[pairs.query] * across
    pair = np.repeat(np.arange(len(pairs)), sizes)
    place, other = np.divmod(np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes), across[pair])
    query, reference = one[first[pairs.query[pair]] + place], two[start[pairs.reference[pair]] + other]
    similarity, mirrored = pairs.similarity[pair], pairs.mirrored[pair]
    order = np.lexsort((reference, query, mirrored, -similarity))
    return Pairs(query[order], reference[order], similarity[order], mirrored[order])


def _nearest_pairs(queries: Views, references: Views) -> Pairs:
    found = []
    for mirrored, views in ((False, queries), (True, queries.mirrored)):
        measures = [(views.thumbnails, references.thumbnails), (views.centred, references.centred)]
        if views.features is not None and references.features is not None:
            measures.append((views.features, references.features))
        candidates = np.concatenate([_listed(nearest(one, two, NEIGHBOURS)) for one, two in measures])
        query, reference = np.unique(candidates, axis=0).T
        similarity = aligned_correlation(views.grey, references.grey, SHIFT, query, reference)
        found.append((query, reference, similarity, np.full(len(query), mirrored)))
    query, reference, similarity, flipped = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((flipped, -similarity))
    # A pair that is similar both ways counts once, in the better way.
    _, first = np.unique(query[order] * len(references.grey) + reference[order], return_index=True)
    kept = order[np.sort(first)]
    return Pairs(query[kept], reference[kept], similarity[kept], flipped[kept])


def _thumbnails(grey: Singles) -> Singles:
    small = resize_images(torch.from_numpy(np.ascontiguousarray(grey))[:, None], THUMBNAIL, "bilinear")
    return unit_rows(small.numpy())


def _centred(grey: Singles) -> Singles:
    """Move images (N, S, S) by whole pixels so that what stands out from their border is in the middle.

    A copy that was shifted comes out like the original.
    """
    count, size, _ = grey.shape
    border = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    weight = np.abs(grey - np.median(border, axis=1)[:, None, None]) + 1e-6
    places, total = np.arange(size), weight.sum(axis=(1, 2))
    middles = [(weight.sum(axis=axis) * places).sum(axis=1) / total for axis in (2, 1)]
    down, right = (np.rint(middle - (size - 1) / 2).astype(np.int64)[:, None] for middle in middles)
    rows, columns = (np.clip(places + by, 0, size - 1) for by in (down, right))
    moved: Singles = grey[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def _listed(found: Ints) -> Ints:
    """Turn neighbours (Q, count) into pairs (Q * count, 2)."""
    query = np.repeat(np.arange(len(found)), found.shape[1])
    return np.stack([query, found.ravel()], axis=1)


def alterations() -> dict[str, Callable[[Tensor], Tensor]]:
    """Return ways to alter copies of images (B, C, H, W), uint8, which a search for duplicates should see through."""
    return {
        "brighter, less contrast": lambda images: (images.float() * 0.8 + 30).round().to(torch.uint8),
        "JPEG, quality 75": lambda images: as_jpeg(visible(images), 75),
        "shifted by 1/28 of the side": _shifted,
        "scaled to 90 % and back": _rescaled,
        "mirrored": lambda images: images.flip(-1),
    }


def _shifted(images: Tensor) -> Tensor:
    by = max(1, round(images.shape[-1] / 28))
    return F.pad(images.float(), (by, 0, by, 0), mode="replicate")[:, :, :-by, :-by].to(torch.uint8)


def _rescaled(images: Tensor) -> Tensor:
    size = images.shape[-1]
    small = resize_images(to_float(images), max(4, round(0.9 * size)), "bilinear")
    return to_bytes(resize_images(small, size, "bilinear"))
