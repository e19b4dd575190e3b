"""The usual pipeline with the package finetuning-scheduler: first the head alone, then more of the backbone."""

from __future__ import annotations

from benchmarks.sides import common  # first: it starts the clock of the imports

# ruff: isort: split
import argparse
from typing import Any

import torch
from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint  # type: ignore[import-not-found]

from benchmarks.sides.usual import UsualClassifier, quiet, run_once


class ScheduledClassifier(UsualClassifier):
    """Leaves freezing to the scheduler, but for BatchNorm's statistics, which it would let drift."""

    def freeze_backbone(self) -> None:
        """Leave all as it is."""

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's type
        """Build AdamW over the head, with a cosine over the first phase; the schedule below adds the second."""
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=self.lr, weight_decay=self.options.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        steps = total * self.options.freeze_epochs // (self.options.freeze_epochs + self.options.epochs)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def schedule_of(options: argparse.Namespace, module: ScheduledClassifier, lrs: list[float]) -> dict[int, Any]:
    """Write the two phases as finetuning-scheduler reads them; rates are those of the head in each phase."""
    names = [f"backbone.{name}" for name, _ in module.backbone.named_parameters() if common.trains(name, options.train)]
    images = len(common.indices(options.split, options.probe)[0])
    steps = max(1, images // options.batch_size) * options.epochs
    return {
        0: {
            "params": [f"head.{name}" for name, _ in module.head.named_parameters()],
            "max_transition_epoch": options.freeze_epochs,
        },
        1: {
            "params": names,
            "max_transition_epoch": options.freeze_epochs + options.epochs,
            "lr": options.backbone_lr,
            "new_lr_scheduler": {
                "lr_scheduler_init": {
                    "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
                    "init_args": {"T_max": steps},
                },
                "pl_lrs_cfg": {"interval": "step"},
                "init_pg_lrs": [lrs[-1], options.backbone_lr],
            },
        },
    }


def main() -> None:
    """Run once and print one line of JSON; the two values of ``--lr`` are the head's rates in the two phases."""
    options = common.arguments(str(__doc__)).parse_args()
    imports = common.imported()
    common.all_threads()
    quiet()
    module = ScheduledClassifier(options, options.lr[0])
    scheduler = FinetuningScheduler(
        ft_schedule=schedule_of(options, module, options.lr), epoch_transitions_only=True, logging_level=40
    )
    checkpoint = FTSCheckpoint(monitor="val/accuracy", mode="max", save_top_k=1)
    epochs = options.freeze_epochs + options.epochs
    result = run_once(
        options,
        options.lr[0],
        {"max_epochs": epochs, "callbacks": [scheduler, checkpoint]},
        ScheduledClassifier,
    )
    common.report(
        ("lightning", "torchvision", "timm", "finetuning-scheduler"),
        **result,
        import_seconds=imports,
        epochs=epochs,
        workers=options.workers,
    )


if __name__ == "__main__":
    main()
