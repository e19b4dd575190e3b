"""What is checked before a run leaves anything behind, and decisions that belong to the whole run."""

from __future__ import annotations

import functools
import io
import itertools
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from fashion_tl.callbacks.weight_average import WeightAverage
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.file_list import PASSED_OVER, counted_endings
from fashion_tl.errors import UserError, check_known
from fashion_tl.folders import nearest_folder
from fashion_tl.metrics.imbalance import imbalance
from fashion_tl.models.staged import count_parameters
from fashion_tl.process import is_first_process, on_cpu, slow_precision
from fashion_tl.records.record import RunPaths
from fashion_tl.runs.named import settle_named_runs
from fashion_tl.runs.parser import without_weights
from fashion_tl.runs.ranges import check_least, check_lengths, check_validated
from fashion_tl.runs.resume import epoch_batches, resolve_checkpoint
from fashion_tl.seeds import run_seed
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.confusion import confused_pairs, confusion_of
from fashion_tl.training.freezing import check_accumulation, check_validations
from fashion_tl.training.going_on import progress_in
from fashion_tl.training.objective import prepare_objective
from fashion_tl.training.plan import Plan, Progress


def best_precision(accelerator: str) -> str:
    """Choose bf16-mixed on a CUDA GPU that computes it natively, else 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False):
        return "bf16-mixed"
    return "32-true"


@functools.cache
def tell_slow_precision(precision: str) -> None:
    """Print that a precision is slow on this processor, if it is: once, however many runs a process makes."""
    if (slow := slow_precision(precision)) and is_first_process():
        print(f"precision: {slow}; --trainer.precision 32-true is faster", flush=True)


def settle(config: Namespace) -> Path | None:
    """Settle what depends on the machine and on earlier runs; returns the checkpoint that is named, if any.

    Raises:
        UserError: If a checkpoint, or a run to start from, is not there.
    """
    if config.trainer.precision is None:
        config.trainer.precision = best_precision(str(config.trainer.accelerator))
    if on_cpu(str(config.trainer.accelerator)):
        tell_slow_precision(str(config.trainer.precision))
    checkpoint = resolve_checkpoint(config)
    if checkpoint is not None:
        load_checkpoint(checkpoint)
    settle_named_runs(config, started=checkpoint is not None)
    return checkpoint


def ask_other_runs(model: ImageClassifier, data: ImageDataModule, device: torch.device) -> None:
    """Have the objective, and what mixes images, take what they need of other runs, before anything is written.

    Raises:
        UserError: If it is not to be had, does not fit this run, or has seen what is to validate or test it.
    """
    prepare_objective(model, data, device)
    if data.mix is not None and isinstance(data.mix.pairs, str):
        confusion, _ = confusion_of(data.mix.pairs, model, data, "data.mix.pairs", device)
        data.set_mix(replace(data.mix, pairs=confused_pairs(confusion, data.class_names)))
        rank_zero_only(print)("mixed pairs: " + ", ".join(" and ".join(pair) for pair in data.mix.pairs))
    model.check_seen(data)


def to_build(config: Namespace, checkpoint: Path | None) -> Namespace:
    """Return the configuration to build from: a checkpoint brings its own weights."""
    if checkpoint is None:
        return config
    changed = config.clone()
    without_weights(changed)
    return changed


def to_record(config: Namespace) -> Namespace:
    """Return the configuration that a record keeps: it runs the whole again, once."""
    changed = config.clone()
    changed.ckpt_path, changed.resume = None, False
    changed.seeds, changed.folds, changed.search, changed.processes = 1, None, None, 1
    return changed


def check_monitor(monitor: str, model: ImageClassifier, callbacks: Callback | list[Callback] | None) -> None:
    """Refuse a figure to choose by that nothing logs, of the run or of its callbacks."""
    check_known("monitor", monitor, model.figures, "Set it with --monitor.")
    given = [callbacks] if isinstance(callbacks, Callback) else callbacks or []
    logged = (*model.figures, "train/loss", "train/accuracy")
    if all(type(callback).__module__.partition(".")[0] == "lightning" for callback in given):  # others may log more
        for callback in given:
            figure = getattr(callback, "monitor", None) or monitor
            check_known("monitor", figure, logged, f"{type(callback).__name__} of trainer.callbacks has it.")


def bounds_of(trainer: Trainer, data: ImageDataModule) -> tuple[int, int, float, int]:
    """Return what bounds the plan of a run: its epochs and steps, the batches of an epoch, and those of a step."""
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    return epochs, trainer.max_steps, epoch_batches(trainer, data), trainer.accumulate_grad_batches


def check_plan(
    model: ImageClassifier,
    trainer: Trainer,
    data: ImageDataModule,
    saved: Mapping[str, Any] | None = None,
    kept: bool = False,
) -> Plan:
    """Refuse a plan that the length of the run does not suit, and limits that leave nothing to do.

    Args:
        model: The classifier.
        trainer: The trainer.
        data: The data module, after ``setup``.
        saved: The ``saved_state`` of the checkpoint that the run goes on from, if it does.
        kept: Whether the run has a checkpoint that can be tested.

    Returns:
        The plan with the end that the trainer gives it.
    """
    check_lengths(trainer, data)
    check_sent(trainer, model)
    check_accumulation(trainer)
    bounds = bounds_of(trainer, data)
    began = progress_in(saved) if saved else Progress(0)
    plan = model.plan.bounded(*bounds, began)
    if not getattr(trainer, "fast_dev_run", False):
        check_least(trainer, plan, bounds[2], began)
        if not kept:
            check_validated(trainer, plan, bounds[2], began)
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, WeightAverage):
            callback.period(plan, replace(began, batches=bounds[2]))
    check_validations(plan, trainer)
    return plan


class _WithoutTensors(ForkingPickler):
    """Pickles an object as a spawned process gets it, but for the contents of tensors."""

    def persistent_id(self, thing: object) -> str | None:
        """Leave a tensor out."""
        return "tensor" if isinstance(thing, torch.Tensor) else None


def check_sent(trainer: Trainer, model: ImageClassifier) -> None:
    """Refuse a model that cannot be sent to the processes that a strategy spawns.

    Raises:
        UserError: If it cannot be pickled, as none with adapters can, be they a teacher's.
    """
    launcher = getattr(getattr(trainer, "strategy", None), "launcher", None)
    if getattr(launcher, "_start_method", None) not in ("spawn", "forkserver"):
        return
    try:
        _WithoutTensors(io.BytesIO()).dump(model)
    except (pickle.PicklingError, AttributeError, RuntimeError, TypeError) as error:
        raise UserError(
            "--trainer.strategy spawns processes, to which the model is sent by pickle, and it cannot be: "
            f"{' '.join(str(error).split())[:200]} Adapters (model.lora) never can. Use --trainer.strategy ddp."
        ) from error


def check_disk(paths: RunPaths, model: ImageClassifier) -> None:
    """Refuse to start where two checkpoints, with the optimizer's state and other copies of weights, will not fit."""
    copies = 5 if model.plan.may_end_early else 4  # weights, two moments, an average, the best weights of a phase
    needed = 2 * copies * sum(p.numel() * p.element_size() for p in model.parameters()) + 20 * 2**20
    needed += 2 * sum(b.numel() * b.element_size() for b in model.objective.buffers())
    folder = nearest_folder(paths.checkpoints)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**20:.0f} MiB free, this run's checkpoints may need "
            f"{needed / 2**20:.0f} MiB. Free some space or choose another disk with --checkpoint_dir."
        )


