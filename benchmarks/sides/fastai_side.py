"""fastai's ``fine_tune`` with a timm backbone: its head, its rates, its one-cycle schedules."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import time
import warnings
from typing import Any

import numpy as np
from torchvision.datasets import FashionMNIST

warnings.filterwarnings("ignore")
from fastai.vision.all import (  # type: ignore[import-not-found]  # noqa: E402
    CategoryBlock,
    DataBlock,
    Flip,
    ImageBlock,
    IndexSplitter,
    Resize,
    accuracy,
    set_seed,
    vision_learner,
)


def main() -> None:
    """Run once and print one line of JSON; rates are fastai's own."""
    options = common.arguments(str(__doc__)).parse_args()
    imports = common.imported()
    common.all_threads()
    began = time.perf_counter()
    set_seed(0)
    parts = [FashionMNIST(str(options.data), train=train) for train in (True, False)]
    images = np.concatenate([part.data.numpy() for part in parts])
    labels = np.concatenate([part.targets.numpy() for part in parts])
    train, val = common.indices(options.split, options.probe)
    test = list(range(len(parts[0]), len(images)))
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=list(range(common.CLASSES)))),
        get_x=lambda i: images[i][..., None].repeat(3, axis=-1),
        get_y=lambda i: int(labels[i]),
        splitter=IndexSplitter(range(len(train), len(train) + len(val))),
        item_tfms=Resize(options.image_size),
        batch_tfms=[Flip()] if options.hflip else [],
    )
    loaders = block.dataloaders(
        train + val, bs=options.batch_size, val_bs=common.EVAL_BATCH, num_workers=options.workers
    )
    learner: Any = vision_learner(loaders, options.backbone, n_out=common.CLASSES, metrics=accuracy, path=options.work)
    with learner.no_bar(), learner.no_logging():
        if options.probe is not None:
            learner.unfreeze()
            learner.fit_one_cycle(1)
        else:
            learner.fine_tune(options.epochs, freeze_epochs=options.freeze_epochs)
        result = {"seconds": time.perf_counter() - began, "images": len(train)}
        if options.probe is None:
            result["accuracy"] = float(learner.recorder.values[-1][-1])
            began = time.perf_counter()
            found = learner.validate(dl=loaders.test_dl(test, with_labels=True))
            result |= {"test_seconds": time.perf_counter() - began, "test_accuracy": float(found[-1])}
    common.report(
        ("fastai", "torchvision", "timm"),
        **result,
        import_seconds=imports,
        epochs=options.epochs + options.freeze_epochs,
        workers=options.workers,
    )


if __name__ == "__main__":
    main()
