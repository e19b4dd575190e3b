"""Times what many small image files cost: `python -m benchmarks.many_files FOLDER --images 1000000`.

Makes the files below FOLDER once (32 x 32 pixels, grey PNG, ten classes), then measures, each in a process of its own:
the first start, which writes the index; later starts, which look it up; the same with decoded images kept; and reading
batches by worker processes, in turn with torchvision's ImageFolder, transforms and DataLoader. Memory is the peak above
what imports take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, CLASSES, PER_FOLDER, BATCH = 32, 10, 1000, 128


def make(folder: Path, count: int) -> None:
    """Write files that differ, unless as many are there."""
    done = folder / "made.txt"
    if done.is_file() and done.read_text(encoding="utf-8") == str(count):
        return

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0))
    random = np.random.default_rng(0)
    for number in range(count):
        label, place = number % CLASSES, number // CLASSES
        rows = np.zeros((SIZE, SIZE + 1), dtype=np.uint8)
        rows[8:24, 9:25] = random.integers(0, 256, (16, 1), dtype=np.uint8)
        rows[0, 1:9] = np.frombuffer(struct.pack(">Q", number), dtype=np.uint8)
        path = folder / f"images/class{label}/{place // PER_FOLDER:04d}/{number:07d}.png"
        if place % PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(start + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b""))
    done.write_text(str(count), encoding="utf-8")


def start(folder: Path, keep: bool) -> dict[str, Any]:
    """Load the folder as a run does whose memory does not hold it."""
    from fashion_tl.data import image_folder

    setattr(image_folder, "memory_limit", lambda: 0)  # noqa: B010
    before, began, worked = _peak(), time.perf_counter(), time.process_time()
    loaded = image_folder.ImageFolder(folder / "images", storage_size=SIZE, crop=1.0, keep_decoded=keep).load()
    return {
        "seconds": time.perf_counter() - began,
        "processor seconds": time.process_time() - worked,
        "MB": (_peak() - before) / 1024,
        "images": len(loaded.train),
    }


def ours(folder: Path, workers: int, batches: int) -> dict[str, Any]:
    """Read shuffled batches as a data module does."""
    from fashion_tl.data import image_folder
    from fashion_tl.data.datamodule import ImageDataModule

    setattr(image_folder, "memory_limit", lambda: 0)  # noqa: B010
    source = image_folder.ImageFolder(folder / "images", crop=1.0)
    data = ImageDataModule(source, image_size=SIZE, batch_size=BATCH, num_workers=workers)
    data.setup()
    return _rate(data.train_dataloader(), batches, lambda batch: batch.images)


def torchvision(folder: Path, workers: int, batches: int) -> dict[str, Any]:
    """Read shuffled batches as torchvision's tutorials do."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = transforms.Compose([transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor()])
    loader = DataLoader(datasets.ImageFolder(str(folder / "images"), steps), BATCH, shuffle=True, num_workers=workers)
    return _rate(loader, batches, lambda batch: batch[0])


def _rate(loader: Any, batches: int, images: Callable[[Any], Any]) -> dict[str, Any]:  # noqa: ANN401 - either loader
    """Time batches; starting the workers is left out, and with it the first few."""
    began, count = 0.0, 0
    for number, batch in enumerate(loader):
        if number == 10:
            began = time.perf_counter()
        if number >= 10:
            count += len(images(batch))
        if number == 10 + batches:
            break
    return {"images a second": count / (time.perf_counter() - began), "MB": _peak() / 1024}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB on Linux


PARTS: dict[str, Callable[..., dict[str, Any]]] = {"start": start, "ours": ours, "torchvision": torchvision}


def main() -> None:
    """Measure, and print each figure with minimum, median and maximum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        name, *arguments = json.loads(options.part)
        print(json.dumps(PARTS[name](options.folder, *arguments)))
        return
    make(options.folder, options.images)

    def run(*part: object) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.many_files", str(options.folder), "--part", json.dumps(part)]
        environment = {**os.environ, "FASHION_TL_CACHE_DIR": str(options.folder / f"cache{os.getpid()}")}
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout  # noqa: S603
        found: dict[str, Any] = json.loads(text.splitlines()[-1])
        print(part, found, flush=True)
        return found

    run("start", False)
    again = [run("start", False) for _ in range(options.repeats)]
    run("start", True)
    kept = [run("start", True) for _ in range(options.repeats)]
    sides = [[run(name, options.workers, options.batches) for name in ("ours", "torchvision")] for _ in again]
    ratios = [one["images a second"] / other["images a second"] for one, other in sides]
    for told, values in {
        "later start, s": [each["seconds"] for each in again],
        "later start with decoded images, s": [each["seconds"] for each in kept],
        "speed of reading, torchvision's = 1": ratios,
    }.items():
        print(f"{told}: {min(values):.2f}, {statistics.median(values):.2f}, {max(values):.2f}")


if __name__ == "__main__":
    main()
