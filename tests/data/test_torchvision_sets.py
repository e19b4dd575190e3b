"""Sets of torchvision, generated in its own formats; downloads without a network."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fashion_tl.data import torchvision_sets
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.files import decode_image
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import load, loading_once
from fashion_tl.data.torchvision_sets import SETS, TorchVision
from fashion_tl.data.transforms import InputSpec
from fashion_tl.errors import UserError

from ..conftest import DATA
from .conftest import Arrays, idx


def mnist(root: Path, arrays: Arrays, name: str = "MNIST", prefix: str = "") -> Path:
    """Write a set in MNIST's format; of EMNIST the files have a prefix and other names."""
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for file, values in arrays.items():
        (raw / f"{prefix}{file.replace('t10k', 'test') if prefix else file}").write_bytes(idx(values))
    return root


def cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write 50 + 10 colour images as CIFAR-10's pickled batches, whose checksums stand for the real ones."""
    folder, rng = root / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir(parents=True)
    sums = {}

    def write(name: str, content: dict[str, Any]) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()  # noqa: S324 - torchvision's

    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        write(name, {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [*range(10)] * 2})
    write("batches.meta", {"label_names": [f"kind {number}" for number in range(10)]})
    lists = {"train_list": datasets.CIFAR10.train_list, "test_list": datasets.CIFAR10.test_list}
    for attribute, listed in lists.items():
        monkeypatch.setattr(datasets.CIFAR10, attribute, [[name, sums[name]] for name, _ in listed])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]})
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(path)


def dtd(root: Path) -> Path:
    """Write a set of files with training, validation and test images, two of each of two classes."""
    for number, part in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{part}{each}.jpg" for kind in ("dotted", "striped") for each in range(2)]
        for each, name in enumerate(names):
            photo(root / "dtd/dtd/images" / name, 10 * number + each)
        listed = root / f"dtd/dtd/labels/{part}1.txt"
        listed.parent.mkdir(exist_ok=True)
        listed.write_text("\n".join(names) + "\n")
    return root


def pets(root: Path) -> Path:
    """Write a set of files with the splits trainval and test."""
    for part, count in (("trainval", 8), ("test", 2)):
        names = [f"{kind}_{part}{each}" for kind in ("Big_Cat", "small_dog") for each in range(count)]
        for each, name in enumerate(names):
            photo(root / f"oxford-iiit-pet/images/{name}.jpg", each)
        lines = [f"{name} {1 + name.startswith('small')} 1 1" for name in names]
        listed = root / f"oxford-iiit-pet/annotations/{part}.txt"
        listed.parent.mkdir(exist_ok=True)
        listed.write_text("\n".join(lines) + "\n")
    return root


def test_mnist(tmp_path: Path, arrays: Arrays) -> None:
    source = TorchVision("MNIST", mnist(tmp_path, arrays))
    assert source.class_names == tuple(datasets.MNIST.classes)
    assert (source.channels, source.storage_size) == (1, 28)
    loaded = source.load()
    assert loaded.test is not None
    assert loaded.val is None
    for images, part in ((loaded.train, "train"), (loaded.test, "t10k")):
        assert isinstance(images, InMemoryImages)
        assert torch.equal(images.images[:, 0], torch.from_numpy(arrays[f"{part}-images-idx3-ubyte"]))
        assert images.labels.tolist() == arrays[f"{part}-labels-idx1-ubyte"].tolist()
    assert names(tmp_path) == ["MNIST"]


@pytest.mark.parametrize("name", ["KMNIST", "FashionMNIST"])
def test_sets_in_the_format_of_mnist(tmp_path: Path, arrays: Arrays, name: str) -> None:
    data = ImageDataModule(TorchVision(name, mnist(tmp_path, arrays, name)), num_workers=0)
    data.setup()
    assert data.describe()["sizes"] == {"train": 20, "val": 10, "test": 20}
    assert len(data.class_names) == 10


def test_letters_have_26_classes(tmp_path: Path, arrays: Arrays) -> None:
    """Class 0 of EMNIST's letters is named, but has no images."""
    letters = {name: values for name, values in arrays.items() if "images" in name}
    letters |= {
        name: 1 + np.arange(len(values), dtype=np.uint8) % 26 for name, values in arrays.items() if "labels" in name
    }
    source = TorchVision("EMNIST", mnist(tmp_path, letters, "EMNIST", "emnist-letters-"), {"split": "letters"})
    assert source.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert source.load().train.labels.tolist() == [number % 26 for number in range(30)]


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = TorchVision("CIFAR10", cifar10(tmp_path, monkeypatch))
    assert source.class_names == tuple(f"kind {number}" for number in range(10))
    assert (source.channels, source.storage_size) == (3, 32)
    loaded = source.load()
    assert (len(loaded.train), len(loaded.test or "")) == (100, 20)
    expected = datasets.CIFAR10(tmp_path)
    image, label = loaded.train[37]
    assert torch.equal(image, torch.from_numpy(np.array(expected[37][0])).permute(2, 0, 1))
    assert int(label) == expected[37][1]


