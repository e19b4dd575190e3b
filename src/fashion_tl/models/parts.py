"""What a network computes between two boundaries, as a module of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fashion_tl.models.staged import StagedNetwork
from fashion_tl.models.stand_ins import Call, Pass, StandIn, Step, rows_in


@dataclass
class Cut:
    """The calls of a forward pass at a boundary: those of modules on one side that lie in no other such module.

    Attributes:
        boundary: Index of the lowest stage above.
        outputs: What each call returns, with ``Rows`` in the place of tensors that have rows for each image.
        below: Calls of frozen modules on values that depend on frozen stages only.
        crossing: Those of them whose tensors are read above, in the order of the pass.
    """

    boundary: int
    outputs: dict[Call, Any]
    below: set[Call]
    crossing: list[Call]


class Part(nn.Module):
    """What a network computes between two boundaries, on its own modules, parameters and buffers.

    Args:
        network: The network.
        before: The lower boundary, whose features this part takes; None if it takes images.
        after: The upper boundary, whose features this part gives; None if it gives logits.
        images: Images (B, C, H, W), for their shape and dtype.

    Attributes:
        gives: Where the features come from that this part gives; empty if it gives logits.
        rest: Attributes that concern the rest of the network, and so no key of features.
    """

    rest = ("_network", "_before", "_copies", "_pass")

    def __init__(self, network: StagedNetwork, before: Cut | None, after: Cut | None, images: Tensor) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, or it would be a child of its own part
        self._pass, self._before, self._shape, self._dtype = Pass(), before, images.shape[1:], images.dtype
        self.gives = () if after is None else tuple(after.crossing)
        root = root_of(network)
        modules = dict(root.named_modules())
        steps = _steps(before, after)
        inside = _holders(steps)
        if after is not None:  # what trains is no part of this, even if it is not called
            above = [name for name in modules if network.side(name, after.boundary) == "above" and name not in inside]
            uncalled = [name for name in above if next(modules[name].parameters(), None) is not None]
            steps = {name: steps.get(name, {}) for name in (*uncalled, *steps)}
            inside = _holders(steps)
        # What a memo begins with is shared: nothing is copied but modules with stand-ins inside.
        memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        memo |= {id(module): module for name, module in modules.items() if name not in inside and name not in steps}
        for name in sorted(steps, key=lambda name: -name.count(".")):
            module, runs = modules[name], any(step.source == "run" for step in steps[name].values())
            inner = None if not runs else copy.deepcopy(module, memo) if name in inside else module
            memo[id(module)] = StandIn(name, module, inner, steps[name], self._pass)
        self.body = copy.deepcopy(root, memo)
        self._copies = [(memo[id(modules[name])], modules[name]) for name in sorted(inside.difference(steps, {""}))]
        if after is not None:
            self._leave_out(after.boundary)

    def _leave_out(self, boundary: int) -> None:
        """Put zeros in the place of parameters from a stage up that belong to copied modules themselves."""
        names = {module: name for name, module in root_of(self._network[0]).named_modules()}
        stages = {name: stage for name, stage, _ in self._network[0].staged_parameters()}
        for module, original in self._copies:
            for name, parameter in original.named_parameters(recurse=False):
                if stages[f"{names[original]}.{name}"] >= boundary:
                    delattr(module, name)
                    setattr(module, name, torch.zeros_like(parameter, requires_grad=False))

    def train(self, mode: bool = True) -> Part:
        """Set the mode of the whole network; what it keeps in eval mode stays in eval mode."""
        self.training = mode
        self._network[0].train(mode)
        return self

    def follow(self, mode: bool | None = None) -> None:
        """Give copied modules a mode, or the modes that the modules of the network have."""
        for module, original in self._copies:
            module.training = original.training if mode is None else mode

    def forward(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - logits, or a tuple of features
        """Compute this part."""
        if not self.gives:
            self.follow()
        images = inputs[0]
        self._pass.begin(images, by_call(self._before, inputs))
        if self._before is not None:
            images = images.new_zeros((), dtype=self._dtype).expand(images.shape[0], *self._shape)
        logits = self.body(images)
        recorded = self._pass.end()
        return tuple(tensor for call in self.gives for tensor in recorded[call]) if self.gives else logits


def root_of(network: StagedNetwork) -> nn.Module:
    """Return backbone and head as one module, whose members have the same names as in the network."""
    return nn.Sequential(OrderedDict(backbone=network.backbone, head=network.head))


def _holders(names: Iterable[str]) -> set[str]:
    """Return the names of the modules that have some of those named inside."""
    return {"", *(name[:i] for name in names for i, letter in enumerate(name) if letter == ".")}


def by_call(cut: Cut | None, tensors: Sequence[Tensor]) -> dict[Call, list[Tensor]]:
    """Assign features to the calls that return them."""
    left = iter(tensors)
    crossing = [] if cut is None else cut.crossing
    return {call: [next(left) for _ in rows_in(cut.outputs[call])] for call in crossing}  # type: ignore[union-attr]


def _steps(before: Cut | None, after: Cut | None) -> dict[str, dict[int, Step]]:
    """Return by module and number of the call what stand-ins do between two boundaries."""
    steps: dict[Call, Step] = {}
    if after is not None:
        steps |= {call: Step("zeros", output) for call, output in after.outputs.items() if call not in after.below}
    if before is not None:
        for call in before.below:
            steps[call] = Step("given" if call in before.crossing else "zeros", before.outputs[call])
    for call in () if after is None else after.crossing:
        found = steps.get(call, Step("run", None))
        steps[call] = Step(found.source, after.outputs[call], record=True)  # type: ignore[union-attr]
    replaced = {name for name, _ in steps}
    for cut in (before, after):
        for name, number in () if cut is None else cut.outputs:
            if name in replaced:
                steps.setdefault((name, number), Step("run", None))
    by_module: dict[str, dict[int, Step]] = {}
    for (name, number), step in steps.items():
        by_module.setdefault(name, {})[number] = step
    return by_module
