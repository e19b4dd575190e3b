"""A LightningDataModule of one's own that joins the feature cache.

    python examples/foreign_data_module.py

The module says which fixed views of an image its training draws from; then what the frozen backbone makes of them may
be kept in files, and a second run starts at once.
"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import Tensor

from fashion_tl import FeatureCache, TransferClassifier
from fashion_tl.data.batches import BatchLoader, Split
from fashion_tl.data.images import InMemoryImages


class Squares(LightningDataModule):
    """Bright and dark squares in noise."""

    views = {"identity": 1.0}  # noqa: RUF012 - Lightning's hooks aside, a declaration; every image is seen as it is

    def __init__(self, count: int = 160) -> None:
        super().__init__()
        labels = torch.arange(count) % 2
        noise = torch.randint(0, 100, (count, 1, 32, 32), generator=torch.Generator().manual_seed(0))
        images = InMemoryImages((noise + 120 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)
        held_out = count // 4
        self.splits = {
            "train": Split(images, torch.arange(count - held_out)),
            "val": Split(images, torch.arange(count - held_out, count)),
        }

    def train_dataloader(self) -> BatchLoader:
        """Give positions and labels; the images follow on the device."""
        return BatchLoader(self.splits["train"], batch_size=32, shuffle=True)

    def val_dataloader(self) -> BatchLoader:
        """Give positions and labels of the validation images."""
        return BatchLoader(self.splits["val"], batch_size=32)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Fetch the inputs: images, or features where the backbone is frozen."""
        training = self.trainer is not None and self.trainer.training
        return self.splits["train" if training else "val"].fetch(batch, training)


def main(backbone: str = "test_resnet", epochs: int = 3) -> float:
    """Train a head on cached features; returns the accuracy on the validation images."""
    seed_everything(0, verbose=False)
    spec = {"channels": 1, "storage_size": 32, "image_size": 32}
    model = TransferClassifier(["dark", "bright"], backbone, pretrained=False, train="head", input_spec=spec, lr=0.01)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[FeatureCache("require")],  # an error if the features may not be cached
        logger=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, Squares())
    return float(trainer.callback_metrics["val/accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy {main():.3f}")
