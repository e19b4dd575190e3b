"""The progress bar, which names the phase."""

from __future__ import annotations

from dataclasses import replace

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.progress import progress_of


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich progress bar that shows the phase beside the metrics: "phase: 2/2 layer4 and head"."""

    _phase: tuple[ImageClassifier, int, str] | None = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Show the phase, and the metrics without the version number: it names no metric."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if not isinstance(pl_module, ImageClassifier) or not trainer.training:
            return shown
        plan = pl_module.current_plan()
        index = plan.phase(replace(progress_of(trainer), batch=0))  # that of the epoch, its last batch included
        if self._phase is None or self._phase[0] is not pl_module or self._phase[1] != index:
            number = f"{index + 1}/{len(plan.phases)} " if len(plan.phases) > 1 else ""
            # Words walk the whole network, and this is asked for at every step.
            self._phase = (pl_module, index, f"{number}{pl_module.describe_phase(index)}")
        return {"phase": self._phase[2], **shown}
