"""Times `fashion-tl predict` against its network alone: `python -m benchmarks.predict CHECKPOINT FOLDER`.

In one process and in turn: `predict` over the folder (finding and decoding the files, the network, the table), and the
forward passes of the same batches, decoded before and held in memory as stored. Both have the same threads, batch size
and settings of memory. The first pass of each is left out. The ratio is the images a second of `predict` over those of
the network; beside it stand decoding alone, with all threads, which bounds `predict` where the network is small, and
opening the checkpoint, which `predict` does once. The same by processor seconds: what work of others beside it changes
less.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch

from benchmarks.report import spread
from fashion_tl.data.file_list import image_files
from fashion_tl.data.files import decoded
from fashion_tl.inspection.inference import classify
from fashion_tl.inspection.predict import predict
from fashion_tl.process import keep_freed_memory
from fashion_tl.training.loading import load_classifier


def main() -> None:
    """Measure, and print each figure with minimum, median and maximum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--form", default="csv", choices=["csv", "jsonl", "parquet"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    files, size = image_files([options.folder]), options.batch_size
    module = load_classifier(options.checkpoint)
    batches = [batch for _, batch in decoded(files, module.input_spec, size, skip=False)]

    def network() -> None:
        for batch in batches:
            classify(module, batch)

    def decoding() -> None:
        for _ in decoded(files, module.input_spec, size, skip=False):
            pass

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):

        def whole() -> None:
            predict(options.checkpoint, [options.folder], Path(folder, f"table.{options.form}"), size)

        sides: dict[str, Callable[[], object]] = {"predict": whole, "network": network, "decoding": decoding}
        sides["checkpoint"] = lambda: load_classifier(options.checkpoint)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for repeat in range(options.repeats + 1):
            for name, side in sides.items():
                seconds = _seconds(side)
                taken[name] += [seconds] if repeat else []
                print(f"{name} {repeat}: {seconds[0]:.2f} s, {seconds[1]:.2f} processor seconds", flush=True)
    print(f"{len(files):,} images, batches of {size}, {options.threads} threads, torch {torch.__version__}")
    for place, what in enumerate(("second", "processor second")):
        for name, values in taken.items():
            if name == "checkpoint":
                print(f"opening the checkpoint, {what}s: {spread([value[place] for value in values])}")
            else:
                print(f"{name}, images a {what}: {spread([len(files) / value[place] for value in values])}")
        pairs = zip(taken["predict"], taken["network"], strict=True)
        print(f"predict / network: {spread([alone[place] / ours[place] for ours, alone in pairs])}")


def _seconds(side: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that passed, and those of all processors."""
    began, worked = time.perf_counter(), time.process_time()
    side()
    return time.perf_counter() - began, time.process_time() - worked


if __name__ == "__main__":
    main()
