"""One optimizer over every parameter, in groups named by stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import nn

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.finetuning.phases import Phase
from fashion_tl.models.staged import HEAD, StagedNetwork

OPTIMIZERS = ("adamw", "adam", "sgd")


class ParameterGroup(TypedDict):
    """One group of an optimizer: a stage, and whether weight decay applies to it."""

    name: str
    stage: int
    params: list[nn.Parameter]
    weight_decay: float


def parameter_groups(network: StagedNetwork, weight_decay: float) -> list[ParameterGroup]:
    """Put every parameter into the group of its stage, vectors (biases, norms) apart and without weight decay.

    Frozen parameters are there too: they have no gradient, so the optimizer leaves them alone, and resuming,
    schedulers and loggers see the same groups in every phase.
    """
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    names = (*network.stage_names, HEAD)
    for _, stage, parameter in network.staged_parameters():
        decayed = parameter.ndim > 1
        label = f"{stage:02d}-{names[stage]}{'' if decayed else '-no_decay'}"
        group = groups.setdefault(
            (stage, decayed),
            {"name": label, "stage": stage, "params": [], "weight_decay": weight_decay if decayed else 0.0},
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1]))]


def group_rates(
    network: StagedNetwork, groups: list[Any], phase: Phase, lr: float, backbone_lr: float, layer_decay: float
) -> list[float]:
    """Compute the peak learning rate of each group in a phase.

    Args:
        network: The network that the groups were made of.
        groups: Groups with a "stage", as ``parameter_groups`` makes them.
        phase: What trains; its own rates, where it has some, come before the run's.
        lr: The run's rate of the head.
        backbone_lr: The run's rate of the top stage.
        layer_decay: Factor between a stage and the one above it, 0 to 1.

    Returns:
        One rate a group; 0 for a frozen one.
    """
    boundary, top = network.resolve(phase.train), len(network.stage_names)
    head = lr if phase.lr is None else phase.lr
    backbone = backbone_lr if phase.backbone_lr is None else phase.backbone_lr
    rates = []
    for stage in (int(group["stage"]) for group in groups):
        rate = head if stage == top else backbone * layer_decay ** (top - 1 - stage)
        rates.append(rate if stage >= boundary else 0.0)
    return rates


def build_optimizer(name: str, groups: list[ParameterGroup], lr: float, momentum: float) -> torch.optim.Optimizer:
    """Build an optimizer by name.

    Args:
        name: "adamw" (Loshchilov & Hutter 2019), "adam" or "sgd" (with Nesterov momentum).
        groups: Its parameter groups.
        lr: The learning rate until a schedule sets another, above 0.
        momentum: Momentum of SGD, 0 to 1; the others ignore it.

    Raises:
        UserError: If the name or the rate is not allowed.
    """
    check_optimizer(name, lr)
    parameters: list[dict[str, Any]] = [dict(group) for group in groups]
    if name == "sgd":
        return SGD(parameters, lr=lr, momentum=momentum, nesterov=momentum > 0)
    return (AdamW if name == "adamw" else Adam)(parameters, lr=lr)


class _SkipsFrozen(torch.optim.Optimizer):
    """Steps over the groups that have a gradient only: a head has two, a backbone below it has dozens."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = self.param_groups
        self.param_groups = [group for group in every if any(p.grad is not None for p in group["params"])]
        try:
            super().step()
        finally:
            self.param_groups = every
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = None


class SGD(_SkipsFrozen, torch.optim.SGD):
    """``torch.optim.SGD``, over what trains only."""


class Adam(_SkipsFrozen, torch.optim.Adam):
    """``torch.optim.Adam``, over what trains only."""


class AdamW(_SkipsFrozen, torch.optim.AdamW):
    """``torch.optim.AdamW``, over what trains only."""


def check_optimizer(name: str, lr: float) -> None:
    """Raise a UserError for an optimizer that does not exist or a learning rate that is not above 0."""
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS, "Set it with --model.optimizer.")
    if not lr > 0:
        raise UserError(f"model.lr is {lr}: a learning rate must be above 0, such as 0.001.")
