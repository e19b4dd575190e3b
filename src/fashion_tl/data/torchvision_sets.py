"""Classification sets of torchvision by name, with its own download and checksums."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from fashion_tl.data.batches import fingerprint
from fashion_tl.data.file_list import FileList
from fashion_tl.data.image_folder import decode_all
from fashion_tl.data.image_folder import fingerprint as files_fingerprint
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.memory import memory_limit
from fashion_tl.data.sources import Loaded, Source, data_root
from fashion_tl.errors import UserError, one_line, unknown_name

SETS = (
    *("CIFAR10", "CIFAR100", "Country211", "DTD", "EMNIST", "EuroSAT", "FashionMNIST", "FGVCAircraft", "Flowers102"),
    *("Food101", "GTSRB", "Imagenette", "KMNIST", "MNIST", "OxfordIIITPet", "RenderedSST2", "SEMEION", "STL10"),
    *("SUN397", "SVHN", "USPS"),
)
CLASS_COUNTS = {"GTSRB": 43}  # of sets of files whose classes torchvision neither names nor counts
SPELLINGS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}  # values of ``split``

# Arguments that are not the user's; with ``target_types`` labels have other classes than those that are named.
_TAKEN = {"self", "root", "train", "download", "transform", "target_transform", "transforms", "loader", "kwargs"}
_TAKEN |= {"target_types"}
_NOT_THERE = (RuntimeError, OSError)
_NOT_FETCHED = (*_NOT_THERE, HTTPException, EOFError, tarfile.TarError, zipfile.BadZipFile)
_NOT_READ = (AssertionError, ValueError, TypeError, LookupError, EOFError, pickle.UnpicklingError)


class TorchVision(Source):
    """A classification set of ``torchvision.datasets``; what is missing is downloaded when the source is built.

    The set's own training, validation and test images are used; what it lacks is split off the training images. Sets
    that torchvision holds as arrays stay as they are; the others are decoded into memory at one size.

    Args:
        name: Name of the class in ``torchvision.datasets``, such as MNIST, CIFAR10 or OxfordIIITPet.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".
        arguments: Further arguments of the class, such as {split: letters} of EMNIST or {partition: 2} of DTD.
        storage_size: Height and width that files are decoded to, in pixels; the data module's ``image_size`` if not
            given. Arrays have a size of their own.
        resize: How a file becomes square: crop (the centre), stretch, or pad (the whole image on black).
        crop: Side of the cropped square as a share of the shorter side, above 0 to 1.

    Raises:
        UserError: If there is no such set or argument, or the files are neither there nor to be had.
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None = None,
        arguments: dict[str, Any] | None = None,
        storage_size: int | None = None,
        resize: str = "crop",
        crop: float = 1.0,
    ) -> None:
        if name not in SETS:
            hint = "Other images: --data.source ImageFolder or CSV."
            raise unknown_name("set of torchvision", name, SETS, f"Set it with --data.source.name. {hint}")
        self.root, self.name, self.arguments = data_root(root), name, dict(arguments or {})
        self.storage_size, self.resize, self.crop = storage_size, resize, crop
        takes = _parameters(name)
        allowed = takes - _TAKEN - ({"split"} if "train" not in takes else set())
        for argument in self.arguments:
            if argument not in allowed:
                hint = "Set them with --data.source.arguments."
                raise unknown_name(f"argument of {name}", str(argument), sorted(allowed) or ["none"], hint)
        train = self._open("train")
        if _is_arrays(train):
            images, labels = _arrays(train)
            self.channels, size = images.shape[1], images.shape[-1]
            if storage_size not in (None, size):
                raise UserError(
                    f"data.source.storage_size is {storage_size}, but {name} has images of {size} pixels. Leave it "
                    "out; the network sees them at --data.image_size."
                )
            self.storage_size = size
            self.labels: list[int] = torch.unique(labels).tolist()
            names = _names(train) or [str(label) for label in range(max(self.labels) + 1)]
        else:
            self.channels = 3
            names = _names(train) or [str(label) for label in range(CLASS_COUNTS[name])]
            self.labels = list(range(len(names)))
        # EMNIST's letters have a name for a class 0 that no image has.
        self.class_names = tuple(names[label] for label in self.labels)

    def load(self) -> Loaded:
        """Read all images into memory.

        Raises:
            UserError: If files are damaged, or the images do not fit in memory.
        """
        sets = {part: found for part in SPELLINGS if (found := self._open(part)) is not None}
        if _is_arrays(sets["train"]):
            tensors = {part: _arrays(found) for part, found in sets.items()}
            prints = fingerprint(*(tensor for pair in tensors.values() for tensor in pair))
        else:
            tensors, prints = self._decode(sets)
        known = torch.tensor(self.labels)
        images = {
            part: InMemoryImages(values, torch.searchsorted(known, labels))
            for part, (values, labels) in tensors.items()
        }
        return Loaded(images["train"], images.get("test"), prints, val=images.get("val"))

    def _decode(self, sets: Mapping[str, Any]) -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
        """Decode sets of files; returns their images and labels, and a hash of what is in the files."""
        size = self.storage_size
        if size is None:
            raise UserError(f"{self.name} needs data.source.storage_size, or --data.image_size: files have any size.")
        needed, free = sum(map(len, sets.values())) * 3 * size**2, memory_limit()
        if needed > free:
            raise UserError(
                f"{self.name} takes {needed / 2**30:.3g} GiB of memory at {size} pixels, {free / 2**30:.3g} GiB may be "
                "taken. Give a smaller --data.source.storage_size, or its files to --data.source ImageFolder or CSV, "
                "which leave on disk what does not fit."
            )
        tensors, digest = {}, hashlib.sha256()
        for part, found in sets.items():
            files = FileList.of(_files(found))
            images, contents = decode_all(files, size, self.resize, self.crop)
            if contents.reasons:
                index, reason = next(iter(contents.reasons.items()))
                raise UserError(
                    f"image {index} of {self.name} in {self.root} cannot be read: {reason}. Remove the set's files, "
                    "and the same command downloads them again."
                )
            digest.update(f"{part} {files_fingerprint(files, contents.digests)} ".encode())
            tensors[part] = torch.from_numpy(images), torch.from_numpy(files.labels)
        return tensors, digest.hexdigest()

    def _open(self, part: str) -> Any:  # noqa: ANN401 - any of torchvision's classes
        """Open "train", "val" or "test" of the set, downloading what is missing; None if the set has no such part."""
        takes = _parameters(self.name)
        if "train" in takes:
            return None if part == "val" else self._found({"train": part == "train"})
        if "split" not in takes:
            return self._found({}) if part == "train" else None
        for spelling in SPELLINGS[part]:
            try:
                return self._found({"split": spelling})
            except _UnknownSplitError:
                continue
        return None

    def _found(self, split: dict[str, Any]) -> Any:  # noqa: ANN401 - any of torchvision's classes
        try:
            try:
                return self._build(self.root, split)
            except _NOT_THERE:
                self._download(split)
                return self._build(self.root, split)
        except _NOT_READ as error:
            if "split" in split and f"'{split['split']}' for argument split" in str(error):
                raise _UnknownSplitError(str(error)) from error
            raise UserError(
                f"{self.name} in {self.root} cannot be opened: {one_line(error)}. Correct --data.source.arguments; or "
                "remove the set's files if they are damaged, and the same command downloads them again."
            ) from error

    def _build(self, root: Path, split: Mapping[str, Any], download: bool = False) -> Any:  # noqa: ANN401
        from torchvision import datasets

        # Files are decoded as every source decodes them, so that ``predict`` does the same: see _files.
        loader = {"loader": Path} if "loader" in _parameters(self.name) else {}
        return getattr(datasets, self.name)(root=root, download=download, **self.arguments, **split, **loader)

    def _download(self, split: dict[str, Any]) -> None:
        """Download a set beside the data and move it there when it is whole, unless another process has done so."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.root / f".{self.name}.lock")
            try:
                with lock, TemporaryDirectory(prefix=f".{self.name}-", dir=self.root) as draft:
                    try:
                        self._build(self.root, split)
                    except _NOT_THERE:
                        self._build(Path(draft), split, download=True)
                        _merge(Path(draft), self.root)
            finally:
                with suppress(OSError):  # another process waits for it; or the folder is not empty
                    Path(lock.lock_file).unlink()
                    self.root.rmdir()
        except _NOT_FETCHED as error:
            raise UserError(
                f"{self.name} is missing or damaged in {self.root} and cannot be downloaded ({one_line(error)}). Name "
                "the folder that holds it, as torchvision lays it out, with --data.source.root or FASHION_TL_DATA_DIR. "
                "`--data.source SyntheticGarments` needs no download."
            ) from error


class _UnknownSplitError(Exception):
    """A class of torchvision takes no split of this name."""


def _parameters(name: str) -> set[str]:
    """Name the arguments of a class's constructor, and those of its bases where it passes others on."""
    from torchvision import datasets

    found: set[str] = set()
    for kind in getattr(datasets, name).__mro__:
        if "__init__" in vars(kind):
            parameters = inspect.signature(kind.__init__).parameters.values()
            found |= {each.name for each in parameters}
            if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in parameters):
                break
    return found


