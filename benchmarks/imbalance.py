"""What a balanced sampler and balanced class weights give on Fashion-MNIST with a long tail of 1 : 50.

The largest class keeps 2,000 training images, each next one fewer by the same factor, the smallest 40. The last 100
training images of each class validate, and choose the epoch; the test set stays whole, 1,000 images a class. Its
accuracy is therefore the balanced accuracy; the accuracy where classes come as often as in training is the mean of
their recalls, weighted by their shares of the training images. Means over seeds, with Student's 95 % interval.

    FASHION_TL_DATA_DIR=FOLDER python -m benchmarks.imbalance BACKBONE [SEEDS] [TRAIN] [EPOCHS]
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch

from fashion_tl import FashionMNIST, fit
from fashion_tl.data.images import InMemoryImages
from fashion_tl.data.sources import Loaded
from fashion_tl.metrics.repeated import mean_interval

LARGEST, RATIO, VALIDATING = 2000, 50, 100
STRATEGIES = {
    "nothing": {},
    "balanced class weights": {"model.class_weights": "balanced"},
    "balanced sampler": {"data.sampler": "balanced"},
}


class LongTail(FashionMNIST):
    """Fashion-MNIST whose classes are the smaller, the higher their labels."""

    def load(self) -> Loaded:
        """Keep the first images of each class to train on, the last to validate on."""
        loaded = super().load()
        images, labels = loaded.train.__getitems__(list(range(len(loaded.train))))
        classes = len(self.class_names)
        members = [(labels == label).nonzero().flatten() for label in range(classes)]
        sizes = [round(LARGEST * RATIO ** (-label / (classes - 1))) for label in range(classes)]
        first = torch.cat([each[:size] for each, size in zip(members, sizes, strict=True)]).sort().values
        last = torch.cat([each[-VALIDATING:] for each in members]).sort().values
        train, val = (InMemoryImages(images[chosen], labels[chosen]) for chosen in (first, last))
        return replace(loaded, train=train, val=val, fingerprint=f"{loaded.fingerprint} {LARGEST} {RATIO} {VALIDATING}")


def measure(backbone: str, seeds: int = 3, train: str = "head", epochs: int = 30) -> None:
    """Train each strategy with each seed, and print a table."""
    print("| strategy | balanced accuracy | accuracy at the shares of training | recall of the three rarest classes |")
    print("| --- | --- | --- | --- |")
    for name, changes in STRATEGIES.items():
        figures: list[tuple[float, float, float]] = []
        for seed in range(seeds):
            run = fit(
                {"data": {"source": {"class_path": "benchmarks.imbalance.LongTail"}, "image_size": 64}},
                {
                    "name": "imbalance." + name.replace(" ", "_"),
                    "seed_everything": seed,
                    "model.backbone": backbone,
                    "model.train": int(train) if train.isdigit() else train,
                    "model.lr": 0.003,
                    "monitor": "val/balanced_accuracy",
                    "trainer.max_epochs": epochs,
                    "trainer.enable_progress_bar": False,
                    "trainer.logger": False,
                    **changes,
                },
            )
            recalls = [each["recall"] for each in run.test["per_class"].values()]
            counts = run.record["data"]["class_counts"]["train"]
            shared = sum(recall * count for recall, count in zip(recalls, counts, strict=True)) / sum(counts)
            figures.append((run.test["balanced_accuracy"], shared, sum(recalls[-3:]) / 3))
        print(f"| {name} | " + " | ".join(map(_told, zip(*figures, strict=True))) + " |", flush=True)


def _told(values: tuple[float, ...]) -> str:
    interval = mean_interval(values)
    mean = sum(values) / len(values)
    return f"{mean:.4f}" + ("" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f})")


if __name__ == "__main__":
    given = sys.argv[1:]
    measure(given[0], *(int(given[1]),) if given[1:] else (), *given[2:3], *map(int, given[3:4]))
