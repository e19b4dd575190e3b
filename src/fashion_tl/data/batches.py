"""What a batch is: positions of samples, and where their inputs come from.

A split of a data set yields batches from one of three sources: images that are read for every batch, images that lie
on the device, or cached features of a frozen network. A loader asks the source what it must read; after the transfer to
the device ``Split.fetch`` turns positions into inputs. Nobody else needs to know which source is in use.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fashion_tl.data.images import EncodedImages, ImageSet, InMemoryImages
from fashion_tl.data.sampling import BALANCED, RANDOM, balanced_order, random_order
from fashion_tl.data.workers import begin_worker, signals_held
from fashion_tl.errors import UserError

Inputs = Tensor | tuple[Tensor, ...]
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda images: images,
    "hflip": lambda images: images.flip(-1),
}


def declared(thing: object, name: str) -> Any:  # noqa: ANN401 - whatever the class declares
    """Return what the class of an object itself declares under a name, else None.

    A subclass that does not declare it anew has none: it may have changed what was declared.
    """
    return getattr(thing, name) if name in vars(type(thing)) else None


class Batch:
    """A batch on its way from a loader to the device; ``images, labels = batch`` serves a plain loop.

    Args:
        positions: Positions (B,) of the samples in their split.
        labels: Their classes (B,).
        images: The images (B, C, H, W), uint8, where the source reads them batch by batch.
        number: Its number in the epoch of its process, from 0, where the loader tells.

    Attributes:
        views: The number of the fixed view (B,) that training has drawn for each sample; None for the first, or none.
    """

    views: Tensor | None = None

    def __init__(
        self, positions: Tensor, labels: Tensor, images: Tensor | None = None, number: int | None = None
    ) -> None:
        self.positions, self.labels, self.images, self.number = positions, labels, images, number

    def __len__(self) -> int:
        """Return the number of samples B."""
        return len(self.labels)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield images and labels."""
        if self.images is None:
            raise ValueError("this batch holds positions alone: its images lie on the device, or are cached features")
        yield from (self.images, self.labels)

    def to(self, device: torch.device, **options: Any) -> Batch:  # noqa: ANN401 - of Tensor.to
        """Move the batch to a device; Lightning calls this."""
        options.setdefault("non_blocking", torch.device(device).type == "cuda")
        images = None if self.images is None else self.images.to(device, **options)
        return Batch(self.positions.to(device, **options), self.labels.to(device, **options), images, self.number)

    def pin_memory(self) -> Batch:
        """Pin the images in memory, for a transfer that does not wait."""
        return Batch(self.positions, self.labels, None if self.images is None else self.images.pin_memory())


class Samples:
    """A batch on its device as a step takes it: ``inputs, targets = batch``, and what an objective may need besides.

    It is no tuple: those are built again, without their attributes, where several processes move their inputs.

    Args:
        inputs: Images (B, C, H, W), or cached features of them.
        targets: Classes (B,), or shares of classes (B, K).
        batch: The batch that they were made of.
        images: The images (B, C, H, W) as augmented and mixed; None where the inputs are features.

    Attributes:
        positions: Positions (B,) of the samples in their split.
        labels: Their classes (B,), before anything was mixed.
        views: The number of the fixed view (B,) of each, as of ``Batch``.
    """

    def __init__(self, inputs: Inputs, targets: Tensor, batch: Batch, images: Tensor | None = None) -> None:
        self.inputs, self.targets, self.images = inputs, targets, images
        self.positions, self.labels, self.views = batch.positions, batch.labels, batch.views

    def __len__(self) -> int:
        """Return 2, of inputs and targets."""
        return 2

    def __iter__(self) -> Iterator[Any]:
        """Yield inputs and targets."""
        yield from (self.inputs, self.targets)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - inputs or targets
        """Return the inputs (0) or the targets (1)."""
        return (self.inputs, self.targets)[index]


def draw_views(count: int, probabilities: Sequence[float], device: torch.device) -> Tensor:
    """Draw the first or the second of two views for each sample (count,), by one draw of the device's generator."""
    return (torch.rand(count, device=device, dtype=torch.float32) < probabilities[1]).long()


class BatchSource(ABC):
    """Where the inputs of a split's samples come from."""

    def read(self, positions: Tensor) -> Tensor | None:
        """Read what has to travel to the device, in the loader or its workers; nothing by default."""
        return None

    @abstractmethod
    def fetch(self, batch: Batch, training: bool) -> Inputs:
        """Return the inputs of a batch, on its device."""


