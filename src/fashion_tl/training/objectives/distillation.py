"""Distillation: a student learns from the probabilities of runs that are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.cache.once import computed_once
from fashion_tl.cache.store import Append, CacheWriteError, Plain
from fashion_tl.data.batches import VIEWS, Split, declared
from fashion_tl.errors import UserError, check_ranges
from fashion_tl.features.keys import function_hash, object_hash, versions
from fashion_tl.training.certificate import hash_tensors
from fashion_tl.training.objectives.terms import Term

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier

VERSION = 1
BATCH = 256  # images of a pass of the teachers


class Distillation(Term):
    """Mixes the loss with the distance from what teachers say at a temperature (Hinton et al. 2015, section 2).

    loss = (1 - weight) * loss + weight * T^2 * KL(teachers || student), both softened by the temperature T. Several
    teachers are an ensemble: the mean of their softened probabilities. They are used in eval mode and in float32,
    prepare images in their own way, and are in no checkpoint of the student.

    Where training draws from fixed views of its images (the image itself, its horizontal flip) the teachers see each
    view once, before the first step, and with a ``cache_folder`` of the student once for all runs; the student may then
    train on cached features. Else they see the images of each batch, as augmented and mixed.

    Args:
        teachers: A run's name or checkpoint, or a list of them.
        temperature: T, above 0.
        weight: Share of the teachers in the loss, 0 to 1.

    Attributes:
        told_by: Hashes of the teachers' weights, by a name for messages; a run that goes on has the same.
    """

    def __init__(self, teachers: str | list[str] = "", temperature: float = 4.0, weight: float = 0.9) -> None:
        super().__init__()
        numbers = {"temperature": (temperature, 1e-3, 1e3), "weight": (weight, 0, 1)}
        check_ranges(numbers, "model.terms.distillation.")
        names = [teachers] if isinstance(teachers, str) else teachers
        if not names or not all(isinstance(name, str) and name for name in names):
            raise UserError(
                "model.terms.distillation.teachers must name a run or its best.ckpt, or be a list of them; got "
                f"{teachers!r}."
            )
        self.teachers, self.temperature, self.weight = list(names), temperature, weight
        # In a tuple: teachers are no part of the student, which neither trains nor keeps them.
        self._modules_of: tuple[ImageClassifier, ...] = ()
        self.told_by: dict[str, str] = {}
        self._folder: Path | None = None
        self._split: tuple[Split, tuple[str, ...]] | None = None
        self._table: Tensor | None = None

    def prepare(self, module: ImageClassifier, data: Any) -> None:  # noqa: ANN401 - any data module, or None
        """Open the teachers, once.

        Raises:
            UserError: If a checkpoint cannot be read, or a teacher tells other classes or takes other images.
        """
        from fashion_tl.training.loading import load_classifier

        if not self._modules_of:
            self._modules_of = tuple(load_classifier(path).requires_grad_(False) for path in self.teachers)
            states = [teacher.network.state_dict() for teacher in self._modules_of]
            hashes = [str(hash_tensors(state, state)) for state in states]
            self.told_by = {"terms.distillation.teachers (weights)": " ".join(hashes)}
        self._folder = module.cache_folder
        spec = module.input_spec
        for path, teacher in zip(self.teachers, self._modules_of, strict=True):
            if teacher.class_names != module.class_names:
                raise UserError(
                    f"model.terms.distillation: the teacher {path} tells the classes "
                    f"{', '.join(teacher.class_names)}; this run has {', '.join(module.class_names)}. Teach with a run "
                    "on the same classes."
                )
            module.origins[f"model.terms.distillation: the teacher {path}"] = teacher.seen
            teacher.preprocess(torch.zeros(1, spec.channels, spec.stored, spec.stored))
        split = (getattr(data, "splits", None) or {}).get("train")
        views = tuple(declared(data, "views") or ())
        fixed = isinstance(split, Split) and 0 < len(views) <= 2 and all(view in VIEWS for view in views)
        found = (cast(Split, split), views) if fixed else None
        if found != self._split:
            self._split, self._table = found, None

    @property
    def needs_images(self) -> bool:
        """Whether the teachers see the images of each batch: views without end are not told once."""
        return self._split is None

    def forward(self, loss: Tensor, outputs: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as there
        """Mix the loss with the distance from the teachers."""
        taught = self.targets(batch, outputs.device)
        student = F.log_softmax(outputs[:, : taught.shape[1]].float() / self.temperature, 1)
        distance = F.kl_div(student, taught, reduction="batchmean")
        return (1 - self.weight) * loss + self.weight * self.temperature**2 * distance

    def targets(self, batch: Any, device: torch.device) -> Tensor:  # noqa: ANN401 - from any loader
        """Return the teachers' mean softened probabilities (B, K) of a batch.

        Raises:
            UserError: If the batch has features alone, and says of which samples.
        """
        positions = getattr(batch, "positions", None)
        if self._split is not None and positions is not None:
            if self._table is None:
                self._table = self._compute(*self._split, device)
            views = getattr(batch, "views", None)
            return self._table[0 if views is None else views, positions]
        images = getattr(batch, "images", None)
        images = batch[0] if images is None else images
        if not isinstance(images, Tensor):
            raise UserError(
                "model.terms.distillation needs images, and the batch has features: use --cache off, or have the data "
                "module return what Split.fetch gives, which tells of which images they are."
            )
        return self.softened(images, device)

    def softened(self, images: Tensor, device: torch.device) -> Tensor:
        """Compute the teachers' mean softened probabilities (B, K), float32, of images (B, C, H, W)."""
        return self._mean([_logits(teacher, images, device) for teacher in self._modules_of])

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        """Average what teachers say, logits (..., K) each, softened."""
        return cast(Tensor, sum((each / self.temperature).softmax(-1) for each in logits)) / len(logits)

    def _compute(self, split: Split, views: tuple[str, ...], device: torch.device) -> Tensor:
        """Have the teachers say of every sample in every view what they do (V, N, K)."""
        named = zip(self.teachers, self._modules_of, strict=True)
        return self._mean([self._said(name, teacher, split, views, device) for name, teacher in named])

    def _said(
        self, name: str, teacher: ImageClassifier, split: Split, views: tuple[str, ...], device: torch.device
    ) -> Tensor:
        """Compute a teacher's logits (V, N, K) of every sample in every view, or read them from the cache."""
        shape = len(views), len(split), len(teacher.class_names)
        made: list[Tensor] = []

        def compute() -> Tensor:
            began = time.perf_counter()
            rows = [
                torch.cat([_logits(teacher, VIEWS[view](images), device) for images in split.in_order(BATCH)])
                for view in views
            ]
            seconds = time.perf_counter() - began
            tell(f"distillation: what {name} says of {shape[1]:,} images computed, {shape[0]} views, {seconds:.1f} s")
            return torch.stack(rows)

        def fill(append: Mapping[str, Append]) -> None:
            made.append(compute())
            append["logits"](made[0].cpu().numpy())

        tell: Callable[[str], None] = rank_zero_only(print)
        if self._folder is None:
            return compute()
        try:
            about = _about(teacher, split, views, device)
            tell = print  # of several processes, whichever computes
            found = computed_once(self._folder, about, {"logits": (np.float32, shape)}, fill)["logits"]
        except CacheWriteError as error:
            tell = rank_zero_only(print)
            tell(f"cache: what {name} says is not kept, {error}")
            return made[0] if made else compute()
        return torch.from_numpy(np.array(found)).to(device)


def _logits(teacher: ImageClassifier, images: Tensor, device: torch.device) -> Tensor:
    """Compute a teacher's logits (B, K), float32, of images (B, C, H, W)."""
    if teacher.device != device:
        teacher.to(device)
    teacher.eval()
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        return teacher.logits(images.to(device)).float()


def _about(teacher: ImageClassifier, split: Split, views: tuple[str, ...], device: torch.device) -> dict[str, Plain]:
    """Return all that a teacher's logits depend on.

    Raises:
        CacheWriteError: If that cannot be told.
    """
    if not teacher.is_plain:
        raise CacheWriteError(f"{type(teacher).__name__} computes its logits in a way of its own")
    try:
        samples = split.identity
    except ValueError as error:
        raise CacheWriteError(str(error)) from error
    return {
        "kind": "logits",
        "version": VERSION,
        "libraries": versions(),
        "architecture": teacher.architecture,
        "image_size": teacher.input_spec.image_size,
        "function": function_hash(teacher.network, teacher.preprocess),
        "class": object_hash(type(teacher).__mro__),
        "device": device.type,
        "images": len(split),
        "samples": samples,
        "views": list(views),
    }
