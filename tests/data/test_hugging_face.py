"""Datasets of Parquet files, image folders and saved ones; a Hub that does not answer."""

from __future__ import annotations

import builtins
import importlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from huggingface_hub.errors import RepositoryNotFoundError

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.files import decode_image
from fashion_tl.data.hugging_face import HuggingFace
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.errors import UserError

from .packed import PHOTOS, pixels, png, write_parquet

NAMES = ["cat"] * 8 + ["dog"] * 8
CARRIED = [
    (content, f"{name}/{number:02}.png") for number, (content, name) in enumerate(zip(PHOTOS, NAMES, strict=True))
]


def loaded(name: str | Path, **changes: Any) -> ImageDataModule:
    data = ImageDataModule(HuggingFace(str(name), storage_size=8, **changes), num_workers=0)
    data.setup()
    return data


def saved(folder: Path, labels: Sequence[Any], feature: Any = None, images: Sequence[Any] = PHOTOS) -> Path:
    """Save a dataset with the types of the library."""
    columns = {"image": [{"bytes": each, "path": None} for each in images], "label": list(labels)}
    kinds = Features({"image": ImageFeature(), "label": feature or ClassLabel(names=["dog", "cat", "eel"])})
    Dataset.from_dict(columns, features=kinds).save_to_disk(folder)
    return folder


def test_parquet(tmp_path: Path, place: type) -> None:
    data = loaded(write_parquet(tmp_path / "a.parquet", CARRIED, {"kind": NAMES}))
    assert data.class_names == ["cat", "dog"]
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}
    images = data.splits["train"].images
    assert type(images) is place
    assert images.labels.tolist() == [0] * 8 + [1] * 8
    (tmp_path / "11.png").write_bytes(PHOTOS[11])
    assert torch.equal(images[11][0], decode_image(tmp_path / "11.png", 8, "crop", 0.875))


@pytest.mark.parametrize("carried", [True, False])
def test_the_order_of_rows_and_files_makes_no_difference(tmp_path: Path, carried: bool) -> None:
    images: Sequence[Any] = CARRIED if carried else PHOTOS
    first = loaded(write_parquet(tmp_path / "a.parquet", images, {"label": NAMES}))
    order = np.random.default_rng(1).permutation(16)
    for number, rows in enumerate((order[:5], order[5:])):
        more = {"label": [NAMES[row] for row in rows]}
        write_parquet(tmp_path / f"b/train-{number}.parquet", [images[row] for row in rows], more)
    second = loaded(tmp_path / "b")
    assert second.describe()["fingerprint"] == first.describe()["fingerprint"]
    for part in ("train", "val", "test"):
        assert torch.equal(pixels(first, part), pixels(second, part))
        assert torch.equal(first.splits[part].labels, second.splits[part].labels)


def test_paths_that_repeat_do_not_order_images(tmp_path: Path) -> None:
    """As in image folders whose classes have subfolders, of which the last part alone is carried."""
    same = [(content, "1.png") for content in PHOTOS]
    first = loaded(write_parquet(tmp_path / "a.parquet", same, {"label": NAMES}))
    second = loaded(write_parquet(tmp_path / "b.parquet", same[::-1], {"label": NAMES[::-1]}))
    assert torch.equal(pixels(first), pixels(second))


def test_the_fingerprint_is_of_content_labels_and_splits(tmp_path: Path) -> None:
    def told(name: str, images: Sequence[Any], labels: Sequence[Any], **changes: Any) -> str:
        return str(
            loaded(write_parquet(tmp_path / name, images, {"label": labels}), **changes).describe()["fingerprint"]
        )

    first = told("a.parquet", PHOTOS, NAMES)
    assert told("other.parquet", PHOTOS, NAMES) == first
    changed = [told("c.parquet", [*PHOTOS[:-1], png(99)], NAMES), told("d.parquet", PHOTOS, [*NAMES[:-1], "cat"])]
    for part, rows in (("train", slice(0, 12)), ("test", slice(7, 16))):
        write_parquet(tmp_path / f"e/{part}-0.parquet", PHOTOS[rows], {"label": NAMES[rows]})
    changed.append(str(loaded(tmp_path / "e").describe()["fingerprint"]))
    assert len({first, *changed}) == 4
    again = loaded(tmp_path / "a.parquet", resize="pad").describe()["fingerprint"]
    assert again == first