class ReadImages(BatchSource):
    """Images that are read for every batch, from memory or from files."""

    def __init__(self, images: ImageSet, indices: Tensor) -> None:
        self.images, self.indices = images, indices

    def read(self, positions: Tensor) -> Tensor:
        """Read the images (B, C, H, W), uint8."""
        return self.images.__getitems__(self.indices[positions])[0]

    def fetch(self, batch: Batch, training: bool) -> Tensor:
        """Return the images that came with the batch."""
        if batch.images is None:
            raise ValueError("the batch was loaded while another source was in use")
        return batch.images


class ResidentImages(BatchSource):
    """Images (N, C, H, W) that lie on the device as a whole."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def fetch(self, batch: Batch, training: bool) -> Tensor:
        """Gather the images (B, C, H, W)."""
        return self.images.index_select(0, batch.positions)


class CachedFeatures(BatchSource):
    """What frozen stages give for every sample, in one view or two.

    Args:
        views: For each view (the image itself, its horizontal flip) the arrays of N rows that the upper stages take;
            images are (N, H, W, C), bfloat16 comes as uint16.
        probabilities: How often training draws each view.
        dtype: What numbers become that are stored in another type, as the upper stages take them: autocast expects
            float32; None leaves them as they are.
    """

    def __init__(
        self,
        views: Sequence[Sequence[np.ndarray]],
        probabilities: Sequence[float] = (1.0,),
        dtype: torch.dtype | None = torch.float32,
    ) -> None:
        with warnings.catch_warnings():
            # The arrays are maps of a file that nobody writes to; rows are copied out of them.
            warnings.filterwarnings("ignore", ".*not writable.*")
            self.views = [[_tensor(array) for array in view] for view in views]
        self.probabilities, self.dtype = tuple(probabilities), dtype

    def to(self, device: torch.device) -> CachedFeatures:
        """Move all rows to a device, once, where the caller knows that they fit."""
        self.views = [[array.to(device) for array in view] for view in self.views]
        return self

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.views[0][0].device

    @property
    def nbytes(self) -> int:
        """Size of all rows in bytes."""
        return sum(array.nbytes for view in self.views for array in view)

    def fetch(self, batch: Batch, training: bool) -> tuple[Tensor, ...]:
        """Gather a batch: one tensor of B rows for each array of a view; in training a view is drawn for each sample.

        Images (B, C, H, W) are channels_last.
        """
        device = batch.labels.device
        positions = batch.positions.to(self.device)
        if not training or len(self.views) == 1:
            return self.gather(positions, device)
        # The same draw as that of the images that the views stand for.
        batch.views = draw_views(len(positions), self.probabilities, device)
        second = batch.views.bool().to(positions.device)
        gathered = []
        for first, other in zip(*self.views, strict=True):
            rows = first.index_select(0, positions)
            rows[second] = other.index_select(0, positions[second])
            gathered.append(self._finished(rows, device))
        return tuple(gathered)

    def gather(self, rows: Tensor, device: torch.device) -> tuple[Tensor, ...]:
        """Return rows (B,) of the first view on a device, each array's as the upper stages take them."""
        return tuple(self._finished(array.index_select(0, rows), device) for array in self.views[0])

    def _finished(self, rows: Tensor, device: torch.device) -> Tensor:
        moved = rows.to(device)
        if self.dtype is not None and moved.is_floating_point():
            moved = moved.to(self.dtype)
        return moved.permute(0, 3, 1, 2) if moved.ndim == 4 else moved


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if array.dtype == np.uint16 else tensor


def pair_of(batch: Any) -> tuple[Any, Tensor]:  # noqa: ANN401 - from any loader
    """Return inputs and classes of a batch.

    Raises:
        UserError: If it is no pair of them, such as a dictionary.
    """
    if not isinstance(batch, Tensor | Mapping):
        try:
            inputs, labels = batch
        except (TypeError, ValueError):
            pass
        else:
            return inputs, labels
    kind = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        kind += f" with {', '.join(map(str, batch))}"
    raise UserError(
        f"a batch of the loader is {kind}; a classifier takes pairs, images (B, C, H, W) and classes (B,): have the "
        "dataset, or the loader's collate_fn, give these."
    )


