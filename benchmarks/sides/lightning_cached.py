"""Lightning's own loop with nothing in it, over the same features: what no module or callback can be faster than."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sides.bare_cached import accuracy, batch_of, read, upper


class Batches:
    """Gathers batches of rows and labels, in a new order each epoch where asked for."""

    def __init__(self, rows: Tensor, labels: Tensor, size: int, shuffle: bool) -> None:
        self.rows, self.labels, self.size, self.shuffle = rows, labels, size, shuffle

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.rows) // self.size if self.shuffle else -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch."""
        order = torch.randperm(len(self.rows)) if self.shuffle else torch.arange(len(self.rows))
        for step in range(len(self)):
            batch = order[step * self.size : (step + 1) * self.size]
            yield batch_of(self.rows[batch]), self.labels[batch]


class Bare(LightningModule):
    """Trains what is given, and notes when each epoch ends."""

    def __init__(self, network: nn.Module, options: Any, steps: int) -> None:  # noqa: ANN401 - argparse's namespace
        super().__init__()
        self.network, self.options, self.steps = network, options, steps
        self.ends: list[float] = []
        self.hits = 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count hits."""
        self.hits += int((self.network(batch[0]).argmax(1) == batch[1]).sum())

    def on_train_epoch_end(self) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's type
        """Return the optimizer and schedule of the bare loop."""
        options = self.options
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=options.lr[0], weight_decay=options.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: common.cosine(step, self.steps * options.epochs, options.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train and print one line of JSON; ``epoch_seconds`` is the mean of all epochs but the first."""
    parser = common.arguments(str(__doc__))
    parser.add_argument("--activations", type=Path, required=True, help="folder with the activations")
    options = parser.parse_args()
    imports = common.imported()
    common.all_threads()
    began = time.perf_counter()
    torch.manual_seed(0)
    train = Batches(*read(options.activations, "train"), options.batch_size, True)
    val = Batches(*read(options.activations, "val"), common.EVAL_BATCH, False)
    module = Bare(upper(options.backbone, bool(options.train), options.dropout), options, len(train))
    trainer = Trainer(max_epochs=options.epochs, accelerator="cpu", barebones=True)
    trainer.fit(module, train, val)  # type: ignore[arg-type]
    ended, ends = time.perf_counter(), module.ends
    found = accuracy(module.network, val.rows, val.labels)
    test_accuracy = accuracy(module.network, *read(options.activations, "test"))
    common.report(
        ("lightning", "timm"),
        seconds=ended - began,
        test_seconds=time.perf_counter() - ended,
        import_seconds=imports,
        accuracy=found,
        test_accuracy=test_accuracy,
        images=len(train.rows),
        epochs=options.epochs,
        epoch_seconds=(ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else None,
    )


if __name__ == "__main__":
    main()
