"""One module in a script of one's own: a timm backbone in two phases, with plain PyTorch data.

    python examples/import_a_module.py

The module resizes and normalises; it takes images as bytes, or as floats from 0 to 1.
"""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from fashion_tl import TransferClassifier


def main(backbone: str = "test_resnet", epochs: int = 4) -> float:
    """Tell noisy bright images from dark ones; returns the accuracy on the validation images."""
    seed_everything(0, verbose=False)
    labels = torch.arange(160) % 2
    images = (torch.rand(160, 3, 32, 32) * 0.6 + 0.3 * labels.view(-1, 1, 1, 1)).clamp(0, 1)
    train = DataLoader(TensorDataset(images[:128], labels[:128]), batch_size=32, shuffle=True)
    val = DataLoader(TensorDataset(images[128:], labels[128:]), batch_size=32)
    model = TransferClassifier(
        ["dark", "bright"],
        backbone,
        pretrained=False,
        train={0: "head", 2: "layer4"},  # two epochs of the head, then the last stage as well
        input_spec={"channels": 3, "image_size": 32},
        lr=0.01,
        backbone_lr=0.001,
    )
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(model, train, val)
    return float(trainer.callback_metrics["val/accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy {main():.3f}")
