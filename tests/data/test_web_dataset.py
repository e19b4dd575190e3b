"""Shards of samples: read in any order, by patterns, whole or refused."""

from __future__ import annotations

import gzip
import json
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.files import decode_image
from fashion_tl.data.shards import find_shards, read_shard
from fashion_tl.data.web_dataset import WebDataset
from fashion_tl.errors import UserError

from .packed import PHOTOS, pixels, write_shard

Files = list[tuple[str, bytes]]


def samples(numbers: Sequence[int] = range(16), labels: Sequence[str] = ("cat", "dog")) -> Files:
    """Two files of each sample; the first eight are of the first class."""
    files = []
    for number in numbers:
        files += [
            (f"photos/{number:02}.png", PHOTOS[number]),
            (f"photos/{number:02}.cls", labels[number // 8].encode()),
        ]
    return files


def enumerate_samples(numbers: Sequence[int]) -> list[tuple[int, tuple[str, bytes]]]:
    """Number samples from 0; each has two files."""
    return [(place // 2, file) for place, file in enumerate(samples(numbers))]


def loaded(root: Path, train: str = "*.tar", **changes: Any) -> ImageDataModule:
    data = ImageDataModule(WebDataset(train, root=root, storage_size=8, **changes), num_workers=0)
    data.setup()
    return data


def test_a_shard(tmp_path: Path, place: type) -> None:
    write_shard(tmp_path / "0.tar", samples())
    data = loaded(tmp_path)
    assert data.class_names == ["cat", "dog"]
    assert data.describe()["sizes"] == {"train": 10, "val": 2, "test": 4}
    images = data.splits["train"].images
    assert type(images) is place
    assert images.labels.tolist() == [0] * 8 + [1] * 8
    (tmp_path / "11.png").write_bytes(PHOTOS[11])
    assert torch.equal(images[11][0], decode_image(tmp_path / "11.png", 8, "crop", 0.875))


def test_how_samples_are_spread_over_shards_makes_no_difference(tmp_path: Path) -> None:
    write_shard(tmp_path / "one/0.tar", samples())
    order = np.random.default_rng(1).permutation(16).tolist()
    for number, rows in enumerate((order[:3], order[3:10], order[10:])):
        write_shard(tmp_path / f"three/{number:03}.tar", samples(rows))
    first, second = loaded(tmp_path / "one"), loaded(tmp_path / "three", "{000..002}.tar")
    assert second.describe()["fingerprint"] == first.describe()["fingerprint"]
    assert all(torch.equal(pixels(first, part), pixels(second, part)) for part in first.splits)


def test_names_of_shards_with_the_same_keys_make_no_difference(tmp_path: Path) -> None:
    """As of writers that number the samples of each shard from 0."""
    halves = [
        [(f"{place:02}{Path(name).suffix}", content) for place, (name, content) in enumerate_samples(rows)]
        for rows in ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
    ]
    for names in ("ab", "ba"):
        for name, files in zip(names, halves, strict=True):
            write_shard(tmp_path / names / f"{name}.tar", files)
    first, second = loaded(tmp_path / "ab"), loaded(tmp_path / "ba")
    assert second.identity == first.identity
    assert all(torch.equal(pixels(first, part), pixels(second, part)) for part in first.splits)


def test_splits_by_pattern(tmp_path: Path) -> None:
    for name, rows in (("train-0", range(2, 8)), ("train-1", range(8, 14)), ("val", (0, 14)), ("test", (1, 15))):
        write_shard(tmp_path / f"{name}.tar", samples(rows))
    data = loaded(tmp_path, "train-{0,1}.tar", val="val.tar", test="te?t.tar")
    assert data.describe()["sizes"] == {"train": 12, "val": 2, "test": 2}
    other = loaded(tmp_path, str(tmp_path / "train-*.tar"), test="test.tar")
    assert other.describe()["sizes"] == {"train": 10, "val": 2, "test": 2}
    assert other.describe()["fingerprint"] != data.describe()["fingerprint"]
    same = loaded(tmp_path, "train-*.tar", val="test.tar")  # the same images, to validate on
    assert len({each.describe()["fingerprint"] for each in (data, other, same)}) == 3


def test_labels_as_numbers_and_in_json(tmp_path: Path) -> None:
    write_shard(tmp_path / "n/0.tar", samples(labels=("10", "9")))
    assert loaded(tmp_path / "n").class_names == ["9", "10"]
    write_shard(tmp_path / "m/0.tar", samples(labels=("1", "0")))
    assert loaded(tmp_path / "m", class_names=["dog", "cat", "eel"]).class_names == ["dog", "cat"]
    for number, texts in enumerate((("002", "001"), ("1", "01"), ("9", "10 "), ("dog", "0"), ("9" * 5000, "1"))):
        write_shard(tmp_path / f"{number}/0.tar", samples(labels=texts))
    found = [loaded(tmp_path / f"{number}").class_names for number in range(4)]
    assert found == [["001", "002"], ["01", "1"], ["9", "10"], ["0", "dog"]]
    assert loaded(tmp_path / "4").class_names == ["1", "9" * 5000]
    files = [(name.replace(".cls", ".json"), content) for name, content in samples()]
    files = [
        (name, json.dumps({"kind": "ab"[b"d" in content]}).encode() if "json" in name else content)
        for name, content in files
    ]
    write_shard(tmp_path / "j/0.tar", files)
    data = loaded(tmp_path / "j", label_field="kind")
    assert data.class_names == ["a", "b"]
    write_shard(tmp_path / "t/0.tar", [(name.replace(".cls", ".kind.txt"), content) for name, content in samples()])
    assert loaded(tmp_path / "t", label="kind.txt").class_names == ["cat", "dog"]


def test_names_as_archives_have_them(tmp_path: Path) -> None:
    """A leading ./, folders, hidden files, long names, dots in folders; keys that begin anew in each shard."""
    long = "a/" * 60 + "b.c/"
    files = [(f"./{long}{name}", content) for name, content in samples()]
    path = write_shard(tmp_path / "0.tar", [(".hidden.png", b""), ("README", b"x"), *files])
    with tarfile.open(path, "a") as tar:
        folder = tarfile.TarInfo("more")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert next(iter(read_shard(path))) == f"{long}photos/00"
    assert loaded(tmp_path).describe()["sizes"] == {"train": 10, "val": 2, "test": 4}
    write_shard(tmp_path / "1.tar", files)
    assert loaded(tmp_path).describe()["sizes"] == {"train": 24, "val": 2, "test": 6}


def test_one_of_several_images(tmp_path: Path) -> None:
    files = samples() + [(f"photos/{number:02}.mask.png", b"x") for number in range(16)]
    write_shard(tmp_path / "a/0.tar", files)
    assert loaded(tmp_path / "a").describe()["skipped"] == []
    write_shard(tmp_path / "b/0.tar", samples() + [(f"photos/{number:02}.JPG", PHOTOS[0]) for number in range(16)])
    with pytest.raises(
        UserError, match=r"photos/00\.png of .*0\.tar has several images \(jpg, png\).*--data\.source\.image"
    ):
        loaded(tmp_path / "b")
    assert torch.equal(pixels(loaded(tmp_path / "b", image=".png")), pixels(loaded(tmp_path / "a")))


def test_shards_go_to_workers_as_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "0.tar", samples())
    expected = pixels(loaded(tmp_path))
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    data = ImageDataModule(WebDataset("0.tar", root=tmp_path, storage_size=8), num_workers=2)
    data.setup()
    assert torch.equal(pixels(data), expected)
    assert len(pickle.dumps(data.splits["train"].images)) < 10_000


def test_unreadable_images(tmp_path: Path, place: type) -> None:
    files = samples()
    files[0], files[2] = (files[0][0], b"no image"), (files[2][0], b"")
    write_shard(tmp_path / "0.tar", files)
    with pytest.raises(UserError) as caught:
        loaded(tmp_path)
    assert f"photos/00.png of {tmp_path / '0.tar'}: not an image" in str(caught.value)
    assert f"photos/01.png of {tmp_path / '0.tar'}: the file is empty" in str(caught.value)
    data = loaded(tmp_path, skip_unreadable=True)
    assert len(data.describe()["skipped"]) == 2
    assert sum(data.describe()["sizes"].values()) == 14


def test_a_shard_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    shard = write_shard(tmp_path / "0.tar", samples())
    data = loaded(tmp_path)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"of .*0\.tar cannot be read as an image: the archive is cut off"):
        pixels(data)


@pytest.mark.parametrize("part", ["header", "content", "between", "end"])
def test_a_shard_that_is_cut_off(tmp_path: Path, part: str) -> None:
    """Also where tarfile would see no fault: at the end of a file, where it takes what is there for all."""
    shard = write_shard(tmp_path / "0.tar", samples())
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-2]
    after = last.offset_data + -(-last.size // 512) * 512
    keep = {"header": last.offset + 100, "content": last.offset_data + 100, "between": last.offset, "end": after + 1024}
    shard.write_bytes(shard.read_bytes()[: keep[part]])
    with pytest.raises(UserError, match=r"0\.tar is damaged.*leave it out\.$") as caught:
        WebDataset("0.tar", root=tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_damaged_header(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", samples())
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        content[tar.getmembers()[5].offset] ^= 255
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged: it lacks the mark of its end, after 5 files"):
        WebDataset("0.tar", root=tmp_path)


def other(number: int, name: str, content: bytes) -> Files:
    files = samples()
    files[number] = (name, content)
    return files


BAD: dict[str, tuple[Files, dict[str, Any], str]] = {
    "no labels": (
        [file for file in samples() if not file[0].endswith(".cls")],
        {},
        r"no label \(\.cls\) of photos/00\.png of .*\(16 in all\).*other files are none.*--data\.source\.label",
    ),
    "labels under another name": (
        [(name.replace(".cls", ".class"), content) for name, content in samples()],
        {},
        r"no label \(\.cls\) of .*other files are class\. Name their extension with --data\.source\.label\.",
    ),
    "one without a label": (samples()[:-1], {}, r"no label \(\.cls\) of photos/15\.png of "),
    "one without an image": (samples()[1:], {}, r"photos/00\.cls of .* has no image \(jpg, .*its files are cls"),
    "duplicate keys": (samples() + samples()[:2], {}, r"two files 'png' of the sample 'photos/00'"),
    "dots in names": (
        [("a.1.png", PHOTOS[0]), ("a.2.png", PHOTOS[1])],
        {},
        r"the sample of a\.1\.png .* has no image .*its files are 1\.png, 2\.png",
    ),
    "labels that are floats": (
        samples(labels=("0.5", "x")),
        {"class_names": ["x"]},
        r"beside .*'0\.5' in photos/00\.png",
    ),
    "empty label": (samples(labels=("", "dog")), {}, r"neither names nor whole numbers: '' in photos/00\.png of"),
    "label that is no text": (other(1, "photos/00.cls", b"\xff"), {}, r"photos/00\.cls of .* is no UTF-8 text"),
    "number without a name": (
        samples(labels=("0", "2")),
        {"class_names": ["a", "b"]},
        r"beside .*\(a, b\): 2 in photos/08",
    ),
    "one class": (samples(range(8)), {}, r"one class, 'cat'; at least two"),
    "no JSON": (samples(), {"label": "png"}, r"photos/00\.png of .* is no UTF-8 text"),
    "empty": ([], {}, r"has no samples; at least two classes"),
    "image of another name": (samples(), {"image": "jpg"}, r"photos/00\.png of .* has no image \(jpg\)"),
}


@pytest.mark.parametrize(("files", "changes", "message"), BAD.values(), ids=BAD)
def test_mistakes(tmp_path: Path, files: Files, changes: dict[str, Any], message: str) -> None:
    write_shard(tmp_path / "0.tar", files)
    with pytest.raises(UserError, match=message) as caught:
        WebDataset("0.tar", root=tmp_path, **changes)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"kind": 1},
            r"photos/00\.json of .* has no field 'label': it has kind\. Name it with --data\.source\.label_field",
        ),
        ([1], r"has no field 'label': it is no object"),
        ({"label": 0.5}, r"neither names nor whole numbers: 0\.5 in photos/00\.png"),
        ({"label": None}, r"neither names nor whole numbers: None in"),
        (None, r"photos/00\.json of .* is no JSON"),
    ],
)
def test_mistakes_in_json(tmp_path: Path, content: Any, message: str) -> None:
    text = b"{" if content is None else json.dumps(content).encode()
    files = [(name.replace(".cls", ".json"), text if ".cls" in name else each) for name, each in samples()]
    write_shard(tmp_path / "0.tar", files)
    with pytest.raises(UserError, match=message):
        WebDataset("0.tar", root=tmp_path)


