"""What a probe leaves: the record of the solved head, its checkpoint, the table and the plot of all stages."""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from torch import nn

from fashion_tl.callbacks.pictures import keep_test_images
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.transforms import describe_preprocessing
from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import summarise
from fashion_tl.models.staged import count_parameters
from fashion_tl.probe.linear import StageProbe
from fashion_tl.probe.suggestion import Suggestion
from fashion_tl.process import device_text
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.derived import write_derived
from fashion_tl.records.predictions import Predictions
from fashion_tl.records.record import RunPaths
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.loading import finished_checkpoint

KIND = "probe"
PICTURE = "probe-depth.png"
_PASSES = (nn.Dropout, nn.Identity)  # what a head may hold before its linear layer: in eval mode, nothing


def linear_of(module: ImageClassifier) -> nn.Linear:
    """Return the linear layer that a head consists of.

    Raises:
        UserError: If it is another head: no solution of a linear one could take its place.
    """
    layers = [each for each in module.network.head.modules() if not any(True for _ in each.children())]
    last, before = layers[-1] if layers else None, layers[:-1]
    if not isinstance(last, nn.Linear) or last.bias is None or not all(isinstance(each, _PASSES) for each in before):
        raise UserError(
            f"the head of {type(module).__name__} is no linear layer with a bias (it holds "
            f"{', '.join(type(each).__name__ for each in layers)}): a solved one cannot take its place."
        )
    return last


def set_head(module: ImageClassifier, probe: StageProbe) -> None:
    """Put the solution of the last stage into a module's head."""
    linear = linear_of(module)
    with torch.no_grad():
        linear.weight.copy_(probe.weight)
        linear.bias.copy_(probe.bias)


def record_probe(
    config: Namespace,
    module: ImageClassifier,
    data: ImageDataModule,
    trainer: Trainer,
    stages: list[StageProbe],
    suggestion: Suggestion,
    skipped: dict[str, str],
    facts: dict[str, Any],
    text: str,
) -> RunPaths:
    """Put the last stage's solution into the head, and write record and checkpoint.

    Args:
        config: The configuration.
        module: The classifier.
        data: Its data.
        trainer: What knows device and precision.
        stages: What was reached at each stage; the last one is what the head reads.
        suggestion: Where to train from.
        skipped: Stages that could not be read, with the reason.
        facts: Entries of the record: seed, command, started, time.
        text: The configuration as YAML.
    """
    last = stages[-1]
    set_head(module, last)
    keep_test_images(data, config.log_dir)
    split = data.splits["test"]
    names = list(module.class_names)
    return write_derived(
        config.log_dir,
        config.checkpoint_dir,
        config.name,
        kind=KIND,
        data=data.describe(),
        model={
            "module": type(module).__name__,
            "architecture": module.architecture,
            "weights": module.weights,
            "weights_hash": module.weights_hash,
            "stages": list(module.network.stage_names),
            "parameters": count_parameters(module.network),
            "strategy": f"head solved on frozen features, strength {last.chosen.strength:g}",
            "objective": "CrossEntropy",
            "input": describe_preprocessing(module.preprocess),
        },
        test=summarise(last.test_logits, split.labels.numpy(), names),
        predictions=Predictions(torch.arange(len(split)).numpy(), split.labels.numpy(), last.test_logits),
        facts={
            **facts,
            "best": {"monitor": "val/accuracy", "value": last.accuracy["val"]},
            "chosen": {
                "strength": last.chosen.strength,
                "val_accuracy": last.accuracy["val"],
                "val_loss": last.loss["val"],
                "gradient": last.chosen.gradient,
            },
            "suggestion": {
                "train": module.network.describe(suggestion.boundary),
                "top_stages": len(module.network.stage_names) - suggestion.boundary,
                "why": suggestion.why,
            },
            "environment": {
                "device": device_text(trainer.strategy.root_device),
                "processes": 1,
                "threads": torch.get_num_threads(),
                "precision": str(trainer.precision),
            },
        },
        config=text,
        checkpoint=finished_checkpoint(module),
        analysis=(KIND, analysis_of(module, stages, suggestion, skipped, config.pool)),
    )


def analysis_of(
    module: ImageClassifier, stages: list[StageProbe], suggestion: Suggestion, skipped: dict[str, str], pool: str
) -> Analysis:
    """Describe what was reached at each stage, for the report: a table, a plot, all figures."""
    names = module.network.stage_names
    analysis = Analysis(
        "Linear probes by depth",
        f"Logistic regressions on pooled ({pool}) standardised features behind each stage, solved to the optimum; "
        "strengths of the penalty are chosen on validation, the test images are seen once. Suggested: train "
        f"{module.network.describe(suggestion.boundary)}, because {suggestion.why}.",
    )
    knn = all(stage.neighbours is not None for stage in stages)
    columns = ["stage", "features", "strength", "train", "validation", "test", "95 % from", "to"]
    columns += ["|gradient|", "seconds"]
    rows: list[list[Any]] = []
    for stage in stages:
        accuracy, near = stage.accuracy, stage.neighbours or {}
        row = [stage.stage, stage.features, stage.chosen.strength, accuracy["train"], accuracy["val"], accuracy["test"]]
        row += [*stage.interval, stage.chosen.gradient, round(stage.seconds, 2)]
        rows.append([*row, near["neighbours"], near["accuracy"]] if knn else row)
    analysis.add_table("Accuracy by depth", [*columns, "neighbours", "their test"] if knn else columns, rows)
    analysis.add_picture(PICTURE, _plot(stages, suggestion, knn), "Accuracy of linear probes behind each stage")
    analysis.figures = {
        "pool": pool,
        "suggestion": {"boundary": suggestion.boundary, "why": suggestion.why},
        "skipped": skipped,
        "stages": [
            {
                "stage": stage.stage,
                "boundary": (*names, "head")[stage.boundary],
                "features": stage.features,
                "strength": stage.chosen.strength,
                "objective": stage.chosen.objective,
                "gradient": stage.chosen.gradient,
                "converged": stage.chosen.converged,
                "accuracy": stage.accuracy,
                "loss": stage.loss,
                "interval": list(stage.interval),
                "neighbours": stage.neighbours,
                "seconds": stage.seconds,
                "path": stage.path,
            }
            for stage in stages
        ],
    }
    return analysis


def _plot(stages: list[StageProbe], suggestion: Suggestion, knn: bool) -> bytes:
    from matplotlib.figure import Figure

    from fashion_tl.plots.depth import draw_depth
    from fashion_tl.plots.style import png, style

    series = {
        "linear, test": [stage.accuracy["test"] for stage in stages],
        "linear, training": [stage.accuracy["train"] for stage in stages],
    }
    if knn:
        series["nearest neighbours, test"] = [stage.neighbours["accuracy"] for stage in stages if stage.neighbours]
    frozen = sum(stage.boundary <= suggestion.boundary for stage in stages)
    with style():
        figure = Figure(figsize=(max(4.5, 0.6 * len(stages) + 1.5), 3.4), layout="constrained")
        draw_depth(
            figure.subplots(),
            [stage.stage for stage in stages],
            series,
            {"linear, test": [stage.interval for stage in stages]},
            frozen,
        )
        return png(figure)
