"""The progress bar, which names the phase."""

from __future__ import annotations

from dataclasses import replace

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import BarColumn, ProgressColumn

from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.progress import progress_of

LEFT_OUT = ("v_num", "train/accuracy", "val/balanced_accuracy", "val/macro_f1")
BAR = 12  # columns of the bar itself


class PhaseProgressBar(RichProgressBar):
    """Lightning's rich progress bar that shows the phase beside the metrics: "phase: 2/2 layer4 and head".

    Args:
        monitor: The figure that chooses the checkpoint. It is shown beside both losses and the validation accuracy;
            other figures are in the record.
    """

    def __init__(self, monitor: str = "val/accuracy") -> None:
        super().__init__(theme=RichProgressBarTheme(metrics_text_delimiter="\n"))
        self.monitor = monitor

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Leave room for the figures beside a short bar: a terminal has 80 columns."""
        columns: list[ProgressColumn] = super().configure_columns(trainer)
        for column in columns:
            if isinstance(column, BarColumn):
                column.bar_width = BAR
        return columns

    _phase: tuple[ImageClassifier, int, str] | None = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Show the phase, and a few metrics."""
        found = super().get_metrics(trainer, pl_module)
        shown = {name: value for name, value in found.items() if name not in LEFT_OUT or name == self.monitor}
        if not isinstance(pl_module, ImageClassifier) or not trainer.training:
            return shown
        plan = pl_module.current_plan()
        index = plan.phase(replace(progress_of(trainer), batch=0))  # that of the epoch, its last batch included
        if self._phase is None or self._phase[0] is not pl_module or self._phase[1] != index:
            number = f"{index + 1}/{len(plan.phases)} " if len(plan.phases) > 1 else ""
            # Words walk the whole network, and this is asked for at every step.
            self._phase = (pl_module, index, f"{number}{pl_module.describe_phase(index)}")
        return {"phase": self._phase[2], **shown}
