"""A network as a list of named stages and a head, of which all but a selection can be frozen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.models.selection import HEAD as HEAD
from fashion_tl.models.selection import Selection, TrainSpec, describe_boundary, select

BatchNormPolicy = Literal["eval", "affine", "train"]


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
            index = self.stage_names.index(stage)
            for path in _paths(member):
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

    def select(self, spec: TrainSpec) -> Selection:
        """Find the parameters that a user means, as ``models.selection.select`` describes.

        Raises:
            UserError: If something in it is not in this network.
        """
        stages = {name: stage for name, stage, _ in self.staged_parameters()}
        return select(spec, stages, self.stage_names, self._norms())

    def resolve(self, spec: TrainSpec) -> int:
        """Return the boundary of what a user means: the index of the lowest stage that trains.

        Returns:
            0 for everything up to ``len(stage_names)`` for the head alone.

        Raises:
            UserError: If something in it is not in this network.
        """
        return self.select(spec).boundary

    def describe(self, boundary: int) -> str:
        """Say in words what trains at a boundary, such as "layer4 and head"."""
        return describe_boundary(boundary, self.stage_names)

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
        """Freeze every stage below a boundary and train the rest; see ``freeze_except``."""
        self.freeze_except(self._above(boundary), batch_norm)

    def freeze_except(self, selection: Selection, batch_norm: BatchNormPolicy = "train") -> None:
        """Train what is selected and freeze the rest.

        Frozen means: no gradient, and eval mode whatever ``train()`` is called with, so that BatchNorm statistics,
        dropout and stochastic depth stand still. Above the boundary that holds for each module of whose parameters
        none is selected, though gradients flow through it; one without parameters, such as dropout, is frozen if its
        stage or the module around it is.

        Args:
            selection: What trains, as ``select`` gives it.
            batch_norm: What BatchNorm does where it is selected: "train" updates statistics and affine parameters,
                "affine" keeps the statistics, "eval" keeps both.
        """
        self.boundary, self.batch_norm = selection.boundary, batch_norm
        trained = self.trained_names(selection, batch_norm)
        for name, _, parameter in self.staged_parameters():
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
        resting = self._resting(selection)
        self._in_eval = [
            module
            for name, module in self.named_modules()
            if name in resting
            or self.side(name, selection.boundary) == "below"
            or (isinstance(module, _BatchNorm) and batch_norm != "train")
        ]
        self.train(self.training)

    def trained_names(self, what: Selection | int, batch_norm: BatchNormPolicy = "train") -> set[str]:
        """Return the names of the parameters that train, given a selection or a boundary, without freezing anything."""
        trained = set((self._above(what) if isinstance(what, int) else what).names)
        if batch_norm == "eval":
            norms = [(name, m) for name, m in self.backbone.named_modules() if isinstance(m, _BatchNorm)]
            trained -= {f"backbone.{name}.{p}" for name, m in norms for p, _ in m.named_parameters(recurse=False)}
        return trained

    def count_trained(self, what: Selection | int, batch_norm: BatchNormPolicy = "train") -> int:
        """Count the parameters that train, given a selection or a boundary, without freezing anything."""
        trained = self.trained_names(what, batch_norm)
        return sum(parameter.numel() for name, _, parameter in self.staged_parameters() if name in trained)

    def _above(self, boundary: int) -> Selection:
        names = frozenset(name for name, stage, _ in self.staged_parameters() if stage >= boundary)
        return Selection(names, boundary, self.describe(boundary))

    def _norms(self) -> list[str]:
        """Name the vectors of normalisation layers."""
        layers = [(name, module) for name, module in self.named_modules() if "norm" in type(module).__name__.lower()]
        return [f"{n}.{p}" for n, module in layers for p, v in module.named_parameters(recurse=False) if v.ndim <= 1]

    def _resting(self, selection: Selection) -> set[str]:
        """Name the modules that stand still though they lie above the boundary; none where all above it trains."""
        if selection.names == self._above(selection.boundary).names:
            return set()
        stages = {name: stage for name, stage, _ in self.staged_parameters()}
        still = set(stages.values()) - {stages[name] for name in selection.names}
        holding, training = ({path for name in names for path in _paths(name)} for names in (stages, selection.names))
        resting = set()
        for name, _ in self.named_modules():
            around = next(path for path in _paths(name)[::-1] if path in holding)
            stage = self._stage_of.get(name.removeprefix("backbone.")) if name.startswith("backbone.") else None
            alone = around != name and stage is not None and self.stage_names.index(stage) in still
            if around not in training or alone:
                resting.add(name)
        return resting

    def frozen_buffers(self) -> dict[str, Tensor]:
        """Return the buffers of all modules that are kept in eval mode, such as BatchNorm's statistics, by name."""
        return {
            f"{i}.{name}": buffer
            for i, module in enumerate(self._in_eval)
            for name, buffer in module.named_buffers(recurse=False)
        }

    def moving(self) -> dict[str, Tensor]:
        """Return what training changes, by name: parameters with a gradient, buffers of what is not kept in eval mode.

        A tensor that goes by several names is there under each.
        """
        still = {id(buffer) for buffer in self.frozen_buffers().values()}
        parameters = self.named_parameters(remove_duplicate=False)
        trained: dict[str, Tensor] = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        buffers = self.named_buffers(remove_duplicate=False)
        return trained | {name: buffer for name, buffer in buffers if id(buffer) not in still}

    def train(self, mode: bool = True) -> StagedNetwork:
        """Set the mode of what trains; what is frozen stays in eval mode (Lightning calls this after validation)."""
        super().train(mode)
        for module in self._in_eval:
            module.training = False
        return self


def _paths(name: str) -> list[str]:
    """Return a module's name with those of all modules around it, the outermost first."""
    parts = name.split(".") if name else []
    return [".".join(parts[:depth]) for depth in range(len(parts) + 1)]


def divide_by_children(backbone: nn.Module) -> dict[str, str]:
    """Divide a backbone into its direct children, one stage each; its own parameters belong to the first.

    One without children is one stage, "backbone"; without parameters it has none.
    """
    members = [*dict(backbone.named_parameters()), *_parameterless(backbone)]
    order = [name for name, _ in backbone.named_children()] or ["backbone"]
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
