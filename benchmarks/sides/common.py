"""What the sides share: arguments, clock, memory, the line of JSON. Runs in the environments of the peers as well."""

from __future__ import annotations

import time

PROCESS_BEGAN = time.perf_counter()

import argparse  # noqa: E402 - the clock of the imports starts before them
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch._dynamo  # noqa: E402 - any optimizer imports it at its first step, and that is no training

EVAL_BATCH = 512
CLASSES = 10


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all sides but ours take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with FashionMNIST/raw/*-ubyte")
    parser.add_argument("--split", type=Path, required=True, help="file with the indices train and val")
    parser.add_argument("--work", type=Path, required=True, help="folder for logs and checkpoints")
    parser.add_argument("--backbone", default="resnet18", help="name of the timm backbone")
    parser.add_argument("--image_size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--batch_size", type=int, default=128, help="images in a training batch")
    parser.add_argument("--epochs", type=int, default=1, help="epochs; of the second phase where there are two")
    parser.add_argument("--freeze_epochs", type=int, default=0, help="epochs of the first phase where there are two")
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-3], help="rate of the head; one run for each")
    parser.add_argument("--backbone_lr", type=float, help="rate of the backbone; that of the head if not given")
    parser.add_argument("--weight_decay", type=float, default=0.0, help="weight decay of AdamW")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout before the head")
    parser.add_argument("--warmup", type=float, default=0.0, help="share of the steps in which the rate rises")
    parser.add_argument("--train", nargs="*", default=[], help="modules of the backbone that train beside the head")
    parser.add_argument("--hflip", action="store_true", help="flip training images horizontally at random")
    parser.add_argument("--workers", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--probe", type=int, help="time one epoch of so many images, nothing else")
    return parser


def indices(path: Path, probe: int | None) -> tuple[list[int], list[int]]:
    """Read the indices of the training and validation images; ``probe`` keeps the first of both."""
    with np.load(path) as split:
        train, val = split["train"].tolist(), split["val"].tolist()
    return (train, val) if probe is None else (train[:probe], val[:EVAL_BATCH])


def trains(name: str, modules: list[str]) -> bool:
    """Whether a parameter of the backbone belongs to one of the modules that train."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def cosine(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate: a linear warm-up, then half a cosine."""
    progress = min(step / steps, 1.0)
    if progress < warmup:
        return progress / warmup
    return (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def peak_bytes() -> int:
    """Return the largest resident memory of this process, without its children."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss can be that of the process that started this one
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def imported() -> float:
    """Return the seconds since this module was imported; call it when all imports are done."""
    return time.perf_counter() - PROCESS_BEGAN


def report(packages: tuple[str, ...], **result: Any) -> None:  # noqa: ANN401 - plain values
    """Print the line of JSON.

    Args:
        packages: Distributions whose versions to add.
        **result: At least ``seconds``, from the first read of the data to the last validated epoch; where they were
            measured also ``test_seconds``, ``import_seconds``, ``epoch_seconds``, ``accuracy`` (validation),
            ``test_accuracy``, ``images`` and ``epochs``.
    """
    versions = {name: version(name) for name in ("torch", *packages)}
    common = {"python": platform.python_version(), "versions": versions, "threads": torch.get_num_threads()}
    sys.stdout.flush()
    print(json.dumps({**result, "peak_bytes": peak_bytes(), **common}), flush=True)


def all_threads() -> None:
    """Use as many threads as OMP_NUM_THREADS says, else one for each core."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
