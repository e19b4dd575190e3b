"""A trial for TensorBoard: its values in the table of hyperparameters, beside its figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch.utils.tensorboard.summary import hparams

from fashion_tl.events import EventWriter
from fashion_tl.runs.parser import written


def write_trial(
    folder: Path, settings: Mapping[str, Any], monitor: str, reported: Mapping[int, float], value: float | None
) -> None:
    """Write the events of a trial.

    Args:
        folder: Folder of its record.
        settings: Its values.
        monitor: Name of the figure.
        reported: The figure of each epoch.
        value: The figure that counts; None if it was pruned or has none.
    """
    plain = {key: each if isinstance(each, int | float | str) else written(each) for key, each in settings.items()}
    final = f"final/{monitor.replace('/', '_')}"
    writer = EventWriter(folder)
    for summary in cast(Any, hparams)(plain, {final: 0.0}):
        writer.file_writer.add_summary(summary)
    for epoch, figure in reported.items():
        writer.add_scalar(monitor, figure, epoch)
    if value is not None:
        writer.add_scalar(final, value)
    writer.close()
