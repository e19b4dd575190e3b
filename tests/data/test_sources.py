"""The contract of a source, for every source of the package; a subclass only says how to make one."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.data.csv_table import CSV
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.fashion_mnist import FashionMNIST
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.hugging_face import HuggingFace
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.data.images import ImageSet, InMemoryImages
from fashion_tl.data.objects import SyntheticObjects
from fashion_tl.data.sources import Source, load, loading_once
from fashion_tl.data.web_dataset import WebDataset

from .packed import write_parquet, write_shard


def parts(source: Source) -> list[ImageSet]:
    loaded = source.load()
    return [part for part in (loaded.train, loaded.val, loaded.test) if part is not None]


class SourceContract(ABC):
    """What the data module takes for granted of a source; ``make`` gives equal sources of 16 or more images."""

    @abstractmethod
    def make(self) -> Source: ...

    def test_classes_are_known_before_loading(self) -> None:
        names = self.make().class_names
        assert len(names) == len(set(names)) >= 2
        assert all(isinstance(name, str) and name for name in names)

    def test_runs_that_follow_each_other_share_what_they_load(self) -> None:
        assert load(self.make()) is not load(self.make())
        with loading_once():
            first, second = load(self.make()), load(self.make())
            assert (first is second) == isinstance(
                first.train, InMemoryImages
            )  # else each has files of its own to read
        assert load(self.make()) is not first

    def test_images_are_bytes_of_one_shape_with_labels_in_range(self) -> None:
        source = self.make()
        assert source.storage_size is not None
        for part in parts(source):
            images, labels = part.__getitems__(list(range(len(part))))
            assert images.shape == (len(part), source.channels, source.storage_size, source.storage_size)
            assert images.dtype == torch.uint8
            assert images.float().std() > 0
            assert torch.equal(labels, part.labels)
            assert labels.dtype == torch.int64
            assert labels.min() >= 0
            assert labels.max() < len(source.class_names)
        assert set(parts(source)[0].labels.tolist()) == set(range(len(source.class_names)))

    def test_equal_sources_give_equal_images_and_fingerprints(self) -> None:
        first, second = self.make(), self.make()
        torch.rand(3)  # the global generator has no say
        for one, other in zip(parts(first), parts(second), strict=True):
            every = list(range(len(one)))
            assert all(
                torch.equal(a, b) for a, b in zip(one.__getitems__(every), other.__getitems__(every), strict=True)
            )
        assert first.load().fingerprint == second.load().fingerprint

    def test_source_and_images_go_to_another_process(self) -> None:
        source = self.make()
        again: Source = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
        assert again.load().fingerprint == source.load().fingerprint
        for part in parts(source):
            sent: ImageSet = pickle.loads(pickle.dumps(part))  # noqa: S301 - our own
            assert torch.equal(sent[len(part) - 1][0], part[-1][0])

    def test_the_data_module_takes_it(self) -> None:
        data = ImageDataModule(self.make(), batch_size=4, num_workers=0)
        data.setup()
        images, labels = next(iter(data.train_dataloader()))
        assert len(images) == len(labels) == 4
        assert data.describe()["source"] == type(self.make()).__name__
        assert all(data.describe()["sizes"].values())


class TestFashionMNIST(SourceContract):
    @pytest.fixture(autouse=True)
    def files(self, root: Path) -> None:
        self.root = root

    def make(self) -> Source:
        return FashionMNIST(self.root)


class TestSyntheticGarments(SourceContract):
    def make(self) -> Source:
        return SyntheticGarments(60, 20)

    def test_another_seed_gives_other_images(self) -> None:
        assert SyntheticGarments(60, 20, seed=1).load().fingerprint != self.make().load().fingerprint


class TestSyntheticObjects(SourceContract):
    def make(self) -> Source:
        return SyntheticObjects(100, 30)


class TestImageFolder(SourceContract):
    splits: tuple[str, ...] = ("",)

    @pytest.fixture(autouse=True)
    def files(self, tmp_path: Path) -> None:
        self.root, rng = tmp_path, np.random.default_rng(0)
        for path in [tmp_path / split / name for split in self.splits for name in ("cat", "dog")]:
            path.mkdir(parents=True)
            for number in range(8):
                Image.fromarray(rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)).save(path / f"{number}.png")

    def make(self) -> Source:
        return ImageFolder(root=self.root, storage_size=8)


class TestDividedImageFolder(TestImageFolder):
    splits = ("train", "test")


class TestImageFolderWithValidation(TestImageFolder):
    splits = ("train", "val", "test")


class TestImageFolderOnDisk(TestImageFolder):
    @pytest.fixture(autouse=True)
    def no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)


class TestCSV(TestImageFolder):
    splits = ("train", "val", "test")

    def make(self) -> Source:
        rows = [f"{path.relative_to(self.root)},{path.parent.name}" for path in sorted(self.root.rglob("*.png"))]
        (self.root / "all.csv").write_text("\n".join(["path,label", *rows]))
        return CSV("all.csv", root=self.root, storage_size=8)


class TestCSVWithSplits(TestCSV):
    def make(self) -> Source:
        names = [path.relative_to(self.root).as_posix() for path in sorted(self.root.rglob("*.png"))]
        rows = [f"{name}\t{name.split('/')[1]}\t{name.split('/')[0]}" for name in names]
        (self.root / "all.csv").write_text("\n".join(["file\tkind\tset", *rows]))
        table = self.root / "all.csv"
        return CSV(table, path_column="file", label_column="kind", split_column="set", storage_size=8)


class TestHuggingFace(TestImageFolder):
    splits = ("train", "val", "test")

    def make(self) -> Source:
        for split in self.splits:
            paths = sorted((self.root / split).rglob("*.png"))
            images = [(path.read_bytes(), path.name) for path in paths]
            labels = {"label": [path.parent.name for path in paths]}
            write_parquet(self.root / f"parquet/{split}-0.parquet", images, labels)
        return HuggingFace("parquet", root=self.root, storage_size=8)


class TestHuggingFaceOnDisk(TestHuggingFace):
    @pytest.fixture(autouse=True)
    def no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)


class TestWebDataset(TestImageFolder):
    splits = ("train", "test")

    def make(self) -> Source:
        for split in self.splits:
            files = []
            for path in sorted((self.root / split).rglob("*.png")):
                key = f"{path.parent.name}/{path.stem}"
                files += [(f"{key}.png", path.read_bytes()), (f"{key}.cls", path.parent.name.encode())]
            write_shard(self.root / f"{split}.tar", files)
        return WebDataset("train.tar", test="test.tar", root=self.root, storage_size=8)


class TestWebDatasetOnDisk(TestWebDataset):
    @pytest.fixture(autouse=True)
    def no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)


def test_sources_that_differ_are_not_shared() -> None:
    class Other(SyntheticGarments):
        pass

    class Hidden(SyntheticGarments):
        def __init__(self) -> None:
            super().__init__(40)
            self.pixels = torch.zeros(1)  # which no text tells apart

    with loading_once():
        first = load(SyntheticGarments(40))
        assert load(SyntheticGarments(41)) is not first
        assert load(Other(40)) is not first
        assert load(Hidden()) is not load(Hidden())
