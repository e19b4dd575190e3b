"""The model card of an export: what its run's record says, in Markdown; a gap says why it is one."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fashion_tl import __version__
from fashion_tl.errors import UserError
from fashion_tl.export.local_paths import (
    command_without_folders,
    named_paths,
    weights_without_folders,
    without_folders,
)
from fashion_tl.export.subject import Subject
from fashion_tl.inspection.calibration import UNSCALED, Calibration, read_calibration
from fashion_tl.metrics.imbalance import imbalance
from fashion_tl.metrics.metrics import counted, softmax
from fashion_tl.metrics.uncertainty import bootstrap_intervals, calibration_interval, wilson_interval
from fashion_tl.plain_text import clean
from fashion_tl.records.predictions import read_predictions
from fashion_tl.records.record import COMPLETED, measured

FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_precision": "macro precision",
    "loss": "loss (nats)",
    "calibration_error": "calibration error",
}
_NOT = "not recorded"
_NONE = "none: no such image"
_TO_FILL = "*To be filled in by whoever passes this model on: {}*"


@dataclass(frozen=True)
class Exported:
    """What the card says of the export itself.

    Attributes:
        task: What it does, in the words of the Hugging Face Hub.
        class_names: Names of the K classes, in the order of the logits.
        architecture: The network.
        parameters: Number of its parameters.
        files: What each file is, by its name.
        usage: How to run it: lines of Python.
        input: What an input is, in words.
        output: What comes out, in words.
        facts: More sentences, such as the largest difference to the original.
        preprocessing: What becomes of images, by name.
    """

    task: str
    class_names: Sequence[str]
    architecture: str
    parameters: int
    files: Mapping[str, str]
    usage: str
    input: str
    output: str
    facts: Sequence[str]
    preprocessing: Mapping[str, Any]


def model_card(subject: Subject, exported: Exported) -> str:
    """Write the card."""
    classes = len(exported.class_names)
    parts = [
        f"---\npipeline_tag: {exported.task}\ntags: [fashion_tl]\n---",  # what a hub lists it by
        f"# {_text(subject.label)}",
        f"Classifies images into {classes} classes ({', '.join(map(_text, exported.class_names))}). "
        f"{_text(exported.architecture)}, {exported.parameters:,} parameters. Exported by fashion_tl {__version__}.",
        "## Intended use",
        _TO_FILL.format("what it is for, on which images, by whom; what it must not be used for; known failures.")
        + "\n\nThe figures below are of one test set. They say nothing about other images.",
        "## Files",
        _table(("file", "content"), [(f"`{name}`", what) for name, what in exported.files.items()]),
        *[_text(fact) for fact in exported.facts],
        "## Use",
        f"Input: {exported.input}. Output: {exported.output}.\n\n```python\n{exported.usage}\n```",
        "## Preprocessing",
        _table(("step", "value"), [(name, _text(value)) for name, value in exported.preprocessing.items()]),
        *_training(subject),
        *_test(subject, exported.class_names),
        *_calibration(subject),
        "## Licence",
        f"The licence of the weights is unknown: no record holds it. They began as {_text(_weights(subject))}. "
        "The licences of those weights, and of the training images, bind whoever passes this model on. "
        "fashion_tl itself is under the MIT licence, which says nothing of the weights.",
        *_versions(subject),
    ]
    return "\n\n".join(parts) + "\n"


def _training(subject: Subject) -> list[str]:
    if subject.gap:
        return ["## Training", f"Not known: there is no record of the run ({_text(subject.gap)})."]
    data, model, time, best = (measured(subject.record, name) for name in ("data", "model", "time", "best"))
    sizes = data.get("sizes", {})
    phases = [
        f"from epoch {phase.get('began', phase.get('start', 0)) + 1}: {phase.get('trains')} "
        f"({phase.get('trained_parameters', 0):,} parameters)"
        for phase in model.get("phases", [])
        if phase
    ]
    left_out = len(data.get("skipped", []))
    chosen = f"{best['monitor']} {best['value']:.4f} after epoch {best['epoch'] + 1}" if _is_whole(best) else None
    command, weights = str(subject.record.get("command") or ""), str(model.get("weights") or "")
    status, reason = subject.record.get("status"), str(subject.record.get("reason") or "no reason recorded")
    reason = without_folders(reason, named_paths(command, weights))
    rows = {
        **({} if status == COMPLETED else {"the run is not completed": f"{status}: {reason}"}),
        "images": data.get("source"),
        "fingerprint of images and labels": data.get("fingerprint"),
        **{f"{name} images": f"{sizes[name]:,}" if name in sizes else None for name in ("train", "val", "test")},
        "training images of a class": _class_sizes(data),
        "sampler": data.get("sampler"),
        "unreadable files left out": f"{left_out}" if "skipped" in data else None,
        "labelled images of each class at most": data.get("label_budget") or data.get("per_class") or "no limit",
        "seed, seed of the split": f"{_seed(subject.record, 'seed')}, {_seed(data, 'split_seed')}",
        "began as": weights_without_folders(weights),
        "trained": "; ".join(phases) or model.get("strategy"),
        "optimizer, rate of the head, of the backbone": _joined(model, "optimizer", "lr", "backbone_lr"),
        "schedule": model.get("schedule"),
        "objective": model.get("objective"),
        "planned length": _planned_length(model),
        "chosen on validation images by": chosen,
        "seconds of training": f"{time['fit_seconds']:.1f}" if "fit_seconds" in time else None,
        "made of": ", ".join(f"{one.get('name')} {one.get('version')}" for one in subject.record.get("members") or []),
    }
    if not rows["made of"]:
        del rows["made of"]
    told = f"```\n{clean(command_without_folders(command))}\n```" if command else "The record holds no command."
    table = _table(("what", "value"), [(name, _cell(value)) for name, value in rows.items()])
    return ["## Training", table, f"Command:\n\n{told}"]


def _class_sizes(data: Mapping[str, Any]) -> str | None:
    counts = data.get("class_counts", {}).get("train")
    if not counts:
        return None
    return (
        imbalance(counts, data.get("class_names") or [str(place) for place in range(len(counts))])
        or f"{min(counts):,} to {max(counts):,}"
    )


def _test(subject: Subject, class_names: Sequence[str]) -> list[str]:
    head, test = "## Test figures", measured(subject.record, "test")
    if subject.gap:
        return [head, f"Not known: there is no record of the run ({_text(subject.gap)})."]
    if not subject.tested:
        return [head, "Not known: those of the record are of another checkpoint of the run, its best.ckpt."]
    if not test:
        return [head, "Not known: the record holds none."]
    intervals, why = _intervals(subject, test, len(class_names))
    rows = [
        (words, f"{test[name]:.4f}", "{:.4f} to {:.4f}".format(*intervals[name]) if name in intervals else _NOT)
        for name, words in FIGURES.items()
        if isinstance(test.get(name), float | int)
    ]
    about = (
        f"On {test.get('images', 0):,} test images, seen once, with 95 % intervals: Wilson's for the accuracy, "
        "inverted tests for the calibration error (15 bins), a bootstrap over the images for the others. They cover "
        "the choice of test images, not that of seeds."
    )
    parts = [head, f"{about}{f' Some are missing: {_text(why)}.' if why else ''}"]
    parts.append(_table(("figure", "value", "95 % interval"), rows))
    table = _classes(test, class_names)
    return [*parts, table] if table else parts


def _classes(test: Mapping[str, Any], class_names: Sequence[str]) -> str | None:
    """Lay out the figures of each class; the record has a 0 where there is none, which its confusion matrix tells."""
    per_class, matrix = test.get("per_class", {}), np.asarray(test.get("confusion_matrix", ()))
    there = counted(matrix) if matrix.shape == (len(class_names),) * 2 else None
    rows = []
    for place, name in enumerate(class_names):
        found = per_class.get(name)
        if isinstance(found, dict):
            cells = [
                _NOT if one not in found else f"{found[one]:.4f}" if there is None or there[one][place] else _NONE
                for one in ("precision", "recall", "f1")
            ]
            rows.append((_text(name), *cells))
    return _table(("class", "precision", "recall", "F1"), rows) if rows else None


def _intervals(
    subject: Subject, test: Mapping[str, Any], classes: int
) -> tuple[dict[str, tuple[float, float]], str | None]:
    """Compute the intervals of test figures, and say why some are missing."""
    found: dict[str, tuple[float, float]] = {}
    images, accuracy = test.get("images"), test.get("accuracy")
    if images and accuracy is not None:
        found["accuracy"] = wilson_interval(round(accuracy * images), images)
    try:
        if subject.paths is None:
            return found, subject.gap
        predictions = read_predictions(subject.paths.logs, subject.record, classes)
    except UserError as error:
        return found, str(error).rstrip(".")
    found |= bootstrap_intervals(predictions.logits, predictions.labels)
    found["calibration_error"] = calibration_interval(softmax(predictions.logits), predictions.labels)
    return found, None


def _calibration(subject: Subject) -> list[str]:
    head = "## Calibration"
    try:
        found: Calibration | None = read_calibration(subject.checkpoint)
    except UserError as error:
        return [head, f"Not known: {_text(error)}"]
    if found is None:
        return [head, "Not fitted: `fashion-tl diagnose` does it. The softmax of the logits is not calibrated."]
    if found.method == UNSCALED:
        told = "Take the softmax of the logits as it is."
    elif found.method == "temperature":
        told = (
            f"Divide the logits by {found.temperature:.6g} (temperature scaling, Guo et al. 2017) before the softmax."
        )
    else:
        told = (
            "Scale the logits of each class before the softmax (vector scaling, Guo et al. 2017): "
            f"factors `{[round(value, 6) for value in found.scale]}`, summands "
            f"`{[round(value, 6) for value in found.bias]}`."
        )
    why = f", {found.reason}" if found.reason else ""
    return [head, f"{told} Chosen on {found.images:,} validation images{why}. The exported logits are those before it."]


def _versions(subject: Subject) -> list[str]:
    environment = measured(subject.record, "environment")
    if not environment:
        return ["## Versions", f"Of training: {_text(subject.gap) or _NOT}. Of the export: fashion_tl {__version__}."]
    rows = {"Python": environment.get("python"), **environment.get("libraries", {})}
    rows |= {"git commit": environment.get("git_commit"), "device": environment.get("device")}
    return ["## Versions", "Of training:", _table(("what", "version"), [(k, _cell(v)) for k, v in rows.items()])]


def _weights(subject: Subject) -> str:
    weights = (subject.record.get("model") or {}).get("weights")
    return weights_without_folders(str(weights)) if weights else "weights that are not recorded"


def _seed(values: Mapping[str, Any], name: str) -> str:
    return _NOT if name not in values else "none" if values[name] is None else str(values[name])


def _planned_length(model: Mapping[str, Any]) -> str | None:
    """Say how long a run was to train: by epochs, by steps, or by whichever comes first; None if nothing says it."""
    if "max_epochs" not in model:
        return None
    limits = {"epoch": model["max_epochs"], "step": model.get("max_steps")}
    told = [_times(count, unit) for unit, count in limits.items() if isinstance(count, int) and count >= 0]
    if not told:
        return "no limit of epochs or steps"
    planned = model.get("planned_epochs")
    within = "" if planned is None or told == [_times(planned, "epoch")] else f", within {_times(planned, 'epoch')}"
    return f"{' or '.join(told)}{', whichever comes first' if len(told) > 1 else ''}{within}"


def _times(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _is_whole(best: Mapping[str, Any]) -> bool:
    return isinstance(best.get("value"), float | int) and isinstance(best.get("epoch"), int) and "monitor" in best


def _joined(values: Mapping[str, Any], *names: str) -> str | None:
    found = [str(values[name]) for name in names if values.get(name) is not None]
    return ", ".join(found) or None


def _cell(value: object) -> str:
    return _NOT if value in (None, "") else _text(value)


def _text(value: object) -> str:
    """Write text so that Markdown shows it as it is, in a cell of a table, too; of paths their last name."""
    shown = without_folders(clean(value))
    return re.sub(r"([\\`*_{}\[\]|#])", r"\\\1", html.escape(shown, quote=False))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
