"""``--find_lr``: a short training whose learning rate rises finds the one to train with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.errors import UserError
from fashion_tl.process import launched_processes
from fashion_tl.runs.parser import make_trainer
from fashion_tl.runs.resume import saved_state
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.divergence import DivergedError
from fashion_tl.training.optimizer import group_rates

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 120  # of the head's rate: 17 steps for each factor of ten
SMOOTHING, EXPLODED, FALL = 0.9, 3.0, 0.05
_KEPT = ("accelerator", "precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm")


def find_rate(
    config: Namespace, model: ImageClassifier, data: ImageDataModule, checkpoint: Path | None
) -> dict[str, float | None] | None:
    """Find the learning rate (Smith 2017) and put it into plan and configuration, which then run without a search.

    The first phase is trained for a number of steps, through as many epochs as these take, while all rates rise
    together, each group's share of the head's as the plan says; weights are then what they were. A run that goes on
    takes the rates that were found at its start.

    Returns:
        The rates that were given, of which the search has kept the ratio; None if nothing was searched.

    Raises:
        UserError: If none is found, or none could be, see ``check_findable``.
    """
    if checkpoint is not None:
        plan = saved_state(checkpoint)["plan"]
        _set_rates(config, model, plan["lr"], plan["backbone_lr"])
        return None
    check_findable(config, model)
    lr = suggested(*_swept(config, model, data))
    if lr is None:
        raise UserError(
            f"the learning-rate finder found no rate from {LOWEST:g} to {HIGHEST:g} at which the loss falls; set one "
            "with --model.lr."
        )
    given = {name: config.model.init_args[name] for name in ("lr", "backbone_lr")}
    _set_rates(config, model, lr, lr * model.plan.backbone_lr / model.plan.lr)
    print(f"learning-rate finder: lr {lr:.2e}, backbone_lr {model.plan.backbone_lr:.2e}")
    return given


def check_findable(config: Namespace, model: ImageClassifier) -> None:
    """Refuse a run whose learning rate cannot be found.

    Raises:
        UserError: If phases have rates of their own, optimizers are not ours, or several processes would each find one.
    """
    if launched_processes() > 1 or str(config.trainer.devices) not in ("auto", "1"):
        raise UserError("--find_lr true works with one process: find the rate with --trainer.devices 1 first.")
    if any(phase.lr is not None or phase.backbone_lr is not None for phase in model.plan.phases):
        raise UserError(
            "--find_lr true finds model.lr, and phases of model.train have rates of their own: leave these out."
        )
    if type(model).configure_optimizers is not ImageClassifier.configure_optimizers:
        raise UserError(
            f"--find_lr true finds model.lr, and {type(model).__name__} brings optimizers of its own: leave it out."
        )


def suggested(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Choose a rate from the losses of a training in which it rose; None if the loss did not fall.

    Of the rates at which the smoothed loss falls, from its highest value to its lowest, it is the one after two thirds
    of the fall: the loss still falls steeply there, and what diverges is several times higher.

    Args:
        rates: Rates, rising, one a step.
        losses: The loss before each step; what follows one that is not finite is left out.

    Example:
        >>> suggested([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.3, 2.3, 1.6, 1.0, 9.0])
        0.1
    """
    smoothed, mean = [], 0.0
    for step, loss in enumerate(losses):
        if not math.isfinite(loss):
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
    if not smoothed:
        return None
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
    highest = max(range(lowest + 1), key=smoothed.__getitem__)
    fall = smoothed[highest] - smoothed[lowest]
    if fall < FALL * smoothed[highest]:
        return None
    goal = smoothed[highest] - fall * 2 / 3
    return next(rates[step] for step in range(highest, lowest + 1) if smoothed[step] <= goal)


def _swept(config: Namespace, model: ImageClassifier, data: ImageDataModule) -> tuple[list[float], list[float]]:
    """Train while the rate rises, and put all back; returns the rates of the steps and their losses."""
    plan, before = model.plan, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rising = _RisingRate()
    settings = {name: config.trainer.get(name) for name in _KEPT}
    settings |= {"max_steps": STEPS, "max_epochs": -1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    trainer = make_trainer(
        {**settings, "devices": 1, "logger": False, "enable_checkpointing": False, "enable_model_summary": False},
        enable_progress_bar=False,
        callbacks=[rising],
    )
    model.plan = replace(plan, phases=(replace(plan.phases[0], until=None, patience=None),))
    try:
        with torch.random.fork_rng():
            trainer.fit(model, datamodule=data)
    except DivergedError:  # as it does at the highest rates
        pass
    finally:
        model.plan = plan
        model.load_state_dict(before)
        model.enter_phase(0)
    return rising.rates, rising.losses


class _RisingRate(Callback):
    """Raises the rates of all groups together, by the same factor each step, until the loss explodes."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._peaks: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take each group's share of the head's rate from the plan."""
        module: Any = pl_module
        groups = trainer.optimizers[0].param_groups
        self._peaks = [rate / module.plan.lr for rate in group_rates(module.network, groups, module.plan, 0)]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Set the rate of the step."""
        step = trainer.global_step
        if step == len(self.rates):
            self.rates.append(LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))
            self.losses.append(0.0)
        for group, peak in zip(trainer.optimizers[0].param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.rates[step]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Take the loss, and stop once it has exploded."""
        loss: Any = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.losses[-1] = float(loss.detach()) if isinstance(loss, Tensor) else float(loss)
        if not self.losses[-1] <= EXPLODED * max(self.losses[0], 1e-6):
            trainer.should_stop = True


def _set_rates(config: Namespace, model: ImageClassifier, lr: float, backbone_lr: float) -> None:
    """Put rates that were found into the plan, and into the configuration, which then runs again without a search."""
    model.plan = replace(model.plan, lr=lr, backbone_lr=backbone_lr)
    config.model.init_args.lr, config.model.init_args.backbone_lr, config.find_lr = lr, backbone_lr, False
