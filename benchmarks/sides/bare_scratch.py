"""A bare PyTorch loop that trains the scratch CNN of ``experiments/scratch.yaml`` on tensors in memory."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import FashionMNIST

from fashion_tl.data.augment import Augment
from fashion_tl.models.scratch import LightCNN


def normalised(images: Tensor) -> Tensor:
    """Bring images (B, 1, H, W) in 0 to 1 to -1 to 1."""
    return ((images - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that are classified right."""
    network.eval()
    parts = zip(torch.split(images, common.EVAL_BATCH), torch.split(labels, common.EVAL_BATCH), strict=True)
    return sum(int((network(normalised(x.float() / 255)).argmax(1) == y).sum()) for x, y in parts) / len(labels)


def main() -> None:
    """Train and print one line of JSON."""
    options = common.arguments(str(__doc__)).parse_args()
    imports = common.imported()
    common.all_threads()
    began = time.perf_counter()
    torch.manual_seed(0)
    train, val = common.indices(options.split, None)
    data = FashionMNIST(str(options.data), train=True)
    images, labels = data.data[train].unsqueeze(1), data.targets[train]
    val_images, val_labels = data.data[val].unsqueeze(1), data.targets[val]
    body = LightCNN(1)
    network = nn.Sequential(body, nn.Linear(body.features, common.CLASSES)).to(memory_format=torch.channels_last)
    augment = Augment(hflip=0.5, translate=2)
    (lr,), steps = options.lr, len(train) // options.batch_size
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps * options.epochs, pct_start=options.warmup, cycle_momentum=False
    )
    best, file = -1.0, options.work / "bare_scratch.pt"
    options.work.mkdir(parents=True, exist_ok=True)
    for _ in range(options.epochs):
        network.train()
        order = torch.randperm(len(train))
        for step in range(steps):
            batch = order[step * options.batch_size : (step + 1) * options.batch_size]
            logits = network(normalised(augment(images[batch])))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        found = accuracy(network, val_images, val_labels)
        if found > best:
            best = found
            torch.save(network.state_dict(), file)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    network.load_state_dict(torch.load(file))
    test = FashionMNIST(str(options.data), train=False)
    test_accuracy = accuracy(network, test.data.unsqueeze(1), test.targets)
    common.report(
        ("torchvision",),
        seconds=seconds,
        test_seconds=time.perf_counter() - began,
        import_seconds=imports,
        accuracy=best,
        test_accuracy=test_accuracy,
        images=len(train),
        epochs=options.epochs,
    )


if __name__ == "__main__":
    main()
