"""Rows that say of each image its label, and its split and group if wanted, sorted into classes and splits."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fashion_tl.data.file_list import LabelledFiles, files_of
from fashion_tl.data.files import ImageFile
from fashion_tl.data.folder_index import FileIndex
from fashion_tl.data.image_folder import ImageFiles
from fashion_tl.data.sources import Loaded
from fashion_tl.data.threads import in_order, tracked
from fashion_tl.errors import UserError, shown

_NAMED = 3  # of what is wrong in the same way
_LABELS = "A label is the name of a class or its number."


@dataclass(frozen=True, slots=True)
class Row:
    """What is said of an image.

    Attributes:
        file: The image file.
        label: The name of its class.
        split: "train", "val" or "test".
        group: Its group, see ``group_name``; None for an image that stands for itself.
        key: Its order within class and split.
        place: Where this is said, for messages.
    """

    file: ImageFile
    label: str
    split: str = "train"
    group: str | None = None
    key: str = ""
    place: str = ""


class ListedImages(ImageFiles):
    """Image files that rows list; a subclass makes an index of them by ``index_rows``.

    Attributes:
        by_content: Whether the images of a class come in the order of their content; see ``told_apart``.
    """

    by_content = False

    def load(self) -> Loaded:
        """Load the images; the fingerprint covers their splits and groups, which files do not tell."""
        loaded = super().load()
        told = f"{loaded.fingerprint} {[(name, len(images)) for name, images in loaded.sets.items()]} {loaded.divided}"
        if loaded.groups is not None:
            told += f" {loaded.groups.tolist()}"
        return replace(loaded, fingerprint=hashlib.sha256(told.encode()).hexdigest())

    def ordered(self) -> FileIndex:
        """Return the images in the order of their keys, or of their content where keys do not tell them apart."""
        if not self.by_content:
            return self.index
        parts, groups = self.index.parts, self.index.groups
        orders = {part: _order_of_content(files, groups if part == "train" else None) for part, files in parts.items()}
        moved = {part: files_of([files[place] for place in orders[part]]) for part, files in parts.items()}
        own_groups = None if groups is None else [groups[place] for place in orders["train"]]
        return replace(
            self.index, train=moved["train"], test=moved.get("test"), val=moved.get("val"), groups=own_groups
        )


def told_apart(rows: Sequence[Row]) -> tuple[list[Row], bool]:
    """Take the keys away from rows if they do not tell the images of a class and split apart.

    Returns:
        The rows, and whether the content of their images is to order them: ``ListedImages.by_content``.
    """
    by_content = len({(row.split, row.label, row.key) for row in rows}) < len(rows)
    return [replace(row, key="") if by_content else row for row in rows], by_content


def _order_of_content(files: LabelledFiles, groups: Sequence[int] | None) -> list[int]:
    """Return the places of images in the order of label and content, copies in that of their groups."""

    def key(place: int) -> tuple[int, bytes, int]:
        file, label = files[place]
        try:
            digest = hashlib.sha256(file.read_bytes()).digest()
        except (OSError, ValueError):  # found again, and told, where images are decoded
            digest = b""
        return label, digest, 0 if groups is None else groups[place]

    keys = list(tracked(in_order(key, len(files)), len(files), "ordering the images"))
    return sorted(range(len(files)), key=keys.__getitem__)


def index_rows(
    rows: Iterable[Row], listed_in: str, unit: str, advice: str, class_names: Sequence[str] | None = None
) -> FileIndex:
    """Sort rows into classes and splits; those of a class and a split come in the order of their keys.

    Args:
        rows: The rows.
        listed_in: What they come from, for messages.
        unit: What they are there, such as "rows".
        advice: What to check where there is no class, or one.
        class_names: Names in the order of the labels, of which those without an image are left out; sorted if None.

    Raises:
        UserError: If classes or splits are missing, a group is empty, or one is in two splits.
    """
    rows = list(rows)
    given = {row.label for row in rows}
    names = tuple(sorted(given) if class_names is None else (name for name in class_names if name in given))
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else f"no {unit}"
        raise UserError(f"{listed_in} has {found}; at least two classes are needed. {advice}")
    splits = {split for split in ("train", "test", "val") if any(row.split == split for row in rows)}
    found_in = _by((row.label, row.split) for row in rows)
    lost = [f"{split!r} of {name!r}" for name in names for split in sorted({"train", *splits} - found_in[name])]
    if lost:
        raise UserError(
            f"{listed_in} has no {unit} for {first(lost)}: each class needs images in each split. Add {unit}, or "
            "remove the class."
        )
    if empty := [row.place for row in rows if row.group == ""]:
        raise UserError(
            f"{listed_in} has no group in {first(empty)}. Fill the column, or leave --data.source.group_column out."
        )
    sides = _by((row.group, row.split) for row in rows if row.group is not None)
    if torn := [group for group, found in sides.items() if len(found) > 1]:
        told = []
        for group in torn[:_NAMED]:
            places = (f"{row.split} in {row.place}" for row in _one_of_each_split(rows, group))
            told.append(f"{group[:40]!r} ({', '.join(places)})")
        raise UserError(
            f"{listed_in} divides groups between splits: {first([*told, *torn[_NAMED:]])}. Put each group into one "
            "split."
        )
    numbers = {name: number for number, name in enumerate(names)}
    ordered = sorted(rows, key=lambda row: (numbers[row.label], row.key))
    files = files_of([(row.file, numbers[row.label]) for row in ordered])
    parts = {split: files.take(np.array([row.split == split for row in ordered])) for split in splits}
    groups = None
    if sides:
        group_numbers: dict[str | None, int] = {group: number for number, group in enumerate(sorted(sides))}
        groups = [group_numbers[row.group] for row in ordered if row.split == "train"]
    return FileIndex(names, parts["train"], parts.get("test"), parts.get("val"), groups)


def group_name(value: object) -> str:
    """Write a group as text; empty where there is none: None, NaN and blank text."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value).strip()


