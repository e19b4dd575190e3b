"""What the report's tests share: records made by hand with awkward contents, and a small reader of HTML."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fashion_tl.metrics.metrics import summarise
from fashion_tl.report.figures import Comparison, compare_section
from fashion_tl.report.page import page
from fashion_tl.report.sections import collect
from fashion_tl.report.selection import LeftOut

CLASSES = ["T-shirt/top", "<b>Bag</b> & 'co'", 'a$b$ "c"', "Été|*x*"]
TEST_SET = "0123456789abcdef"
VOID = ("meta", "link", "br", "img", "input", "col")


@dataclass(eq=False)
class Node:
    """One element of a page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, **attributes: str) -> Iterator[Node]:
        """Yield the elements below of one kind; ``class_`` holds one of its classes."""
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and all(
                    child.has(k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items()
                ):
                    yield child
                yield from child.all(tag, **attributes)

    def has(self, key: str, value: str) -> bool:
        own = self.attributes.get(key)
        return own is not None and (value in own.split() if key == "class" else own == value)

    def one(self, tag: str, **attributes: str) -> Node:
        found = list(self.all(tag, **attributes))
        assert len(found) == 1, f"{len(found)} of <{tag} {attributes}>"
        return found[0]

    def get(self, key: str) -> str:
        value = self.attributes[key]
        assert value is not None
        return value

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():  # what lies between elements lays out the page's source
            self.open[-1].children.append(data)


def read_page(text: str) -> Node:
    """Read a page strictly: an element that is not closed, or closed twice, fails."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], f"not closed: {[n.tag for n in reader.open]}"
    return reader.root


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Node]:
    """Read a page strictly."""
    return read_page


class Maker:
    """Writes records of runs into a log folder."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs

    def run(
        self,
        name: str = "run",
        version: int = 0,
        *,
        skill: float = 2.0,
        draw: int = 0,
        images: int = 60,
        classes: list[str] | None = None,
        change: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        epochs: int = 3,
        filters: tuple[int, ...] | None = (5, 3, 3, 3),
        without: tuple[str, ...] = (),
    ) -> Path:
        """Write one completed run.

        Args:
            name: Its name.
            version: Its version.
            skill: How far the logit of the true class stands out.
            draw: Seed of its predictions.
            images: Number of test images.
            classes: Names of the classes.
            change: Entries of ``run.json`` by dotted key.
            config: Entries of ``config.yaml`` by dotted key.
            epochs: Number of epochs.
            filters: Shape of the first convolution; None for no ``filters.npz``.
            without: Files to leave out.
        """
        names = CLASSES if classes is None else classes
        folder = self.logs / name / f"version_{version}"
        folder.mkdir(parents=True)
        labels = np.random.default_rng(99).integers(0, len(names), images)
        rng = np.random.default_rng(draw)
        logits = (rng.standard_normal((images, len(names))) + skill * np.eye(len(names))[labels]).astype(np.float32)
        seconds = [10.5 + epoch + draw for epoch in range(epochs)]
        record: dict[str, Any] = {
            "name": name,
            "version": version,
            "status": "completed",
            "reason": "all epochs done",
            "seed": draw,
            "finished": f"2026-01-0{1 + version}T10:20:30+00:00",
            "data": {
                "source": "fashion_mnist",
                "fingerprint": "feed",
                "class_names": names,
                "sizes": {"train": 1234, "val": 50, "test": images},
                "image_size": 28,
                "channels": 1,
                "test_set": TEST_SET,
            },
            "model": {
                "architecture": "resnet18",
                "weights": "resnet18.tv_in1k",
                "weights_hash": "65fc645836693caa",
                "parameters": 1000 + draw,
                "phases": [
                    {"start": 0, "trains": "head", "trained_parameters": 50},
                    {"start": 2, "trains": "layer4 and head", "trained_parameters": 700 + draw},
                ],
                "lr": 0.003,
                "backbone_lr": 0.0003,
            },
            "environment": {"libraries": {"fashion_tl": "0.1.0"}, "device": "cpu (x86_64, 2 threads)"},
            "time": {"fit_seconds": sum(seconds) + 1.25, "epoch_seconds": seconds, "cache_seconds": 0.5},
            "peak_memory_bytes": 123456789 + draw,
            "best": {"epoch": 1, "monitor": "val/accuracy", "value": 0.5},
            "test": summarise(logits, labels, [str(i) for i in range(len(names))]),
            "study": None,
        }
        for key, value in (change or {}).items():
            _set(record, key, value)
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
        settings: dict[str, Any] = {"seed_everything": draw, "name": name, "model": {"init_args": {"lr": 0.003}}}
        settings["data"] = {"image_size": 28, "source": {"init_args": {"root": f"runs/version_{version}"}}}
        for key, value in (config or {}).items():
            _set(settings, key, value)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        with (folder / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "step", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "seconds"])
            for epoch in range(epochs):
                losses = [2 / (epoch + 2), 0.5 + 0.1 * epoch, 2 / (epoch + 1.5), 0.4 + 0.1 * epoch]
                writer.writerow([epoch, epoch * 10, *losses, seconds[epoch]])
        np.savez_compressed(folder / "test_predictions.npz", index=np.arange(images), label=labels, logits=logits)
        if filters is not None:
            np.savez(folder / "filters.npz", weight=rng.standard_normal(filters).astype(np.float32), layer="conv1")
        for file_name in without:
            (folder / file_name).unlink()
        return folder

    def pictures(
        self, test_set: str = TEST_SET, images: int = 60, shape: tuple[int, ...] = (8, 8), classes: int = 4
    ) -> Path:
        """Write the thumbnails of a test set."""
        folder = self.logs / "test_sets"
        folder.mkdir(exist_ok=True)
        labels = np.random.default_rng(99).integers(0, classes, images)
        pixels = np.random.default_rng(5).integers(0, 256, (images, *shape), dtype=np.uint8)
        np.savez_compressed(folder / f"{test_set}.npz", images=pixels, label=labels)
        return folder / f"{test_set}.npz"

    def logits(self, folder: Path) -> tuple[Any, Any]:
        """Read back labels and logits."""
        with np.load(folder / "test_predictions.npz") as arrays:
            return arrays["label"], arrays["logits"]

    def change(self, folder: Path, **changes: Any) -> None:
        """Change entries of ``run.json``; the keys have two underscores for dots, None removes an entry."""
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        for key, value in changes.items():
            _set(record, key.replace("__", "."), value)
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def _set(record: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        record = record.setdefault(part, {})
    if value == "absent":
        record.pop(last, None)
    else:
        record[last] = value


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Write records below ``tmp_path / "logs"``."""
    (tmp_path / "logs").mkdir()
    return Maker(tmp_path / "logs")


@dataclass
class Report:
    """A comparison without plots: its sections, what was left out, and its page."""

    sections: list[Comparison]
    left_out: list[LeftOut]
    root: Node
    text: str

    def table(self, caption: str) -> Node:
        """Find the one table whose caption begins so."""
        found = [t for t in self.root.all("table") if t.one("caption").text.startswith(caption)]
        assert len(found) == 1, f"{len(found)} tables {caption!r}"
        return found[0]

    def part(self, title: str) -> Node:
        """Find the one part with a title."""
        found = [s for s in self.root.all("section", class_="part") if s.one("h3").text == title]
        assert len(found) == 1, f"{len(found)} parts {title!r}"
        return found[0]


@pytest.fixture
def report(make: Maker, parse: Callable[[str], Node]) -> Callable[..., Report]:
    """Compare the records without drawing plots, which takes seconds."""

    def build(*wanted: str) -> Report:
        sections, left_out = collect(list(wanted), make.logs)
        compared = [compare_section(section) for section in sections]
        text = page(compared, {}, left_out, make.logs)
        return Report(compared, left_out, parse(text), text)

    return build
