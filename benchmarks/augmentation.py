"""Times augmentation of a batch against torchvision's v2, image by image: `python -m benchmarks.augmentation`.

One thread, batches of 128, both sides in turn. Ours takes the batch as floats, as a training step does; torchvision
takes uint8, bilinear, one image after the other, as a `DataLoader` does. Milliseconds of processor time of a batch,
smallest / median / largest, and their ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from benchmarks.report import spread
from fashion_tl.data.augment import Augment
from fashion_tl.process import keep_freed_memory

BATCH, REPEATS = 128, 7
SHAPES = ((1, 28, 28), (3, 64, 64))
BILINEAR = InterpolationMode.BILINEAR


def pairs(size: int) -> dict[str, tuple[Augment, Callable[[torch.Tensor], torch.Tensor]]]:
    """Return ours and torchvision's transform by the flag that sets it, for images of a size in pixels."""
    return {
        "random_resized_crop: 0.5": (Augment(random_resized_crop=0.5), v2.RandomResizedCrop(size, (0.5, 1.0))),
        "trivial_augment: true": (Augment(trivial_augment=True), v2.TrivialAugmentWide(interpolation=BILINEAR)),
        "rand_augment: 2": (
            Augment(rand_augment=2, rand_augment_magnitude=9),
            v2.RandAugment(2, 9, interpolation=BILINEAR),
        ),
    }


def milliseconds(side: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    began = time.process_time()
    side()
    return 1000 * (time.process_time() - began)


def main() -> None:
    """Measure, and print a table in Markdown."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    print("| images | augmentation | ours, ms | torchvision, ms | ratio |\n| --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        stored = torch.randint(256, (BATCH, *shape), dtype=torch.uint8)
        batch = stored / 255
        for name, (ours, theirs) in pairs(shape[-1]).items():
            taken = [
                (milliseconds(partial(ours, batch)), milliseconds(partial(list, map(theirs, stored))))
                for _ in range(REPEATS + 1)
            ][1:]  # the first warms up
            here, there = (list(side) for side in zip(*taken, strict=True))
            ratio = spread([slow / fast for fast, slow in taken])
            print(f"| {' x '.join(map(str, shape))} | `{name}` | {spread(here)} | {spread(there)} | {ratio} |")


if __name__ == "__main__":
    main()
