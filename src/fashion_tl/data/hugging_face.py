"""Datasets of the library `datasets`: of the Hugging Face Hub by name, or Parquet, images and saved ones on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_tl.data.files import PackedImage
from fashion_tl.data.folder_index import VALIDATION_NAMES
from fashion_tl.data.hub_access import library, open_dataset
from fashion_tl.data.hub_columns import choose_columns
from fashion_tl.data.rows import ListedImages, Row, check_class_names, group_name, index_rows, named_labels, told_apart
from fashion_tl.data.sources import data_root
from fashion_tl.errors import UserError, unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = {"train": ("train", "training"), "val": VALIDATION_NAMES, "test": ("test", "testing")}

_ROWS = 1000  # of which the paths are read at a time
_SPLIT_HINT = "Say which is which: --data.source.splits '{train: NAME, val: NAME, test: NAME}'."


@dataclass(frozen=True)
class ArrowColumn:
    """The images of a split: a column of a memory-mapped Arrow table, which gives any row at once.

    Attributes:
        name: Names the split, for messages.
        column: The column.
        dataset: The split, in the format "arrow"; pickled as the name of its file.
    """

    name: str
    column: str
    dataset: Any = field(repr=False, compare=False)

    def read(self, row: int) -> bytes:
        """Read an image file, from the table or from where the table says.

        Raises:
            OSError: If the table names a file that cannot be read.
            ValueError: If the row has no image.
        """
        value = self.dataset[row].column(self.column)[0].as_py()
        if isinstance(value, dict):
            path = value.get("path")
            value = Path(path).read_bytes() if value["bytes"] is None and path else value["bytes"]
        if value is None:
            raise ValueError("the row has no image")
        return bytes(value)


@dataclass(frozen=True, slots=True)
class ArrowCell(PackedImage):
    """The image of one row, from 0, of a column."""

    images: ArrowColumn
    row: int

    def __str__(self) -> str:
        """Name row and split."""
        return f"row {self.row} of {self.images.name}"

    def read_bytes(self) -> bytes:
        """Read the image file as it was packed; see `ArrowColumn.read`."""
        return self.images.read(self.row)


class HuggingFace(ListedImages):
    """A dataset of the Hugging Face Hub, a Parquet file, a folder of Parquet files or of images, or a saved dataset.

    The library `datasets` reads it, and keeps a copy as Arrow in its own cache (HF_DATASETS_CACHE). Images are decoded
    into memory where they fit, else row by row from that copy. In each class they come in the order of the paths that
    the images carry; where an image carries none, or two the same, in the order of the SHA-256 of their content: the
    order of rows and files makes no difference.

    Args:
        name: A file or folder below ``root``, or an absolute one; else owner and name of a dataset of the Hub, such as
            ylecun/mnist.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".
        config: Name of the dataset's configuration, where it has several.
        revision: Branch, tag or commit of a dataset of the Hub.
        splits: The dataset's splits to train, validate and test on, such as {train: full, test: null}; those called
            train, validation (val, valid) and test if not given. What is missing is split off the training images.
        image_column: The column of images; found by its type if there is one.
        label_column: The column of labels: ClassLabel, names or whole numbers; found by its type if there is one.
        group_column: A column with what images have in common, such as a patient: a group never straddles two splits.
        class_names: Names of labels that are whole numbers, from 0; or the order of the classes.
        **decoding: How images are decoded: the other arguments of ``ImageFiles``.

    Raises:
        UserError: If the dataset is not to be had, or its splits, columns or labels do not make classes of images.
    """

    def __init__(
        self,
        name: str,
        root: str | Path | None = None,
        config: str | None = None,
        revision: str | None = None,
        splits: dict[str, str | None] | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        class_names: list[str] | None = None,
        **decoding: Any,  # noqa: ANN401 - the arguments of ImageFiles, checked there
    ) -> None:
        self.root, self.name, self.config, self.revision = data_root(root), name, config, revision
        check_class_names(class_names)
        with library():
            found, told = open_dataset(self.root, name, config, revision)
            chosen = _chosen(found, splits, told)
            features = {part: dict(dataset.features) for part, dataset in chosen.items()}
            columns = choose_columns(features, told, image_column, label_column, group_column)
            rows, names = _rows(chosen, columns, told, class_names)
        rows, self.by_content = told_apart(rows)
        index = index_rows(rows, told, "images", "Check --data.source.label_column.", names)
        super().__init__(index, **decoding)


def _rows(
    chosen: Mapping[str, Dataset], columns: Mapping[str, str], told: str, class_names: Sequence[str] | None
) -> tuple[list[Row], Sequence[str] | None]:
    """Read what the rows say of the images; returns them, and the classes in the order of their labels.

    Raises:
        UserError: If a label is missing.
    """
    rows: list[Row] = []
    labels: list[object] = []
    for part, dataset in chosen.items():
        arrow = dataset.with_format("arrow")
        images = ArrowColumn(
            f"{dataset.split or part} of {told}", columns["image"], arrow.select_columns(columns["image"])
        )
        labels += _values(arrow, columns["label"])
        groups: list[str | None] = [None] * len(dataset)
        if "group" in columns:
            groups = [group_name(value) for value in _values(arrow, columns["group"])]
        rows += [
            Row(ArrowCell(images, number), "", part, group, path or "", f"row {number} of {images.name}")
            for number, (path, group) in enumerate(zip(_paths(images), groups, strict=True))
        ]
    own = getattr(next(iter(chosen.values())).features[columns["label"]], "names", None)
    if own is not None:
        if class_names is not None:
            raise UserError(
                f"{told} has names of its classes: {', '.join(own)[:200]}. Leave --data.source.class_names out."
            )
        if unlabelled := [row for row, label in zip(rows, labels, strict=True) if label not in range(len(own))]:
            raise UserError(
                f"{told} has {len(unlabelled)} images without a label (-1, or none), such as {unlabelled[0].place}. "
                "Leave their split out, if it has no labels: --data.source.splits '{test: null}'."
            )
    names, order = named_labels(labels, [row.place for row in rows], told, class_names if own is None else own)
    return [replace(row, label=name) for row, name in zip(rows, names, strict=True)], order


def _values(arrow: Dataset, column: str) -> list[Any]:
    values: list[Any] = arrow.select_columns(column)[:].column(column).to_pylist()
    return values


def _paths(images: ArrowColumn) -> list[str | None]:
    """Return the path that each image carries, without reading the images."""
    import pyarrow

    paths: list[str | None] = []
    for table in images.dataset.iter(_ROWS):
        for chunk in table.column(images.column).chunks:
            carried = isinstance(chunk, pyarrow.StructArray) and chunk.type.get_field_index("path") >= 0
            paths += chunk.field("path").to_pylist() if carried else [None] * len(chunk)
    return paths


def _chosen(found: Mapping[str, Dataset], splits: Mapping[str, str | None] | None, told: str) -> dict[str, Dataset]:
    """Return the splits to train, validate and test on.

    Raises:
        UserError: If a split does not exist, is empty, is named twice, or none is there to train on.
    """
    wanted: dict[str, str | None] = {
        part: next((name for name in names if name in found), None) for part, names in SPLITS.items()
    }
    spelled = {spelling: part for part, names in SPLITS.items() for spelling in names}
    for given, name in (splits or {}).items():
        if given not in spelled:
            raise unknown_name("part of --data.source.splits", str(given), SPLITS, _SPLIT_HINT)
        if name is not None and name not in found:
            raise unknown_name(f"split of {told}", str(name), found, _SPLIT_HINT)
        wanted[spelled[given]] = name
    named = {part: name for part, name in wanted.items() if name is not None}
    if "train" not in named:
        raise UserError(f"{told} has the splits {', '.join(found)}, and none to train on. {_SPLIT_HINT}")
    if len(set(named.values())) < len(named):
        raise UserError(f"--data.source.splits names a split of {told} twice: {named}. Give each part its own.")
    if empty := [name for name in named.values() if not len(found[name])]:
        raise UserError(f"{told} has no rows in its split {empty[0]!r}. {_SPLIT_HINT}")
    return {part: found[name] for part, name in named.items()}
