"""The feature cache: features of frozen stages are computed once, and the rest of the network trains on them.

While the boundary stands at stage k and training draws from fixed views of each image, what the stages below k give is
a constant of each view. It is computed once, kept in a file whose key says all that it depends on, and read by every
process. Losses equal those of the uncached run within float32 rounding, for the same seed. Of other augmentation the
views of some epochs can be kept: those epochs are what they are without the cache, and later ones see the same again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from fashion_tl.cache.store import CacheWriteError, cache_dir, limit_bytes
from fashion_tl.callbacks.cache_checks import check_room, check_storage, needed_views
from fashion_tl.data.batches import CachedFeatures, declared
from fashion_tl.data.memory import RESIDENT_SHARE
from fashion_tl.data.views import DrawnView
from fashion_tl.errors import UserError
from fashion_tl.features.extraction import Extraction
from fashion_tl.features.validity import splits_of, why_not
from fashion_tl.features.views import DrawnEpoch, FixedViews, Views
from fashion_tl.models.split import SplitError
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.plan import Plan
from fashion_tl.training.progress import progress_of

MODES = ("auto", "off", "require")
Features = TypeVar("Features", bound=CachedFeatures)


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
        views: K, the drawn views of each training image that are kept where there are no fixed ones, from 1; None for
            none. Epoch e trains on the view of epoch e mod K, so the first K epochs see what they see without a cache.
        dtype: Type in which features are stored: float32, bfloat16 or float16; None for that of the run's precision.

    Attributes:
        seconds: Time spent on the cache so far.
        largest_difference: How far a logit from cached features lies from the one from the images at most, over
            some training images in each view that was used since the boundary changed; None without the cache.
    """

    def __init__(
        self,
        mode: str = "auto",
        keep: Sequence[str | int] = (),
        folder: Path | None = None,
        batch_size: int = 256,
        views: int | None = None,
        dtype: str | None = None,
    ) -> None:
        check_storage(views, dtype)
        self.mode, self.keep, self.folder, self.batch_size = mode, tuple(keep), folder or cache_dir(), batch_size
        self.views, self.dtype = views, dtype
        self.seconds = 0.0
        self.largest_difference: float | None = None
        self._boundary: int | None = None
        self._extraction: Extraction | None = None
        self._drawn: dict[int, DrawnView] = {}
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
            reason = why_not(module, data, module.network.resolve(phase.train), self.views)
            if reason is not None:
                raise self._refusal(reason)

    def check_start(
        self,
        trainer: Trainer,
        module: ImageClassifier,
        data: Any,  # noqa: ANN401 - with splits and views
        plan: Plan,
    ) -> None:
        """Say how much drawn views take, before anything is written.

        Raises:
            UserError: If they fit neither the limit of the cache nor the disk.
        """
        if self.mode != "off" and self.views is not None:
            extract = partial(self.extraction, trainer, module, data)
            for line in check_room(self.views, self.folder, extract, module, data, plan):
                rank_zero_only(print)(line)

    def settings_used(self, data: object) -> dict[str, Any]:
        """Return those of the settings that change what training on some data sees: "views", "dtype"."""
        drawn = {"views": self.views} if declared(data, "views") is None else {}
        used = {} if self.mode == "off" else {**drawn, "dtype": self.dtype}
        return {name: value for name, value in used.items() if value is not None}

    @staticmethod
    def _refusal(reason: str) -> UserError:
        return UserError(f"--cache require: {reason}. --cache auto goes on without.")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the module where to keep what it computes once itself."""
        if isinstance(pl_module, ImageClassifier):
            pl_module.cache_folder = None if self.mode == "off" else self.folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on in the middle of an epoch."""
        self._boundary = None
        self._follow(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch to the features of the phase that begins, or of the epoch's view, or back to images."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.mode == "off" or not isinstance(pl_module, ImageClassifier):
            return
        plan, epoch = pl_module.current_plan(), int(progress_of(trainer).epochs)  # that goes on, or begins
        boundary = pl_module.network.boundary
        if boundary == self._boundary and not self._drawn:
            return
        began = time.perf_counter()
        with torch.random.fork_rng(devices=_cuda(pl_module.device)):
            if boundary == self._boundary:
                self._settle(trainer, pl_module, self._turn(trainer, pl_module, boundary, plan, epoch))
            else:
                self._switch(trainer, pl_module, boundary, ("train", "val"), plan, epoch)
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
            self._switch(trainer, pl_module, lowest, ("test",))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to images."""
        self._leave(trainer, pl_module)

    def _leave(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for split in splits_of(getattr(trainer, "datamodule", None)).values():
            split.source = split.images_source
        if isinstance(pl_module, ImageClassifier):
            pl_module.set_active_network(None)
        self._boundary, self._extraction, self._drawn = None, None, {}

    def _switch(
        self,
        trainer: Trainer,
        module: ImageClassifier,
        boundary: int,
        parts: Sequence[str],
        plan: Plan | None = None,
        epoch: int = 0,
    ) -> None:
        self._leave(trainer, module)
        self._boundary, self.largest_difference = boundary, None
        data = getattr(trainer, "datamodule", None)
        reason = why_not(module, data, boundary, self.views)
        if reason is None:
            reason = self._use(trainer, module, data, boundary, parts, plan, epoch)
        self._settle(trainer, module, reason)

    def _settle(self, trainer: Trainer, module: ImageClassifier, reason: str | None) -> None:
        """Go back to images for a reason, if there is one."""
        if reason is None:
            return
        boundary = self._boundary
        self._leave(trainer, module)
        self._boundary, self.largest_difference = boundary, None
        if self.mode == "require":
            raise self._refusal(reason)
        if reason not in self._said:
            self._said.add(reason)
            rank_zero_only(print)(f"cache: not used, {reason}")

    def extraction(self, trainer: Trainer, module: ImageClassifier, data: object) -> Extraction:
        """Return what computes and reads features of a module in the trainer's precision."""
        return Extraction(
            module.network,
            module.preprocess,
            {"architecture": module.architecture, "image_size": module.input_spec.image_size},
            str(trainer.precision),
            trainer.precision_plugin.forward_context,
            self.folder,
            self.batch_size,
            getattr(data, "num_workers", 0),
            dtype=self.dtype,
        )

    def _use(
        self,
        trainer: Trainer,
        module: ImageClassifier,
        data: Any,  # noqa: ANN401 - with splits and views
        boundary: int,
        parts: Sequence[str],
        plan: Plan | None,
        epoch: int,
    ) -> str | None:
        """Have the features computed, once by one process, and use them; returns why that is not possible."""
        boundaries = {module.network.resolve(name) for name in self.keep}
        boundaries |= {module.network.resolve(phase.train) for phase in (plan.phases if plan else ())}
        extraction = self._extraction = self.extraction(trainer, module, data)
        try:
            extraction.split(boundary, [b for b in sorted(boundaries) if 0 < b < boundary])
        except SplitError as error:
            return str(error)
        for part in parts:
            if part == "train" and plan is not None and declared(data, "views") is None:
                reason = self._turn(trainer, module, boundary, plan, epoch)
            else:
                odds = dict(data.views) if part == "train" else {"identity": 1.0}
                views = FixedViews(list(odds))
                found, reason = self._arrays(trainer, extraction, part, views, boundary)
                if found is not None:
                    kept = [found[name] for name in views.names]
                    features = CachedFeatures(kept, tuple(odds.values()), extraction.taken_dtype)
                    data.splits[part].source = _placed(features, module.device)
                    if part == "train":
                        self._compare(trainer, extraction, views, found)
            if reason is not None:
                return reason
        module.set_active_network(extraction.upper)
        return None

    def _turn(self, trainer: Trainer, module: ImageClassifier, boundary: int, plan: Plan, epoch: int) -> str | None:
        """Use the view that an epoch draws, or drew before; returns why that is not possible."""
        data: Any = getattr(trainer, "datamodule", None)
        extraction, count = self._extraction, self.views
        if extraction is None or count is None:
            raise ValueError("no drawn views are in use")
        number = epoch % count
        if number not in self._drawn:
            drawn = data.drawn_views
            views = DrawnEpoch(drawn, number)
            users = {
                module.network.resolve(phase.train)
                for index, phase in enumerate(plan.phases)
                if number in needed_views(plan, index, count)
            }
            wanted = users | {boundary} | {module.network.resolve(name) for name in self.keep}
            spared = extraction.functions.keys() - wanted
            found, reason = self._arrays(trainer, extraction, "train", views, boundary, spared)
            if found is None:
                return reason
            batches = drawn.batches(number)
            own = [place for place, (rank, *_) in enumerate(batches) if rank == trainer.global_rank]
            states = found["generators"][0][own[0] : own[-1] + 1]
            rows = np.cumsum([0, *(len(positions) for *_, positions in batches)])[own].tolist()
            view = DrawnView(found["drawn"], drawn.order(number), states, extraction.taken_dtype, rows)
            self._drawn[number] = _placed(view, module.device, self._drawn.values())
            self._compare(trainer, extraction, views, found)
        self._drawn[number].own_epoch = epoch == number
        data.splits["train"].source = self._drawn[number]
        return None

    def _arrays(
        self,
        trainer: Trainer,
        extraction: Extraction,
        part: str,
        views: Views,
        boundary: int,
        without: Collection[int] = (),
    ) -> tuple[dict[str, list[np.ndarray]] | None, str | None]:
        """Have features computed by one process and read by all; returns their arrays, or why there are none."""
        data: Any = getattr(trainer, "datamodule", None)
        reason = None
        if trainer.local_rank == 0:
            try:
                extraction.ensure(data.splits[part], part, views, boundary, without)
            except (CacheWriteError, SplitError) as error:
                reason = str(error)
        reason = trainer.strategy.broadcast(reason)  # the others wait for it
        if reason is not None:
            return None, reason
        arrays = extraction.read(data.splits[part], part, views, boundary)
        missing = torch.tensor(float(arrays is None), device=trainer.strategy.root_device)
        if float(trainer.strategy.reduce(missing, reduce_op="sum")):
            vanished = f"the cached features of {part} vanished as soon as they were written"
            return None, vanished if arrays is None else "another process cannot read the entry"
        return arrays, None

    def _compare(
        self, trainer: Trainer, extraction: Extraction, views: Views, kept: Mapping[str, Sequence[np.ndarray]]
    ) -> None:
        if trainer.is_global_zero:
            data: Any = getattr(trainer, "datamodule", None)
            found = extraction.largest_difference(data.splits["train"], views, kept)
            self.largest_difference = float(np.maximum(found, self.largest_difference or 0.0))  # NaN stays


def _placed(features: Features, device: torch.device, others: Iterable[CachedFeatures] = ()) -> Features:
    """Move features to a GPU that has the memory for them, and for others of the same split that lie there already."""
    if device.type == "cuda":
        held = sum(other.nbytes for other in others if other.device.type == "cuda")
        free = torch.cuda.mem_get_info(device)[0] + held
        if features.nbytes + held <= free * RESIDENT_SHARE:
            features.to(device)
    return features


def _cuda(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
