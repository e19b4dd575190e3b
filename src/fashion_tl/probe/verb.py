"""``fashion-tl probe -c FILE``: solve a linear classifier on every stage of a network, record the last one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import headline
from fashion_tl.probe.linear import StageProbe, probe_stage
from fashion_tl.probe.result import linear_of, record_probe
from fashion_tl.probe.stages import read_stages
from fashion_tl.probe.suggestion import Depth, Suggestion, suggest
from fashion_tl.process import keep_freed_memory, stop_looking_for_gpus
from fashion_tl.records.environment import now
from fashion_tl.records.record import RunPaths, read_record
from fashion_tl.runs import checks
from fashion_tl.runs.parser import Config, arguments, dump, instantiate, make_trainer, parse, quiet
from fashion_tl.runs.refusals import as_user_errors
from fashion_tl.runs.resume import check_network
from fashion_tl.seeds import seeded
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.loading import load_classifier

NAME = "probe"
_HEADER = (
    f"{'stage':16} {'features':>8} {'strength':>8} {'train':>7} {'val':>7} {'test':>7}  {'95 % interval':16}"
    "  |gradient|  seconds"
)


@dataclass(frozen=True)
class Probe:
    """A probe that is done.

    Attributes:
        paths: Folders of its record and of its checkpoint, the network with the solved head.
        stages: What was reached at each stage, the lowest first.
        suggestion: Where to train from, and why.
        record: Its ``run.json``.
    """

    paths: RunPaths
    stages: list[StageProbe] = field(repr=False)
    suggestion: Suggestion
    record: dict[str, Any] = field(repr=False)


def main(args: Sequence[str]) -> None:
    """Run the verb with command-line arguments."""
    with as_user_errors():
        _run(args)


def probe(config: Config, changes: Mapping[str, Any] | None = None) -> Probe:
    """Solve a linear classifier on the features of every stage, and leave a record of the last stage's.

    Args:
        config: A YAML file, a mapping as one holds it, or command-line arguments, as for ``fit``, with ``pool``,
            ``knn`` and ``strengths`` beside.
        changes: Settings to change, by flag without the dashes. The record is named "probe" unless ``name`` is
            here or among the arguments.

    Raises:
        UserError: If a setting is wrong, or something that the probe needs is missing.
    """
    return _run(arguments(config, changes))


def _run(args: Sequence[str]) -> Probe:
    """Probe by arguments; the name that a file holds is that of its training, and only one beside it is the probe's."""
    named = any(arg == "--name" or arg.startswith("--name=") for arg in args)
    return run(parse("probe", args), shlex.join(["fashion-tl", "probe", *args]), None if named else NAME)


def run(config: Namespace, command: str, name: str | None = None) -> Probe:
    """Probe by a parsed configuration; see ``probe``.

    Args:
        config: The configuration.
        command: The command for the record.
        name: Name of the record; that of the configuration if not given.
    """
    keep_freed_memory()
    stop_looking_for_gpus()
    config.name = name or config.name
    began, started = time.perf_counter(), now()
    with quiet():
        # One pass: it need not save on precision.
        config.trainer.precision = config.trainer.precision or "32-true"
        checkpoint = checks.settle(config)
        with seeded(config.seed_everything) as seed:
            built = instantiate("probe", checks.to_build(config, checkpoint))
            model: ImageClassifier = built.model
            if checkpoint is not None:
                check_network(checkpoint, model)
                model = load_classifier(checkpoint)
            linear_of(model)
            trainer = make_trainer(
                built.trainer, logger=False, callbacks=[], enable_checkpointing=False, enable_progress_bar=False
            )
            if trainer.world_size > 1:
                raise UserError("a probe runs in one process: --trainer.devices 1.")
            built.data.prepare_data()
            built.data.setup("fit")
            model.learn_from(built.data)
            stages, skipped, seconds = _solve(config, model, built.data, trainer)
        suggestion = suggest(
            [Depth(stage.boundary, stage.stage, stage.val_correct, stage.accuracy["train"]) for stage in stages],
            model.network.stage_names,
        )
        aside = _left_aside(config)
        facts = {
            "left_aside": aside,
            "seed": seed,
            "command": command,
            "started": started,
            "time": {"fit_seconds": time.perf_counter() - began, "cache_seconds": seconds},
        }
        text = dump("probe", config)
        paths = record_probe(config, model, built.data, trainer, stages, suggestion, skipped, facts, text)
    record = read_record(paths.logs)
    if aside:
        print(f"left aside: {', '.join(aside)}; a probe is the plain logistic regression on images as they are")
    print(_told(paths, record["test"], suggestion, skipped, model))
    return Probe(paths, stages, suggestion, record)


def _left_aside(config: Namespace) -> list[str]:
    """List the settings that change what training minimises, or its images, and that a probe does not follow."""
    model, data = config.model.init_args, config.data
    given = {f"model.{name}": model.get(name) for name in ("class_weights", "label_smoothing", "terms")}
    given["model.objective"] = model.get("objective") != "cross_entropy"
    given["data.sampler"] = data.get("sampler") != "random"
    given["data.mix"] = data.get("mix")
    given["data.augment"] = data.get("augment")
    return [name for name, value in given.items() if value]


def _solve(
    config: Namespace,
    model: ImageClassifier,
    data: Any,  # noqa: ANN401 - the data module
    trainer: Trainer,
) -> tuple[list[StageProbe], dict[str, str], float]:
    """Read the features and solve at each stage; returns with that what was left out, and the seconds of reading."""
    began = time.perf_counter()
    device = trainer.strategy.root_device
    trainer.precision_plugin.convert_module(model)
    model.to(device)
    stages, skipped = read_stages(
        model, data, config.pool, str(trainer.precision), trainer.precision_plugin.forward_context
    )
    seconds = time.perf_counter() - began
    labels = {part: split.labels for part, split in data.splits.items()}
    print(f"features of {len(stages)} stages read in {seconds:.1f} s\n{_HEADER}")
    probes = []
    for stage in stages:
        probes.append(probe_stage(stage, labels, len(model.class_names), config.strengths, config.knn, device))
        print(_row(probes[-1]), flush=True)
    return probes, skipped, seconds


def _row(stage: StageProbe) -> str:
    accuracy, chosen = stage.accuracy, stage.chosen
    told = "" if chosen.converged else "  not converged"
    if stage.neighbours is not None:
        told = f"  {stage.neighbours['neighbours']} neighbours {stage.neighbours['accuracy']:.4f}{told}"
    return (
        f"{stage.stage:16} {stage.features:8,} {chosen.strength:8.0e} {accuracy['train']:7.4f} {accuracy['val']:7.4f} "
        f"{accuracy['test']:7.4f}  {stage.interval[0]:.4f} to {stage.interval[1]:.4f}  {chosen.gradient:10.0e}  "
        f"{stage.seconds:7.1f}{told}"
    )


def _told(
    paths: RunPaths,
    test: Mapping[str, Any],
    suggestion: Suggestion,
    skipped: dict[str, str],
    model: ImageClassifier,
) -> str:
    lines = [f"left out: {name}, {why}" for name, why in skipped.items()]
    where = model.network.describe(suggestion.boundary)
    top = len(model.network.stage_names) - suggestion.boundary
    lines += [
        f"suggested: train {where} (--model.train {top or 'head'}): {suggestion.why}.",
        f"{paths.name} version {paths.version}: {headline(test)}",
        f"record: {paths.logs}   checkpoint: {paths.best}",
    ]
    return "\n".join(lines)
