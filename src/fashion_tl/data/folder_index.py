"""The layout of an image folder: its classes and files, found without opening one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fashion_tl.data.file_list import FileList, LabelledFiles, counted_endings
from fashion_tl.data.files import SUFFIXES
from fashion_tl.errors import UserError

VALIDATION_NAMES = ("val", "validation", "valid")

_LAYOUT = (
    "Allowed: a folder with one subfolder of images per class, or with such folders train/ and test/, train/ and val/, "
    "or all three."
)
_SPLIT_NAMES = {"train", "training", "test", "testing", *VALIDATION_NAMES}


@dataclass(frozen=True)
class FileIndex:
    """Image files and their classes.

    Attributes:
        class_names: Names of the classes; a label is an index into them.
        train: The training images, class by class.
        test: The test images; None if they are to be split off `train`.
        val: The validation images, the same. Lists of paths are of one folder.
        groups: The group of each training image, from 0; None if each image stands for itself.
        others: How many files beside the images have no ending of an image, by their ending.
    """

    class_names: tuple[str, ...]
    train: LabelledFiles
    test: LabelledFiles | None
    val: LabelledFiles | None = None
    groups: Sequence[int] | None = None
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, LabelledFiles]:
        """The files of each split that the files are divided into, in the order train, test, val."""
        parts = {"train": self.train, "test": self.test, "val": self.val}
        return {name: files for name, files in parts.items() if files is not None}


def scan_folder(root: Path) -> FileIndex:
    """List the images of a folder without opening one.

    If `root` has train/ and at least one of test/ and val/ (or validation/, valid/), each with one subfolder per class,
    other folders beside these are left alone; else `root` itself has one subfolder per class. Images count at any depth
    below their class folder; hidden files, hidden folders and files without a suffix of `SUFFIXES` do not.

    Args:
        root: The image folder.

    Returns:
        The classes and files, in an order that depends on nothing but their names.

    Raises:
        UserError: The folder does not have this layout, a class is empty, or the splits differ in their classes.
    """
    if not root.is_dir():
        wrong = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"the image folder {root} {wrong}. {_LAYOUT} Give such a folder, absolute or below the root.")
    try:
        return _index(root, _splits(root, _subfolders(root)))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}. Allow it or remove it.") from error


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _splits(root: Path, names: list[str]) -> dict[str, Path]:
    """Find the folders of splits among the subfolders of a folder; "train" alone for one that is not divided.

    Raises:
        UserError: If folders of splits would be taken for classes or silently left out.
    """
    validation = [name for name in names if name.lower() in VALIDATION_NAMES]
    divided = "train" in names and bool({"test", *validation} & set(names))
    if "train" not in names and len(validation) == 1 and validation[0] in VALIDATION_NAMES:
        raise UserError(
            f"{root} has a validation folder, {validation[0]!r}, and no 'train' beside it. Add or rename the folder of "
            f"the training images; give {validation[0]!r} another name if it is a class."
        )
    if len(validation) > 1 or (validation and not divided) or not set(validation) <= set(VALIDATION_NAMES):
        raise UserError(
            f"{root} has {', '.join(map(repr, validation))}, but one validation folder is allowed, called "
            f"{', '.join(map(repr, VALIDATION_NAMES))}, beside train/. Rename, move or remove the others."
        )
    if names and not divided and {name.lower() for name in names} <= _SPLIT_NAMES:
        raise UserError(
            f"{root} has {', '.join(map(repr, names))}, but 'train' and 'test' are needed, or 'train' and 'val', spelt "
            f"like this. Rename or add the other one, or give {root / names[0]} itself: the test set is split from it."
        )
    if not divided:
        return {"train": root}
    found = {"train": "train", "test": "test", "val": next(iter(validation), "")}
    return {split: root / name for split, name in found.items() if name in names}


def _index(root: Path, splits: dict[str, Path]) -> FileIndex:
    """List the images of the folders of one or more splits with the same classes."""
    class_names = {name: _subfolders(folder) for name, folder in splits.items()}
    every_class = sorted(set().union(*class_names.values()))
    found: dict[str, FileList] = {}
    problems: list[str] = []
    others = Counter[str]()
    for split, folder in splits.items():
        if not class_names[split]:
            problems.append(f"{folder} has no class folders. {_LAYOUT}")
            continue
        missing = [name for name in every_class if name not in class_names[split]]
        if missing:
            problems.append(
                f"{folder} has no folder for {', '.join(map(repr, missing))}, which another split has. "
                "Add it with images, or remove the class from every split."
            )
        labels = [every_class.index(name) for name in class_names[split]]
        files = FileList.below(root, [folder / name for name in class_names[split]], labels, others)
        there = set(np.unique(files.labels).tolist())
        empty = [str(folder / every_class[label]) for label in labels if label not in there]
        if empty:
            beside = f" There are other files ({counted_endings(others)})." if others else ""
            problems.append(
                f"no images in {', '.join(empty)}.{beside} Add images ({' '.join(SUFFIXES)}) or remove the folder."
            )
        found[split] = files
    if len(every_class) == 1:
        (folder, *_) = splits.values()
        problems.append(
            f"{folder} has one class folder, {every_class[0]!r}; at least two are needed. {_LAYOUT} "
            "Add a class, or give the folder that holds the class folders."
        )
    if problems:
        raise UserError("\n".join(problems))
    return FileIndex(tuple(every_class), found["train"], found.get("test"), found.get("val"), others=others)
