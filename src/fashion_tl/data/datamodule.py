"""One LightningDataModule for every source of images."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import asdict, is_dataclass, replace
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from fashion_tl.data.augment import Augment
from fashion_tl.data.batches import (
    VIEWS,
    Batch,
    BatchLoader,
    ResidentImages,
    Samples,
    Split,
    declared,
    draw_views,
    fingerprint,
)
from fashion_tl.data.fashion_mnist import FashionMNIST
from fashion_tl.data.folds import MOST, check_folds, parts_needed
from fashion_tl.data.groups import divisible
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.memory import RESIDENT_SHARE
from fashion_tl.data.mixing import Mix, Mixer
from fashion_tl.data.sampling import RANDOM, SAMPLERS
from fashion_tl.data.sources import Loaded, Source, load
from fashion_tl.data.splits import divide
from fashion_tl.data.transforms import InputSpec, resize_images, to_float
from fashion_tl.data.views import DrawnViews
from fashion_tl.errors import UserError, check_known, out_of_range
from fashion_tl.plain_text import clean
from fashion_tl.seeds import run_seed


class ImageDataModule(LightningDataModule):
    """Loads labelled images, splits them, and augments whole batches on the device.

    Images are stored as uint8; a batch is one gather. After the transfer to the device training images are augmented. A
    module of this package preprocesses them itself; one without ``preprocess`` gets float images from 0 to 1 at
    ``image_size``.

    A subclass that changes what images become (``on_after_batch_transfer``, ``augment``) may declare ``views`` again,
    else features are not cached.

    Args:
        source: Where the images come from: FashionMNIST (if not given), ImageFolder, CSV, TorchVision,
            HuggingFace, WebDataset, SyntheticGarments, SyntheticObjects, or the class path of any subclass of
            ``fashion_tl.data.sources.Source``.
        image_size: Height and width that the network sees, in pixels; those of the stored images if not given.
        interpolation: How images are resized: bilinear, bicubic (both antialiased) or nearest.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a validation or test batch.
        val_fraction: Share of each class's training images held out for validation, above 0 and below 1; 1/12 if not
            given, 1/5 of a label budget. A source with validation images of its own takes none.
        test_fraction: Share of each class held out for the test where a source has no test set of its own.
        label_budget: Labelled images of each class, to train and to validate on; a smaller budget takes a subset of a
            larger one. All if not given.
        per_class: Most training images of each class; validation keeps all of its images. All if not given.
        split_seed: Seed of the splits, independent of the run's seed.
        augment: Random augmentation of the training images.
        mix: Mixing of training images in pairs (MixUp, CutMix), such as {mixup: 0.2, cutmix: 1.0}.
        num_workers: Processes that decode image files that do not fit in memory.
        sampler: What an epoch draws: random, every training image once; or balanced, as many images, of each class
            equally many: those of small classes come several times, as evenly as can be, and of large classes a part
            comes in each epoch, until all have come.
        folds: Number of folds K of cross-validation, 2 to 1000. The source's training images are divided into K parts
            by ``split_seed``, stratified, without dividing a group. One of them is the test set, in the place of
            ``test_fraction``; a test set of the source's own is left untouched. ``fit --folds`` makes the runs of all.
        fold: Which fold is the test set, 1 to K.
    """

    def __init__(
        self,
        source: Source | None = None,
        image_size: int | None = None,
        interpolation: str = "bilinear",
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_fraction: float | None = None,
        test_fraction: float = 0.2,
        label_budget: int | None = None,
        per_class: int | None = None,
        split_seed: int = 0,
        augment: Augment | None = None,
        num_workers: int = 2,
        mix: Mix | None = None,
        sampler: str = RANDOM,
        folds: int | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__()
        self._val_fraction_given = val_fraction is not None
        if val_fraction is None:
            val_fraction = 1 / 12 if label_budget is None else 1 / 5
        problems = [
            f"data.{name} is {value}, it must be above 0 and below 1"
            for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction))
            if not 0 < value < 1
        ]
        counts = {
            "batch_size": (batch_size, 1, math.inf),
            "eval_batch_size": (eval_batch_size, 1, math.inf),
            "label_budget": (label_budget, 2, math.inf),
            "per_class": (per_class, 1, math.inf),
            "split_seed": (split_seed, 0, 2**63 - 1),
            "num_workers": (num_workers, 0, 256),
            "folds": (folds, 2, MOST),
            "fold": (fold, 1, MOST if folds is None else folds),
        }
        problems += out_of_range(counts, "data.")
        if label_budget is not None and per_class is not None:
            problems.append("data.label_budget and data.per_class exclude each other: give one of them")
        if label_budget is not None and val_fraction > 0.5:
            problems.append(f"data.val_fraction is {val_fraction}, with a label budget it must be at most 0.5")
        if (folds is None) != (fold is None):
            problems.append(
                f"data.folds is {folds} and data.fold {fold}: a run has one fold of several, such as --data.folds 5 "
                "--data.fold 1; `fit --folds 5` makes the runs of all"
            )
        source = FashionMNIST() if source is None else source
        self.source_name = type(source).__name__
        if source.storage_size is None:
            source = copy(source)
            source.storage_size = image_size
        size = source.storage_size if image_size is None else image_size
        if size is None:
            problems.append(f"{self.source_name} needs --data.image_size: its files may have any size")
        odd = [name for name in source.class_names if clean(name) != name]
        check_known("sampler", sampler, SAMPLERS, "Set it with --data.sampler.")
        if odd:
            problems.append(
                f"{self.source_name} has a class {odd[0]!r}: a class's name is UTF-8 text of one line, without control "
                "characters; rename it, or its folder"
            )
        if problems:
            raise UserError("; ".join(problems) + ".")
        self.source = source
        self.class_names: list[str] = list(source.class_names)
        spec = InputSpec(
            source.channels, source.storage_size, cast(int, size), interpolation, source.resize, source.crop
        )
        self.input_spec: dict[str, Any] = asdict(spec)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.label_budget, self.per_class, self.split_seed = label_budget, per_class, split_seed
        self.sampler, self.folds, self.fold = sampler, folds, fold
        self.augment = augment or Augment()
        self.mix = mix if mix is not None and mix.active else None
        self.mixer: Mixer | None = None
        if self.mix is not None and not isinstance(self.mix.pairs, str):
            self.set_mix(self.mix)
        self.loaded: Loaded | None = None
        self.splits: dict[str, Split] = {}
        self._loaders: list[BatchLoader] = []

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them, once.

        Raises:
            UserError: If files are missing or damaged.
        """
        if not self.splits:
            self.divide(load(self.source))

    def divide(self, loaded: Loaded) -> None:
        """Split images that are loaded.

        Raises:
            UserError: If they cannot be split as told.
        """
        self.loaded = loaded
        if self.folds is not None:
            self.loaded = replace(self.loaded, test=None)  # which stays untouched
        if self.loaded.val is not None and self._val_fraction_given:
            raise UserError(
                f"data.val_fraction is {self.val_fraction}, but {self.source_name} has validation images of its own: "
                "none are split off. Leave it out, or take a source without them."
            )
        if self.folds is None or self.fold is None:
            chosen = self._choose(self.loaded)
        else:
            check_folds(self.loaded, self.folds, self.split_seed, self.class_names)
            # Groups are dealt one by one: only a division shows whether a class is lost, and a later fold is too late.
            numbers = (self.fold,) if self.loaded.groups is None else range(1, self.folds + 1)
            chosen = {number: self._choose(self.loaded, (number, self.folds)) for number in numbers}[self.fold]
        spec, sets = self.input_spec, self.loaded.sets
        decoded = f"{self.loaded.fingerprint} {spec['storage_size']} {spec['resize']} {spec['crop']}"
        # Indices alone would not tell the first image of one set from that of another.
        tags = {
            "train": decoded,
            "val": decoded if self.loaded.val is None else f"{decoded} val",
            "test": f"{decoded} {'train' if self.loaded.test is None else 'test'}",
        }
        splits = {name: Split(sets[name], chosen[name], tags[name]) for name in chosen}
        for name, split in splits.items():
            if len(split) == 0:
                raise UserError(f"no images are left for {name}: there are too few in {self.source_name}.")
        self.splits = splits

    def _choose(self, loaded: Loaded, fold: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Choose the images of each split, of a fold if there are folds.

        Raises:
            UserError: If a split of the training images loses a class.
        """
        chosen = divide(
            loaded, self.val_fraction, self.test_fraction, self.label_budget, self.per_class, self.split_seed, fold
        )
        labels = loaded.train.labels
        for name in loaded.divided:
            lost = set(labels.tolist()) - set(labels[chosen[name]].tolist())
            if lost:
                raise self._lost_class(loaded, min(lost), name if fold is None else f"{name} in fold {fold[0]}")
        return chosen

    def _lost_class(self, loaded: Loaded, label: int, where: str) -> UserError:
        """Build the error for a class that a split of the training images lost."""
        told = f"no image of class {self.class_names[label]!r} is left for {where}"
        needed, parts = len(loaded.divided), ", ".join(loaded.divided)
        if loaded.groups is None:
            return UserError(
                f"{told}: a class needs at least {needed} images, for {parts}. Add images, or remove the class."
            )
        count = len(torch.unique(loaded.groups[loaded.train.labels == label]))
        add = "No group is divided: add images of other groups, leave the groups out"
        if count < needed:
            return UserError(
                f"{told}: a class needs at least {needed} groups of images, for {parts}. {add}, or remove the class."
            )
        told = f"{told}: the class has {count} groups of images, but no division of all groups"
        total = needed if self.folds is None else parts_needed(self.folds, needed - 1)
        if divisible(loaded.train.labels, loaded.groups, total) is False:
            return UserError(f"{told} leaves each class one for {parts}. {add}, or remove the class.")
        return UserError(
            f"{told} was found that leaves each class one for {parts}. {add}, or try another --data.split_seed."
        )

    def has_the_same(self, part: str, other: ImageDataModule) -> bool:
        """Say whether a split has the images that another module has there, told apart into the same classes."""
        (images, own, _), (others, theirs, _) = self.positions(part), other.positions(part)
        return images == others and torch.equal(own, theirs) and self.class_names == other.class_names

    def set_mix(self, mix: Mix) -> None:
        """Mix training images as told.

        Raises:
            UserError: If its pairs are not pairs of two of the classes.
        """
        self.mix, self.mixer = mix, Mixer(mix, self.class_names)

    @property
    def views(self) -> Mapping[str, float] | None:
        """The fixed views of an image that training draws from, with their probabilities; None if there are others."""
        if self.mix is not None:
            return None
        found: Mapping[str, float] | None = declared(self.augment, "views")
        return found

    @property
    def drawn_views(self) -> DrawnViews | None:
        """The random views that training draws of its images; None if no seed draws them again."""
        seed, trainer = run_seed(), self.trainer
        if seed is None or not declared(self.augment, "replayable"):
            return None
        world = 1 if trainer is None else trainer.world_size
        train, shuffle = self.splits["train"], self._shuffles()
        return DrawnViews(train, self.augment, self.batch_size, shuffle, seed, world, self.sampler)

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class, by label."""
        return self._count_classes("train")

    def _count_classes(self, part: str) -> list[int]:
        counts: list[int] = torch.bincount(self.splits[part].labels, minlength=len(self.class_names)).tolist()
        return counts

    def count_batches(self, processes: int = 1) -> int:
        """Return the training batches of an epoch in each of several processes."""
        return len(BatchLoader(self.splits["train"], self.batch_size, shuffle=True, world=processes))

    def train_dataloader(self) -> BatchLoader:
        """Return shuffled training batches; the order depends on the seed and the epoch alone."""
        loader = self._loader("train", self.batch_size, shuffle=self._shuffles())
        plain = declared(self.augment, "views") == {"identity": 1.0}
        loader.afterwards = (*(() if plain else ("augments",)), *(() if self.mix is None else ("mixes",)))
        return loader

    def _shuffles(self) -> bool:
        return not getattr(self.trainer, "overfit_batches", 0)

    def val_dataloader(self) -> BatchLoader:
        """Return validation batches."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> BatchLoader:
        """Return test batches, in the order of the test set."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> BatchLoader:
        """Return the test batches."""
        return self.test_dataloader()

    def _loader(self, part: str, batch_size: int, shuffle: bool = False) -> BatchLoader:
        split, trainer = self.splits[part], self.trainer
        seed = run_seed()
        if trainer is None:
            return BatchLoader(split, batch_size, shuffle, seed or 0, workers=self.num_workers, sampler=self.sampler)
        device = trainer.strategy.root_device
        self._place(split, device)
        if seed is None:
            # Without a seed of the run every training has orders of its own, the same in all processes.
            seed = trainer.strategy.broadcast(torch.initial_seed())
        loader = BatchLoader(
            split,
            batch_size,
            shuffle,
            seed,
            trainer.global_rank,
            trainer.world_size,
            self.num_workers,
            pin_memory=device.type == "cuda",
            sampler=self.sampler,
        )
        self._loaders.append(loader)
        return loader

    def teardown(self, stage: str) -> None:
        """End the worker processes of the loaders that the trainer was given."""
        while self._loaders:
            self._loaders.pop().close()

    def on_exception(self, exception: BaseException) -> None:
        """End the worker processes."""
        self.teardown("")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Samples:
        """Turn a batch into inputs and targets; images are augmented, and mixed, in training."""
        trainer = self.trainer
        training = trainer is not None and trainer.training
        tests = trainer is not None and (trainer.testing or trainer.predicting)
        split = self.splits["train" if training else "test" if tests else "val"]
        fetched = split.fetch(batch, training)
        if fetched.images is None:
            return fetched
        images, targets = fetched.images, fetched.targets
        if training:
            images = self._augmented(images, batch)
            if self.mix is not None:
                if self.mixer is None:
                    self.set_mix(self.mix)
                images, targets = cast(Mixer, self.mixer)(images, targets)
        return Samples(self.prepare(images), targets, batch, images)

    def _augmented(self, images: Tensor, batch: Batch) -> Tensor:
        """Augment training images; which of two fixed views was drawn is noted in the batch, as of cached features."""
        views = self.views
        if views is None or len(views) != 2 or next(iter(views)) != "identity" or not set(views) <= set(VIEWS):
            return self.augment(images)
        batch.views = draw_views(len(images), tuple(views.values()), images.device)
        images = to_float(images)
        return torch.where(batch.views.view(-1, 1, 1, 1).bool(), VIEWS[tuple(views)[1]](images), images)

    def prepare(self, images: Tensor) -> Tensor:
        """Bring images (B, C, H, W) to the image size, as float in 0 to 1, unless the module preprocesses itself."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        if hasattr(module, "preprocess"):
            return images
        return resize_images(to_float(images), self.input_spec["image_size"], self.input_spec["interpolation"])

    def in_order(self, part: str, batch_size: int) -> Iterator[Tensor]:
        """Yield the images of a split in its own order, as stored."""
        return self.splits[part].in_order(batch_size, self.num_workers)

    def _place(self, split: Split, device: torch.device) -> None:
        """Put a split's images on the GPU where they lie in memory and fit: batches are then positions."""
        if device.type == "cuda" and isinstance(split.images, InMemoryImages) and split.source is split.reading:
            images = split.images.images[split.indices]
            if images.nbytes <= torch.cuda.mem_get_info(device)[0] * RESIDENT_SHARE:
                split.images_source = split.source = ResidentImages(images.to(device))

    def describe(self) -> dict[str, Any]:
        """List what a run's record says about the data, as plain values; call it after ``setup``."""
        loaded = self.loaded
        return {
            "source": self.source_name,
            "fingerprint": loaded.fingerprint if loaded else None,
            "class_names": self.class_names,
            "sizes": {name: len(split) for name, split in self.splits.items()},
            "class_counts": {name: self._count_classes(name) for name in self.splits},
            "test_set": self._test_set(),
            "split_seed": self.split_seed,
            "folds": self.folds,
            "fold": self.fold,
            "label_budget": self.label_budget,
            "per_class": self.per_class,
            "sampler": self.sampler,
            "skipped": loaded.skipped if loaded else [],
            "other_files": dict(loaded.others) if loaded else {},
            **self.input_spec,
        }

    def positions(self, part: str) -> tuple[str, Tensor, int]:
        """Tell which images a split has, comparably between runs; call it after ``setup``.

        Returns:
            The set that they are taken from, named by its content; their positions in it (N,), sorted; its size.
        """
        if self.loaded is None:
            raise RuntimeError("the images have positions after setup")
        taken = "train" if part in self.loaded.divided else part
        return f"{self.loaded.fingerprint} {taken}", self._indices(part), len(self.loaded.sets[taken])

    def digests(self, part: str) -> Tensor | None:
        """Return digests of the contents of a split's images, int64 (N,); None if the source has none."""
        if self.loaded is None:
            raise RuntimeError("the images have digests after setup")
        found = self.loaded.digests.get("train" if part in self.loaded.divided else part)
        return None if found is None else found[self._indices(part)]

    def _indices(self, part: str) -> Tensor:
        return self.splits[part].indices if part in self.splits else torch.empty(0, dtype=torch.int64)

    @property
    def identity(self) -> dict[str, Any]:
        """What the images of a run and their use depend on, as plain values; a run that goes on has the same."""
        splits = {f"{name}_images": fingerprint(split.indices) for name, split in self.splits.items()}
        images = self.loaded.fingerprint if self.loaded else None
        augment = asdict(self.augment) if is_dataclass(self.augment) else type(self.augment).__name__
        return {
            "source": self.source_name,
            "images": images,
            **splits,
            "class_names": self.class_names,
            **self.input_spec,
            "augment": augment,
            "mix": None if self.mix is None else asdict(self.mix),
            "sampler": self.sampler,
            "fold": None if self.fold is None else f"{self.fold} of {self.folds}",
        }

    def _test_set(self) -> str | None:
        """Name the test images and the classes they are told apart into: figures on another set cannot be compared."""
        if self.loaded is None or "test" not in self.splits:
            return None
        told = hashlib.sha256(f"{self.loaded.fingerprint} {self.class_names}".encode())
        told.update(self.splits["test"].indices.numpy().tobytes())
        return told.hexdigest()[:16]
