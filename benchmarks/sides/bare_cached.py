"""A bare PyTorch loop over a frozen ResNet's activations in memory: its top stage and head, or the head alone."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read what ``benchmarks.prepare`` stored: rows, images among them laid (B, H, W, C), and labels."""
    rows, labels = (torch.from_numpy(np.load(folder / f"{part}-{what}.npy")) for what in ("rows", "labels"))
    return rows, labels


def batch_of(rows: Tensor) -> Tensor:
    """Turn rows (B, H, W, C) into channels_last images (B, C, H, W); features stay."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


def upper(backbone: str, top: bool, dropout: float) -> nn.Module:
    """Build what trains."""
    whole: Any = timm.create_model(backbone, pretrained=True, num_classes=0)
    head = [nn.Dropout(dropout), nn.Linear(whole.num_features, common.CLASSES)]
    stages = [whole.layer4, whole.global_pool] if top else []
    return nn.Sequential(*stages, *head).to(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(network: nn.Module, rows: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified right."""
    network.eval()
    parts = zip(torch.split(rows, common.EVAL_BATCH), torch.split(labels, common.EVAL_BATCH), strict=True)
    return sum(int((network(batch_of(x)).argmax(1) == y).sum()) for x, y in parts) / len(labels)


def main() -> None:
    """Train and print one line of JSON; ``epoch_seconds`` is the mean of all epochs but the first."""
    parser = common.arguments(str(__doc__))
    parser.add_argument("--activations", type=Path, required=True, help="folder with the activations")
    options = parser.parse_args()
    imports = common.imported()
    common.all_threads()
    began = time.perf_counter()
    torch.manual_seed(0)
    rows, labels = read(options.activations, "train")
    val_rows, val_labels = read(options.activations, "val")
    network = upper(options.backbone, bool(options.train), options.dropout)
    (lr,), steps = options.lr, len(rows) // options.batch_size
    rate = lr if options.backbone_lr is None else options.backbone_lr
    groups = [{"params": list(network[-1].parameters()), "lr": lr}]  # type: ignore[index]
    groups += [{"params": list(network[:-1].parameters()), "lr": rate}] if options.train else []  # type: ignore[index]
    optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: common.cosine(step, steps * options.epochs, options.warmup)
    )
    best, file, second = -1.0, options.work / "bare_cached.pt", began
    options.work.mkdir(parents=True, exist_ok=True)
    for epoch in range(options.epochs):
        if epoch == 1:
            second = time.perf_counter()
        network.train()
        order = torch.randperm(len(rows))
        for step in range(steps):
            batch = order[step * options.batch_size : (step + 1) * options.batch_size]
            loss = F.cross_entropy(network(batch_of(rows[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        found = accuracy(network, val_rows, val_labels)
        if found > best:
            best = found
            torch.save(network.state_dict(), file)
    ended = time.perf_counter()
    network.load_state_dict(torch.load(file))
    test_accuracy = accuracy(network, *read(options.activations, "test"))
    epoch_seconds = {"epoch_seconds": (ended - second) / (options.epochs - 1)} if options.epochs > 1 else {}
    common.report(
        ("timm",),
        seconds=ended - began,
        test_seconds=time.perf_counter() - ended,
        import_seconds=imports,
        accuracy=best,
        test_accuracy=test_accuracy,
        images=len(rows),
        epochs=options.epochs,
        **epoch_seconds,
    )


if __name__ == "__main__":
    main()
