"""The features of a frozen network at its boundaries, computed once for all samples and kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fashion_tl.cache import store
from fashion_tl.cache.eviction import room
from fashion_tl.cache.once import tell_waiting
from fashion_tl.data.batches import CachedFeatures, Split
from fashion_tl.data.transforms import Preprocess
from fashion_tl.features.keys import function_hash, versions
from fashion_tl.features.pooling import Pooling
from fashion_tl.features.views import Views
from fashion_tl.models.split import SplitError, chain_network, split_network
from fashion_tl.models.staged import StagedNetwork

VERSION = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_Rows = list[tuple[int, str, np.ndarray]]  # boundary, name of the array, rows


@dataclass
class Extraction:
    """Computes features below boundaries of a network and keeps them.

    Attributes:
        network: The network on its device, frozen below the highest of the boundaries.
        preprocess: What becomes of images before the network.
        facts: What a list of the cache tells of an entry: ``architecture`` and ``image_size`` in pixels.
        precision: Lightning's name of the precision in which the network runs.
        context: Makes the context of this precision.
        folder: Folder of the cache.
        batch_size: Images in a batch.
        workers: Processes that read image files.
        pooling: What makes one vector of the features of an image; they are kept as they are if not given.
        dtype: Type in which features are stored, float32, bfloat16 or float16; None for that of the precision.
        functions: Hash of what is computed below each boundary.
        upper: The part of the network above the boundary at which it was split.
    """

    network: StagedNetwork
    preprocess: Preprocess
    facts: Mapping[str, Any]
    precision: str
    context: Callable[[], AbstractContextManager[None]]
    folder: Path
    batch_size: int
    workers: int
    pooling: Pooling | None = None
    dtype: str | None = None
    functions: dict[int, str] = field(default_factory=dict)
    upper: nn.Module | None = None

    def split(self, boundary: int, lower: Sequence[int] = ()) -> None:
        """Split the network at a boundary, and find out what else the same pass can compute.

        Args:
            boundary: The boundary above which the network trains.
            lower: Boundaries below it whose features later phases or runs need.

        Raises:
            SplitError: If the network cannot be divided at the boundary; lower ones are left out.
        """
        self.upper = self._split(boundary)
        for each in lower:
            try:
                self._split(each)
            except SplitError:
                continue

    def _split(self, boundary: int) -> nn.Module:
        parts = split_network(self.network, boundary, self.facts["image_size"], self.preprocess.channels)
        self.functions[boundary] = function_hash(parts.lower, self.preprocess)
        return parts.upper

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def describe(self, split: Split, part: str, views: Views, boundary: int) -> dict[str, Any]:
        """Return all that the features of a split depend on."""
        return {
            "version": VERSION,
            "libraries": versions(),
            **self.facts,
            "device": self._device.type,
            "precision": self.precision,
            "boundary": (*self.network.stage_names, "head")[boundary],
            "function": self.functions[boundary],
            "part": part,
            "samples": split.identity,
            **views.about(),
            **({} if self.pooling is None else {"pooled": self.pooling.name}),
            **({} if self.dtype is None else {"dtype": self.dtype}),
        }

    def read(self, split: Split, part: str, views: Views, boundary: int) -> dict[str, list[np.ndarray]] | None:
        """Return for each view the arrays that the upper part takes, and the others; None if there is no entry."""
        arrays = store.read(self.folder, self.describe(split, part, views, boundary))
        if arrays is None:
            return None
        found: dict[str, list[np.ndarray]] = {name: [] for name in views.names}
        for name in sorted(arrays):
            found.setdefault(name.partition("-")[0], []).append(arrays[name])
        return found

    def ensure(self, split: Split, part: str, views: Views, boundary: int, without: Collection[int] = ()) -> None:
        """Compute what is missing, unless another run is computing the same: then wait for it.

        Args:
            split: The samples.
            part: Their name: train, val or test.
            views: The views of each image.
            boundary: The boundary whose features are needed; those of lower ones are kept where they fit.
            without: Lower boundaries that do not need these views.

        Raises:
            CacheWriteError: If the features that are needed cannot be kept.
            SplitError: If the network cannot be divided at all boundaries at once.
        """
        wanted = {b: self.describe(split, part, views, b) for b in sorted(self.functions) if b not in without}
        missing = self._missing(wanted)
        try:
            self._keep(split, part, views, missing, boundary)
        except store.CacheWriteError:
            needed = self._missing({boundary: wanted[boundary]})
            if needed and len(missing) == 1:
                raise
            self._keep(split, part, views, needed, boundary)  # the run does without the rest

    def _keep(self, split: Split, part: str, views: Views, missing: dict[int, dict[str, Any]], boundary: int) -> None:
        with ExitStack() as locks:
            for key in sorted(store.key_of(description) for description in missing.values()):
                locks.enter_context(store.lock(self.folder, key, waiting=tell_waiting))
            missing = self._missing(missing)
            if missing:
                self._compute(split, part, views, missing, boundary)

    def _missing(self, wanted: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        return {b: d for b, d in wanted.items() if store.read(self.folder, d) is None}

    def _compute(
        self, split: Split, part: str, views: Views, missing: dict[int, dict[str, Any]], boundary: int
    ) -> None:
        """Compute the features at some boundaries in one pass over a split."""
        began = time.perf_counter()
        images_of_view = views.rows(split)
        count = images_of_view * len(views.names)
        rows_of = self._rows(list(missing), count)
        sizes = self.sizes(split, views, rows_of, list(missing))
        fitting = self._fitting(sizes, boundary)
        if not fitting:
            return
        if fitting != list(missing):
            rows_of = self._rows(fitting, count)
        with ExitStack() as files:
            appends = {b: files.enter_context(store.write(self.folder, missing[b], sizes[b])) for b in fitting}
            for images, others in views.made(split, self.batch_size, self.workers, self._device):
                for b, name, rows in rows_of(images):
                    appends[b][name](rows)
                for name, rows in others.items():
                    for b in fitting:
                        appends[b][name](rows)
        below = " and ".join(self.network.describe(b) for b in fitting)
        below = below if self.pooling is None else f"{len(fitting)} boundaries, pooled,"
        where = f"{part}{views.label} below {below}"
        seconds = time.perf_counter() - began
        print(f"cache: features of {where} computed once, {images_of_view:,} images in {seconds:.1f} s")

    def _fitting(self, sizes: Mapping[int, dict[str, Any]], boundary: int) -> list[int]:
        """Choose the boundaries whose features fit the disk and the limit; the one that is needed comes first.

        Raises:
            CacheWriteError: If not even its features fit.
        """
        extra = sorted((b for b in sizes if b != boundary), key=lambda b: store.required_bytes(sizes[b]))
        own = [boundary] if boundary in sizes else []
        for count in range(len(extra), -1, -1):
            chosen = sorted([*own, *extra[:count]])
            needed = sum(store.required_bytes(sizes[b]) for b in chosen)
            reason = room(self.folder, needed, store.limit_bytes())
            if reason is None:
                return chosen
        if own:
            raise store.CacheWriteError(reason)
        return []

    def sizes(
        self, split: Split, views: Views, rows_of: Callable[[Mapping[str, Tensor]], _Rows], boundaries: Sequence[int]
    ) -> dict[int, dict[str, Any]]:
        """Return by boundary the dtype and the shape of each array of an entry."""
        found: dict[int, dict[str, Any]] = {b: dict(views.others(split, self._device)) for b in boundaries}
        count = views.rows(split)
        for b, name, row in rows_of(dict.fromkeys(views.names, next(split.in_order(1)))):
            found[b][name] = (row.dtype, (count, *row.shape[1:]))
        return found

    def required_bytes(self, split: Split, views: Views, boundary: int) -> int:
        """Return the size of an entry at a boundary, without computing it."""
        sizes = self.sizes(split, views, self._rows([boundary], 1), [boundary])
        return store.required_bytes(sizes[boundary])

    def _rows(self, boundaries: Sequence[int], count: int) -> Callable[[Mapping[str, Tensor]], _Rows]:
        """Return a function from images of each view, ``count`` in all, to the rows of each boundary and view."""
        from fashion_tl.features.inference import Inference  # with timm, which a run from scratch can do without

        parts = chain_network(self.network, boundaries, self.facts["image_size"], self.preprocess.channels)
        lower = Inference(parts[:-1], count, self.batch_size)

        def rows_of(images: Mapping[str, Tensor]) -> _Rows:
            rows = []
            for view, given in images.items():
                with self.context(), torch.inference_mode():
                    outputs = lower(self.preprocess(given.to(self._device)))
                    for b, tensors in zip(boundaries, outputs, strict=True):
                        if self.pooling is not None:
                            rows.append((b, f"{view}-000", self.pooling(tensors).cpu().numpy()))
                            continue
                        rows += [
                            (b, f"{view}-{i:03d}", stored(t, self.precision, self.dtype)) for i, t in enumerate(tensors)
                        ]
            return rows

        return rows_of

    def largest_difference(
        self, split: Split, views: Views, kept: Mapping[str, Sequence[np.ndarray]], count: int = 32
    ) -> float:
        """Compute the logits of some images in each view from the images and from their cached features.

        The first batch of a pass is computed as training computes it, what is folded or compiled serves the later ones.
        So the images are spread over all of them.

        Args:
            split: The samples.
            views: Their views.
            kept: The arrays of each view.
            count: How many images.

        Returns:
            The largest absolute difference of a logit, in eval mode.
        """
        if self.upper is None:
            raise ValueError("the network is not split yet")
        rows, made = views.some(split, count, self._device)
        modes = {module: module.training for module in self.network.modules()}
        differences = []
        try:
            self.network.eval()
            with self.context(), torch.no_grad():
                # Not through calls that may be compiled: they would compile once more for these few.
                for name, images in made.items():
                    features = CachedFeatures([kept[name]], dtype=self.taken_dtype)
                    whole = self.network.forward(self.preprocess(images))
                    part = self.upper.forward(*features.gather(rows, self._device))
                    differences.append((whole.cpu().double() - part.cpu().double()).abs().max())  # MPS has no float64
        finally:
            for module, mode in modes.items():
                module.training = mode
        return float(torch.stack(differences).max())

    @property
    def taken_dtype(self) -> torch.dtype | None:
        """What stored features become for the upper part: float32 under autocast, a network's own type without."""
        if not self.precision.endswith("true"):
            return torch.float32
        return None if self.dtype is None else next(p.dtype for p in self.network.parameters())


def stored(tensor: Tensor, precision: str, dtype: str | None = None) -> np.ndarray:
    """Lay images (B, C, H, W) as (B, H, W, C): read back, that is channels_last without a copy.

    Features of a run in half precision are stored in its own type: bfloat16 (as uint16) or float16.

    Args:
        tensor: Features (B, ...).
        precision: Lightning's name of the run's precision.
        dtype: The type to store numbers in; None for that of the precision.

    Raises:
        CacheWriteError: If the type does not hold the numbers.
    """
    kept = tensor
    if tensor.is_floating_point():
        kept = tensor.bfloat16() if "bf16" in precision else tensor.half() if "16" in precision else tensor
        if dtype is not None:
            kept = tensor.to(DTYPES[dtype])
            if dtype == "float16" and not torch.equal(kept.isfinite(), tensor.isfinite()):
                largest = float(tensor.abs().max())
                raise store.CacheWriteError(f"features up to {largest:.3g} are beyond float16: use bfloat16")
    kept = kept.permute(0, 2, 3, 1) if kept.ndim == 4 else kept
    kept = kept.contiguous().view(torch.uint16) if kept.dtype == torch.bfloat16 else kept
    return kept.cpu().numpy()