def test_a_class_in_the_test_shards_alone(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", samples())
    write_shard(tmp_path / "1.tar", samples((0, 8), labels=("eel", "dog")))
    with pytest.raises(UserError, match=r"no samples for 'test' of 'cat', 'train' of 'eel'"):
        WebDataset("0.tar", test="1.tar", root=tmp_path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", r"--data\.source\.train is empty"),
        ("gone-*.tar", r"names .*gone-\*\.tar: no such files"),
        ("{000..003}.tar", r"names .*001\.tar, .*002\.tar, .*003\.tar: no such files"),
        ("{000..2000000}.tar", r"names more than 100000 files"),
        ("{a}.tar", r"has '\{a\}'\. Allowed are numbers"),
        ("folder", r"no such files"),
        ("pipe:cat 000.tar", r"no such files"),
        ("text.tar", r"text\.tar is damaged, or no tar archive"),
        ("nothing.tar", r"nothing\.tar is damaged, or no tar archive: empty file"),
        ("000.tar.gz", r"is compressed \(gzip\): .*Unpack it"),
        ("link.tar", r"has 'photos/00\.jpg', a link or a sparse file"),
    ],
)
def test_no_shards(tmp_path: Path, pattern: str, message: str) -> None:
    content = write_shard(tmp_path / "000.tar", samples()).read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.tar").write_text("x" * 2000)
    (tmp_path / "nothing.tar").touch()
    (tmp_path / "000.tar.gz").write_bytes(gzip.compress(content))
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        link = tarfile.TarInfo("photos/00.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "photos/01.jpg"
        tar.addfile(link)
    with pytest.raises(UserError, match=message) as caught:
        WebDataset(pattern, root=tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_shard_in_two_splits(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", samples())
    (tmp_path / "same.tar").symlink_to("0.tar")
    with pytest.raises(UserError, match=r"0\.tar would be in two splits"):
        WebDataset("0.tar", test="same.tar", root=tmp_path)


def test_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "[root] {1}"
    for name in ("08", "09", "10", "a-{b}"):
        (folder / "s").mkdir(parents=True, exist_ok=True)
        (folder / f"s/{name}.tar").touch()

    def found(pattern: str) -> list[str]:
        return [path.stem for path in find_shards(folder, pattern, "--flag")]

    assert found("s/{08..10}.tar") == found("s/{09,08,10}.tar") == found("s/[01]*.tar") == ["08", "09", "10"]
    assert found("s/{0{8..9},10}.tar") == ["08", "09", "10"]
    assert found("s/{10..10}.tar") == ["10"]
    assert found("s/a-{b}.tar") == ["a-{b}"]
    assert found("**/1*.tar") == ["10"]
