"""Pooled features of every stage of a network, from one pass over the data, kept in the feature store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from fashion_tl.cache.store import CacheWriteError, cache_dir
from fashion_tl.data.batches import Split, declared
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.errors import UserError
from fashion_tl.features.extraction import Extraction
from fashion_tl.features.pooling import Pooling
from fashion_tl.features.views import FixedViews
from fashion_tl.models.split import SplitError
from fashion_tl.training.classifier import ImageClassifier

PARTS = ("train", "val", "test")
BATCH = 256
_VIEWS = FixedViews()


@dataclass(frozen=True)
class Stage:
    """The features at a boundary of a network: what the stages above it read.

    Attributes:
        boundary: Index of the lowest stage above; the number of stages for what the head reads.
        name: Name of the stage below it.
        parts: Pooled features (N, F), float32, of train, val and test: memory maps of the store's files.
    """

    boundary: int
    name: str
    parts: dict[str, np.ndarray] = field(repr=False)


def read_stages(
    module: ImageClassifier,
    data: ImageDataModule,
    pool: str,
    precision: str,
    context: Callable[[], AbstractContextManager[None]],
) -> tuple[list[Stage], dict[str, str]]:
    """Read the pooled features of every stage, computing in one pass over each part of the data what is not kept yet.

    Images are preprocessed as in an evaluation, without augmentation. What the head reads stays as it is.

    Args:
        module: A classifier on its device; it is left frozen but for its head.
        data: Its data, after ``setup``.
        pool: "mean", "max" or "both".
        precision: Lightning's name of the precision in which the network runs.
        context: Makes the context of this precision.

    Returns:
        The stages, the lowest first, and by name of a stage why its output cannot be read alone.

    Raises:
        UserError: If the class of the module does not allow it, the network cannot be divided below its head, or the
            store cannot be written.
    """
    if not declared(module, "caches_features"):
        raise UserError(
            f"{type(module).__name__} does not declare caches_features = True: what its stages give may not be what "
            "its logits come from."
        )
    network = module.network
    head = len(network.stage_names)
    network.freeze_below(head)
    facts = {"architecture": module.architecture, "image_size": module.input_spec.image_size}
    workers, pooling = data.num_workers, Pooling.of(pool, network.backbone)
    extraction = Extraction(
        network, module.preprocess, facts, precision, context, cache_dir(), BATCH, workers, pooling=pooling
    )
    extraction.split(head)
    skipped = {}
    for boundary in range(1, head):
        try:
            extraction.split(boundary)
        except SplitError as error:
            skipped[network.stage_names[boundary - 1]] = str(error)
    boundaries = sorted(extraction.functions)
    read: dict[int, dict[str, np.ndarray]] = {boundary: {} for boundary in boundaries}
    for part in PARTS:
        _ensure(extraction, data.splits[part], part, head)
        for boundary in boundaries:
            arrays = extraction.read(data.splits[part], part, _VIEWS, boundary)
            if arrays is None:
                raise _not_kept(f"features of {part} are not all there")
            read[boundary][part] = arrays["identity"][0]
    return [Stage(b, network.stage_names[b - 1], read[b]) for b in boundaries], skipped


def _ensure(extraction: Extraction, split: Split, part: str, head: int) -> None:
    """Compute what is missing: at all boundaries in one pass, or where the network does not allow that, at each."""
    functions = extraction.functions
    try:
        try:
            extraction.ensure(split, part, _VIEWS, head)
        except SplitError:
            for boundary, function in functions.items():
                extraction.functions = {boundary: function}
                extraction.ensure(split, part, _VIEWS, boundary)
            extraction.functions = functions
    except CacheWriteError as error:
        raise _not_kept(str(error)) from error


def _not_kept(why: str) -> UserError:
    return UserError(
        f"the probe keeps the features of all stages on the disk: {why}. `fashion-tl cache clear` frees space, "
        "FASHION_TL_CACHE_LIMIT (GiB) sets the limit, FASHION_TL_CACHE_DIR another folder."
    )
