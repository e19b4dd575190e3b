"""One LightningDataModule for every source of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from fashion_tl.data.activations import Activations
from fashion_tl.data.images import FolderImages, ImageSet, InMemoryImages
from fashion_tl.data.sources import Loaded, make_source
from fashion_tl.data.splits import stratified_split, take_per_class
from fashion_tl.data.transforms import Augment, InputSpec, resize_images, to_float
from fashion_tl.errors import UserError

Batch = tuple[Tensor, Tensor]
RESIDENT_SHARE = 0.25  # of a GPU's free memory, for each split: the rest is for the network


class ImageDataModule(LightningDataModule):
    """Loads labelled images, splits them, and prepares whole batches on the device.

    Images are held as uint8; a batch is one gather. After the transfer to the device training images are augmented,
    then the module's ``preprocess``, if it has one, brings them to what its network expects; a module without one
    gets float images from 0 to 1 at ``image_size``.

    Args:
        source: fashion_mnist, image_folder, or garments and objects (both drawn by this package).
        root: Folder with the data; else the environment variable FASHION_TL_DATA_DIR, else "data".
        folder: For image_folder, the folder of images below root (an absolute path stands for itself).
        image_size: Height and width that the network sees, in pixels; as held if not given.
        interpolation: How images are resized: bilinear, bicubic (both antialiased) or nearest.
        resize: How image files become square: crop (the centre) or squash.
        crop: Side of the cropped square as a share of the shorter side, above 0 to 1.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a validation or test batch.
        val_fraction: Share of each class's training images held out for validation, above 0 and below 1.
        test_fraction: Share of each class held out for the test where a folder has no test set of its own.
        per_class: Most training images of each class, for curves of accuracy against labels; all if not given.
        split_seed: Seed of the splits, independent of the run's seed.
        augment: Random augmentation of the training images.
        skip_unreadable: Whether to go on without image files that cannot be read, and list them.
        num_workers: Processes that decode image files that do not fit in memory.
        drawn: Training and validation images to draw (garments, objects).
        drawn_test: Test images to draw; a third of ``drawn``, at most 2,000, if not given.
    """

    def __init__(
        self,
        source: str = "fashion_mnist",
        root: str | None = None,
        folder: str | None = None,
        image_size: int | None = None,
        interpolation: str = "bilinear",
        resize: str = "crop",
        crop: float = 0.875,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_fraction: float = 1 / 12,
        test_fraction: float = 0.2,
        per_class: int | None = None,
        split_seed: int = 0,
        augment: Augment | None = None,
        skip_unreadable: bool = False,
        num_workers: int = 2,
        drawn: int = 6000,
        drawn_test: int | None = None,
    ) -> None:
        super().__init__()
        problems = [
            f"data.{name} is {value}, it must be above 0 and below 1"
            for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction))
            if not 0 < value < 1
        ]
        problems += [f"data.crop is {crop}, it must be above 0 and at most 1"] if not 0 < crop <= 1 else []
        counts = [
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("per_class", 1 if per_class is None else per_class, 1),
            ("num_workers", num_workers, 0),
        ]
        problems += [f"data.{name} is {n}, it must be at least {least}" for name, n, least in counts if n < least]
        if problems:
            raise UserError("; ".join(problems) + ".")
        InputSpec(image_size=28 if image_size is None else image_size, interpolation=interpolation, resize=resize)
        self.root = Path(root or os.environ.get("FASHION_TL_DATA_DIR") or "data").expanduser()
        self.source_name = source
        self.source = make_source(
            source,
            self.root,
            folder,
            image_size,
            _as_resize(resize),
            crop,
            skip_unreadable,
            drawn,
            drawn_test,
            split_seed,
        )
        self.class_names: list[str] = list(self.source.class_names)
        self.input_spec: dict[str, Any] = {
            "channels": self.source.channels,
            "held_size": self.source.held_size,
            "image_size": image_size or self.source.held_size,
            "interpolation": interpolation,
            "resize": resize,
            "crop": crop if source == "image_folder" else 1.0,
        }
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.per_class, self.split_seed = per_class, split_seed
        self.augment = augment or Augment()
        self.loaded: Loaded | None = None
        self.splits: dict[str, Split] = {}

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them, once.

        Raises:
            UserError: If files are missing or damaged.
        """
        if self.splits:
            return
        self.loaded = self.source.load()
        labels = self.loaded.train.labels
        stay = torch.arange(len(labels))
        test: tuple[ImageSet, Tensor]
        if self.loaded.test is None:
            stay, held = stratified_split(labels, self.test_fraction, self.split_seed)
            test = (self.loaded.train, held)
        else:
            test = (self.loaded.test, torch.arange(len(self.loaded.test)))
        kept, held = stratified_split(labels[stay], self.val_fraction, self.split_seed)
        train, val = stay[kept], stay[held]
        if self.per_class is not None:
            train = take_per_class(labels, train, self.per_class, self.split_seed)
        self.splits = {
            "train": Split(self.loaded.train, train),
            "val": Split(self.loaded.train, val),
            "test": Split(*test),
        }
        for name, split in self.splits.items():
            if len(split) == 0:
                raise UserError(f"no images are left for {name}: there are too few in {self.source_name}.")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return shuffled training batches; the order depends on the seed and the epoch alone."""
        split = self.splits["train"]
        self._place(split)
        sampler = EpochSampler(split)
        if self.trainer is not None:
            # Lightning makes the first iterator of a resumed run before it tells the sampler the epoch.
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        return self._loader(split, self.batch_size, sampler=sampler, drop_last=len(split) > self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Return validation batches."""
        self._place(self.splits["val"])
        return self._loader(self.splits["val"], self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Return test batches, in the order of the test set."""
        self._place(self.splits["test"])
        return self._loader(self.splits["test"], self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the test batches."""
        return self.test_dataloader()

    def _loader(self, split: Split, batch_size: int, **kwargs: Any) -> DataLoader[Batch]:  # noqa: ANN401
        workers = self.num_workers if isinstance(split.images, FolderImages) else 0
        pin = torch.cuda.is_available()
        return SplitLoader(
            split,
            batch_size=batch_size,
            collate_fn=_as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            # Else each new iterator would draw from the global generator, and a resumed run makes one iterator less.
            generator=torch.Generator(),
            **kwargs,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Any:  # noqa: ANN401 - images or activations
        """Augment (in training) and preprocess a batch on the device."""
        images, labels = batch
        training = self.trainer is not None and self.trainer.training
        if images.ndim == 1:
            tests = self.trainer is not None and (self.trainer.testing or self.trainer.predicting)
            part = "train" if training else "test" if tests else "val"
            split = self.splits[part]
            if split.activations is not None:
                return split.activations.rows(images, labels.device, training), labels
            images = split.rows(images)
        if training:
            images = self.augment(images)
        return self.prepare(images), labels

    def use_activations(self, found: dict[str, Activations]) -> None:
        """Let the loaders of some splits yield activations, those of all others images."""
        for name, split in self.splits.items():
            split.activations = found.get(name)

    def in_order(self, part: str, batch_size: int) -> Iterator[Tensor]:
        """Yield the images of a split in its own order, as held."""
        split = self.splits[part]
        for images, _ in self._loader(split, batch_size):
            yield split.rows(images) if images.ndim == 1 else images

    def _place(self, split: Split) -> None:
        """Put a split's images on the trainer's GPU where they lie in memory and fit: batches are then positions."""
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        if device.type == "cuda" and isinstance(split.images, InMemoryImages) and split.resident is None:
            images = split.images.images[split.indices]
            if images.nbytes <= torch.cuda.mem_get_info(device)[0] * RESIDENT_SHARE:
                split.resident = images.to(device)

    def prepare(self, images: Tensor) -> Tensor:
        """Bring images (B, C, H, W) to what the trainer's module expects."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        preprocess = getattr(module, "preprocess", None)
        if preprocess is not None:
            return cast(Tensor, preprocess(images))
        return resize_images(to_float(images), self.input_spec["image_size"], self.input_spec["interpolation"])

    def describe(self) -> dict[str, Any]:
        """List what a run's record says about the data, as plain values; call it after ``setup``."""
        loaded = self.loaded
        return {
            "source": self.source_name,
            "fingerprint": loaded.fingerprint if loaded else None,
            "class_names": self.class_names,
            "sizes": {name: len(split) for name, split in self.splits.items()},
            "test_set": self._test_set(),
            "split_seed": self.split_seed,
            "per_class": self.per_class,
            "skipped": loaded.skipped if loaded else [],
            **self.input_spec,
        }

    def _test_set(self) -> str | None:
        """Name the test images and the classes they are told apart into: figures on another set cannot be compared."""
        if self.loaded is None or "test" not in self.splits:
            return None
        told = hashlib.sha256(f"{self.loaded.fingerprint} {self.class_names}".encode())
        told.update(self.splits["test"].indices.numpy().tobytes())
        return told.hexdigest()[:16]


class Split(Dataset[Batch]):
    """A part of a set of images, by index, whose batches are images or, where they are set, cached activations.

    Args:
        images: The whole set.
        indices: Indices (N,) of the part.
    """

    def __init__(self, images: ImageSet, indices: Tensor) -> None:
        self.images, self.indices = images, indices
        self.labels = images.labels[indices]
        self.activations: Activations | None = None
        self.resident: Tensor | None = None

    def rows(self, positions: Tensor) -> Tensor:
        """Gather resident images (B, C, H, W) by their positions (B,) in the split."""
        if self.resident is None:
            raise ValueError("the images of this split are not resident on a device")
        return self.resident.index_select(0, positions.to(self.resident.device))

    def __len__(self) -> int:
        """Return the number of images N."""
        return len(self.indices)

    def __getitem__(self, position: int) -> Batch:
        """Return one image and its label."""
        return self.images[int(self.indices[position])]

    @property
    def on_device(self) -> bool:
        """Whether batches are positions, of activations or of images that the device has."""
        return self.activations is not None or self.resident is not None

    def __getitems__(self, positions: list[int]) -> Batch:
        """Return a batch: images, or positions (B,) of what the device has; and labels (B,)."""
        return self.batch(torch.tensor(positions))

    def batch(self, positions: Tensor) -> Batch:
        """Return a batch by positions (B,), see ``__getitems__``."""
        if self.on_device:
            return positions, self.labels[positions]
        return self.images.__getitems__(self.indices[positions])


class SplitLoader(DataLoader[Batch]):
    """Reads files in worker processes, and all else in this one, without lists of indices.

    Workers hold the split as it was when they started, so whether it has activations by now is asked here, when the
    first batch of an epoch is wanted.
    """

    def __iter__(self) -> Any:  # noqa: ANN401 - DataLoader's type is private
        """Yield the batches of an epoch."""
        split = cast(Split, self.dataset)
        if not split.on_device and (self.num_workers or self.pin_memory):
            yield from super().__iter__()
            return
        order = self.sampler.order() if isinstance(self.sampler, EpochSampler) else torch.tensor(list(self.sampler))
        for positions in torch.split(order, self.batch_size or 1):
            if len(positions) == self.batch_size or not self.drop_last:
                yield split.batch(positions)


class EpochSampler(RandomSampler):
    """Shuffles by seed and epoch alone, so that a resumed run sees the same batches; Lightning sets the epoch."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose order comes next."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Return all positions (N,) in the order of the epoch."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0"))
        generator = torch.Generator().manual_seed((seed * 1_000_003 + self.epoch) % 2**63)
        return torch.randperm(len(cast(Split, self.data_source)), generator=generator)

    def __iter__(self) -> Iterator[int]:
        """Yield all positions in the order of the epoch."""
        yield from self.order().tolist()


def _as_is(batch: Any) -> Any:  # noqa: ANN401 - a batch comes whole from `__getitems__`
    return batch


def _as_resize(name: str) -> Literal["crop", "squash"]:
    return cast(Literal["crop", "squash"], name)
