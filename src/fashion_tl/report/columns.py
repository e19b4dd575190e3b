"""The columns of the main table: what each takes from a run, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fashion_tl.metrics.cross_validation import interval_words
from fashion_tl.metrics.imbalance import imbalance
from fashion_tl.plain_text import clean
from fashion_tl.records.record import METRICS, PREDICTIONS, RECORD
from fashion_tl.report.figures import SCALARS, Entry
from fashion_tl.report.run_files import Run

Value = str | float | None
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Its name in ``comparison.csv``.
        heading: Its heading on the page.
        value: What it takes from a run; None where that is missing.
        shown: The value as a reader wants it.
        source: The file that the value comes from, whose gap explains a missing one.
        interval: Whether ``Figures.intervals`` holds an interval under its key.
        study: Whether it is a figure of the published study rather than ours.
    """

    key: str
    heading: str
    value: Callable[[Entry], Value]
    shown: Callable[[Value], str] = str
    source: str = RECORD
    interval: bool = False
    study: bool = False

    def missing(self, entry: Entry) -> str:
        """Say why a run has no value here."""
        if self.study:
            if "study" not in entry.run.record:
                return f"{RECORD} names no study: it was written by an older version, or the entry is lost"
            return "the study does not give it" if entry.run.get("study") else "reproduces no published study"
        why = f"{RECORD} does not hold it"
        return entry.run.gaps.get(self.source, f"no training run: {why}" if entry.run.derived else why)

    def text(self, entry: Entry) -> str:
        """Return the value as text, or what stands for a missing one."""
        value = self.value(entry)
        if value is not None:
            return self.shown(value)
        return "\u2013" if self.study and "study" in entry.run.record else NOT_RECORDED


def fixed(value: Value) -> str:
    """Show a number with four decimals, and a text as it is."""
    return f"{value:.4f}" if isinstance(value, int | float) else str(value)