class Split(Dataset[Batch]):
    """A part of a set of images, by index, and the source that its batches come from.

    Args:
        images: The whole set.
        indices: Indices (N,) of the part; all of it if not given.
        fingerprint: What identifies the images of the set, such as a hash; images in memory are hashed if not given.

    Attributes:
        labels: Classes (N,).
        source: Where inputs come from: images read for every batch, until it is set to something else.
        images_source: Where images come from: read for every batch, or lying on the device.
    """

    def __init__(self, images: ImageSet, indices: Tensor | None = None, fingerprint: str | None = None) -> None:
        self.images = images
        self.indices = torch.arange(len(images)) if indices is None else indices
        self.labels = images.labels[self.indices]
        self.fingerprint = fingerprint
        self.reading = ReadImages(images, self.indices)
        self.images_source: BatchSource = self.reading  # or the same images on the device
        self.source: BatchSource = self.reading

    @property
    def holds_images(self) -> bool:
        """Whether inputs are images, not features of them."""
        return self.source is self.images_source

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return one image as stored and its label."""
        return self.images[int(self.indices[position])]

    def __getitems__(self, positions: list[int]) -> Batch:
        """Return a batch with its images, as worker processes read it."""
        chosen = torch.tensor(positions)
        return Batch(chosen, self.labels[chosen], self.reading.read(chosen))

    def batch(self, positions: Tensor) -> Batch:
        """Return a batch by positions (B,), with what its source must read."""
        return Batch(positions, self.labels[positions], self.source.read(positions))

    def fetch(self, batch: Batch, training: bool) -> Samples:
        """Return inputs and labels of a batch that has reached its device, and which samples they are of."""
        inputs = self.source.fetch(batch, training)
        images = cast(Tensor, inputs) if self.holds_images else None
        return Samples(inputs, batch.labels, batch, images)

    def in_order(self, batch_size: int, workers: int = 0) -> Iterator[Tensor]:
        """Yield all images as stored (B, C, H, W), in the order of the split, whatever source is in use."""
        with closing(BatchLoader(self, batch_size, workers=workers)) as loader:
            for batch in loader.read():
                yield self.reading.fetch(batch, False)

    @property
    def identity(self) -> dict[str, str]:
        """Which samples these are, in which order, as plain values.

        Raises:
            ValueError: If nothing identifies the images: they lie in files and no fingerprint was given.
        """
        if self.fingerprint is None:
            if not isinstance(self.images, InMemoryImages):
                raise ValueError("a split of image files needs a fingerprint to be identified")
            self.fingerprint = fingerprint(self.images.images, self.images.labels)
        return {"images": self.fingerprint, "indices": fingerprint(self.indices)}


def fingerprint(*tensors: Tensor) -> str:
    """Hash tensors to 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]


