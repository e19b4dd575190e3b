"""A network as a list of named stages and a head, of which everything below a boundary can be frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.errors import UserError, unknown_name

BatchNormPolicy = Literal["eval", "affine", "train"]
HEAD = "head"


class StagedNetwork(nn.Module):
    """A backbone divided into named stages, followed by a head.

    Args:
        backbone: Maps images (B, C, H, W) to features (B, F).
        head: Maps features (B, F) to logits (B, K).
        stages: For every parameter and parameterless module of the backbone, by qualified name, the stage that it
            belongs to. The order of first appearance is the order of the stages, input first.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, stages: Mapping[str, str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._stage_of = dict(stages)
        self.stage_names: tuple[str, ...] = tuple(dict.fromkeys(stages.values()))
        self.boundary = 0
        self.batch_norm: BatchNormPolicy = "train"
        self._in_eval: list[nn.Module] = []
        # The lowest stage of the parameters in each module, and the highest of all that is in it.
        self._lowest: dict[str, int] = {}
        self._highest: dict[str, int] = {}
        parameters = dict(backbone.named_parameters())
        for member, stage in stages.items():
            index, parts = self.stage_names.index(stage), member.split(".")
            for path in (".".join(parts[:depth]) for depth in range(len(parts) + 1)):
                self._highest[path] = max(self._highest.get(path, 0), index)
                if member in parameters:
                    self._lowest[path] = min(self._lowest.get(path, index), index)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (B, K) of normalised images (B, C, H, W)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def staged_parameters(self) -> Iterator[tuple[str, int, nn.Parameter]]:
        """Yield (qualified name, stage index, parameter) of every parameter; the head's index is the last."""
        index = {name: i for i, name in enumerate(self.stage_names)}
        for name, parameter in self.backbone.named_parameters():
            yield f"backbone.{name}", index[self._stage_of[name]], parameter
        for name, parameter in self.head.named_parameters():
            yield f"head.{name}", len(self.stage_names), parameter

    def resolve(self, boundary: str | int) -> int:
        """Turn a boundary as a user writes it into the index of the lowest stage that trains.

        Args:
            boundary: "all", "head", the name of the lowest stage to train, or the number of top stages to train.

        Returns:
            0 for everything up to ``len(stage_names)`` for the head alone.

        Raises:
            UserError: If this network has no such boundary.
        """
        count = len(self.stage_names)
        if isinstance(boundary, int) or re.fullmatch(r"-?\d+", boundary):
            top = int(boundary)
            if not 0 <= top <= count:
                raise UserError(
                    f"cannot train the top {top} stages: this network has {count}. "
                    f"Allowed: 0 to {count}, 'head', 'all', or a stage: {', '.join(self.stage_names)}."
                )
            return count - top
        names = ("all", HEAD, *self.stage_names)
        if boundary not in names:
            raise unknown_name("stage", boundary, names, f"A number from 0 to {count} means that many top stages.")
        return {"all": 0, HEAD: count}.get(boundary, count and names.index(boundary) - 2)

    def describe(self, boundary: int) -> str:
        """Say in words what trains at a boundary, such as "layer4 and head"."""
        if boundary == 0:
            return "all"
        trained = self.stage_names[boundary:]
        return HEAD if not trained else f"{trained[0]}{' and above' if len(trained) > 1 else ' and head'}"

    def side(self, name: str, boundary: int) -> Literal["below", "above", "both"]:
        """Say on which side of a boundary a module lies, by its qualified name."""
        root, _, path = name.partition(".")
        if root != "backbone":
            return "above" if root else "both"
        highest = self._highest.get(path, len(self.stage_names))
        if highest < boundary:
            return "below"
        return "both" if self._lowest.get(path, highest) < boundary else "above"

    def freeze_below(self, boundary: int, batch_norm: BatchNormPolicy = "train") -> None:
        """Freeze every stage below a boundary and train the rest.

        Frozen means: no gradient, and eval mode whatever ``train()`` is called with, so that BatchNorm statistics,
        dropout and stochastic depth stand still.

        Args:
            boundary: Index of the lowest stage that trains, as ``resolve`` gives it.
            batch_norm: What BatchNorm does in the trained stages: "train" updates statistics and affine parameters,
                "affine" keeps the statistics, "eval" keeps both.
        """
        self.boundary, self.batch_norm = boundary, batch_norm
        trained = self.trained_names(boundary, batch_norm)
        for name, _, parameter in self.staged_parameters():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
        self._in_eval = [
            module
            for name, module in self.named_modules()
            if self.side(name, boundary) == "below" or (isinstance(module, _BatchNorm) and batch_norm != "train")
        ]
        self.train(self.training)

    def trained_names(self, boundary: int, batch_norm: BatchNormPolicy = "train") -> set[str]:
        """Return the names of the parameters that ``freeze_below`` lets train, without freezing anything."""
        trained = {name for name, stage, _ in self.staged_parameters() if stage >= boundary}
        if batch_norm == "eval":
            norms = [(name, m) for name, m in self.backbone.named_modules() if isinstance(m, _BatchNorm)]
            trained -= {f"backbone.{name}.{p}" for name, m in norms for p, _ in m.named_parameters(recurse=False)}
        return trained

    def count_trained(self, boundary: int, batch_norm: BatchNormPolicy = "train") -> int:
        """Count the parameters that ``freeze_below`` lets train, without freezing anything."""
        trained = self.trained_names(boundary, batch_norm)
        return sum(parameter.numel() for name, _, parameter in self.staged_parameters() if name in trained)

    def frozen_buffers(self) -> dict[str, Tensor]:
        """Return the buffers of all modules that are kept in eval mode, such as BatchNorm's statistics, by name."""
        return {
            f"{i}.{name}": buffer
            for i, module in enumerate(self._in_eval)
            for name, buffer in module.named_buffers(recurse=False)
        }

    def train(self, mode: bool = True) -> StagedNetwork:
        """Set the mode of what trains; what is frozen stays in eval mode (Lightning calls this after validation)."""
        super().train(mode)
        for module in self._in_eval:
            module.training = False
        return self


def divide_by_children(backbone: nn.Module) -> dict[str, str]:
    """Divide a backbone into its direct children, one stage each; its own parameters belong to the first."""
    members = [*dict(backbone.named_parameters()), *_parameterless(backbone)]
    order = [name for name, _ in backbone.named_children()]
    stage_of = {m: top if (top := m.split(".")[0]) in order else order[0] for m in members}
    return dict(sorted(stage_of.items(), key=lambda item: order.index(item[1])))


def divide_timm(backbone: nn.Module) -> dict[str, str]:
    """Divide a timm backbone into stages from timm's own description of it.

    Parameters are grouped by the coarse ``group_matcher`` of the model. A group takes the name of what its pattern
    matched ("layer4", "blocks.5"), the first group is the stem. Groups of vectors alone (a last norm) join the group
    before them. Where groups are single layers (VGG), those between two entries of ``feature_info`` are one stage.
    A model without ``group_matcher`` (MetaFormer, PiT) is divided behind the modules that ``feature_info`` names, and
    one without either into its children.

    Args:
        backbone: A model made by timm with ``num_classes=0``.

    Returns:
        The stage of every parameter and every parameterless module.
    """
    described: Any = backbone
    try:
        groups = _matched(backbone, described.group_matcher(coarse=True))
    except (AttributeError, AssertionError):  # of a model without it, and of one that leaves it undefined
        groups = _ended(backbone)
    if not groups:
        return divide_by_children(backbone)
    stage_of = {member: name for name, members in groups for member in members}
    names = [name for name, _ in groups]
    previous = names[0]
    order = {name: i for i, name in enumerate(names)}
    for name, module in backbone.named_modules():
        owned = [
            stage_of[f"{name}.{p}"] for p, _ in module.named_parameters(recurse=False) if f"{name}.{p}" in stage_of
        ]
        if owned:
            previous = max(owned, key=order.__getitem__)
        elif not any(True for _ in module.parameters()) and name:
            stage_of[name] = previous
    return dict(sorted(stage_of.items(), key=lambda item: order[item[1]]))


def _matched(backbone: nn.Module, matcher: Any) -> list[tuple[str, list[str]]]:  # noqa: ANN401 - of several kinds
    """Name and list the parameters of each group of timm's ``group_matcher``."""
    from timm.models import group_parameters

    parameters = dict(backbone.named_parameters())
    groups: list[list[str]] = []
    for members in group_parameters(backbone, matcher, reverse=False).values():
        if groups and all(parameters[m].ndim <= 1 for m in members):
            groups[-1] += members
        else:
            groups.append(list(members))
    layers = {name for name, module in backbone.named_modules() if not any(True for _ in module.children())}
    if sum(_group_name(members, matcher) in layers for members in groups) * 2 > len(groups):
        groups = _join_layers(backbone, groups)
    names = ["stem", *(_group_name(members, matcher) for members in groups[1:])]
    return list(zip(names, groups, strict=True))


def _feature_modules(backbone: nn.Module) -> list[str]:
    """Return the modules that timm's ``feature_info`` names."""
    info: Any = getattr(backbone, "feature_info", None) or []
    return [entry["module"] for entry in (info.info if hasattr(info, "info") else info)]


def _ended(backbone: nn.Module) -> list[tuple[str, list[str]]]:
    """Name and list the parameters up to the end of each module that ``feature_info`` names, the last to the end."""
    parameters = [name for name, _ in backbone.named_parameters()]
    groups: list[tuple[str, list[str]]] = []
    begun = 0
    for end in _feature_modules(backbone):
        members = [i for i, parameter in enumerate(parameters) if parameter.startswith(f"{end}.")]
        if members and not groups and members[0] > 0:
            groups.append(("stem", parameters[: members[0]]))
            begun = members[0]
        if members:
            groups.append((end, parameters[begun : members[-1] + 1]))
            begun = members[-1] + 1
    if groups:
        groups[-1][1].extend(parameters[begun:])
    return groups


def _join_layers(backbone: nn.Module, groups: list[list[str]]) -> list[list[str]]:
    """Join groups of one layer each up to the next module that ``feature_info`` names."""
    ends = _feature_modules(backbone)
    merged: list[list[str]] = [[]]
    pending = {member: i for i, group in enumerate(groups) for member in group}
    taken: set[int] = set()
    for name, module in backbone.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            group = pending[f"{name}.{parameter}" if name else parameter]
            if group not in taken:
                taken.add(group)
                merged[-1] += groups[group]
        if name in ends and merged[-1]:
            merged.append([])
    return [group for group in merged if group]


def _group_name(members: list[str], matcher: Mapping[str, Any]) -> str:
    patterns = matcher.get("blocks", ()) if isinstance(matcher, Mapping) else ()
    if isinstance(patterns, str):
        patterns = ((patterns, None),)
    for pattern, *_ in patterns:
        found = re.match(pattern, members[0])
        if found:
            return found.group(0).rstrip(".")
    top = members[0].split(".")[0]
    return f"backbone.{top}" if top in (HEAD, "all") else top


def _parameterless(backbone: nn.Module) -> list[str]:
    return [name for name, m in backbone.named_modules() if name and not any(True for _ in m.parameters())]


def count_parameters(network: nn.Module, trained_only: bool = False) -> int:
    """Count the parameters of a network, or those that take a gradient."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trained_only)


def probe(network: nn.Module, channels: int, size: int) -> tuple[int, ...]:
    """Run one blank image through a network in eval mode, without touching any state.

    Returns:
        The shape of what comes out for a batch of one.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad():
        shape = tuple(network(torch.zeros(1, channels, size, size)).shape)
    network.train(was_training)
    return shape