def test_files_with_validation(tmp_path: Path) -> None:
    data = ImageDataModule(TorchVision("DTD", dtd(tmp_path)), image_size=8, num_workers=0)
    data.setup()
    assert data.class_names == ["dotted", "striped"]
    assert data.describe()["sizes"] == {"train": 4, "val": 4, "test": 4}
    path = tmp_path / "dtd/dtd/images/striped/striped_val0.jpg"
    assert torch.equal(torch.cat(list(data.in_order("val", 4)))[2], decode_image(path, 8, "crop"))
    with pytest.raises(UserError, match=r"TorchVision has validation images of its own"):
        ImageDataModule(data.source, image_size=8, val_fraction=0.1).setup()


def test_the_fingerprint_of_files_does_not_depend_on_their_decoded_size(tmp_path: Path) -> None:
    prints = [TorchVision("DTD", dtd(tmp_path / "a"), storage_size=size).load().fingerprint for size in (8,)]
    prints.append(TorchVision("DTD", tmp_path / "a", storage_size=12, resize="pad").load().fingerprint)
    photo(tmp_path / "a/dtd/dtd/images/dotted/dotted_test1.jpg", 99)
    other = TorchVision("DTD", tmp_path / "a", storage_size=8).load().fingerprint
    assert prints[0] == prints[1] != other


def test_files_without_validation(tmp_path: Path) -> None:
    data = ImageDataModule(TorchVision("OxfordIIITPet", pets(tmp_path)), image_size=8, num_workers=0)
    data.setup()
    assert data.class_names == ["Big Cat", "Small Dog"]
    assert data.describe()["sizes"] == {"train": 14, "val": 2, "test": 4}


def test_files_that_are_not_divided(tmp_path: Path) -> None:
    for number in range(16):
        photo(tmp_path / "eurosat/2750" / ("Forest", "River")[number % 2] / f"{number}.jpg", number)
    data = ImageDataModule(TorchVision("EuroSAT", tmp_path), image_size=8, num_workers=0)
    data.setup()
    assert data.class_names == ["Forest", "River"]
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}


def gtsrb(root: Path) -> Path:
    """Write a set whose test images are listed in a table, four of each of two classes to train on and one to test."""
    for number in range(8):
        photo(root / f"gtsrb/GTSRB/Training/{number % 2:05d}/{number}.ppm", number)
    rows = ["Filename;ClassId"]
    for number in range(2):
        photo(root / f"gtsrb/GTSRB/Final_Test/Images/{number}.ppm", 50 + number)
        rows.append(f"{number}.ppm;{number}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return root


def test_files_that_a_table_lists(tmp_path: Path) -> None:
    loaded = TorchVision("GTSRB", gtsrb(tmp_path), storage_size=8).load()
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4
    assert loaded.test is not None
    assert loaded.test.labels.tolist() == [0, 1]
    path = tmp_path / "gtsrb/GTSRB/Final_Test/Images/1.ppm"
    assert torch.equal(loaded.test[1][0], decode_image(path, 8, "crop"))


@pytest.mark.parametrize("kind", ["turned", "transparent", "16 bits"])
@pytest.mark.parametrize(
    ("name", "make", "path"),
    [
        ("DTD", dtd, "dtd/dtd/images/striped/striped_train1.jpg"),
        ("OxfordIIITPet", pets, "oxford-iiit-pet/images/small_dog_trainval7.jpg"),
    ],
)
def test_files_are_decoded_as_predict_decodes_them(
    tmp_path: Path, name: str, make: Callable[[Path], Path], path: str, kind: str
) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    make(tmp_path)
    if kind == "turned":
        turned = Image.Exif()
        turned[0x0112] = 6
        Image.fromarray(pixels).save(tmp_path / path, exif=turned)
    elif kind == "transparent":
        Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(tmp_path / path, "PNG")
    else:
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).save(tmp_path / path, "PNG")
    data = ImageDataModule(TorchVision(name, tmp_path), image_size=8, num_workers=0)
    data.setup()
    spec = InputSpec(**data.input_spec)
    decoded = decode_image(tmp_path / path, spec.stored, spec.resize, spec.crop)
    assert data.loaded is not None
    assert torch.equal(data.loaded.train[len(data.loaded.train) - 1][0], decoded)


def test_runs_share_a_set(tmp_path: Path, arrays: Arrays) -> None:
    mnist(tmp_path, arrays)
    with loading_once():
        first = load(TorchVision("MNIST", tmp_path))
        assert load(TorchVision("MNIST", tmp_path)) is first
    assert pickle.loads(pickle.dumps(TorchVision("MNIST", tmp_path))).load().fingerprint == first.fingerprint  # noqa: S301


