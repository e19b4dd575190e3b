"""The record of a combination."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fashion_tl.combine.classifier import names_of
from fashion_tl.inspection.inference import FULL
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.metrics.metrics import Floats, headline, summarise
from fashion_tl.models.staged import count_parameters
from fashion_tl.process import device_text
from fashion_tl.records.analysis import Analysis, plain
from fashion_tl.records.derived import member, write_derived
from fashion_tl.records.environment import now
from fashion_tl.records.predictions import Predictions
from fashion_tl.records.record import CONFIG, FITTED, RunPaths
from fashion_tl.training.classifier import ImageClassifier


@dataclass
class Combination:
    """What a combination has come to.

    Attributes:
        kind: What it is: "ensemble", "stack", "soup", ...
        members: The runs it was asked to be made of.
        used: What the record says of each member beside its name, such as its weight.
        strategy: How it came about, in words.
        networks: Runs whose networks, or one whose kind of network, classify an image.
        classifier: What classifies as they do together, where there is such a thing.
        chosen: What validation chose, and by which figures.
        validation: Accuracy on the validation images; None where the members have different ones.
        test: Logits (N, K) of the test images.
        checkpoint: Content of its checkpoint, if it has one.
        analysis: A document for the report.
        weights: Where its weights came from, in words.
        notes: What the user should know.
        started: When it was begun.
    """

    kind: str
    members: Sequence[OpenedRun]
    used: Sequence[Mapping[str, Any]]
    strategy: str
    networks: Sequence[OpenedRun]
    chosen: dict[str, Any]
    validation: float | None
    test: Floats
    classifier: ImageClassifier | None = None
    checkpoint: bytes | memoryview | None = None
    analysis: Analysis | None = None
    weights: str | None = None
    notes: list[str] = field(default_factory=list)
    started: str = field(default_factory=now)


def write_combination(
    made: Combination, test: Predictions, command: Sequence[str], name: str, log_dir: Path, checkpoint_dir: Path
) -> RunPaths:
    """Write the record of a combination, and tell its test figures beside those of its best member.

    Args:
        made: The combination.
        test: Predictions of a member: index and labels of the test images.
        command: The verb and the arguments that made it, beside name and folders.
        name: Name of the result.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
    """
    first = made.networks[0]  # whose images the checkpoint takes; the first member may have no weight
    figures = summarise(made.test, test.labels, list(first.class_names))
    trainings = {name: seconds for one in made.members for name, seconds in _trainings(one).items()}
    spent = [float(seconds) for seconds in trainings.values() if seconds is not None]
    whole, apart = made.classifier, [one.module for one in made.networks]
    model = {
        "architecture": names_of(apart) if whole is None else whole.architecture,
        "weights": made.weights,
        "parameters": sum(count_parameters(one.network) for one in (apart if whole is None else [whole])),
        "strategy": made.strategy,
    }
    facts: dict[str, Any] = {
        "started": made.started,
        "command": shlex.join(["fashion-tl", *command, "--name", name]),
        "chosen": made.chosen,
        "time": {"fit_seconds": sum(spent) if len(spent) == len(trainings) else None, "trainings": trainings},
        "environment": _environment(made.members),
    }
    if made.kind == "stack" or any(one.fitted_to_validation for one in made.members):
        facts[FITTED] = True
    if made.validation is not None:
        facts["best"] = {"monitor": "val/accuracy", "value": made.validation}
    pairs = zip(made.members, made.used, strict=True)
    paths = write_derived(
        log_dir,
        checkpoint_dir,
        name,
        kind=made.kind,
        data=first.data.describe(),
        model=model,
        test=figures,
        predictions=Predictions(test.index, test.labels, made.test),
        members=[member(one.paths, **used) for one, used in pairs],
        facts=facts,
        config=_config(made),
        checkpoint=made.checkpoint,
        analysis=None if made.analysis is None else (made.kind, made.analysis),
    )
    counts = Counter(name for one in made.members for name in _trainings(one))
    repeated = [name for name, count in counts.items() if count > 1]
    shared = [f"{name} is in more than one of the members and counts in each" for name in repeated]
    for note in [*made.notes, *shared]:
        print(f"note: {note}", file=sys.stderr)
    validated = "" if made.validation is None else f", validation accuracy {made.validation:.4f}"
    print(f"{name} version {paths.version}: {made.strategy}{validated}")
    print(headline(figures))
    for one in made.members:
        print(f"  {one.label}: test accuracy {one.record['test']['accuracy']:.4f}")
    print(f"record: {paths.logs}" + ("" if made.checkpoint is None else f"   checkpoint: {paths.best}"))
    return paths


def _trainings(one: OpenedRun) -> dict[str, float | None]:
    """Return the seconds of the training of a run, or of each that a combination is made of; None if not recorded."""
    time = one.record.get("time") or {}
    return dict(time.get("trainings") or {one.label: time.get("fit_seconds")})


def _environment(members: Sequence[OpenedRun]) -> dict[str, Any]:
    """Say where logits come from: also those that members recorded, so that the least exact of them counts."""
    recorded = [one.record.get("environment") or {} for one in members]
    precisions = [str(each["precision"]) for each in recorded if "precision" in each]
    devices = [str(each["device"]) for each in recorded if "device" in each]
    return {
        "device": next((each for each in devices if not each.startswith("cpu")), device_text(members[0].module.device)),
        "precision": next((each for each in precisions if each not in FULL), FULL[0]),
    }


def _config(made: Combination) -> str:
    """Write a configuration that says what was combined, with the data of the first network, to open it again."""
    data = yaml.safe_load((made.networks[0].paths.logs / CONFIG).read_text(encoding="utf-8"))["data"]
    runs = [one.label for one in made.members]
    combined = {"combine": {"kind": made.kind, "runs": runs, **plain(made.chosen.get("settings", {}))}, "data": data}
    return yaml.safe_dump(combined, sort_keys=False)