def _is_arrays(dataset: Any) -> bool:  # noqa: ANN401 - any of torchvision's classes
    return isinstance(getattr(dataset, "data", None), np.ndarray | Tensor)


def _arrays(dataset: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - any of torchvision's classes
    """Return the images (N, C, H, W), uint8, and labels (N,), int64, of a set that holds arrays."""
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[1] != 3:
        images = images.permute(0, 3, 1, 2)
    labels = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return images.contiguous(), torch.as_tensor(labels, dtype=torch.int64)


def _files(dataset: Any) -> Iterable[tuple[Path, int]]:  # noqa: ANN401 - any of torchvision's classes
    """Return the files of a set that holds no arrays, and their labels; none is opened."""
    if hasattr(dataset, "loader"):  # which is Path
        return (dataset[index] for index in range(len(dataset)))
    # The other two open their files themselves.
    pairs = dataset._samples if hasattr(dataset, "_samples") else zip(dataset._images, dataset._labels, strict=True)
    return ((Path(path), label) for path, label in pairs)


def _names(dataset: Any) -> list[str]:  # noqa: ANN401 - any of torchvision's classes
    """Return the names of a set's classes, in the order of their labels; empty where it has none."""
    names = getattr(dataset, "classes", None)
    if names is None:
        numbers: dict[str, int] = getattr(dataset, "class_to_idx", {})
        names = sorted(numbers, key=lambda name: numbers[name])
    return [name if isinstance(name, str) else name[0] for name in names]  # Imagenette has synonyms


def _merge(source: Path, target: Path) -> None:
    """Move what a folder holds into another one, file by file where both have a folder of the same name."""
    for path in sorted(source.iterdir()):
        goal = target / path.name
        if path.is_dir() and goal.is_dir():
            _merge(path, goal)
        else:
            path.replace(goal)
