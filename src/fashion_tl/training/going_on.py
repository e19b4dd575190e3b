"""What a checkpoint keeps of a run, and whether another one may go on from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fashion_tl.errors import UserError
from fashion_tl.seeds import run_seed
from fashion_tl.training.plan import Progress, differences

if TYPE_CHECKING:
    from fashion_tl.training.freezing import PlannedModule


def without_plan(checkpoint: object) -> UserError:
    """Say that a checkpoint cannot be gone on from."""
    return UserError(f"{checkpoint} keeps no plan to go on with; start from its weights with --model.init_from.")


def compared(module: PlannedModule, data: object) -> dict[str, Any]:
    """Return what must be the same for a run to be the same run, as plain values."""
    plan = module.plan.settings()
    given = dict(getattr(module, "given", {}))
    parts = cast(nn.Module, module).modules()  # of an objective of any kind
    told = {name: value for part in parts for name, value in getattr(part, "told_by", {}).items()}
    decided = {*plan, *plan["schedule"], "train", "schedule", "pretrained", "init_from", "class_names", "input_spec"}
    return {
        "plan": plan,
        "seed": run_seed(),
        "model": {name: value for name, value in given.items() if name not in decided} | told,
        "data": dict(getattr(data, "identity", {})),
    }


def run_state(module: PlannedModule, trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """Return what must be known of a run to go on with it, as plain values."""
    plan = None if trainer.train_dataloader is None else module.current_plan()
    return {
        **compared(module, getattr(trainer, "datamodule", None)),
        "stopped": trainer.should_stop,
        "epoch": progress.epoch,
        "batch": progress.batch,
        "batches": progress.batches if math.isfinite(progress.batches) else None,
        "accumulate": progress.accumulate,
        "processes": trainer.world_size,
        "steps": progress.steps,
        "starts": list(plan.starts(progress)) if plan else [],
        "first_steps": list(plan.first_steps(progress)) if plan else [],
        "saved_steps": list(plan.saved_steps(progress)) if plan else [],
        "averaging": averaging_of(trainer),
        "cache": cache_of(trainer, getattr(trainer, "datamodule", None)),
    }


def progress_in(saved: Mapping[str, Any]) -> Progress:
    """Return where training stood by the ``run_state`` in a checkpoint."""
    batches = saved["batches"] or math.inf
    return begun(Progress(saved["epoch"], saved["batch"], batches, saved["accumulate"], saved["steps"]), saved)


def begun(progress: Progress, saved: Mapping[str, Any]) -> Progress:
    """Return progress that knows where phases began; checkpoints of earlier versions keep less of it."""
    starts, first, less = (tuple(saved.get(name, ())) for name in ("starts", "first_steps", "saved_steps"))
    return replace(progress, starts=starts, first_steps=first, saved_steps=less)


def averaging_of(trainer: Any) -> str | None:  # noqa: ANN401 - the Trainer, whose type does not tell its callbacks
    """Name the average of weights that a callback of the trainer keeps, if one does."""
    return next((each.averaging for each in trainer.callbacks if hasattr(each, "averaging")), None)


def cache_of(trainer: Any, data: object) -> dict[str, Any]:  # noqa: ANN401 - as above
    """Return the settings of the trainer's feature cache that change what training on some data sees, if there is one.

    >>> from types import SimpleNamespace
    >>> cache_of(SimpleNamespace(callbacks=[]), None)
    {}
    """
    return next((each.settings_used(data) for each in trainer.callbacks if hasattr(each, "settings_used")), {})


def check_resumed(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse to go on from a checkpoint in a way that is not what the configuration says.

    What has run must be as the configuration says. The length of the run and phases to come may change; so may batches,
    accumulation and processes, but between two epochs only: in the middle of one they would mean other samples.

    Args:
        saved: The ``run_state`` in the checkpoint.
        now: That of the run that goes on.

    Returns:
        Where it goes on ("epoch", "batch"), and what has "changed", as [before, now].

    Raises:
        UserError: If they do not fit; the message names each difference.
    """
    told = differences(saved["plan"], now["plan"], progress_in(saved))
    inside = bool(saved["batch"])
    for key, what in (("seed", "seed"), ("batches", "batches in an epoch"), ("accumulate", "accumulate_grad_batches")):
        if saved[key] != now[key] and (inside or key == "seed"):
            told.append(f"{what}: {saved[key]}, now {now[key]}")
    if saved.get("averaging") != now["averaging"]:
        told.append(f"averaging: {saved.get('averaging') or 'none'}, now {now['averaging'] or 'none'}")
    before, after = saved.get("cache", {}), now["cache"]
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            told.append(f"cache_{key}: {before.get(key)}, now {after.get(key)}")
    for part in ("model", "data"):
        for key in sorted(saved[part].keys() & now[part].keys()):
            if saved[part][key] != now[part][key]:
                told.append(f"{part}.{key}: {saved[part][key]}, now {now[part][key]}")
    if inside and saved["processes"] != now["processes"]:
        told.append(f"processes: {saved['processes']}, now {now['processes']}")
    if told:
        where = f"batch {saved['batch']} of epoch {saved['epoch'] + 1}" if inside else f"epoch {saved['epoch']}"
        raise UserError(
            f"the checkpoint (after {where}) does not fit this configuration: {'; '.join(told)}. Go on with its own "
            "config.yaml, or start anew with model.init_from."
        )
    if inside and saved["batch"] % saved["accumulate"] and saved["batch"] != saved["batches"]:
        raise UserError(
            f"the checkpoint was written after batch {saved['batch']}, between two optimizer steps (accumulate_grad_"
            f"batches {saved['accumulate']}): the gradients so far are not in it. Go on from another one."
        )
    if cut_before_validation(saved):
        until = any(phase.get("until") for phase in saved["plan"]["phases"])
        if until or saved["plan"]["schedule"]["name"] == "plateau":
            what = "the end of a phase" if until else "schedule 'plateau'"
            raise UserError(
                f"the checkpoint was written at the last batch of an epoch, before its validation, which {what} "
                "depends on. Go on from another one, such as last.ckpt."
            )
        rank_zero_warn("the checkpoint was written at the last batch of an epoch: its validation is left out")
    changed = {k: [saved[k], now[k]] for k in ("batches", "accumulate", "processes") if saved[k] != now[k]}
    return {"epoch": saved["epoch"], "batch": saved["batch"], "changed": changed}


def tell_left_out(trainer: Trainer, saved: Mapping[str, Any]) -> None:
    """Say that the last epoch before a checkpoint was cut, by steps, time or a callback: it counts as done."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    done = batches.current.processed
    if saved["epoch"] and not saved["batch"] and done and not batches.is_last_batch:
        rest = f"of {saved['batches']:g} batches" if saved["batches"] else "batches"
        rank_zero_warn(
            f"epoch {saved['epoch']} ended after {done} {rest}: training goes on with the next epoch, the rest of that "
            "one is left out"
        )


def cut_before_validation(saved: Mapping[str, Any]) -> bool:
    """Say whether a checkpoint is of the end of an epoch, before its validation."""
    return bool(saved["batch"]) and saved["batch"] == saved["batches"] and saved["epoch"] not in saved["losses"]
