"""Reading the files of one run. What is missing or damaged becomes a gap with its reason, never a number."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import Floats
from fashion_tl.plain_text import clean, flatten
from fashion_tl.records.predictions import Predictions, read_arrays, read_predictions, why_unreadable
from fashion_tl.records.record import CONFIG, METRICS, PREDICTIONS, RECORD, read_record, verify

FILTERS, ANALYSIS = "filters.npz", "analysis"
_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(eq=False)
class Run:
    """One version of a run, as far as its files tell.

    Attributes:
        folder: Its log folder.
        record: ``run.json``.
        label: What the report calls it.
        config: ``config.yaml`` with dotted keys and values as text; None if it cannot be read.
        gaps: What is missing, by file, and why.
        history: Columns of ``metrics.csv`` (epochs,), NaN where a value is missing.
        predictions: The test predictions.
        filters: Weights (O, I, h, w) of the first convolution.
        notes: What a reader must know beside the gaps.
        alarms: Where its files contradict each other.
    """

    folder: Path
    record: dict[str, Any]
    label: str = ""
    config: dict[str, str] | None = None
    gaps: dict[str, str] = field(default_factory=dict)
    history: dict[str, Floats] = field(default_factory=dict)
    predictions: Predictions | None = None
    filters: Floats | None = None
    notes: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the run."""
        return clean(self.folder.parent.name)

    @property
    def derived(self) -> bool:
        """Whether it is no training run: it has neither epochs nor filters of its own; see ``records.derived``."""
        return self.text("kind") is not None

    @property
    def version(self) -> str:
        """Number of the version."""
        return clean(self.folder.name.removeprefix("version_"))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; empty if they are not recorded."""
        names = self.get("data", "class_names")
        return [clean(name) for name in names] if isinstance(names, list) else []

    def get(self, *keys: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return an entry of the record by its path of keys, None where there is none."""
        value: Any = self.record
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def number(self, *keys: str) -> float | None:
        """Return an entry of the record if it is a finite number."""
        value = self.get(*keys)
        plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return value if plain else None

    def text(self, *keys: str) -> str | None:
        """Return an entry of the record if it is a text that is not empty."""
        value = self.get(*keys)
        return clean(value) if isinstance(value, str) and value else None


def open_run(folder: Path) -> Run:
    """Read record and configuration of a run, which say what it is.

    Raises:
        UserError: If the record is missing or damaged.
    """
    run = Run(folder, read_record(folder))
    run.label = run.name
    if run.derived and not (folder / CONFIG).exists() and CONFIG not in run.record.get("files", {}):
        return run
    try:
        verify(folder, CONFIG, run.record)
        loaded = yaml.load((folder / CONFIG).read_text(encoding="utf-8"), Loader=_YAML)  # noqa: S506 - a safe loader
        if not isinstance(loaded, dict):
            raise ValueError("it holds no keys")
        run.config = flatten(loaded)
    except UserError as error:
        run.gaps[CONFIG] = str(error)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        run.gaps[CONFIG] = why_unreadable(folder / CONFIG, error)
    return run


def read_results(run: Run) -> None:
    """Read what training and test left behind: metrics, predictions and filters; of a derived record predictions."""
    if not run.derived:
        _read_training(run)
    try:
        run.predictions = read_predictions(run.folder, run.record, len(run.class_names))
    except UserError as error:
        run.gaps[PREDICTIONS] = str(error)


def _read_training(run: Run) -> None:
    try:
        verify(run.folder, METRICS, run.record)
        _read_history(run)
    except UserError as error:
        run.gaps[METRICS] = str(error)
    except (csv.Error, OSError, ValueError) as error:
        run.gaps[METRICS] = why_unreadable(run.folder / METRICS, error)
    try:
        run.filters = _read_filters(run.folder / FILTERS)
    except UserError as error:
        run.gaps[FILTERS] = str(error)


def _read_history(run: Run) -> None:
    path = run.folder / METRICS
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or "epoch" not in rows[0]:
        raise ValueError("it holds no epochs")
    lost = 0
    for key in rows[0]:
        if key is None:
            continue
        values = np.array([_cell(row.get(key)) for row in rows])
        lost += int(np.isnan(values).sum())
        run.history[clean(key)] = values
    recorded = run.get("time", "epoch_seconds")
    if lost:
        run.gaps[METRICS] = f"{lost} of its values are missing or not finite; the curves have gaps there"
    if isinstance(recorded, list) and len(recorded) != len(rows):
        run.gaps[METRICS] = f"it holds {len(rows)} epochs where {RECORD} counts {len(recorded)}"


def _cell(text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _read_filters(path: Path) -> Floats:
    (weight,) = read_arrays(path, "weight")
    if weight.ndim != 4 or not weight.size or weight.dtype.kind != "f" or not np.isfinite(weight).all():
        raise UserError(f"{path.name} is damaged: its weight of shape {weight.shape} holds no filters (O, I, h, w)")
    return weight.astype(np.float64)
