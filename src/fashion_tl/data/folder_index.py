"""The layout of an image folder: its classes and files, found without opening one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from fashion_tl.data.file_list import FileList, LabelledFiles, Reached, counted_endings
from fashion_tl.data.files import SUFFIXES
from fashion_tl.errors import UserError

VALIDATION_NAMES = ("val", "validation", "valid")

_LAYOUT = (
    "Allowed: a folder with one subfolder of images per class, or with such folders train/ and test/, train/ and val/, "
    "or all three."
)
_ALLOWED = {"train": "train", "test": "test", **dict.fromkeys(VALIDATION_NAMES, "val")}
_MEANT = {**_ALLOWED, "training": "train", "testing": "test", "tests": "test"}  # in any case


@dataclass(frozen=True)
class FileIndex:
    """Image files and their classes.

    Attributes:
        class_names: Names of the classes; a label is an index into them.
        train: The training images, class by class.
        test: The test images; None if they are to be split off `train`.
        val: The validation images, the same. Lists of paths are of one folder.
        groups: The group of each training image, from 0; None if each image stands for itself.
        others: How many files are left out, by their ending: those without an ending of an image, and images beside the
            folders of classes.
        remarks: What a run says about the files, in lines.
    """

    class_names: tuple[str, ...]
    train: LabelledFiles
    test: LabelledFiles | None
    val: LabelledFiles | None = None
    groups: Sequence[int] | None = None
    others: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, LabelledFiles]:
        """The files of each split that the files are divided into, in the order train, test, val."""
        parts = {"train": self.train, "test": self.test, "val": self.val}
        return {name: files for name, files in parts.items() if files is not None}


def scan_folder(root: Path) -> FileIndex:
    """List the images of a folder without opening one.

    If `root` has train/ and at least one of test/ and val/ (or validation/, valid/), each with one subfolder per class,
    other folders beside these are left alone, and named; else `root` itself has one subfolder per class. Images count
    at any depth below their class folder; hidden files, hidden folders and files without a suffix of `SUFFIXES` do not.

    Args:
        root: The image folder.

    Returns:
        The classes and files, in an order that depends on nothing but their names.

    Raises:
        UserError: The folder does not have this layout, a class is empty, the splits differ in their classes, or links
            lead from two classes or splits to one folder.
    """
    if not root.is_dir():
        wrong = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"the image folder {root} {wrong}. {_LAYOUT} Give such a folder, absolute or below the root.")
    try:
        names = _subfolders(root)
        splits = _splits(root, names)
        index = _index(root, splits, sum(map(_loose, {root, *splits.values()}), Counter[str]()))
    except OSError as error:
        told = f"{error.filename or root} cannot be listed: {error.strerror or error}. Allow it or remove it."
        raise UserError(told) from error
    left = [name for name in names if not {root, root / name} & set(splits.values())]
    return replace(index, remarks=(f"left alone in {root}: {', '.join(map(repr, left))}",)) if left else index


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _loose(folder: Path) -> Counter[str]:
    """Count the images that lie in a folder itself, beside its subfolders."""
    found = [(path, path.suffix.lower()) for path in folder.iterdir() if not path.name.startswith(".")]
    return Counter(f"{ending} beside class folders" for path, ending in found if ending in SUFFIXES and path.is_file())


def _splits(root: Path, names: list[str]) -> dict[str, Path]:
    """Find the folders of splits among the subfolders of a folder; "train" alone for one that is not divided.

    Raises:
        UserError: If folders of splits would be taken for classes or silently left out.
    """
    meant = {name: _MEANT[name.lower()] for name in names if name.lower() in _MEANT}
    parts = list(meant.values())
    if not ("val" in parts or {"train", "test"} <= set(parts) or (names and len(meant) == len(names))):
        return {"train": root}
    wrong = [name for name, part in meant.items() if name not in _ALLOWED or parts.count(part) > 1]
    if wrong or "train" not in parts or len(parts) < 2:
        what = f"Rename, move or remove {', '.join(map(repr, wrong))}" if wrong else "Add or rename the other folder"
        raise UserError(
            f"{root} has {', '.join(map(repr, meant))}. Folders of splits are 'train' and 'test', 'train' and 'val' "
            f"(or 'validation', 'valid'), or all three, spelt like this. {what}; give a class of such a name another "
            f"one; or give {root / min(meant, key=lambda name: meant[name] != 'train')} itself: what is missing is "
            "split from it."
        )
    return {part: root / name for part in ("train", "test", "val") for name in meant if meant[name] == part}


def _index(root: Path, splits: dict[str, Path], others: Counter[str]) -> FileIndex:
    """List the images of the folders of one or more splits with the same classes, and count other files."""
    class_names = {name: _subfolders(folder) for name, folder in splits.items()}
    every_class = sorted(set().union(*class_names.values()))
    found: dict[str, FileList] = {}
    problems: list[str] = []
    reached: Reached = {}
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
        files = FileList.below(root, [folder / name for name in class_names[split]], labels, others, reached)
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
    if shared := [paths for paths in reached.values() if len(paths) > 1]:
        problems.append(
            f"{' and '.join(shared[0])} are one folder, reached by links; its images would be in several classes or "
            f"splits. Remove the links ({len(shared)} such folders)."
        )
    if problems:
        raise UserError("\n".join(problems))
    return FileIndex(tuple(every_class), found["train"], found.get("test"), found.get("val"), others=others)
