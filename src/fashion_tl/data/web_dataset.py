"""Shards of samples in WebDataset's layout: tar archives with an image and a label of each sample."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fashion_tl.data.files import SUFFIXES
from fashion_tl.data.rows import ListedImages, Row, check_class_names, first, index_rows, named_labels, told_apart
from fashion_tl.data.shards import Sample, TarMember, find_shards, read_shard
from fashion_tl.data.sources import data_root
from fashion_tl.errors import UserError

_IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
_LABELS = ("cls", "json")
_NUMBER = re.compile("0|[1-9][0-9]{0,17}")


class WebDataset(ListedImages):
    """Tar archives with ``key.jpg`` (or another image) and ``key.cls``, or ``key.json`` with a field, of each sample.

    The archives are indexed once, by their headers, and each image is then read from where it lies: a set of images
    like any other, with seeded orders of the whole set, exact epochs, stratified splits, and runs that go on within an
    epoch. A stream, as the library webdataset reads archives, has none of these: it shuffles within a buffer, and its
    epochs depend on how shards and workers divide. So archives lie on disk and are not compressed.

    Images are decoded into memory where they fit, else read for every batch. In each class they come in the order of
    their names in the archives, or, where two have the same, in the order of the SHA-256 of their content: how samples
    are spread over shards, and what these are called, makes no difference.

    Args:
        train: The shards to train on: a pattern below ``root`` such as 'shards/train-{000..012}.tar' or
            'shards/train-*.tar', or an absolute one.
        val: Those to validate on; split off the training images if not given.
        test: Those to test on, likewise.
        root: Folder with the data; else FASHION_TL_DATA_DIR, else "data".
        image: Extension of the images, such as jpg; whichever image a sample has if not given.
        label: Extension of the labels: json, or any with the label alone as text; cls or json if not given.
        label_field: Field of the json files that holds the label.
        class_names: Names of labels that are whole numbers, from 0; or the order of the classes. Taken from the labels
            if not given.
        **decoding: How images are decoded: the other arguments of ``ImageFiles``.

    Raises:
        UserError: If shards are missing or damaged, or samples lack an image or a label.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        root: str | Path | None = None,
        image: str | None = None,
        label: str | None = None,
        label_field: str = "label",
        class_names: list[str] | None = None,
        **decoding: Any,  # noqa: ANN401 - the arguments of ImageFiles, checked there
    ) -> None:
        self.root = data_root(root)
        check_class_names(class_names)
        given = {
            part: pattern for part, pattern in (("train", train), ("val", val), ("test", test)) if pattern is not None
        }
        shards = {part: find_shards(self.root, text, f"--data.source.{part}") for part, text in given.items()}
        if twice := [str(path) for path, count in Counter(_resolved(shards.values())).items() if count > 1]:
            raise UserError(
                f"{first(twice)} would be in two splits. Give each of train, val and test shards of its own."
            )
        samples = [
            (part, sample)
            for part, archives in shards.items()
            for each in archives
            for sample in read_shard(each).values()
        ]
        told = f"{train!r} in {self.root}"
        images = _images([sample for _, sample in samples], image, told)
        labels = _labels([sample for _, sample in samples], images, label, label_field, told)
        names, order = named_labels(labels, [str(member) for member in images], told, class_names)
        rows, self.by_content = told_apart(
            [
                Row(member, name, part, None, member.name, str(member))
                for (part, _), member, name in zip(samples, images, names, strict=True)
            ]
        )
        index = index_rows(rows, told, "samples", "Check the labels of the shards.", order)
        super().__init__(index, **decoding)


def _resolved(shards: Iterable[list[Path]]) -> list[Path]:
    return [path.resolve() for paths in shards for path in paths]


def _images(samples: list[Sample], extension: str | None, told: str) -> list[TarMember]:
    """Return the image of each sample.

    Raises:
        UserError: If a sample has none, or several.
    """
    allowed = _IMAGES if extension is None else (extension.lower().removeprefix("."),)
    found = [[name for name in allowed if name in sample] for sample in samples]
    for names, sample in zip(found, samples, strict=True):
        if len(names) != 1:
            member, listed = next(iter(sample.values())), ", ".join(sorted(sample))
            wrong = f"several images ({', '.join(names)})" if names else f"no image ({', '.join(allowed)})"
            raise UserError(
                f"the sample of {member} has {wrong}: its files are {listed}. Name the extension of the images with "
                "--data.source.image, or correct the shard."
            )
    return [sample[name] for (name,), sample in zip(found, samples, strict=True)]


def _labels(
    samples: list[Sample], images: list[TarMember], extension: str | None, field: str, told: str
) -> list[object]:
    """Read the label of each sample, archive by archive.

    Raises:
        UserError: If a sample has none, or one that cannot be read.
    """
    if extension is None:
        extension = next((name for name in _LABELS if any(name in sample for sample in samples)), _LABELS[0])
    extension = extension.lower().removeprefix(".")
    if missing := [str(image) for image, sample in zip(images, samples, strict=True) if extension not in sample]:
        others = sorted({name for sample in samples for name in sample} - {*_IMAGES, extension})
        raise UserError(
            f"{told} has no label (.{extension}) of {first(missing)}. A sample's label is key.cls, or a field of "
            f"key.json; other files are {', '.join(others[:10]) or 'none'}. Name their extension with "
            "--data.source.label."
        )
    if extension.rpartition(".")[2] == "json":
        return [_field(sample[extension], field) for sample in samples]
    texts = [_text(sample[extension]) for sample in samples]
    # As a class index is written: 007 is a name, and with one name among them all are names.
    return [int(text) for text in texts] if all(map(_NUMBER.fullmatch, texts)) else list(texts)


def _text(member: TarMember) -> str:
    try:
        return member.read_bytes().decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{member} is no UTF-8 text. Correct the shard.") from error


def _field(member: TarMember, field: str) -> object:
    try:
        content: Any = json.loads(_text(member))
    except ValueError as error:
        raise UserError(f"{member} is no JSON. Correct the shard.") from error
    if not isinstance(content, dict) or field not in content:
        fields = f"it has {', '.join(map(str, content))[:200]}" if isinstance(content, dict) else "it is no object"
        raise UserError(f"{member} has no field {field!r}: {fields}. Name it with --data.source.label_field.")
    value: object = content[field]
    return value
