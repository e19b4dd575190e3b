"""The feature cache: features of frozen stages are computed once, and the rest of the network trains on them.

While the boundary stands at stage k and training draws from fixed views of each image, what the stages below k give is
a constant of each view. It is computed once, kept in a file whose key says all that it depends on, and read by every
process. Losses equal those of the uncached run within float32 rounding, for the same seed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from fashion_tl.data.batches import VIEWS, CachedFeatures, Split, declared
from fashion_tl.data.memory import RESIDENT_SHARE
from fashion_tl.errors import UserError
from fashion_tl.features.extraction import Extraction
from fashion_tl.features.store import CacheWriteError, cache_dir, limit_bytes
from fashion_tl.models.split import SplitError
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.freezing import FreezeUnfreeze

MODES = ("auto", "off", "require")


class FeatureCache(Callback):
    """Trains on cached features of the frozen stages wherever that gives the same result.

    It takes any data module that has ``splits`` (``fashion_tl.data.batches.Split`` by the names train, val and test),
    fetches its batches from them, and declares ``views``; and any classifier whose class declares
    ``caches_features``.

    Args:
        mode: "auto" uses the cache when it is valid and says in one line why not when it is not; "require" stops with
            that reason; "off" never uses it.
        keep: Lower boundaries whose features the same pass keeps too, for a later run, as in ``train`` of a model.
        folder: Folder of the cache files.
        batch_size: Images in a batch of the pass.
    """

    def __init__(
        self, mode: str = "auto", keep: Sequence[str | int] = (), folder: Path | None = None, batch_size: int = 256
    ) -> None:
        self.mode, self.keep, self.folder, self.batch_size = mode, tuple(keep), folder or cache_dir(), batch_size
        self.seconds = 0.0
        self._boundary: int | None = None
        self._said: set[str] = set()

    def check(self, module: ImageClassifier, data: object) -> None:
        """Find out before anything is written whether this run can do what was asked for.

        Raises:
            UserError: If the network has no boundary of the name of one to keep, the cache's limit is no number, or the
                cache is required and cannot be used in some phase.
        """
        if self.mode != "off":
            limit_bytes()
        for boundary in self.keep:
            module.network.resolve(boundary)
        for phase in module.plan.phases if self.mode == "require" else ():
            reason = why_not(module, data, module.network.resolve(phase.train))
            if reason is not None:
                raise self._refusal(reason)

    @staticmethod
    def _refusal(reason: str) -> UserError:
        return UserError(f"--cache require: {reason}. --cache auto goes on without.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on in the middle of an epoch."""
        self._boundary = None
        self._follow(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch to the features of the phase that begins, or back to images."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.mode == "off" or not isinstance(pl_module, ImageClassifier):
            return
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, FreezeUnfreeze):  # wherever it stands among them
                callback.apply(trainer, pl_module)
        plan = pl_module.current_plan()
        boundary = pl_module.network.boundary
        if boundary == self._boundary:
            return
        began = time.perf_counter()
        others = [pl_module.network.resolve(phase.train) for phase in plan.phases]
        with torch.random.fork_rng(devices=_cuda(pl_module.device)):
            self._switch(trainer, pl_module, boundary, others, ("train", "val"))
        self.seconds += time.perf_counter() - began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to images: what comes next may load other weights."""
        self._leave(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to images."""
        self._leave(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test on features too: in a search many runs share the frozen stages."""
        if self.mode == "off" or not isinstance(pl_module, ImageClassifier):
            return
        lowest = min(pl_module.network.resolve(phase.train) for phase in pl_module.plan.phases)
        if lowest > 0:
            self._switch(trainer, pl_module, lowest, (), ("test",))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to images."""
        self._leave(trainer, pl_module)

    def _leave(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for split in _splits(getattr(trainer, "datamodule", None)).values():
            split.source = split.images_source
        if isinstance(pl_module, ImageClassifier):
            pl_module.set_active_network(None)
        self._boundary = None

    def _switch(
        self, trainer: Trainer, module: ImageClassifier, boundary: int, others: Sequence[int], parts: Sequence[str]
    ) -> None:
        self._leave(trainer, module)
        self._boundary = boundary
        data = getattr(trainer, "datamodule", None)
        reason = why_not(module, data, boundary)
        if reason is None:
            reason = self._use(trainer, module, data, boundary, others, parts)
        if reason is None:
            return
        self._leave(trainer, module)
        self._boundary = boundary
        if self.mode == "require":
            raise self._refusal(reason)
        if reason not in self._said:
            self._said.add(reason)
            rank_zero_only(print)(f"cache: not used, {reason}")

    def _use(
        self,
        trainer: Trainer,
        module: ImageClassifier,
        data: Any,  # noqa: ANN401 - with splits and views
        boundary: int,
        others: Sequence[int],
        parts: Sequence[str],
    ) -> str | None:
        """Have the features computed, once by one process, and use them; returns why that is not possible."""
        boundaries = {*others, *(module.network.resolve(name) for name in self.keep)}
        extraction = Extraction(
            module.network,
            module.preprocess,
            {"architecture": module.architecture, "image_size": module.input_spec.image_size},
            str(trainer.precision),
            trainer.precision_plugin.forward_context,
            self.folder,
            self.batch_size,
            getattr(data, "num_workers", 0),
        )
        views = {part: dict(data.views) if part == "train" else {"identity": 1.0} for part in parts}
        reason, found = None, {}
        try:
            upper = extraction.split(boundary, [b for b in sorted(boundaries) if 0 < b < boundary])
        except SplitError as error:
            return str(error)
        if trainer.local_rank == 0:
            try:
                for part in parts:
                    extraction.ensure(data.splits[part], part, list(views[part]), boundary)
            except (CacheWriteError, SplitError) as error:
                reason = str(error)
        reason = trainer.strategy.broadcast(reason)  # the others wait for it
        if reason is not None:
            return reason
        for part in parts:
            arrays = extraction.read(data.splits[part], part, list(views[part]), boundary)
            if arrays is None:
                reason = f"the cached features of {part} vanished as soon as they were written"
                break
            features = CachedFeatures(
                arrays, tuple(views[part].values()), widen=not str(trainer.precision).endswith("true")
            )
            free = torch.cuda.mem_get_info(module.device)[0] if module.device.type == "cuda" else 0
            found[part] = features.to(module.device) if features.nbytes <= free * RESIDENT_SHARE else features
        reasons = trainer.strategy.reduce(
            torch.tensor(float(reason is not None), device=module.device), reduce_op="sum"
        )
        if float(reasons):
            return reason or "another process cannot read the entry"
        for part, features in found.items():
            data.splits[part].source = features
        module.set_active_network(upper)
        return None


def why_not(module: ImageClassifier, data: object, boundary: int) -> str | None:
    """Say why features below a boundary cannot be cached, or None if they can."""
    if boundary == 0:
        return "nothing is frozen"
    if not declared(module, "caches_features"):
        return f"{type(module).__name__} does not declare caches_features = True"
    if not _splits(data):
        return f"{type(data).__name__} does not offer its samples as splits (fashion_tl.data.batches.Split)"
    if getattr(data, "mix", None) is not None:
        return "training images are mixed (data.mix)"
    views = declared(data, "views")
    if views is None:
        augment = getattr(data, "augment", None)
        if "views" not in vars(type(data)):
            return f"{type(data).__name__} does not declare its views"
        if augment is not None and "views" not in vars(type(augment)):
            return f"{type(augment).__name__} does not declare its views"
        return "training images are augmented at random (only horizontal flips can be cached)"
    unknown = [view for view in views if view not in VIEWS]
    if unknown or len(views) > 2:
        return f"the views {', '.join(views)} are declared; at most two of {', '.join(VIEWS)} can be cached"
    return None


def _splits(data: object) -> Mapping[str, Split]:
    found = getattr(data, "splits", None)
    return found if isinstance(found, Mapping) and all(isinstance(split, Split) for split in found.values()) else {}


def _cuda(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
