"""The layout of an image folder: its classes and files, found without opening one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fashion_tl.data.files import SUFFIXES, find_images
from fashion_tl.errors import UserError

Entries: TypeAlias = Sequence[tuple[Path, int]]

_LAYOUT = "Allowed: a folder with one subfolder of images per class, or with such folders train/ and test/."
_VALIDATION_NAMES = {"val", "valid", "validation"}
_SPLIT_NAMES = {"train", "training", "test", "testing"}


@dataclass(frozen=True)
class FolderIndex:
    """The files of an image folder and their classes.

    Attributes:
        class_names: Names of the classes, sorted; a label is an index into them.
        train: Path and label of each training image, class by class, sorted by path.
        test: The same for the test images; None if the folder is not divided and the caller has to split `train`.
    """

    class_names: tuple[str, ...]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]] | None


def scan_folder(root: Path) -> FolderIndex:
    """List the images of a folder without opening one.

    If `root` has train/ and test/, each with one subfolder per class, other folders beside these two are left alone;
    else `root` itself has one subfolder per class. Images count at any depth below their class folder; hidden files,
    hidden folders and files without a suffix of `SUFFIXES` do not.

    Args:
        root: The image folder.

    Returns:
        The classes and files, in an order that depends on nothing but their names.

    Raises:
        UserError: The folder does not have this layout, a class is empty, or train/ and test/ differ in their classes.
    """
    if not root.is_dir():
        wrong = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"the image folder {root} {wrong}. {_LAYOUT} Give such a folder, absolute or below the root.")
    try:
        names = _subfolders(root)
        _check_split_names(root, names)
        if not {"train", "test"} <= set(names):
            return _index({"": root})
        return _index({"train": root / "train", "test": root / "test"})
    except OSError as error:
        raise UserError(f"{error.filename} cannot be listed: {error.strerror}. Allow it or remove it.") from error


def _subfolders(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _check_split_names(root: Path, names: list[str]) -> None:
    """Refuse folders of splits that would be taken for classes or silently left out."""
    validation = [name for name in names if name.lower() in _VALIDATION_NAMES]
    if validation:
        raise UserError(
            f"{root} has a folder {validation[0]!r}, but the validation set is split from the training images by seed. "
            f"Move its images into the class folders of train/, rename it to 'test' if there is no test/, or remove it."
        )
    if names and {name.lower() for name in names} <= _SPLIT_NAMES and not {"train", "test"} <= set(names):
        raise UserError(
            f"{root} has {', '.join(map(repr, names))}, but 'train' and 'test' are needed, spelt like this and both. "
            f"Rename or add the other one, or give {root / names[0]} itself and the test set is split from it."
        )


def _index(splits: dict[str, Path]) -> FolderIndex:
    """List the images of one or two folders with the same classes; "" names a folder that is not divided."""
    class_names = {name: _subfolders(folder) for name, folder in splits.items()}
    every_class = sorted(set().union(*class_names.values()))
    found: dict[str, list[tuple[Path, int]]] = {}
    problems: list[str] = []
    for split, folder in splits.items():
        if not class_names[split]:
            problems.append(f"{folder} has no class folders. {_LAYOUT}")
            continue
        missing = [name for name in every_class if name not in class_names[split]]
        if missing:
            problems.append(
                f"{folder} has no folder for {', '.join(map(repr, missing))}, which the other split has. "
                "Add it with images, or remove the class from both."
            )
        files = {name: find_images(folder / name) for name in class_names[split]}
        empty = [str(folder / name) for name, paths in files.items() if not paths]
        if empty:
            problems.append(f"no images in {', '.join(empty)}. Add images ({' '.join(SUFFIXES)}) or remove the folder.")
        found[split] = [(path, every_class.index(name)) for name, paths in files.items() for path in paths]
    if len(every_class) == 1:
        (root, *_) = splits.values()
        problems.append(
            f"{root} has one class folder, {every_class[0]!r}; at least two are needed. {_LAYOUT} "
            "Add a class, or give the folder that holds the class folders."
        )
    if problems:
        raise UserError("\n".join(problems))
    train, *test = found.values()
    return FolderIndex(tuple(every_class), train, test[0] if test else None)