class BatchLoader:
    """Yields the batches of a split to one of several processes; Lightning takes it as it is.

    The order of an epoch depends on seed and epoch alone, so a run that goes on in the middle of an epoch sees the rest
    of it: Lightning keeps the loader's state, the seed included, in the checkpoint.

    In training every process takes its share of each global batch, and a last batch that is not whole is left out. In
    evaluation every process takes a contiguous share of the samples, each sample once, in equally many batches.

    Args:
        split: What to load.
        batch_size: Samples in a batch of one process.
        shuffle: Whether to shuffle and to leave out a last batch that is not whole: for training.
        seed: Seed of the orders.
        rank: Number of this process.
        world: Number of processes.
        workers: Worker processes that read image files; images in memory are read in this process.
        pin_memory: Whether to pin what travels to a GPU.
        sampler: What shuffling draws: "random" every sample once, "balanced" classes equally often; see
            ``balanced_order``.

    Attributes:
        afterwards: What its data module does to a training batch after the transfer, such as "augments".
    """

    afterwards: tuple[str, ...] = ()

    def __init__(
        self,
        split: Split,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        sampler: str = RANDOM,
    ) -> None:
        self.split, self.batch_size, self.shuffle, self.seed = split, batch_size, shuffle, seed
        self.balanced = sampler == BALANCED
        self.rank, self.world = rank, world
        self.workers = workers if isinstance(split.images, EncodedImages) else 0
        self.pin_memory = pin_memory
        self.epoch = 0
        self._standing, self._start = (0, 0), (0, 0)
        self._reading: list[list[int]] = []
        self._reader: DataLoader[Batch] | None = None
        if shuffle:
            self.sampler = self  # Lightning tells a loader's sampler the epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) whose order comes next."""
        self.epoch = epoch

    @property
    def positions(self) -> Tensor:
        """The positions that this process sees in the epoch, in order; a run's record asks for them."""
        return torch.cat(self.batches()) if len(self) else torch.empty(0, dtype=torch.int64)

    def batches(self) -> list[Tensor]:
        """List the positions of the batches that this process sees in the epoch."""
        count = len(self.split)
        if not self.shuffle:
            if self.world == 1:
                return list(torch.split(torch.arange(count), self.batch_size))
            share = torch.arange(count).tensor_split(self.world)[self.rank]
            return list(share.tensor_split(len(self)))
        if self.balanced:
            order = balanced_order(self.split.labels, self.seed, self.epoch)
        else:
            order = random_order(count, self.seed, self.epoch)
        whole = torch.split(order, self.batch_size * self.world)[: len(self)]
        return [each.tensor_split(self.world)[self.rank] for each in whole]

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same in every process."""
        count = len(self.split)
        if self.shuffle:
            return max(1, count // (self.batch_size * self.world))
        return math.ceil(math.ceil(count / self.world) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch, from where a resumed run stands."""
        epoch = self.epoch
        first = self._start[1] if self._start[0] == epoch else 0
        self._start = (0, 0)
        rest = self.batches()[first:]
        # Asked when the first batch is wanted: the source may change between epochs.
        reading = self.split.source is self.split.reading
        for number, batch in enumerate(self.read(rest) if reading else map(self.split.batch, rest), first + 1):
            self._standing, batch.number = (epoch, number), number - 1
            yield batch

    def read(self, batches: list[Tensor] | None = None) -> Iterator[Batch]:
        """Yield batches with their images, whatever source is in use; those of the epoch if none are given."""
        batches = self.batches() if batches is None else batches
        if not self.workers:
            made = (Batch(each, self.split.labels[each], self.split.reading.read(each)) for each in batches)
            yield from (batch.pin_memory() for batch in made) if self.pin_memory else made
            return
        self._reading[:] = [positions.tolist() for positions in batches]
        if self._reader is None:
            self._reader = DataLoader(
                self.split,
                batch_sampler=self._reading,
                collate_fn=_as_is,  # type: ignore[arg-type] # a batch comes whole from `__getitems__`
                num_workers=self.workers,
                persistent_workers=True,
                pin_memory=self.pin_memory,
                worker_init_fn=begin_worker,
                # Else each new iterator would draw from the global generator.
                generator=torch.Generator(),
            )
        with signals_held():
            started = iter(self._reader)
        yield from started

    def close(self) -> None:
        """End the worker processes; another epoch starts them again.

        Left to the garbage collector they end seconds later: it closes their queues before they are told.
        """
        with signals_held():
            self._reader = None

    def state_dict(self) -> dict[str, int]:
        """Return where the loader stands: the epoch, the batches of it that were taken, and what draws its order."""
        return {"epoch": self._standing[0], "batch": self._standing[1], "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave the first batches of the epoch in progress out, once; another epoch begins at its first batch."""
        self._start = (state["epoch"], state["batch"])
        self.seed = state.get("seed", self.seed)  # not in checkpoints of earlier versions


def check_loader(loader: object, data: object, processes: int) -> None:
    """Refuse a loader for training whose batches would lack what its data module does, or come once in each process.

    Args:
        loader: Any loader.
        data: The data module that the trainer was given, or None.
        processes: Processes that train.

    Raises:
        UserError: If it is such a loader.
    """
    if not isinstance(loader, BatchLoader):
        return
    give = "Give the trainer the data module itself: trainer.fit(model, datamodule=data)."
    if data is None and loader.afterwards:
        raise UserError(
            f"the trainer was given the loader of a data module that {' and '.join(loader.afterwards)} training images "
            f"after the loader, which would be left out. {give}"
        )
    if loader.world != processes:
        raise UserError(
            f"the loader of training batches is for {loader.world} process(es), and {processes} train: they would see "
            f"the same images. {give} One of your own gives BatchLoader rank and world."
        )


def _as_is(batch: Batch) -> Batch:
    return batch