def first(told: list[str]) -> str:
    """List the first few."""
    return ", ".join(told[:_NAMED]) + (f", ... ({len(told)} in all)" if len(told) > _NAMED else "")


def named_labels(
    labels: Sequence[object], places: Sequence[str], listed_in: str, class_names: Sequence[str] | None = None
) -> tuple[list[str], tuple[str, ...] | None]:
    """Turn labels that are all names, or all whole numbers, into names of classes.

    Args:
        labels: The labels (N).
        places: Where each stands, for messages.
        listed_in: What they come from, for messages.
        class_names: The names of the numbers from 0; or the allowed names, in the order of the labels.

    Returns:
        The name of each label, and the classes in the order of their labels: numbers by size where they have no names;
        None for sorted names.

    Raises:
        UserError: If labels are missing, of another type, or not among the classes.
    """

    def where(wrong: Callable[[object], bool]) -> str:
        return first(
            [f"{shown(label)} in {place}" for label, place in zip(labels, places, strict=True) if wrong(label)]
        )

    values = [str(label) if isinstance(label, bool) else label for label in labels]
    if odd := where(lambda label: not isinstance(label, str | int) or label == ""):
        raise UserError(f"{listed_in} has labels that are neither names nor whole numbers: {odd}. {_LABELS}")
    numbers = [value for value in values if isinstance(value, int)]
    if numbers and len(numbers) < len(values):
        told = where(lambda label: isinstance(label, str)), where(lambda label: not isinstance(label, str))
        raise UserError(f"{listed_in} has labels of two kinds: {told[0]}; {told[1]}. Give all names, or all numbers.")
    if class_names is None:
        return [str(value) for value in values], tuple(map(str, sorted(set(numbers)))) if numbers else None
    allowed = range(len(class_names)) if numbers else class_names
    if odd := where(lambda label: label not in allowed):
        raise UserError(
            f"{listed_in} has labels beside --data.source.class_names ({', '.join(class_names)[:200]}): {odd}. Name "
            "every class there; whole numbers are places in that list, from 0."
        )
    return [class_names[value] if isinstance(value, int) else str(value) for value in values], tuple(class_names)


def check_class_names(class_names: Sequence[str] | None) -> None:
    """Raise a UserError if names of classes are given twice."""
    if class_names is not None and len(set(class_names)) < len(class_names):
        raise UserError(f"data.source.class_names has a name twice: {', '.join(class_names)[:200]}.")


def _by(pairs: Iterable[tuple[str, Hashable]]) -> dict[str, set[Hashable]]:
    """Collect values by their key."""
    found: dict[str, set[Hashable]] = defaultdict(set)
    for key, value in pairs:
        found[key].add(value)
    return found


def _one_of_each_split(rows: list[Row], group: str) -> list[Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if row.group == group:
            found.setdefault(row.split, row)
    return list(found.values())