def _correction(model: ImageClassifier, data: ImageDataModule) -> str:
    """Say what a run does about the imbalance of its classes."""
    given = model.class_weights
    weights = "none" if given is None else given if isinstance(given, str) else "as given"
    return f"sampler: {data.sampler}, class weights: {weights}"


def _copies(data: ImageDataModule) -> list[str]:
    """Say how many images of a split are in another one as well, by the digests of their files."""
    digests = {part: found for part in data.splits if (found := data.digests(part)) is not None}
    counts = {
        (part, other): int(torch.isin(digests[part], digests[other]).sum())
        for other, part in itertools.combinations(digests, 2)
    }
    told = [f"{count:,} {part} images are {other} images as well" for (part, other), count in counts.items() if count]
    return [f"copies: {', '.join(told)}; `fashion-tl audit` finds them"] if told else []


def summary(paths: RunPaths, model: ImageClassifier, data: ImageDataModule) -> str:
    """Say in a few lines what is about to be trained on what."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    parameters = f"{count_parameters(model.network):,} parameters"
    lines = [
        f"{paths.name} version {paths.version}: {model.architecture} ({model.weights}), {parameters}",
        f"data: {data.source_name}, {sizes}, {len(data.class_names)} classes, {model.input_spec.image_size} px",
    ]
    if data.loaded is not None:
        if data.loaded.others:
            lines.append(f"{PASSED_OVER}: {counted_endings(data.loaded.others)}")
        lines += [*data.loaded.remarks, *_copies(data)]
    told = imbalance(data.class_counts, data.class_names)
    if told is not None:
        lines.append(f"imbalanced: training images of a class are {told}; {_correction(model, data)}")
    if run_seed() is None:
        lines.append("seed: none, so that this run cannot be repeated")
    phases = model.plan.phases
    if len(phases) == 1:
        lines.append(f"trains: {model.describe_phase(0)}")
    for index, phase in enumerate(phases if len(phases) > 1 else ()):
        latest = " at the latest" if any(before.until for before in phases[:index]) else ""
        lines.append(f"phase {index + 1} from epoch {phase.start + 1}{latest}: trains {model.describe_phase(index)}")
    return "\n".join(lines)
