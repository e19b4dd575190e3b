"""Low-rank adapters on linear and convolution layers (LoRA: Hu et al., 2022, https://arxiv.org/abs/2106.09685).

The library peft has these too. It replaces timm's layers by wrappers of its own, renames their parameters, and brings
transformers, tokenizers and accelerate along, for what are some fifty lines over ``torch.nn.utils.parametrize``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fashion_tl.errors import UserError, check_known, check_ranges, shown, unknown_name
from fashion_tl.models.selection import plain_name

MOST = 4096
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


class LoRA(nn.Module):
    """Adds ``alpha / rank * B @ A`` to a weight; B is zero at the start, so that it changes nothing then.

    The weight (out, in, ...) is taken as a matrix (out, in * ...). On a convolution that is one with ``rank`` filters
    of the same kernel, and a 1 x 1 convolution of what they give.

    Args:
        weight: The weight, for its shape, device and type.
        rank: Rank of what is added; less where the matrix has less.
        alpha: Scale, relative to the rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        out, columns = weight.shape[0], weight[0].numel()
        self.scale, inner = alpha / rank, min(rank, out, columns)
        self.lora_a = nn.Parameter(weight.new_empty(inner, columns))
        self.lora_b = nn.Parameter(weight.new_zeros(out, inner))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def adds_nothing(self) -> bool:
        """Whether the weight comes out as it is, whatever ``lora_a`` was drawn."""
        return not self.lora_b.any() and bool(self.lora_a.isfinite().all())

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with what the adapter adds."""
        return weight + self.scale * (self.lora_b @ self.lora_a).view(weight.shape)


def check_lora(settings: Mapping[str, Any]) -> tuple[int, float, list[str]]:
    """Read the settings of adapters.

    Args:
        settings: ``rank``, 1 to 4096 (default 4); ``alpha``, above 0 (default twice the rank); ``layers``, shell
            patterns over the names of the backbone's layers (default all).

    Returns:
        Rank, alpha and patterns.

    Raises:
        UserError: If one of them is not allowed.
    """
    for name in settings:
        check_known("setting of model.lora", str(name), ("rank", "alpha", "layers"))
    rank = settings.get("rank", 4)
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise UserError(f"model.lora.rank is {shown(rank)}, allowed is a whole number from 1 to {MOST}.")
    alpha, layers = settings.get("alpha", 2 * rank), settings.get("layers", "*")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise UserError(f"model.lora.alpha is {shown(alpha)}, allowed is a number above 0.")
    check_ranges({"rank": (rank, 1, MOST), "alpha": (alpha, 1e-9, math.inf)}, "model.lora.")
    patterns = [layers] if isinstance(layers, str) else layers
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(each, str) for each in patterns):
        raise UserError(f"model.lora.layers is {shown(layers)}: give a shell pattern, such as '*.attn.*', or a list.")
    return rank, float(alpha), list(patterns)


def add_adapters(backbone: nn.Module, settings: Mapping[str, Any]) -> None:
    """Add an adapter to each linear and convolution layer that a pattern names.

    Args:
        backbone: A network; its layers go by their names in it.
        settings: As ``check_lora`` takes them.

    Raises:
        UserError: If a setting is not allowed, or a pattern names no such layer.
    """
    rank, alpha, patterns = check_lora(settings)
    layers = {name: module for name, module in backbone.named_modules() if isinstance(module, _LAYERS)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise unknown_name("layer in model.lora.layers", pattern, layers)
    with torch.no_grad():
        for name, module in layers.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                parametrize.register_parametrization(module, "weight", LoRA(module.weight, rank, alpha))


def merge_adapters(backbone: nn.Module) -> None:
    """Put what adapters add into the weights, and remove them: the network computes what it did."""
    for module in list(backbone.modules()):
        lists = getattr(module, "parametrizations", None)
        if lists is not None and "weight" in lists and any(isinstance(each, LoRA) for each in lists["weight"]):
            parametrize.remove_parametrizations(module, "weight")


def adapted_stages(backbone: nn.Module, stages: Mapping[str, str]) -> dict[str, str]:
    """Assign adapters, and weights that go by another name because of them, to the stages of their layers.

    Args:
        backbone: A network with adapters.
        stages: The stage of every parameter and parameterless module before it had them.
    """
    renamed: dict[str, list[str]] = {}
    for name, _ in backbone.named_parameters():
        plain = plain_name(name)
        owner = plain if plain in stages else f"{plain.rpartition('.')[0]}.weight"
        renamed.setdefault(owner, []).append(name)
    return {name: stage for member, stage in stages.items() for name in renamed.get(member, [member])}