def test_own_splits_and_unusual_names(tmp_path: Path) -> None:
    for part, rows in (("train", slice(2, 14)), ("validation", slice(1, 15, 13)), ("test", slice(0, 16, 15))):
        write_parquet(tmp_path / f"{part}-00000-of-00001.parquet", PHOTOS[rows], {"label": NAMES[rows]})
    data = loaded(tmp_path)
    assert data.describe()["sizes"] == {"train": 12, "val": 2, "test": 2}
    assert loaded(tmp_path, splits={"val": None}).describe()["sizes"] == {"train": 10, "val": 2, "test": 2}
    table = Dataset.from_dict({"image": PHOTOS, "label": NAMES})
    DatasetDict({"full": table, "held": table.select([0, 15]), "extra": table}).save_to_disk(tmp_path / "saved")
    data = loaded(tmp_path / "saved", splits={"train": "full", "test": "held"})
    assert data.describe()["sizes"] == {"train": 14, "val": 2, "test": 2}


def test_a_saved_dataset_has_the_names_of_its_classes(tmp_path: Path, place: type) -> None:
    """In their order, without those that no image has; rows that were chosen and shuffled before saving."""
    data = loaded(saved(tmp_path / "saved", [1, 0] * 8))
    assert data.class_names == ["dog", "cat"]
    shuffled = datasets.load_from_disk(tmp_path / "saved").shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "shuffled")
    again = loaded(tmp_path / "shuffled")
    assert torch.equal(pixels(again), pixels(data))
    assert again.describe()["fingerprint"] == data.describe()["fingerprint"]


def test_an_image_folder_is_the_same_by_either_source(tmp_path: Path, place: type) -> None:
    for content, path in CARRIED:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    folder = ImageDataModule(ImageFolder(tmp_path, storage_size=8), num_workers=0)
    folder.setup()
    data = loaded(tmp_path)
    assert data.class_names == folder.class_names
    assert all(torch.equal(pixels(data, part), pixels(folder, part)) for part in ("train", "val", "test"))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_folder_of_images_with_a_table(tmp_path: Path) -> None:
    """As the library has it: metadata.csv with a column file_name, a file that it leaves open."""
    for content, path in CARRIED:
        (tmp_path / path.replace("/", "-")).write_bytes(content)
    rows = [f"{path.replace('/', '-')},{name}" for (_, path), name in zip(CARRIED, NAMES, strict=True)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,kind", *rows]))
    data = loaded(tmp_path)
    assert data.class_names == ["cat", "dog"]
    expected = loaded(write_parquet(tmp_path / "packed/a.parquet", CARRIED, {"kind": NAMES}))
    assert torch.equal(pixels(data), pixels(expected))


def test_labels_of_pandas(tmp_path: Path) -> None:
    """Categories are a dictionary and numbers of it in Arrow; groups may be numbers."""
    columns = {"image": PHOTOS, "kind": pandas.Categorical(NAMES), "film": range(16)}
    pandas.DataFrame(columns).to_parquet(tmp_path / "a.parquet")
    data = loaded(tmp_path / "a.parquet", group_column="film")
    assert data.class_names == ["cat", "dog"]
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}


@pytest.mark.parametrize(
    ("labels", "changes", "names"),
    [
        ([10, 9] * 8, {}, ["9", "10"]),
        ([1, 0] * 8, {"class_names": ["dog", "cat", "eel"]}, ["dog", "cat"]),
        (["b", "a"] * 8, {}, ["a", "b"]),
        (["b", "a"] * 8, {"class_names": ["b", "a"]}, ["b", "a"]),
        ([True, False] * 8, {}, ["False", "True"]),
    ],
)
def test_names_of_classes(tmp_path: Path, labels: list[Any], changes: dict[str, Any], names: list[str]) -> None:
    source = HuggingFace(str(write_parquet(tmp_path / "a.parquet", PHOTOS, {"label": labels})), **changes)
    assert list(source.class_names) == names


def pixels_of(images: Any) -> torch.Tensor:
    found: torch.Tensor = images.__getitems__(list(range(len(images))))[0]
    return found


