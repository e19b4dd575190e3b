"""What is frozen is computed once: the callback that keeps frozen activations and trains on them.

While the boundary stands at stage k and training images are not augmented at random, or only mirrored, what the stages
below k give is a constant of each image, or of each of its two mirror images. It is computed once, kept in a file
keyed by everything that it depends on, and the rest of the network trains on it. Losses equal those of the uncached
run within float32 rounding, for the same seed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from fashion_tl.data.activations import Activations
from fashion_tl.data.datamodule import RESIDENT_SHARE, ImageDataModule
from fashion_tl.errors import UserError
from fashion_tl.features.store import (
    CacheWriteError,
    Writer,
    cache_dir,
    key_of,
    limit_bytes,
    lock,
    read,
    required_bytes,
    room,
)
from fashion_tl.models.backbones import weights_hash
from fashion_tl.models.split import SplitError, SplitNetwork, chain_network, split_network
from fashion_tl.training.classifier import ImageClassifier

MODES = ("auto", "off", "require")
VERSION = 2


class FrozenCache(Callback):
    """Trains on cached activations of the frozen stages wherever that gives the same result.

    Args:
        mode: "auto" uses the cache when it is valid and says in one line why not when it is not; "require" stops with
            that reason; "off" never uses it.
        keep: Lower boundaries whose activations the same pass keeps too, for a later run, as in ``train`` of a model.
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

    def check(self, module: ImageClassifier, data: ImageDataModule) -> None:
        """Find out before anything is written whether this run can do what was asked for.

        Raises:
            UserError: If the network has no boundary of the name of one to keep, or the cache is required and cannot be
                used in some phase.
        """
        for boundary in self.keep:
            module.network.resolve(boundary)
        for phase in module.phases if self.mode == "require" else ():
            reason = _why_not(data, module.network.resolve(phase.train))
            if reason is not None:
                raise self._refusal(reason)

    @staticmethod
    def _refusal(reason: str) -> UserError:
        return UserError(f"--cache require: {reason}. --cache auto goes on without.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch to the activations of the phase that begins, or back to images."""
        data: Any = getattr(trainer, "datamodule", None)
        if self.mode == "off" or not isinstance(pl_module, ImageClassifier) or not isinstance(data, ImageDataModule):
            return
        pl_module.enter_phase_of(trainer.current_epoch)
        boundary = pl_module.network.boundary
        if boundary == self._boundary:
            return
        began = time.perf_counter()
        with torch.random.fork_rng(devices=_cuda(pl_module.device)):
            self._switch(trainer, pl_module, data, boundary, ("train", "val"))
        self.seconds += time.perf_counter() - began

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to images: what comes next may load other weights."""
        self._leave(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to images."""
        self._leave(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test on activations too: in a search many runs share the frozen stages."""
        data: Any = getattr(trainer, "datamodule", None)
        if self.mode == "off" or not isinstance(pl_module, ImageClassifier) or not isinstance(data, ImageDataModule):
            return
        lowest = min(pl_module.network.resolve(phase.train) for phase in pl_module.phases)
        if lowest > 0:
            self._switch(trainer, pl_module, data, lowest, ("test",))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to images."""
        self._leave(trainer, pl_module)

    def _leave(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if isinstance(data, ImageDataModule):
            data.use_activations({})
        if isinstance(pl_module, ImageClassifier):
            pl_module.take_activations(None)
        self._boundary = None

    def _switch(
        self, trainer: Trainer, module: ImageClassifier, data: ImageDataModule, boundary: int, parts: tuple[str, ...]
    ) -> None:
        self._leave(trainer, module)
        self._boundary = boundary
        try:
            reason = _why_not(data, boundary)
            if reason is None:
                spec = module.input_spec
                split = split_network(module.network, boundary, spec.image_size, module.preprocess.channels)
                found = {part: self._activations(trainer, module, data, split, boundary, part) for part in parts}
                data.use_activations(found)
                module.take_activations(split.upper)
        except (SplitError, CacheWriteError) as error:
            reason = str(error)
        if reason is None:
            return
        if self.mode == "require":
            raise self._refusal(reason)
        if reason not in self._said:
            self._said.add(reason)
            print(f"cache: not used, {reason}")

    def _activations(
        self,
        trainer: Trainer,
        module: ImageClassifier,
        data: ImageDataModule,
        split: SplitNetwork,
        boundary: int,
        part: str,
    ) -> Activations:
        precision = str(trainer.precision)
        wanted = {boundary: _description(module, data, split.lower, boundary, part, precision)}
        # What later phases of this run need comes out of the same pass, too.
        names = [*self.keep, *(phase.train for phase in module.phases)] if part != "test" else self.keep
        for kept in sorted({module.network.resolve(name) for name in names}):
            if 0 < kept < boundary:
                below = split_network(module.network, kept, module.input_spec.image_size, module.preprocess.channels)
                wanted[kept] = _description(module, data, below.lower, kept, part, precision)
        with ExitStack() as locks:
            for key in sorted(key_of(description) for description in wanted.values()):
                locks.enter_context(
                    lock(
                        self.folder, key, waiting=lambda: print("cache: another run computes the same, waiting for it")
                    )
                )
            arrays = read(self.folder, wanted[boundary])
            missing = {b: d for b, d in sorted(wanted.items()) if b != boundary and read(self.folder, d) is None}
            if arrays is None:
                missing[boundary] = wanted[boundary]
            if missing:
                self._compute(trainer, module, data, missing, part)
            arrays = read(self.folder, wanted[boundary]) if arrays is None else arrays
        if arrays is None:
            raise CacheWriteError(f"the cache file {key_of(wanted[boundary])} vanished as soon as it was written")
        views = wanted[boundary]["views"]
        by_view = [[arrays[n] for n in sorted(arrays) if n.startswith(f"{view}/")] for view in views]
        found = Activations(by_view, data.augment.mirror if part == "train" else 0.0)
        free = torch.cuda.mem_get_info(module.device)[0] if module.device.type == "cuda" else 0
        return found.to(module.device) if found.nbytes <= free * RESIDENT_SHARE else found

    def _compute(
        self,
        trainer: Trainer,
        module: ImageClassifier,
        data: ImageDataModule,
        missing: dict[int, dict[str, Any]],
        part: str,
    ) -> None:
        """Compute the activations at some boundaries in one pass over a part of the data."""
        spec, began = module.input_spec, time.perf_counter()
        chain = chain_network(module.network, list(missing), spec.image_size, module.preprocess.channels)[:-1]
        views: list[str] = next(iter(missing.values()))["views"]

        def rows_of(images: Tensor) -> list[tuple[int, str, np.ndarray]]:
            rows = []
            for view in views:
                seen = images.flip(-1) if view == "mirror" else images
                with trainer.precision_plugin.forward_context(), torch.inference_mode():
                    given: tuple[Tensor, ...] = (module.preprocess(seen.to(module.device)),)
                    for network, (boundary, description) in zip(chain, missing.items(), strict=True):
                        given = network(*given)
                        for i, tensor in enumerate(given):
                            rows.append((boundary, f"{view}/{i:03d}", _stored(tensor, description["half"])))
            return rows

        sizes: dict[int, dict[str, Any]] = {boundary: {} for boundary in missing}
        for boundary, name, row in rows_of(next(data.in_order(part, 1))):
            sizes[boundary][name] = (row.dtype, (len(data.splits[part]), *row.shape[1:]))
        reason = room(self.folder, sum(required_bytes(arrays) for arrays in sizes.values()), limit_bytes())
        if reason is not None:
            raise CacheWriteError(reason)
        start = 0
        with ExitStack() as files:
            writers = {b: files.enter_context(Writer(self.folder, missing[b], sizes[b])) for b in missing}
            for images in data.in_order(part, self.batch_size):
                for boundary, name, rows in rows_of(images):
                    writers[boundary][name][start : start + len(images)] = rows
                start += len(images)
        where = " and ".join(module.network.describe(boundary) for boundary in missing)
        seconds = time.perf_counter() - began
        print(f"cache: {part}, what lies below {where} computed once, {start:,} images in {seconds:.1f} s")


def _why_not(data: ImageDataModule, boundary: int) -> str | None:
    if boundary == 0:
        return "nothing is frozen"
    if data.augment.views is None:
        return "training images are augmented at random (only mirror images can be cached)"
    return None


def _description(
    module: ImageClassifier, data: ImageDataModule, lower: nn.Module, boundary: int, part: str, precision: str
) -> dict[str, Any]:
    """List all that activations below a boundary depend on, as plain values."""
    spec, preprocess = module.input_spec, module.preprocess
    split = data.splits[part]
    indices = np.asarray(split.indices, dtype=np.int64).tobytes()
    names = (*module.network.stage_names, "head")
    return {
        "version": VERSION,
        "torch": torch.__version__,
        "architecture": module.architecture,
        # Padding, activations, epsilons: what changes the function and leaves the weights' hash as it is.
        "arguments": [module.rebuilding().get("backbone_args"), module.hparams.get("network_args")],
        "boundary": names[boundary],
        "boundary_index": boundary,
        "data": data.loaded.fingerprint if data.loaded else None,
        "part": part,
        "indices": hashlib.sha256(indices).hexdigest()[:16],
        "held_size": spec.held_size,
        "crop": [spec.resize, spec.crop],
        "image_size": spec.image_size,
        "interpolation": spec.interpolation,
        "channels": preprocess.channels,
        "mean": preprocess.mean.flatten().tolist(),
        "std": preprocess.std.flatten().tolist(),
        "device": module.device.type,
        "precision": precision,
        "half": "16" in precision,
        "weights": weights_hash(lower),
        "views": list(data.augment.views or ()) if part == "train" else ["identity"],
    }


def _stored(tensor: Tensor, half: bool) -> np.ndarray:
    """Lay images (B, C, H, W) as (B, H, W, C): read back, that is channels_last without a copy."""
    kept = tensor.half() if half and tensor.is_floating_point() else tensor
    kept = kept.float() if kept.dtype == torch.bfloat16 else kept
    return (kept.permute(0, 2, 3, 1) if kept.ndim == 4 else kept).cpu().numpy()


def _cuda(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type == "cuda" else []