def whole(value: Value) -> str:
    """Show a number without decimals, thousands apart."""
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def plain(value: Value) -> str:
    """Show a number as short as it can be written."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def seconds(value: Value) -> str:
    """Show seconds: a decimal below ten."""
    return f"{value:,.{1 if value < 10 else 0}f}" if isinstance(value, int | float) else str(value)


def mebibytes(value: Value) -> str:
    """Show bytes in MiB."""
    return f"{value / 2**20:,.0f} MiB" if isinstance(value, int | float) else str(value)


def phases(run: Run) -> list[dict[str, Any]]:
    """Return the phases of a run; none if they are not recorded, or not whole."""
    recorded = run.get("model", "phases")
    found = [p for p in recorded if isinstance(p, dict)] if isinstance(recorded, list) else []
    whole = [p for p in found if isinstance(p.get("start"), int) and isinstance(p.get("trains"), str)]
    return whole if whole == recorded else []


def strategy(run: Run) -> str | None:
    """Say in words what trained when, epochs counted from 1; of a derived record how it came about."""
    if run.derived:
        return run.text("model", "strategy")
    known = phases(run)
    words = ["head only" if phase["trains"] == "head" else clean(phase["trains"]) for phase in known]
    began = [phase.get("began", phase["start"]) for phase in known]  # before it was planned to, after an early end
    starts = ["first " if epoch == 0 else f"from epoch {epoch + 1} " for epoch in began]
    if len(words) <= 1:
        return words[0] if words else None
    return ", ".join(map("".join, zip(starts, words, strict=True)))


def trained(run: Run) -> int | None:
    """Return the parameters that train in the phase in which most do."""
    counts = [phase.get("trained_parameters") for phase in phases(run)]
    numbers = [count for count in counts if isinstance(count, int)]
    return max(numbers) if numbers and len(numbers) == len(counts) else None


def rates(run: Run) -> str | None:
    """Say the learning rates: of the head, of the backbone, of later phases."""
    rate, backbone, config = run.number("model", "lr"), run.number("model", "backbone_lr"), run.config or {}
    if rate is None:
        return None
    parts = []
    for phase in phases(run) or [{"start": 0, "trains": ""}]:
        own = f"model.init_args.train.{phase['start']}"
        head = config.get(f"{own}.lr") or f"{rate:g}"
        below = config.get(f"{own}.backbone_lr") or (f"{backbone:g}" if backbone is not None else head)
        parts.append(head if phase["trains"] == "head" or below == head else f"{head}, backbone {below}")
    return "; then ".join(dict.fromkeys(parts))


def epochs(run: Run) -> float | None:
    """Count the epochs of a run."""
    recorded = run.get("time", "epoch_seconds")
    if isinstance(recorded, list):
        return len(recorded)
    return len(run.history["epoch"]) if run.history else None


def best_epoch(run: Run) -> float | None:
    """Return the epoch that validation chose, counted from 1."""
    best = run.number("best", "epoch")
    return None if best is None else best + 1


def class_counts(run: Run) -> list[int] | None:
    """Return the training images of each class; None if they are not recorded, or not whole."""
    found = run.get("data", "class_counts", "train")
    if not isinstance(found, list) or len(found) != len(run.class_names) or not found:
        return None
    return found if all(isinstance(count, int) and count >= 0 for count in found) else None


def data(run: Run) -> str | None:
    """Name the training data, how many images there are, and how far apart the sizes of classes lie."""
    source, images, counts = run.text("data", "source"), run.number("data", "sizes", "train"), class_counts(run)
    if source is None or images is None:
        return source
    told = None if counts is None else imbalance(counts, run.class_names)
    sampler = ", balanced sampler" if run.get("data", "sampler") == "balanced" else ""
    return f"{source}, {images:,.0f}" + (f"; of a class {told}" if told else "") + sampler


def weights(run: Run) -> str | None:
    """Say which weights a run began with, and their hash."""
    text, digest = run.text("model", "weights"), run.text("model", "weights_hash")
    return text and (f"{text} ({digest[:16]})" if digest else text)


def _figure(key: str) -> Column:
    return Column(
        key, SCALARS[key], lambda e: e.figures.values[key] if e.figures else None, fixed, PREDICTIONS, interval=True
    )


def _study(key: str, heading: str) -> Column:
    def value(entry: Entry) -> Value:
        found = entry.run.number("study", key)
        return entry.run.text("study", key) if found is None else found

    return Column(f"study_{key}", heading, value, fixed if key == "loss" else plain, study=True)


def _number(key: str, heading: str, shown: Callable[[Value], str], *path: str) -> Column:
    return Column(key, heading, lambda e: e.run.number(*path), shown)


COLUMNS = (
    _figure("accuracy"),
    _study("accuracy", "Study\u2019s accuracy"),
    _figure("balanced_accuracy"),
    _figure("macro_f1"),
    _study("macro_f1", "Study\u2019s F1"),
    _figure("loss"),
    _study("loss", "Study\u2019s loss"),
    _figure("macro_precision"),
    _figure("calibration_error"),
    Column("architecture", "Architecture", lambda e: e.run.text("model", "architecture")),
    Column("strategy", "What trains", lambda e: strategy(e.run)),
    Column("weights", "Initial weights", lambda e: weights(e.run)),
    Column("data", "Training data, images", lambda e: data(e.run)),
    _number("image_size", "Image size", lambda v: f"{plain(v)} px", "data", "image_size"),
    Column("learning_rates", "Learning rates", lambda e: rates(e.run)),
    Column("epochs", "Epochs", lambda e: epochs(e.run), whole, METRICS),
    Column("best_epoch", "Best epoch", lambda e: best_epoch(e.run), whole),
    _number("parameters", "Parameters", whole, "model", "parameters"),
    Column("trained_parameters", "Trained", lambda e: trained(e.run), whole),
    _number("fit_seconds", "Wall-clock, s", seconds, "time", "fit_seconds"),
    _number("peak_memory_bytes", "Peak memory", mebibytes, "peak_memory_bytes"),
)


def interval_text(entry: Entry, key: str) -> str:
    """Return an interval as text, such as "0.9315 to 0.9410"."""
    if entry.figures is None:
        return NOT_RECORDED
    return interval_words(entry.figures.intervals.get(key))
