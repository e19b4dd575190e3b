"""The progress bar, which names the phase."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.progress import progress_of


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich progress bar that shows the phase beside the metrics: "phase: 2/2 layer4 and head"."""

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Show the phase, and the metrics without the version number: it names no metric."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if not isinstance(pl_module, ImageClassifier) or not trainer.training:
            return shown
        plan = pl_module.current_plan()
        index = plan.phase(progress_of(trainer))
        number = f"{index + 1}/{len(plan.phases)} " if len(plan.phases) > 1 else ""
        return {"phase": f"{number}{pl_module.describe_phase(index)}", **shown}
