"""Tables of image files: what is read, how it is divided, and every mistake as one message."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.data.csv_table import CSV
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.files import decode_image
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.errors import UserError

NAMES = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(8)]
LABELS = [name.split("/")[0] for name in NAMES]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 8 cats and 8 dogs, all different."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(path)
    return tmp_path


def write(photos: Path, more: Mapping[str, list[str]] | None = None, delimiter: str = ",", name: str = "t.csv") -> Path:
    """Write a table of all photos, with further columns."""
    columns: dict[str, list[str]] = {"path": NAMES, "label": LABELS, **(more or {})}
    lines = [delimiter.join(columns), *(delimiter.join(row) for row in zip(*columns.values(), strict=True))]
    (photos / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return photos / name


def split(train: int = 5, val: int = 1) -> list[str]:
    """The splits of 8 images of each class."""
    return (["train"] * train + ["val"] * val + ["test"] * (8 - train - val)) * 2


def loaded(table: Path, **changes: Any) -> ImageDataModule:
    data = ImageDataModule(CSV(table, storage_size=8, **changes), num_workers=0)
    data.setup()
    return data


def test_a_table_alone_is_divided_by_seed(photos: Path) -> None:
    data = loaded(write(photos))
    assert data.class_names == ["cat", "dog"]
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}
    entries = CSV(photos / "t.csv").index.train
    assert [Path(str(path)).relative_to(photos).as_posix() for path, _ in entries] == NAMES
    images, labels = data.splits["train"].images.__getitems__(range(16))  # type: ignore[arg-type]
    assert labels.tolist() == [0] * 8 + [1] * 8
    assert torch.equal(images[9], decode_image(photos / NAMES[9], 8, "crop", 0.875))


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "val", "test"), {"train": 10, "val": 2, "test": 4}),
        (("Train ", "VALIDATION", "test"), {"train": 10, "val": 2, "test": 4}),
        (("train", "valid", "train"), {"train": 12, "val": 2, "test": 2}),  # a fifth of 7 images of a class tests
        (("train", "test", "test"), {"train": 8, "val": 2, "test": 6}),
        (("train", "train", "train"), {"train": 10, "val": 2, "test": 4}),
    ],
)
def test_splits_as_given(photos: Path, names: tuple[str, str, str], sizes: dict[str, int]) -> None:
    given = dict(zip(("train", "val", "test"), names, strict=True))
    table = write(photos, {"set": [given[each] for each in split()]})
    assert loaded(table, split_column="set").describe()["sizes"] == sizes


def test_order_of_rows_and_form_of_the_table_make_no_difference(photos: Path) -> None:
    expected = loaded(write(photos, {"set": split()}), split_column="set").identity
    for number, delimiter in enumerate(",;\t"):
        table = write(photos, {"set": split()}, delimiter, f"{number}.csv")
        header, *rows = table.read_text().splitlines()
        quoted = [f'"./{row[:9]}"{row[9:]}' for row in reversed(rows)]
        table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["", header, *quoted[:3], "", *quoted, ""]).encode())
        assert loaded(table, split_column="set").identity == expected
    table = write(photos, {"set": split(4)}, name="other.csv")
    assert loaded(table, split_column="set").identity["images"] != expected["images"]


@pytest.mark.parametrize("spelling", ["{photos}/{name}", "../{folder}/{name}", "{photos}/../{folder}/cat/../{name}"])
def test_a_file_in_two_spellings_is_one_image(photos: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.chdir(photos)
    again = [spelling.format(photos=photos, folder=photos.name, name=name) for name in NAMES[:3]]
    lines = [f"{name},{label},{part}" for name, label, part in zip(NAMES, LABELS, split(), strict=True)]
    repeated = [f"{name},cat,train" for name in again]

    def identity(*lines: str) -> dict[str, Any]:
        (photos / "t.csv").write_text(rows("path,label,set", *lines))
        return loaded(Path("t.csv"), root=".", split_column="set").identity

    expected = identity(*lines)
    assert expected["train_images"] != identity(*lines[1:])["train_images"]
    once = identity(*lines[3:], *repeated)
    assert identity(*lines, *repeated)["train_images"] == expected["train_images"]
    assert identity(*repeated, *lines) == identity(*lines, *repeated)
    assert once["train_images"] == expected["train_images"]
    for other in (f"{again[0]},dog,train", f"{again[0]},cat,test"):
        with pytest.raises(UserError, match=r"listed twice, differently: '\w+' and '\w+' in line 2"):
            identity(*lines, other)


@pytest.mark.parametrize("table", ["t.csv", "in/t.csv", "zoo/in/t.csv"])
def test_the_spelling_of_paths_makes_no_difference(photos: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """Nor where the command runs, nor whether the root is absolute; half of the images lie beside the table."""
    folder = (photos / table).parent
    monkeypatch.chdir(photos)
    places = [photos / name for name in NAMES]
    for number in range(0, 16, 2):
        places[number] = folder / "own" / NAMES[number]
        places[number].parent.mkdir(parents=True, exist_ok=True)
        (photos / NAMES[number]).rename(places[number])

    def identity(spelled: Callable[[int], str], file: Path, root: str | Path) -> dict[str, Any]:
        lines = [f"{spelled(number)},{label}" for number, label in enumerate(LABELS)]
        (photos / table).write_text(rows("path,label", *lines))
        return loaded(file, root=root).identity

    def relative(number: int) -> str:
        return os.path.relpath(places[number], folder)

    def mixed(number: int) -> str:
        return str(places[number]) if number % 3 else relative(number)

    found = [identity(spelled, Path(table), ".") for spelled in (relative, mixed, lambda n: str(places[n]))]
    found.append(identity(relative, Path(table), photos))
    monkeypatch.chdir(folder)
    found += [identity(relative, Path("t.csv"), "."), identity(mixed, Path("t.csv"), folder)]
    assert found == [found[0]] * 6
    moved = photos.with_name(f"{photos.name}_moved")
    identity(relative, photos / table, photos)
    shutil.copytree(photos, moved)
    assert loaded(Path(table), root=moved).identity == found[0]


def test_the_fingerprint_of_a_plain_table_is_that_of_earlier_versions(photos: Path) -> None:
    for number, name in enumerate(NAMES):
        Image.new("L", (2, 2), number).save(photos / name, "PPM")
    assert loaded(write(photos)).describe()["fingerprint"].startswith("e99e5dfb95d3d264")


@pytest.mark.parametrize(
    "header",
    ['path;"a, b, c";label', "sep=;\npath;note;label", '"sep=;"\r\npath;note;label', 'path;"a,\nb,\nc";label'],
)
def test_the_delimiter_is_that_of_the_wanted_columns(photos: Path, header: str) -> None:
    lines = [f"{name};;{label}" for name, label in zip(NAMES, LABELS, strict=True)]
    (photos / "t.csv").write_text(rows(header, *lines), newline="")
    assert loaded(photos / "t.csv").describe()["sizes"] == {"train": 10, "val": 2, "test": 4}
    (photos / "t.csv").write_text(rows(header, *lines, "cat/9.png"), newline="")
    with pytest.raises(UserError, match=rf"line {len(lines) + header.count(chr(10)) + 2} has 1"):
        loaded(photos / "t.csv")


def test_paths_start_from_a_folder(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    table = write(photos, name="tables/t.csv")
    data = loaded(Path("tables/t.csv"), root=tmp_path, folder=".")
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}
    table.write_text("path,label\n" + "\n".join(f"{photos / name},{name[:3]}" for name in NAMES))
    assert loaded(table).identity == data.identity  # absolute ones stand for themselves


def test_a_folder_and_a_table_of_it_are_divided_alike(photos: Path) -> None:
    for name, part in zip(NAMES, split(), strict=True):
        (photos / part / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).rename(photos / part / name)
    (photos / "t.csv").write_text(
        "path,label,set\n"
        + "".join(f"{p}/{n},{n[:3]},{p}\n" for n, p in reversed(list(zip(NAMES, split(), strict=True))))
    )
    for label in ("cat", "dog"):
        (photos / label).rmdir()
    table = loaded(photos / "t.csv", split_column="set")
    folder = ImageDataModule(ImageFolder(photos, storage_size=8), num_workers=0)
    folder.setup()
    for part in ("train", "val", "test"):
        assert torch.equal(table.splits[part].indices, folder.splits[part].indices)
        assert torch.equal(table.splits[part].labels, folder.splits[part].labels)
        one, other = (torch.cat(list(data.in_order(part, 16))) for data in (table, folder))
        assert torch.equal(one, other)


# Groups


@pytest.mark.parametrize("seed", [0, 1])
def test_groups_stay_together(photos: Path, seed: int) -> None:
    groups = [f"patient {number // 2}" for number in range(16)]
    source = CSV(write(photos, {"patient": groups}), group_column="patient", storage_size=8)
    data = ImageDataModule(source, num_workers=0, split_seed=seed)
    data.setup()
    assert data.loaded is not None
    assert data.loaded.groups is not None
    found = [set(data.loaded.groups[part.indices].tolist()) for part in data.splits.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == 8


def test_groups_of_files_that_are_skipped_are_left_out(photos: Path) -> None:
    (photos / "cat/0.png").write_bytes(b"")
    (photos / "dog/1.png").unlink()
    groups = [str(number // 2) for number in range(16)]
    source = CSV(write(photos, {"g": groups}), group_column="g", storage_size=8, skip_unreadable=True)
    images = source.load()
    assert images.groups is not None
    assert images.groups.tolist() == [int(source.index.groups[i]) for i in range(16) if i not in (0, 9)]  # type: ignore[index]
    assert len(images.skipped) == 2


def test_groups_beside_given_splits(photos: Path) -> None:
    groups = [f"{number // 8}-{part}-{number % 2}" for number, part in enumerate(split())]
    data = loaded(write(photos, {"set": split(), "g": groups}), split_column="set", group_column="g")
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}


@pytest.mark.parametrize("groups", [["all"] * 16, LABELS], ids=["one group", "a group a class"])
def test_groups_that_cannot_be_divided(photos: Path, groups: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"'cat' is left for \w+: a class needs at least 3 groups of images.*add images"
    ):
        loaded(write(photos, {"g": groups}), group_column="g")


# Mistakes


def rows(*lines: str) -> str:
    return "\n".join(lines)


MISTAKES: dict[str, tuple[str | bytes, dict[str, Any], str]] = {
    "empty": ("", {}, r"t\.csv is empty.*`path,label`"),
    "header alone": ("path,label\n", {}, r"no rows; at least two classes"),
    "not UTF-8": (b"path,label\n\xff\xfe,a\n", {}, r"not UTF-8 text \(byte 11\)"),
    "open quote": ('path,label\n"cat/0.png,cat\n', {}, r"cannot be read as a table at line 2"),
    "another path column": ("file,label\na,b\n", {}, r"unknown column of .*t\.csv 'path'.*path_column"),
    "near label column": ("path,labels\na,b\n", {}, r"'label'; did you mean 'labels'\?.*--data\.source\.label_column"),
    "no split column": ("path,label\na,b\n", {"split_column": "set"}, r"'set'.*--data\.source\.split_column"),
    "no group column": ("path,label\na,b\n", {"group_column": "who"}, r"'who'.*--data\.source\.group_column"),
    "two label columns": ("path,label,label\na,b,c\n", {}, r"has 2 columns 'label'"),
    "cells": (
        rows("path,label", "cat/0.png,cat", "cat/1.png", "dog/0.png,dog,x"),
        {},
        r"rows of other than 2 cells: line 3 has 1, line 4 has 3",
    ),
    "empty label": (rows("path,label", "cat/0.png,cat", "dog/0.png, "), {}, r"empty cells: 'label' in line 3"),
    "empty path": (rows("path,label", ",cat", "dog/0.png,dog"), {}, r"empty cells: 'path' in line 2"),
    "empty group": (
        rows("path,label,g", "cat/0.png,cat,", "dog/0.png,dog,1"),
        {"group_column": "g"},
        r"empty cells: 'g' in line 2",
    ),
    "unknown split": (
        rows("path,label,set", "cat/0.png,cat,train", "dog/0.png,dog,dev"),
        {"split_column": "set"},
        r"splits other than train, test, val, validation, valid: 'dev' in line 3",
    ),
    "two labels": (
        rows("path,label", "cat/0.png,cat", "dog/0.png,dog", "cat/../cat/0.png,dog"),
        {},
        r"listed twice, differently: 'cat' and 'dog' in line 2 and line 4",
    ),
    "two splits": (
        rows("path,label,set", "cat/0.png,cat,train", "cat/0.png,cat,test"),
        {"split_column": "set"},
        r"'train' and 'test' in line 2 and line 3 for 'cat/0\.png'",
    ),
    "missing files": (
        rows("path,label", *(f"cat/{number}.jpg,cat" for number in range(5)), "dog/0.png,dog"),
        {},
        r"cat/0\.jpg \(line 2\), .*\.\.\. \(5 in all\): no such files.*--data\.source\.folder",
    ),
    "another folder": (rows("path,label", "cat/0.png,cat"), {"folder": "gone"}, r"no such files"),
    "one class": (rows("path,label", "cat/0.png,cat", "cat/1.png,cat"), {}, r"one class, 'cat'; at least two"),
    "no training": (
        rows("path,label,set", "cat/0.png,cat,val", "dog/0.png,dog,val"),
        {"split_column": "set"},
        r"no rows for 'train' of 'cat', 'train' of 'dog'",
    ),
    "class lacks a split": (
        rows("path,label,set", "cat/0.png,cat,train", "dog/0.png,dog,train", "dog/1.png,dog,val"),
        {"split_column": "set"},
        r"no rows for 'val' of 'cat': each class needs images in each split",
    ),
    "torn group": (
        rows("path,label,set,g", *(f"{n}/0.png,{n},train,7\n{n}/1.png,{n},val,7" for n in ("cat", "dog"))),
        {"split_column": "set", "group_column": "g"},
        r"divides groups between splits: '7' \(train in line 2, val in line 3\)",
    ),
    "crop": (rows("path,label", "cat/0.png,cat", "dog/0.png,dog"), {"crop": 2}, r"data\.source\.crop is 2"),
    "resize": (rows("path,label", "cat/0.png,cat", "dog/0.png,dog"), {"resize": "padd"}, r"did you mean 'pad'\?"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(photos: Path, content: str | bytes, changes: dict[str, Any], message: str) -> None:
    table = photos / "t.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        loaded(table, root=photos, **changes)
    told = str(caught.value)
    assert len(told.splitlines()) == 1
    assert len(told) < 1200


def test_all_kinds_of_mistakes_are_told_together(photos: Path) -> None:
    (photos / "t.csv").write_text(rows("path,label,set", "a,b,dev", "c,,train", "d,e", *["f,g,h"] * 5))
    with pytest.raises(UserError) as caught:
        CSV(photos / "t.csv", split_column="set")
    told = str(caught.value)
    assert all(
        part in told for part in ("empty cells", "other than 3 cells", "splits other", "'h' in line 6, ... (6 in")
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [("gone.csv", r"the table .*gone\.csv does not exist.*--data\.source\.file"), ("cat", "is not a file")],
)
def test_no_table(photos: Path, file: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CSV(file, root=photos)


def test_unreadable_files(photos: Path) -> None:
    (photos / "cat/0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 16 files cannot be read as images:"):
        loaded(write(photos))
    assert loaded(photos / "t.csv", skip_unreadable=True).describe()["skipped"] == [str(photos / "cat/0.png")]
    with (photos / "t.csv").open("a") as table:
        table.write("cat/\0.png,cat\n")
    with pytest.raises(UserError, match="no such files"):
        loaded(photos / "t.csv")
    skipped = loaded(photos / "t.csv", skip_unreadable=True).describe()["skipped"]
    assert skipped == [str(photos / "cat/\0.png"), str(photos / "cat/0.png")]


def test_a_size_is_needed(photos: Path) -> None:
    with pytest.raises(UserError, match=r"CSV needs data\.source\.storage_size, or --data\.image_size"):
        CSV(write(photos)).load()