def test_groups_stay_together(tmp_path: Path) -> None:
    """And with their images, which come in the order of their content."""
    groups = [number // 2 for number in range(16)]
    table = write_parquet(tmp_path / "a.parquet", PHOTOS, {"label": NAMES, "patient": groups})
    data = loaded(table, label_column="label", group_column="patient")
    number_of = {}
    for number, content in enumerate(PHOTOS):
        (tmp_path / "photo.png").write_bytes(content)
        number_of[decode_image(tmp_path / "photo.png", 8, "crop", 0.875).numpy().tobytes()] = number
    numbers = [number_of[each.numpy().tobytes()] for each in pixels_of(data.splits["train"].images)]
    assert numbers != sorted(numbers)
    assert data.loaded is not None
    assert data.loaded.groups is not None
    assert data.loaded.groups.tolist() == [number // 2 for number in numbers]
    parts = [{number_of[each.numpy().tobytes()] // 2 for each in pixels(data, part)} for part in data.splits]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 8


def test_shuffled_rows_of_copies_in_several_groups_make_no_difference(tmp_path: Path) -> None:
    images, labels = [*PHOTOS, PHOTOS[0], PHOTOS[0]], [*NAMES, "cat", "cat"]
    groups = [*(number // 2 for number in range(16)), 3, 1]

    def read(name: str, rows: Sequence[int], groups: Sequence[int] = groups) -> ImageDataModule:
        columns: dict[str, Sequence[Any]] = {
            "label": [labels[row] for row in rows],
            "patient": [groups[row] for row in rows],
        }
        table = write_parquet(tmp_path / name, [images[row] for row in rows], columns)
        return loaded(table, label_column="label", group_column="patient")

    first = read("a.parquet", range(18))
    for seed in range(4):
        other = read(f"{seed}.parquet", np.random.default_rng(seed).permutation(18).tolist())
        assert other.identity == first.identity
        assert all(torch.equal(pixels(first, part), pixels(other, part)) for part in first.splits)
    moved = [*groups[:16], 2, 1]
    assert read("b.parquet", range(18), moved).describe()["fingerprint"] != first.describe()["fingerprint"]


def test_blanks_around_groups_make_no_others(tmp_path: Path) -> None:
    columns = {"label": NAMES, "patient": [f"{number // 2}{' ' * (number % 3)}" for number in range(16)]}
    data = loaded(write_parquet(tmp_path / "a.parquet", CARRIED, columns), label_column="label", group_column="patient")
    assert data.loaded is not None
    assert data.loaded.groups is not None
    assert data.loaded.groups.tolist() == [number // 2 for number in range(16)]


@pytest.mark.slow
def test_workers_read_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_parquet(tmp_path / "a.parquet", CARRIED, {"label": NAMES})
    expected = pixels(loaded(table))
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    data = ImageDataModule(HuggingFace(str(table), storage_size=8), num_workers=2)
    data.setup()
    assert torch.equal(pixels(data), expected)
    sent = pickle.loads(pickle.dumps(data.splits["train"].images))  # noqa: S301 - our own
    assert len(pickle.dumps(sent)) < 10_000  # rows, and where they lie
    assert torch.equal(pixels_of(sent), pixels_of(data.splits["train"].images))


def test_unreadable_images(tmp_path: Path, place: type) -> None:
    damaged: list[Any] = [(b"no image", "a.png"), (None, None), (b"", "c.png"), *CARRIED[3:]]
    table = write_parquet(tmp_path / "a.parquet", damaged, {"label": NAMES})
    with pytest.raises(UserError) as caught:
        loaded(table)
    told = str(caught.value)
    assert "3 of 16 files cannot be read as images:" in told
    assert f"row 0 of train of {table}: not an image" in told
    assert f"row 1 of train of {table}: the row has no image" in told
    assert f"row 2 of train of {table}: the file is empty" in told
    assert "--data.source.skip_unreadable true" in told
    data = loaded(table, skip_unreadable=True)
    assert len(data.describe()["skipped"]) == 3
    assert sum(data.describe()["sizes"].values()) == 13
    without = write_parquet(tmp_path / "b.parquet", CARRIED[3:], {"label": NAMES[3:]})
    assert loaded(without).describe()["fingerprint"] == data.describe()["fingerprint"]


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown image column": ({"label": NAMES}, {"image_column": "img"}, r"unknown column of .* 'img'.*image_column"),
    "unknown label column": ({"label": NAMES}, {"label_column": "lable"}, r"did you mean 'label'\?.*label_column"),
    "unknown group column": ({"label": NAMES}, {"group_column": "g"}, r"unknown column of .* 'g'.*group_column"),
    "no labels": ({}, {}, r"no column of labels\. Its columns: image \(encoded images\)\. Name it with .*label_column"),
    "ambiguous labels": (
        {"label": NAMES, "file": NAMES},
        {},
        r"several columns that may hold labels: label, file\. Its columns: .*--data\.source\.label_column",
    ),
    "ambiguous images": (
        {"label": NAMES, "mask": PHOTOS},
        {},
        r"several columns that may hold images: image, mask\. .*--data\.source\.image_column",
    ),
    "images that are none": ({"label": NAMES}, {"image_column": "label"}, r"no images in its column 'label'"),
    "labels that are floats": (
        {"label": [0.5] * 16},
        {"label_column": "label"},
        r"has (float64|double) in its column 'label'",
    ),
    "floats alone": ({"label": [0.5] * 16}, {}, r"no column of labels\. Its columns: .*label \((float64|double)\)"),
    "a label that is missing": (
        {"label": [None, *NAMES[1:]]},
        {},
        r"neither names nor whole numbers: None in row 0 of train",
    ),
    "an empty label": ({"label": ["", *NAMES[1:]]}, {}, r"neither names nor whole numbers: '' in row 0"),
    "one class": ({"label": ["cat"] * 16}, {}, r"one class, 'cat'; at least two.*label_column"),
    "a number without a name": (
        {"label": [0, 7] * 8},
        {"class_names": ["a", "b"]},
        r"beside .*class_names \(a, b\): 7 in row 1",
    ),
    "a name beside the names": (
        {"label": NAMES},
        {"class_names": ["cat", "eel"]},
        r"beside .*class_names .*'dog' in row 8",
    ),
    "names given twice": ({"label": NAMES}, {"class_names": ["a", "a"]}, r"class_names has a name twice: a, a"),
    **{
        f"an empty group, {group!r}": (
            {"label": NAMES, "g": [group, *[other] * 15]},
            {"group_column": "g", "label_column": "label"},
            r"no group in row 0 of train of .*a\.parquet\. Fill the column, or leave --data\.source\.group_column out",
        )
        for group, other in ((None, 1), ("", "a"), (" ", "a"), (float("nan"), 1.0))
    },
    "unknown split": (
        {"label": NAMES},
        {"splits": {"train": "trian"}},
        r"unknown split of .*'trian'.*did you mean 'train'",
    ),
    "unknown part": ({"label": NAMES}, {"splits": {"dev": "train"}}, r"unknown part of --data\.source\.splits 'dev'"),
    "a split twice": ({"label": NAMES}, {"splits": {"test": "train"}}, r"names a split of .* twice"),
    "no training split": ({"label": NAMES}, {"splits": {"train": None}}, r"has the splits train, and none to train on"),
    "a revision on disk": ({"label": NAMES}, {"revision": "main"}, r"revision is of datasets of the Hub"),
}


@pytest.mark.parametrize(("columns", "changes", "message"), BAD.values(), ids=BAD)
def test_mistakes(tmp_path: Path, columns: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    table = write_parquet(tmp_path / "a.parquet", PHOTOS, columns)
    with pytest.raises(UserError, match=message) as caught:
        HuggingFace(str(table), **changes)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1200


def test_columns_of_splits_that_differ(tmp_path: Path) -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    train = Dataset.from_dict(
        {"image": [{"bytes": each, "path": None} for each in PHOTOS], "label": [0, 1] * 8}, features
    )
    other = train.cast_column("label", ClassLabel(names=["b", "a"]))
    for test, message in (
        (other, r"has other classes to test on than to train on: its column 'label'"),
        (train.remove_columns("label"), r"a column 'label' to train on, but none of that type to test on"),
        (train.select([0, 2]), r"no images for 'test' of 'b': each class needs images in each split"),
    ):
        DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / f"{len(message)}")
        with pytest.raises(UserError, match=message):
            HuggingFace(str(tmp_path / f"{len(message)}"))


def test_a_split_without_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which saving refuses to read again, and Parquet's readers: one message, whoever gives it."""
    (tmp_path / "list").mkdir()
    table = Dataset.from_dict({"image": PHOTOS, "label": NAMES})
    monkeypatch.setattr(datasets, "load_from_disk", lambda _: DatasetDict({"train": table, "test": table.select([])}))
    (tmp_path / "list/state.json").touch()
    with pytest.raises(UserError, match=r"no rows in its split 'test'"):
        HuggingFace(str(tmp_path / "list"))
    monkeypatch.undo()
    write_parquet(tmp_path / "train-0.parquet", PHOTOS, {"label": NAMES})
    write_parquet(tmp_path / "test-0.parquet", [], {"label": NAMES[:0]})
    with pytest.raises(UserError, match=r"cannot be read as a dataset: .*0"):
        HuggingFace(str(tmp_path))


def test_a_class_in_the_test_split_alone(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", PHOTOS, {"label": NAMES})
    write_parquet(tmp_path / "test-0.parquet", PHOTOS[:3], {"label": ["cat", "dog", "eel"]})
    with pytest.raises(UserError, match=r"no images for 'train' of 'eel': each class needs images in each split"):
        HuggingFace(str(tmp_path))


def test_test_images_without_labels(tmp_path: Path) -> None:
    """As the Hub's competitions have them."""
    with pytest.raises(
        UserError, match=r"has 1 images without a label \(-1, or none\), such as row 15 .*splits '\{test"
    ):
        HuggingFace(str(saved(tmp_path / "saved", [*[0, 1] * 7, 0, -1])))
    with pytest.raises(UserError, match=r"has names of its classes: dog, cat, eel\. Leave"):
        HuggingFace(str(saved(tmp_path / "names", [0, 1] * 8)), class_names=["a", "b"])
    with pytest.raises(UserError, match=r"has float32 in its column 'label'"):
        HuggingFace(str(saved(tmp_path / "floats", [0.0, 1.0] * 8, Value("float32"))), label_column="label")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"name is empty"),
        ("gone/deeper/folder", r"gone/deeper/folder does not exist\. Name a file or folder"),
        ("gone.parquet", r"gone\.parquet does not exist"),
        ("./gone", r"does not exist"),
        ("parquet", r"parquet does not exist\..* of the Hub by owner and name"),
        ("y" * 300, r"yyy does not exist\."),
        ("text.txt", r"text\.txt is no dataset\. Give a \.parquet file"),
        ("empty", r"empty is no dataset\. Give a \.parquet file, a folder .* another --data\.source\.root"),
        ("[a] *.parquet", r"\[a\] \*\.parquet has \* \[ \] in its path: a pattern, to `datasets`\. Rename it"),
        ("damaged.parquet", r"damaged\.parquet cannot be read as a dataset: .*[Pp]arquet"),
    ],
)
def test_no_dataset(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "[a] *.parquet").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=message) as caught:
        HuggingFace(name, root=tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_size_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"HuggingFace needs data\.source\.storage_size, or --data\.image_size"):
        HuggingFace(str(write_parquet(tmp_path / "a.parquet", PHOTOS, {"label": NAMES}))).load()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError("No module named 'datasets'")
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the library `datasets` .*pip install 'fashion-tl\[hub\]'"):
        HuggingFace("ylecun/mnist")


def test_the_working_directory_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would read a folder there that has the name of a dataset of the Hub."""
    write_parquet(tmp_path / "someone/photos/a.parquet", PHOTOS, {"label": NAMES})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/someone/photos does not exist"):
        HuggingFace("someone/photos", root=tmp_path / "data")
    assert HuggingFace("someone/photos", root=".").class_names == ("cat", "dog")


class Hub:
    """Stands for the Hub: it answers, refuses or does not answer, and counts what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.asked = 0

        def dataset_info(*_: Any, **__: Any) -> None:
            self.asked += 1
            if error is not None:
                raise error

        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One question, one message: the library's own would be asked six times in half a minute."""
    hub = Hub(monkeypatch, ConnectionError("Name or service not known"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(UserError) as caught:
        HuggingFace("someone/photos", root=tmp_path)
    told = str(caught.value)
    assert "someone/photos cannot be had from the Hub (it does not answer: Name or service not known)" in told
    assert "HF_ENDPOINT" in told
    assert len(told.splitlines()) == 1
    assert hub.asked == 1
    assert not datasets.config.HF_HUB_OFFLINE


def test_what_the_hub_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of httpx or httpx2, by version

    httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])
    answer = httpx.Response(404, request=httpx.Request("GET", "https://hub.test"))
    Hub(monkeypatch, RepositoryNotFoundError("404", response=answer))

    def refuse(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'someone/photos' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"cannot be had from the Hub \(Dataset 'someone/photos' doesn't exist"):
        HuggingFace("someone/photos", root=tmp_path)


def test_a_copy_in_the_cache_serves_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of another revision does not."""
    Hub(monkeypatch, ConnectionError("no route"))
    kept = datasets.load_dataset(
        "parquet", data_files=str(write_parquet(tmp_path / "a.parquet", PHOTOS, {"label": NAMES}))
    )
    seen = []

    def load_dataset(name: str, config: str | None, revision: str | None) -> Any:
        seen.append((name, datasets.config.HF_HUB_OFFLINE))
        return kept

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert HuggingFace("someone/photos", root=tmp_path).class_names == ("cat", "dog")
    assert seen == [("someone/photos", True)]
    with pytest.raises(UserError, match=r"the copy of someone/photos in the cache is not known to be v2"):
        HuggingFace("someone/photos", root=tmp_path, revision="v2")
    part = Path(kept["train"].cache_files[0]["filename"]).parts[-2]
    assert HuggingFace("someone/photos", root=tmp_path, revision=part).class_names == ("cat", "dog")
