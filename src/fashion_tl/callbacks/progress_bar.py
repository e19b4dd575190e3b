"""The progress bar, which names the phase."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.plan import phase_at


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich progress bar with the phase in front of the epoch: "phase 2/2 (layer4 and head) epoch 6/10"."""

    def _get_train_description(self, current_epoch: int) -> str:
        module = self.trainer.lightning_module
        if not isinstance(module, ImageClassifier):
            return super()._get_train_description(current_epoch)
        index = phase_at(module.phases, current_epoch)
        phase = f"phase {index + 1}/{len(module.phases)} " if len(module.phases) > 1 else ""
        return f"{phase}({module.describe_phase(index)}) epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Show the metrics without the version number: it names no metric."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown
