"""The layer of each stage whose output is a map over the image, and how it becomes channels over a plane."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fashion_tl.errors import UserError, check_known
from fashion_tl.models.staged import StagedNetwork

Layout = Literal["NCHW", "NHWC", "tokens"]

_INSIDE_ATTENTION = re.compile(r"(^|\.)\w*attn\w*\.")  # queries, keys and values are no features of places
FINE = 4
_BATCH = 2


@dataclass(frozen=True)
class Target:
    """A layer whose output is a map of features over the image.

    Attributes:
        stage: Stage of the network that the layer belongs to.
        name: Qualified name of the layer in the backbone.
        module: The layer.
        layout: Order of its output's axes: "NCHW", "NHWC", or "tokens" (B, prefix + side * side, C).
        channels: Channels C of the map.
        side: Height and width of the map, at least 2.
        prefix: Class and register tokens in front of the others.
    """

    stage: str
    name: str
    module: nn.Module
    layout: Layout
    channels: int
    side: int
    prefix: int = 0

    def fold(self, output: Tensor) -> Tensor:
        """Bring the layer's output to (B, C, side, side), without class and register tokens."""
        if self.layout == "NCHW":
            return output
        if self.layout == "NHWC":
            return output.permute(0, 3, 1, 2)
        patches = output[:, self.prefix :].transpose(1, 2)
        return patches.reshape(len(output), self.channels, self.side, self.side)

    def within(self, network: StagedNetwork) -> Target:
        """Return the same layer of a copy of the network."""
        return replace(self, module=network.backbone.get_submodule(self.name))


def find_targets(network: StagedNetwork, channels: int, image_size: int) -> dict[str, Target]:
    """Find the layer of each stage that a map is best taken from, by running noise through the network once.

    That is the last layer whose output has the plane of the last weighted one: a stage's output, or where a stage ends
    in pooling, what is pooled. Where the class token alone is classified, the patches of the last block's output have
    no influence, so the last layer is taken at which a gradient still reaches them.

    Args:
        network: A network in eval mode; frozen or not, it stays as it is.
        channels: Channels of the images that it takes.
        image_size: Their height and width in pixels.

    Returns:
        Targets by stage, in the order of the stages; a stage without a map is left out.
    """
    targets: dict[str, Target] = {}
    calls = _calls(network, channels, image_size)
    for stage in network.stage_names:
        own = [(target, weighted) for target, weighted in calls if target.stage == stage]
        last = max((place for place, (_, weighted) in enumerate(own) if weighted), default=None)
        if last is not None:
            targets[stage] = [target for target, _ in own[last:] if target.side == own[last][0].side][-1]
    return targets


def choose_target(targets: Mapping[str, Target], network: StagedNetwork, stage: str | None) -> Target:
    """Choose the target of a stage by its name, or of the last stage whose map has at least 4 x 4 places.

    Small images leave the last stages with 2 x 2 or 3 x 3 places; the last stage is taken if none has more.

    Raises:
        UserError: If there is no such stage, or its output is no map.
    """
    if not targets:
        raise UserError("no stage of this network gives a map over the image: its images are too small for it.")
    if stage is None:
        fine = [target for target in targets.values() if target.side >= FINE]
        return (fine or list(targets.values()))[-1]
    if stage in network.stage_names and stage not in targets:
        raise UserError(
            f"the output of stage {stage!r} is no map over the image. Stages with one: {', '.join(targets)}."
        )
    check_known("stage", stage, targets, "Set it with --stage.")
    return targets[stage]


def _calls(network: StagedNetwork, channels: int, image_size: int) -> list[tuple[Target, bool]]:
    """List, in the order of their calls, the layers whose output is a map that a gradient from the logits reaches.

    Returns:
        Each layer, and whether it is a single one with parameters of its own.
    """
    backbone: Any = network.backbone
    stages_of: dict[str, set[str]] = {}
    for name, stage, _ in network.staged_parameters():
        if stage < len(network.stage_names):
            parts = name.removeprefix("backbone.").split(".")[:-1]
            for depth in range(1, len(parts) + 1):
                stages_of.setdefault(".".join(parts[:depth]), set()).add(network.stage_names[stage])
    prefix = getattr(backbone, "num_prefix_tokens", None)
    last_axis = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
    current, outputs, seen = network.stage_names[0], [], []

    def note(name: str, module: nn.Module, output: Any) -> None:  # noqa: ANN401 - any output
        nonlocal current
        known = name  # a layer without parameters belongs to what it is part of, or else to what ran before it
        while known and known not in stages_of:
            known = known.rpartition(".")[0]
        owned = stages_of.get(known, set())
        if known != name and len(owned) != 1:
            owned = {current}
        weighted = any(True for _ in module.parameters(recurse=False))
        if weighted and len(owned) == 1:
            current = next(iter(owned))
        skipped = isinstance(module, nn.Identity | nn.Dropout) or _INSIDE_ATTENTION.search(name)
        if len(owned) != 1 or skipped or not isinstance(output, Tensor) or not output.requires_grad:
            return
        shape = _plane(output, prefix, last_axis)
        if shape is not None:
            layout, width, side, front = shape
            outputs.append(output)
            seen.append((Target(next(iter(owned)), name, module, layout, width, side, front), weighted))

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: note(name, module, output))
        for name, module in backbone.named_modules()
        if name
    ]
    some = next(network.parameters())
    noise = torch.rand((_BATCH, channels, image_size, image_size), generator=torch.Generator().manual_seed(0))
    try:
        with torch.enable_grad():
            logits = network(noise.to(some.device).requires_grad_())
            gradients = torch.autograd.grad(logits[:, 0].sum(), outputs, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (target, weighted)
        for (target, weighted), gradient in zip(seen, gradients, strict=True)
        if gradient is not None and target.fold(gradient).any()
    ]


def _plane(output: Tensor, prefix: int | None, last_axis: bool) -> tuple[Layout, int, int, int] | None:
    """Tell how an output is a square map of at least 2 x 2: its layout, channels, side and prefix tokens, or None."""
    if output.shape[0] != _BATCH:
        return None
    if output.ndim == 4:
        first, second, third = output.shape[1:]
        if second == third and second > 1 and not (last_axis and first == second):
            return "NCHW", first, second, 0
        if first == second and first > 1:
            return "NHWC", third, first, 0
    if output.ndim == 3:
        tokens, width = output.shape[1:]
        # Some networks add their class token late: then a stage has patches alone.
        for front in (0, 1, 2) if prefix is None else (prefix, 0):
            side = math.isqrt(max(tokens - front, 0))
            if side > 1 and side * side == tokens - front:
                return "tokens", width, side, front
    return None
