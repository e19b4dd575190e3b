"""The features of a frozen network at its boundaries, computed once for all samples and kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fashion_tl.data.batches import VIEWS, Split
from fashion_tl.data.transforms import Preprocess
from fashion_tl.features import store
from fashion_tl.features.keys import function_hash, versions
from fashion_tl.features.pooling import Pooling
from fashion_tl.models.split import SplitError, chain_network, split_network
from fashion_tl.models.staged import StagedNetwork

VERSION = 4
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
        functions: Hash of what is computed below each boundary.
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
    functions: dict[int, str] = field(default_factory=dict)

    def split(self, boundary: int, lower: Sequence[int] = ()) -> nn.Module:
        """Split the network at a boundary, and find out what else the same pass can compute.

        Args:
            boundary: The boundary above which the network trains.
            lower: Boundaries below it whose features later phases or runs need.

        Returns:
            The part above the boundary.

        Raises:
            SplitError: If the network cannot be divided at the boundary; lower ones are left out.
        """
        upper = self._split(boundary)
        for each in lower:
            try:
                self._split(each)
            except SplitError:
                continue
        return upper

    def _split(self, boundary: int) -> nn.Module:
        parts = split_network(self.network, boundary, self.facts["image_size"], self.preprocess.channels)
        self.functions[boundary] = function_hash(parts.lower, self.preprocess)
        return parts.upper

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def describe(self, split: Split, part: str, views: Sequence[str], boundary: int) -> dict[str, Any]:
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
            "views": list(views),
            **({} if self.pooling is None else {"pooled": self.pooling.name}),
        }

    def read(self, split: Split, part: str, views: Sequence[str], boundary: int) -> list[list[np.ndarray]] | None:
        """Return for each view the arrays that the upper part takes; None if there is no entry."""
        arrays = store.read(self.folder, self.describe(split, part, views, boundary))
        if arrays is None:
            return None
        return [[arrays[name] for name in sorted(arrays) if name.startswith(f"{view}-")] for view in views]

    def ensure(self, split: Split, part: str, views: Sequence[str], boundary: int) -> None:
        """Compute what is missing, unless another run is computing the same: then wait for it.

        Args:
            split: The samples.
            part: Their name: train, val or test.
            views: Names of the views of each image.
            boundary: The boundary whose features are needed; those of lower ones are kept where they fit.

        Raises:
            CacheWriteError: If the features that are needed cannot be kept.
            SplitError: If the network cannot be divided at all boundaries at once.
        """
        wanted = {b: self.describe(split, part, views, b) for b in sorted(self.functions)}
        missing = self._missing(wanted)
        try:
            with ExitStack() as locks:
                for key in sorted(store.key_of(description) for description in missing.values()):
                    locks.enter_context(store.lock(self.folder, key, waiting=_tell_waiting))
                missing = self._missing(missing)
                if missing:
                    self._compute(split, part, views, missing, boundary)
        except store.CacheWriteError:
            if self._missing({boundary: wanted[boundary]}):  # else the run does without the rest
                raise

    def _missing(self, wanted: Mapping[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        return {b: d for b, d in wanted.items() if store.read(self.folder, d) is None}

    def _compute(
        self, split: Split, part: str, views: Sequence[str], missing: dict[int, dict[str, Any]], boundary: int
    ) -> None:
        """Compute the features at some boundaries in one pass over a split."""
        began = time.perf_counter()
        rows_of = self._rows(list(missing), views, len(split))
        sizes: dict[int, dict[str, Any]] = {b: {} for b in missing}
        for b, name, row in rows_of(next(split.in_order(1))):
            sizes[b][name] = (row.dtype, (len(split), *row.shape[1:]))
        fitting = self._fitting(sizes, boundary)
        if not fitting:
            return
        if fitting != list(missing):
            rows_of = self._rows(fitting, views, len(split))
        with ExitStack() as files:
            appends = {b: files.enter_context(store.write(self.folder, missing[b], sizes[b])) for b in fitting}
            for images in split.in_order(self.batch_size, self.workers):
                for b, name, rows in rows_of(images):
                    appends[b][name](rows)
        where = " and ".join(self.network.describe(b) for b in fitting)
        where = where if self.pooling is None else f"{len(fitting)} boundaries, pooled,"
        seconds = time.perf_counter() - began
        print(f"cache: features of {part} below {where} computed once, {len(split):,} images in {seconds:.1f} s")

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
            reason = store.room(self.folder, needed, store.limit_bytes())
            if reason is None:
                return chosen
        if own:
            raise store.CacheWriteError(reason)
        return []

    def _rows(self, boundaries: Sequence[int], views: Sequence[str], count: int) -> Callable[[Tensor], _Rows]:
        """Return a function from images as stored, ``count`` in all, to the rows of each boundary and view."""
        from fashion_tl.features.inference import prepare  # with timm, which a run from scratch can do without

        parts = chain_network(self.network, boundaries, self.facts["image_size"], self.preprocess.channels)
        lower = prepare(parts[:-1], count * len(views), self.batch_size)

        def rows_of(images: Tensor) -> _Rows:
            rows = []
            for view in views:
                with self.context(), torch.inference_mode():
                    outputs = lower(self.preprocess(VIEWS[view](images).to(self._device)))
                    for b, tensors in zip(boundaries, outputs, strict=True):
                        if self.pooling is not None:
                            rows.append((b, f"{view}-000", self.pooling(tensors).cpu().numpy()))
                            continue
                        rows += [(b, f"{view}-{i:03d}", stored(t, self.precision)) for i, t in enumerate(tensors)]
            return rows

        return rows_of


def stored(tensor: Tensor, precision: str) -> np.ndarray:
    """Lay images (B, C, H, W) as (B, H, W, C): read back, that is channels_last without a copy.

    Features of a run in half precision are stored in its own type: bfloat16 (as uint16) or float16.
    """
    kept = tensor
    if tensor.is_floating_point():
        kept = tensor.bfloat16() if "bf16" in precision else tensor.half() if "16" in precision else tensor
    kept = kept.permute(0, 2, 3, 1) if kept.ndim == 4 else kept
    kept = kept.contiguous().view(torch.uint16) if kept.dtype == torch.bfloat16 else kept
    return kept.cpu().numpy()


def _tell_waiting() -> None:
    print("cache: another run computes the same, waiting for it")