def test_every_set_is_one_of_torchvision() -> None:
    for name in SETS:
        takes = torchvision_sets._parameters(name)
        assert {"root", "download"} <= takes
    assert torchvision_sets._parameters("EMNIST") >= {"split", "train"}


@pytest.mark.skipif(not (DATA / "MNIST/raw/t10k-images-idx3-ubyte.gz").is_file(), reason="needs MNIST's test files")
def test_the_real_test_images_of_mnist(tmp_path: Path) -> None:
    for kind in ("images-idx3", "labels-idx1"):
        content = gzip.decompress((DATA / f"MNIST/raw/t10k-{kind}-ubyte.gz").read_bytes())
        for part in ("train", "t10k"):
            path = tmp_path / f"MNIST/raw/{part}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    test = TorchVision("MNIST", tmp_path).load().test
    assert test is not None
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# Downloads


def test_a_download_is_made_once_and_lies_where_torchvision_looks(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def download(self: Any) -> None:
        made.append(self.root)
        mnist(Path(self.root), arrays)

    monkeypatch.setattr(datasets.MNIST, "download", download)
    (tmp_path / "data/MNIST/raw").mkdir(parents=True)
    (tmp_path / "data/MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(b"half of it")
    for _ in range(2):
        assert len(TorchVision("MNIST", tmp_path / "data").load().train) == 30
    assert len(made) == 1
    assert names(tmp_path / "data") == ["MNIST"]
    assert len(datasets.MNIST(tmp_path / "data")) == 30


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: Any) -> None:
        (Path(self.root) / "MNIST").mkdir()
        raise URLError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", download)


@pytest.mark.usefixtures("offline")
def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"MNIST is missing or damaged in .*data and cannot be downloaded .*no network.*--data\.source"
    ):
        TorchVision("MNIST", tmp_path / "data")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"MNIST is missing or damaged in .*data and cannot be downloaded"):
        TorchVision("MNIST", tmp_path / "data")


# Mistakes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("MNISTT", {}, r"unknown set of torchvision 'MNISTT'; did you mean .*'MNIST'.*--data\.source\.name"),
        ("CocoDetection", {}, r"unknown set of torchvision 'CocoDetection'.*ImageFolder or CSV"),
        ("", {}, "unknown set of torchvision ''"),
        ("MNIST", {"arguments": {"split": "letters"}}, r"unknown argument of MNIST 'split'.*--data\.source\.arguments"),
        ("DTD", {"arguments": {"split": "val"}}, r"unknown argument of DTD 'split'. Allowed: partition"),
        ("DTD", {"arguments": {"partitoin": 1}}, r"did you mean 'partition'"),
        ("OxfordIIITPet", {"arguments": {"target_types": "category"}}, r"'target_types'. Allowed: none"),
        ("EMNIST", {"arguments": {"split": "lettrs"}}, r"EMNIST in .* cannot be opened: .*'lettrs'.*Valid values"),
        ("EMNIST", {}, r"EMNIST in .* cannot be opened: .*split.*--data\.source\.arguments"),
        ("MNIST", {"storage_size": 32}, r"storage_size is 32, but MNIST has images of 28 pixels"),
    ],
)
def test_mistakes(tmp_path: Path, arrays: Arrays, name: str, changes: dict[str, Any], message: str) -> None:
    mnist(tmp_path, arrays)
    with pytest.raises(UserError, match=message) as caught:
        TorchVision(name, tmp_path, **changes)
    assert len(str(caught.value).splitlines()) == 1
    assert names(tmp_path) == ["MNIST"]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_files(tmp_path: Path, arrays: Arrays, name: str) -> None:
    path = mnist(tmp_path, arrays) / "MNIST/raw" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=r"MNIST .*(damaged|cannot be opened)"):
        TorchVision("MNIST", tmp_path).load()
    assert names(tmp_path) == ["MNIST"]


def test_a_damaged_image(tmp_path: Path) -> None:
    source = TorchVision("DTD", dtd(tmp_path), storage_size=8)
    (tmp_path / "dtd/dtd/images/dotted/dotted_val1.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"image 1 of DTD in .* cannot be read: .*downloads them again"):
        source.load()


def test_images_that_do_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_sets, "memory_limit", lambda: 12 * 3 * 8 * 8 - 1)
    with pytest.raises(
        UserError, match=r"DTD takes .* GiB of memory at 8 pixels.*smaller --data\.source\.storage_size"
    ):
        TorchVision("DTD", dtd(tmp_path), storage_size=8).load()


def test_files_need_a_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DTD needs data\.source\.storage_size, or --data\.image_size"):
        TorchVision("DTD", dtd(tmp_path)).load()
