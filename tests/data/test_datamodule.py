"""The data module without a Trainer: sources, splits, order, batches, messages."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.data.augment import Augment
from fashion_tl.data.batches import BatchLoader, ResidentImages
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.fashion_mnist import FashionMNIST
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.objects import SyntheticObjects
from fashion_tl.errors import UserError

from ..conftest import Fit

LEVELS = {"dark": 40, "light": 200}


@pytest.fixture(autouse=True)
def clean(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def garments(num_train: int = 120, **changes: Any) -> ImageDataModule:
    data = ImageDataModule(SyntheticGarments(num_train), **{"batch_size": 32, **changes})
    data.setup()
    return data


def save_images(folder: Path, count: int) -> Path:
    """Save images of two classes, JPEG and PNG in turn; the grey level tells the class, the noise the image."""
    rng = np.random.default_rng(count)
    for name, level in LEVELS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = (level + rng.integers(-20, 20, (10, 14, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{'jpg' if number % 2 else 'png'}")
    return folder


def folder_data(root: Path, folder: str | Path = ".", skip_unreadable: bool = False, **changes: Any) -> ImageDataModule:
    options: dict[str, Any] = {"image_size": 8, "batch_size": 4, "num_workers": 0, "val_fraction": 0.25}
    source = ImageFolder(folder, root, skip_unreadable=skip_unreadable)
    data = ImageDataModule(source, **{**options, **changes})
    data.setup()
    return data


def images_of(loader: Any) -> Tensor:
    return torch.cat([images for images, _ in loader])


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


# Garments from end to end


def test_garments() -> None:
    data = garments(image_size=32, eval_batch_size=16)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 110, "val": 10, "test": 40}
    for loader, sizes in (
        (data.train_dataloader(), [32, 32, 32]),
        (data.val_dataloader(), [10]),
        (data.test_dataloader(), [16, 16, 8]),
        (data.predict_dataloader(), [16, 16, 8]),
    ):
        batches = list(loader)
        assert [len(images) for images, _ in batches] == sizes
        for images, labels in batches:
            assert images.shape[1:] == (1, 28, 28)
            assert images.dtype == torch.uint8
            assert labels.dtype == torch.int64
            assert labels.max() < len(data.class_names) == 10
    batch = next(iter(data.val_dataloader()))
    prepared, labels = cast(tuple[Tensor, Tensor], data.on_after_batch_transfer(batch, 0))
    images, _ = batch
    assert labels is batch.labels
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, tvf.resize(images.float() / 255, [32, 32], antialias=True))


def test_splits_hold_different_images() -> None:
    data = garments()
    images = torch.cat([torch.cat([split[i][0][None] for i in range(len(split))]) for split in data.splits.values()])
    assert len(set(keys(images))) == 160


def test_second_setup_changes_nothing() -> None:
    data = garments()
    splits = dict(data.splits)
    data.setup("test")
    assert all(data.splits[name] is split for name, split in splits.items())


def test_split_seed_splits_anew() -> None:
    assert garments().describe() == garments().describe()
    other = garments(split_seed=1)
    assert other.describe()["fingerprint"] == garments().describe()["fingerprint"]
    assert other.splits["val"].indices.tolist() != garments().splits["val"].indices.tolist()


# The order of the training images


def test_order_depends_on_seed_and_epoch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(epoch: int, seed: str) -> list[bytes]:
        torch.rand(1)
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        loader = garments().train_dataloader()
        loader.sampler.set_epoch(epoch)  # as Lightning does
        return keys(images_of(loader))

    orders = [order(0, "5"), order(1, "5"), order(0, "6")]
    assert order(0, "5") == orders[0]
    assert order(1, "5") == orders[1]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_reading_takes_nothing_from_the_global_generator() -> None:
    data = garments()
    state = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("batch_size", "seen"), [(32, 96), (110, 110), (200, 110)])
def test_each_image_at_most_once_in_an_epoch(batch_size: int, seen: int) -> None:
    data = garments(batch_size=batch_size)
    train = data.splits["train"]
    every = {train[i][0].numpy().tobytes() for i in range(len(train))}
    found = keys(images_of(data.train_dataloader()))
    assert len(found) == len(set(found)) == seen
    assert set(found) <= every


def test_test_images_come_in_their_order() -> None:
    data = garments(eval_batch_size=7)
    assert data.loaded is not None
    assert data.loaded.test is not None
    assert torch.equal(images_of(data.test_dataloader()), data.loaded.test.__getitems__(list(range(40)))[0])


# Labels, per class


def counts(data: ImageDataModule, name: str) -> list[int]:
    split = data.splits[name]
    return torch.stack([split[i][1] for i in range(len(split))]).bincount(minlength=len(data.class_names)).tolist()


def test_per_class() -> None:
    every, few, fewer = garments(), garments(per_class=3), garments(per_class=1)
    assert counts(few, "train") == [3] * 10
    assert counts(fewer, "train") == [1] * 10
    assert (
        set(fewer.splits["train"].indices.tolist())
        < set(few.splits["train"].indices.tolist())
        < set(every.splits["train"].indices.tolist())
    )
    for name in ("val", "test"):
        assert few.splits[name].indices.tolist() == every.splits[name].indices.tolist()


@pytest.mark.slow
def test_a_label_budget_counts_validation_and_a_smaller_one_is_part_of_a_larger() -> None:
    def labelled(budget: int, **changes: Any) -> dict[str, set[int]]:
        data = garments(400, label_budget=budget, **changes)
        assert all(a + b == budget for a, b in zip(counts(data, "train"), counts(data, "val"), strict=True))
        return {name: set(data.splits[name].indices.tolist()) for name in ("train", "val", "test")}

    budgets = [labelled(budget) for budget in (2, 3, 10, 15)]
    for smaller, larger in itertools.pairwise(budgets):
        assert smaller["train"] < larger["train"]
        assert smaller["val"] <= larger["val"]
    assert [len(each["val"]) for each in budgets] == [10, 10, 20, 30]  # a fifth, and at least one image a class
    assert len(labelled(10, val_fraction=0.5)["val"]) == 50
    assert budgets[0]["test"] == budgets[-1]["test"]


def test_validation_is_stratified() -> None:
    assert counts(garments(val_fraction=0.25), "val") == [3] * 10


# Image folders


def assert_labels_fit(data: ImageDataModule) -> None:
    """The grey level of every image, at whichever index, tells the class."""
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for images, labels in loader:
            assert images.shape[1:] == (3, 8, 8)
            assert images.dtype == torch.uint8
            assert torch.equal((images.float().mean((1, 2, 3)) > 120).long(), labels)


def test_folder_with_a_test_set(tmp_path: Path) -> None:
    save_images(tmp_path / "set" / "train", 8)
    save_images(tmp_path / "set" / "test", 3)
    data = folder_data(tmp_path, folder="set")
    assert data.class_names == ["dark", "light"]
    assert [counts(data, name) for name in ("train", "val", "test")] == [[6, 6], [2, 2], [3, 3]]
    assert_labels_fit(data)


def test_folder_to_split(tmp_path: Path) -> None:
    save_images(tmp_path / "set", 10)
    data = folder_data(tmp_path, folder=str(tmp_path / "set"), test_fraction=0.2)
    assert [counts(data, name) for name in ("train", "val", "test")] == [[6, 6], [2, 2], [2, 2]]
    indices = [index for split in data.splits.values() for index in split.indices.tolist()]
    assert sorted(indices) == list(range(20))
    assert_labels_fit(data)
    assert counts(folder_data(tmp_path, folder="set", per_class=4), "train") == [4, 4]
    other = folder_data(tmp_path, folder="set", split_seed=1)
    assert other.splits["test"].indices.tolist() != data.splits["test"].indices.tolist()
    assert other.describe()["fingerprint"] == data.describe()["fingerprint"]


def test_unreadable_files_are_listed(tmp_path: Path) -> None:
    save_images(tmp_path, 6)
    (tmp_path / "dark" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.png"):
        folder_data(tmp_path)
    assert folder_data(tmp_path, skip_unreadable=True).describe()["skipped"] == [str(tmp_path / "dark" / "0.png")]


def test_too_few_images(tmp_path: Path) -> None:
    save_images(tmp_path, 1)
    with pytest.raises(UserError, match=r"no image of class 'dark' is left for val: a class needs at least 3 images"):
        folder_data(tmp_path)


# What the network gets


def trainer(training: bool, **module: Any) -> Any:
    """As much of a trainer as the data module looks at."""
    return SimpleNamespace(
        training=training,
        testing=False,
        predicting=False,
        lightning_module=SimpleNamespace(**module),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def test_a_module_that_preprocesses_gets_images_as_held() -> None:
    data = garments()
    batch = next(iter(data.val_dataloader()))
    data.trainer = trainer(False, preprocess=lambda images: images + 1)
    assert data.on_after_batch_transfer(batch, 0)[0] is batch.images


@pytest.mark.parametrize("training", [True, False])
def test_augmentation_in_training_alone(training: bool) -> None:
    data = garments(augment=Augment(hflip=1))
    batch = next(iter(data.val_dataloader()))
    data.trainer = trainer(training)
    if training:
        batch = next(iter(data.splits["train"].batch(torch.arange(8)) for _ in range(1)))
    assert batch.images is not None
    expected = (batch.images.flip(-1) if training else batch.images).float() / 255
    assert torch.equal(cast(Tensor, data.on_after_batch_transfer(batch, 0)[0]), expected)


def test_without_a_module_images_are_floats_of_the_asked_size() -> None:
    prepared = garments(image_size=20, interpolation="bicubic").prepare(
        torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    )
    assert prepared.shape == (4, 1, 20, 20)
    assert prepared.dtype == torch.float32
    assert 0 <= prepared.min() < 0.2
    assert 0.8 < prepared.max() <= 1


def test_description_is_plain_and_whole() -> None:
    data = garments(image_size=32, per_class=2, split_seed=3)
    described = data.describe()
    assert json.loads(json.dumps(described)) == described
    fingerprint = described.pop("fingerprint")
    assert len(fingerprint) >= 16
    assert len(described.pop("test_set")) == 16
    assert described == {
        "source": "SyntheticGarments",
        "class_names": data.class_names,
        "sizes": {"train": 20, "val": 10, "test": 40},
        "class_counts": {"train": [2] * 10, "val": [1] * 10, "test": [4] * 10},
        "split_seed": 3,
        "folds": None,
        "fold": None,
        "label_budget": None,
        "per_class": 2,
        "sampler": "random",
        "skipped": [],
        "other_files": {},
        "channels": 1,
        "storage_size": 28,
        "image_size": 32,
        "interpolation": "bilinear",
        "resize": "crop",
        "crop": 1.0,
    }


# Where the data lies


@pytest.mark.parametrize("source", [FashionMNIST, partial(ImageFolder, "set")])
def test_root_is_given_or_set_or_data(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("data", "environment", "given", "home/given"):
        save_images(tmp_path / folder / "set", 1)
    assert source().root == Path("data")
    monkeypatch.setenv("FASHION_TL_DATA_DIR", "environment")
    assert source().root == Path("environment")
    assert source(root="given").root == Path("given")
    monkeypatch.setenv("HOME", "home")
    assert source(root="~/given").root == Path("home/given")


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images(tmp_path / "here" / "set", 2)
    monkeypatch.setenv("FASHION_TL_DATA_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    for folder in ("set", "~/set"):
        assert ImageFolder(folder).class_names == ("dark", "light")


def test_one_source_serves_data_modules_of_several_sizes(tmp_path: Path) -> None:
    source = ImageFolder(save_images(tmp_path / "set", 1))
    assert [ImageDataModule(source, image_size=size).input_spec["storage_size"] for size in (8, 12)] == [8, 12]
    stored = ImageFolder(tmp_path / "set", storage_size=16)
    assert ImageDataModule(stored, image_size=8).input_spec["storage_size"] == 16
    assert ImageDataModule(stored).input_spec["image_size"] == 16


# Messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interpolation": "bicubik"}, r"did you mean 'bicubic'\?.*--data\.interpolation"),
        ({"image_size": 0}, r"data\.image_size is 0, allowed is 4 to 4096"),
        ({"label_budget": 1}, r"data\.label_budget is 1, allowed is 2 or more"),
        ({"label_budget": 5, "per_class": 5}, "exclude each other"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule(FashionMNIST(), **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: ImageFolder("set", "."), r"ImageFolder needs --data\.image_size"),
        (
            lambda: ImageFolder("set", ".", storage_size=8, resize="squish"),
            r"unknown resize 'squish'.*--data\.source\.resize",
        ),
        (
            lambda: ImageFolder("set", ".", storage_size=8, crop=0),
            r"data\.source\.crop is 0, it must be above 0 and at most 1",
        ),
        (lambda: ImageFolder("none"), r"data/none does not exist"),
        (lambda: SyntheticGarments(39), r"num_train is 39, allowed is 40 to 10000000"),
        (lambda: SyntheticObjects(3, seed=-1), r"num_train is 3, .* 96 to .*; .*num_test is 1.*; .*seed is -1"),
    ],
)
def test_wrong_sources(source: Any, message: str, tmp_path: Path) -> None:
    save_images(tmp_path / "set", 1)
    with pytest.raises(UserError, match=message):
        ImageDataModule(source())


def test_wrong_numbers_are_told_together() -> None:
    with pytest.raises(UserError) as caught:
        ImageDataModule(
            FashionMNIST(),
            val_fraction=0,
            test_fraction=1,
            batch_size=0,
            eval_batch_size=-1,
            per_class=0,
            num_workers=-1,
        )
    message = str(caught.value)
    for part in (
        "data.val_fraction is 0, it must be above 0 and below 1",
        "data.test_fraction is 1,",
        "data.batch_size is 0, allowed is 1 or more",
        "data.eval_batch_size is -1",
        "data.per_class is 0",
        "data.num_workers is -1, allowed is 0 to 256",
    ):
        assert part in message


def test_predictions_are_of_the_test_images_where_they_lie_on_the_device() -> None:
    data = garments()
    for split in data.splits.values():
        split.source = ResidentImages(cast(InMemoryImages, split.images).images[split.indices])
    data.trainer = cast(Any, SimpleNamespace(training=False, testing=False, predicting=True, lightning_module=None))
    batch = data.splits["test"].batch(torch.tensor([3, 1]))
    assert batch.images is None
    seen, _ = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(cast(Tensor, seen), cast(InMemoryImages, data.splits["test"].images).images[[3, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True])
def test_worker_processes_end_with_a_run(
    fit: Fit, stop_at, workdir: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    for name in "ab":
        (workdir / "photos" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(workdir / "photos" / name / f"{i}.png")
    if stopped:
        stop_at(0, 1, KeyboardInterrupt())
    flags = ("--data.source", "ImageFolder", "--data.source.root", ".", "--data.source.folder", "photos")
    small = ("--data.augment.rotation", "5", "--data.batch_size", "8", "--data.image_size", "32")
    assert fit(*flags, *small) == (130 if stopped else 0)
    assert multiprocessing.active_children() == []


def loader_with_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> BatchLoader:
    """Return the training batches of 40 small pictures, read by two workers."""
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    for name in "ab":
        (folder / name).mkdir()
        for i in range(20):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / name / f"{i}.png")
    data = ImageDataModule(ImageFolder(".", root=folder), image_size=8, batch_size=4, num_workers=2)
    data.setup()
    return data.train_dataloader()


def test_signals_to_the_group_miss_the_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = loader_with_workers(tmp_path, monkeypatch)
    batches = loader.read()
    for _ in range(2):  # one of each worker: both have begun
        next(batches)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert os.getpgid(cast(int, worker.pid)) == worker.pid  # what a service manager or a terminal sends misses it
    assert len(list(batches)) == len(loader) - 2
    loader.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("held", ["start", "end"])
def test_ctrl_c_while_workers_are_started_or_ended_comes_afterwards(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = loader_with_workers(tmp_path, monkeypatch)
    batches = loader.read()
    kind: Any = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    method = {"start": "_reset", "end": "_shutdown_workers"}[held]
    original = getattr(kind, method)

    def interrupted(self: Any, *args: Any, **more: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        original(self, *args, **more)

    if held == "end":
        assert len(list(batches)) == len(loader)
    monkeypatch.setattr(kind, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(batches) if held == "start" else loader.close()
    monkeypatch.undo()
    loader.close()
    assert multiprocessing.active_children() == []
