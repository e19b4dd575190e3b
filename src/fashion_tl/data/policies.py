"""TrivialAugment and RandAugment on a batch on the device: operation, strength and sign drawn for each image."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fashion_tl.data import augment_ops as ops

LEVELS = 30  # of a strength, as both papers count them


@dataclass(frozen=True)
class Strength:
    """The range of an operation's strength.

    Attributes:
        first: Strength at level 0.
        last: Strength at level 30; for a relative one, as a share of the image's width or height.
        signed: Whether its sign is drawn.
        relative: Whether it is a share of the side.
    """

    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    relative: bool = False


Policy = dict[str, Strength]


def _policy(shear: float, translate: Strength, degrees: float, factor: float, bits: int) -> Policy:
    around = Strength(0, factor, signed=True)
    return {
        "identity": Strength(),
        "shear_x": Strength(0, shear, signed=True),
        "shear_y": Strength(0, shear, signed=True),
        "translate_x": translate,
        "translate_y": translate,
        "rotate": Strength(0, degrees, signed=True),
        "brightness": around,
        "color": around,
        "contrast": around,
        "sharpness": around,
        "posterize": Strength(8, bits),
        "solarize": Strength(1, 0),
        "autocontrast": Strength(),
        "equalize": Strength(),
    }


# Translation in pixels whatever the image's size, as in the paper and in torchvision.
TRIVIAL_WIDE = _policy(0.99, Strength(0, 32, signed=True), 135, 0.99, bits=2)
RAND = _policy(0.3, Strength(0, 150 / 331, signed=True, relative=True), 30, 0.9, bits=4)
OPERATIONS = tuple(RAND)
_GEOMETRIC = slice(OPERATIONS.index("shear_x"), OPERATIONS.index("rotate") + 1)
_OTHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda images, change: ops.adjust_brightness(images, 1 + change),
    "color": lambda images, change: ops.adjust_color(images, 1 + change),
    "contrast": lambda images, change: ops.adjust_contrast(images, 1 + change),
    "sharpness": lambda images, change: ops.adjust_sharpness(images, 1 + change),
    "posterize": lambda images, bits: ops.posterize(images, bits.round()),
    "solarize": ops.solarize,
    "autocontrast": lambda images, _: ops.autocontrast(images),
    "equalize": lambda images, _: ops.equalize(images),
}


def trivial_augment(images: Tensor) -> Tensor:
    """Apply one operation of a random strength to each image (Müller & Hutter 2021, "TrivialAugment", wide ranges).

    Args:
        images: Float images (B, C, H, W) in 0 to 1.
    """
    levels = torch.randint(LEVELS + 1, (len(images),), device=images.device).float() / LEVELS
    return _augment(images, levels, TRIVIAL_WIDE)


def rand_augment(images: Tensor, count: int, level: float) -> Tensor:
    """Apply several operations of one strength to each image (Cubuk et al. 2020, "RandAugment").

    Args:
        images: Float images (B, C, H, W) in 0 to 1.
        count: Operations, one after the other.
        level: Their strength, 0 to 30.
    """
    levels = torch.full((len(images),), level / LEVELS, device=images.device, dtype=torch.float32)
    for _ in range(count):
        images = _augment(images, levels, RAND)
    return images


def _augment(images: Tensor, levels: Tensor, policy: Policy) -> Tensor:
    """Draw an operation and a sign for each image, and apply it at a level (B,), 0 to 1."""
    kinds = torch.randint(len(OPERATIONS), (len(images),), device=images.device)
    negative = torch.rand(len(images), device=images.device, dtype=torch.float32) < 0.5
    return apply_operations(images, kinds, strengths(images, kinds, levels, negative, policy))


def strengths(images: Tensor, kinds: Tensor, levels: Tensor, negative: Tensor, policy: Policy) -> Tensor:
    """Return the strength (B,) of each image's operation.

    Args:
        images: Images (B, C, H, W), of which the size counts.
        kinds: Index (B,) of each image's operation in ``OPERATIONS``.
        levels: Level (B,), 0 to 1.
        negative: Whether a signed strength is negative (B,).
        policy: The ranges.
    """
    table = _table(tuple(policy[name] for name in OPERATIONS), *images.shape[-2:], images.device)
    first, last, signed = table[kinds].unbind(1)
    return torch.lerp(first, last, levels.float()) * torch.where(negative & (signed > 0), -1.0, 1.0)


@functools.cache
def _table(policy: tuple[Strength, ...], height: int, width: int, device: torch.device) -> Tensor:
    """Return first and last strength and whether it is signed (operations, 3), kept on the device."""
    sides = [height if name.endswith("_y") else width for name in OPERATIONS]
    units = [side if each.relative else 1 for each, side in zip(policy, sides, strict=True)]
    rows = [[each.first * unit, each.last * unit, each.signed] for each, unit in zip(policy, units, strict=True)]
    return torch.tensor(rows, dtype=torch.float32, device=device)


def apply_operations(images: Tensor, kinds: Tensor, strength: Tensor) -> Tensor:
    """Apply one operation to each image; those of the same operation are computed together.

    Args:
        images: Float images (B, C, H, W) in 0 to 1.
        kinds: Index (B,) of each image's operation in ``OPERATIONS``.
        strength: Its strength (B,): a shear, pixels, degrees, a change of a factor, bits or a threshold.
    """
    changed = images.clone()
    order = kinds.argsort()
    # The one thing that the host waits for.
    ends = torch.searchsorted(kinds[order], torch.arange(len(OPERATIONS), device=kinds.device), right=True).tolist()
    starts = [0, *ends]
    chosen = order[starts[_GEOMETRIC.start] : ends[_GEOMETRIC.stop - 1]]
    if len(chosen):
        matrix = _matrices(kinds[chosen], strength[chosen], *images.shape[-2:])
        changed.index_copy_(0, chosen, ops.warp_affine(images.index_select(0, chosen), matrix))
    for name, operation in _OTHERS.items():
        index = OPERATIONS.index(name)
        chosen = order[starts[index] : ends[index]]
        if len(chosen):
            changed.index_copy_(0, chosen, operation(images.index_select(0, chosen), strength[chosen]))
    return changed


def _matrices(kinds: Tensor, strength: Tensor, height: int, width: int) -> Tensor:
    """Return what ``warp_affine`` takes for shears (around the upper left corner), translations and rotations."""
    shear_x, shear_y, translate_x, translate_y, rotate = (
        torch.where(kinds == OPERATIONS.index(name), strength, 0.0) for name in OPERATIONS[_GEOMETRIC]
    )
    angle = rotate * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack([cos, shear_x - sin, shear_x * (height / 2) - translate_x.trunc()], 1)
    second = torch.stack([shear_y + sin, cos, shear_y * (width / 2) - translate_y.trunc()], 1)
    return torch.stack([first, second], 1)
