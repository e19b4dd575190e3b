"""One optimizer over every parameter, in groups named by stage."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import nn

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.models.staged import HEAD, StagedNetwork
from fashion_tl.training.plan import Plan

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


def group_rates(network: StagedNetwork, groups: list[Any], plan: Plan, index: int) -> list[float]:
    """Compute the peak learning rate of each group in a phase; 0 for a frozen one.

    Args:
        network: The network that the groups were made of.
        groups: Groups with a "stage", as ``parameter_groups`` makes them.
        plan: The plan of the run.
        index: The phase.
    """
    boundary, top = network.resolve(plan.phases[index].train), len(network.stage_names)
    return [plan.rate(index, int(group["stage"]), boundary, top) for group in groups]


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
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=momentum > 0)
    return (torch.optim.AdamW if name == "adamw" else torch.optim.Adam)(parameters, lr=lr)


def check_optimizer(name: str, lr: float) -> None:
    """Raise a UserError for an optimizer that does not exist or a learning rate that is not above 0."""
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS, "Set it with --model.optimizer.")
    if not lr > 0:
        raise UserError(f"model.lr is {lr}: a learning rate must be above 0, such as 0.001.")
