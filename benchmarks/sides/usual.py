"""The usual Lightning pipeline: torchvision's dataset, PIL transforms, a DataLoader, the frozen forward every epoch."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import argparse
import logging
import time
import warnings
from typing import Any

import timm
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.tensorboard import SummaryWriter as SummaryWriter  # Lightning's logger imports it late
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import FashionMNIST

Loader = DataLoader[tuple[Tensor, Tensor]]


class UsualClassifier(LightningModule):
    """A timm backbone and a linear head, with AdamW and a cosine schedule."""

    def __init__(self, options: argparse.Namespace, lr: float) -> None:
        super().__init__()
        self.options, self.lr = options, lr
        made: Any = timm.create_model(options.backbone, pretrained=True, num_classes=0)
        self.backbone = made
        self.head = nn.Sequential(nn.Dropout(options.dropout), nn.Linear(made.num_features, common.CLASSES))
        self.train_accuracy = MulticlassAccuracy(common.CLASSES, average="micro")
        self.val_accuracy = MulticlassAccuracy(common.CLASSES, average="micro")
        self.test_accuracy = MulticlassAccuracy(common.CLASSES, average="micro")

    def freeze_backbone(self) -> None:
        """Take the gradients from all of the backbone that does not train."""
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad = common.trains(name, self.options.train)

    def on_train_epoch_start(self) -> None:
        """Keep frozen BatchNorm's statistics."""
        for module in self.backbone.modules():
            owned = list(module.parameters(recurse=False))
            if owned:
                module.train(any(parameter.requires_grad for parameter in owned))

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        logits = self(batch[0])
        self.val_accuracy(logits, batch[1])
        self.log("val/loss", F.cross_entropy(logits, batch[1]))
        self.log("val/accuracy", self.val_accuracy)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        logits = self(batch[0])
        self.test_accuracy(logits, batch[1])
        self.log("test/loss", F.cross_entropy(logits, batch[1]))
        self.log("test/accuracy", self.test_accuracy)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's type
        """Build AdamW over what trains, and the schedule."""
        rate = self.lr if self.options.backbone_lr is None else self.options.backbone_lr
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "lr": self.lr}]
        trained = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        groups += [{"params": trained, "lr": rate}] if trained else []
        optimizer = torch.optim.AdamW(groups, weight_decay=self.options.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: common.cosine(step, steps, self.options.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loaders(options: argparse.Namespace, expected: dict[str, Any]) -> tuple[Loader, Loader, Loader]:
    """Build the loaders of training, validation and test images, normalised as the backbone expects."""
    normalise = transforms.Normalize(expected["mean"], expected["std"])
    size = options.image_size
    plain = [transforms.Resize((size, size)), transforms.Grayscale(3), transforms.ToTensor()]
    evaluated = transforms.Compose([*plain, normalise])
    flip = [transforms.RandomHorizontalFlip()] if options.hflip else []
    trained = transforms.Compose([*flip, *plain, normalise])
    train, val = common.indices(options.split, options.probe)
    root, workers = str(options.data), options.workers

    def loader(data: Dataset[Any], batch_size: int, **more: Any) -> Loader:  # noqa: ANN401
        return DataLoader(data, batch_size, num_workers=workers, persistent_workers=workers > 0, **more)

    return (
        loader(
            Subset(FashionMNIST(root, train=True, transform=trained), train),
            options.batch_size,
            shuffle=True,
            drop_last=len(train) > options.batch_size,
        ),
        loader(Subset(FashionMNIST(root, train=True, transform=evaluated), val), common.EVAL_BATCH),
        loader(FashionMNIST(root, train=False, transform=evaluated), common.EVAL_BATCH),
    )


def run_once(
    options: argparse.Namespace,
    lr: float,
    trainer_arguments: dict[str, Any],
    classifier: type[UsualClassifier] = UsualClassifier,
) -> dict[str, Any]:
    """Train, validate after each epoch, test the best checkpoint once; returns what was measured."""
    began = time.perf_counter()
    seed_everything(0)
    module = classifier(options, lr)
    module.freeze_backbone()
    train, val, test = loaders(options, module.backbone.pretrained_cfg)
    best = ModelCheckpoint(monitor="val/accuracy", mode="max")
    trainer = Trainer(
        default_root_dir=options.work,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{
            "max_epochs": options.epochs,
            "callbacks": [best],
            **trainer_arguments,
            **({} if options.probe is None else {"max_epochs": 1}),
        },
    )
    trainer.fit(module, train, val)
    result = {"seconds": time.perf_counter() - began, "images": len(train.dataset)}  # type: ignore[arg-type]
    if options.probe is None:
        chosen: Any = trainer.checkpoint_callback
        result["accuracy"] = float(chosen.best_model_score)
        began = time.perf_counter()
        found = trainer.test(module, test, ckpt_path="best", verbose=False)
        result |= {"test_seconds": time.perf_counter() - began, "test_accuracy": found[0]["test/accuracy"]}
    return result


def quiet() -> None:
    """Silence what Lightning prints at the start of every run."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def main() -> None:
    """Run once for each rate and print one line of JSON, with the seconds of all runs and the best accuracy."""
    options = common.arguments(str(__doc__)).parse_args()
    imports = common.imported()
    common.all_threads()
    quiet()
    runs = [run_once(options, lr, {}) for lr in options.lr]
    result = {
        "seconds": sum(run["seconds"] for run in runs),
        "import_seconds": imports,
        "images": runs[0]["images"],
        "epochs": options.epochs,
        "runs": len(runs),
        "workers": options.workers,
    }
    if options.probe is None:
        best = max(runs, key=lambda run: run["accuracy"])
        result |= {"accuracy": best["accuracy"], "test_accuracy": best["test_accuracy"]}
        result["test_seconds"] = sum(run["test_seconds"] for run in runs)
    common.report(("lightning", "torchvision", "timm"), **result)


if __name__ == "__main__":
    main()
