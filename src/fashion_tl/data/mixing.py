"""Mixed training images: MixUp and CutMix of a batch on the device, with shares of classes as targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from fashion_tl.errors import UserError, check_known, out_of_range, shown


@dataclass(frozen=True)
class Mix:
    """Mixing of training images in pairs, after they are augmented; one share is drawn for each batch.

    Targets become shares of classes that sum to one. With both kinds on, each batch draws one of them.

    Attributes:
        mixup: The alpha of MixUp (Zhang et al. 2018), whose shares are drawn from Beta(alpha, alpha); 0 for none.
        cutmix: The alpha of CutMix (Yun et al. 2019), likewise.
        probability: Share of batches that are mixed, 0 to 1.
        pairs: Which classes are mixed, as pairs of their names, or the run whose mistakes on the validation images
            choose them (the fewest pairs that make up half of its confusions). The partner of an image is drawn among
            the images of the batch whose class is in a pair with its own; an image without one stays as it is. Not
            given: any two images are mixed.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    pairs: str | list[list[str]] | None = None

    def __post_init__(self) -> None:
        """Check all values and tell all problems at once."""
        ranges = {"mixup": (self.mixup, 0, 1000), "cutmix": (self.cutmix, 0, 1000)}
        problems = out_of_range({**ranges, "probability": (self.probability, 0, 1)}, "data.mix.")
        if self.pairs is not None and not self.pairs:
            problems.append("data.mix.pairs is empty: leave it out to mix any two images")
        if problems:
            raise UserError("; ".join(problems) + ".")

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0


class Mixer:
    """Mixes the images of a batch, and their targets.

    It does what torchvision's ``v2.MixUp`` and ``v2.CutMix`` do, with the same draws, but for partners of an image's
    own: theirs are always its neighbours in the batch.

    Args:
        mix: What is mixed; its pairs are names of classes.
        class_names: Names of the K classes.

    Raises:
        UserError: If pairs are still the name of a run, or not pairs of two of the classes.
    """

    def __init__(self, mix: Mix, class_names: Sequence[str]) -> None:
        self.mix, self.classes = mix, len(class_names)
        self.allowed = None if mix.pairs is None else allowed_pairs(mix.pairs, class_names)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Draws from torch's global generator of the CPU, and partners from that of the images' device.

        Args:
            images: Float images (B, C, H, W).
            labels: Classes (B,).

        Returns:
            Images, and shares of classes (B, K) that sum to one; a batch that is left as it is keeps its classes (B,).
        """
        mix = self.mix
        if mix.probability < 1 and float(torch.rand((), dtype=torch.float32)) >= mix.probability:
            return images, labels
        both = mix.mixup > 0 and mix.cutmix > 0
        cut = float(torch.rand((), dtype=torch.float32)) < 0.5 if both else mix.cutmix > 0
        share = draw_share(mix.cutmix if cut else mix.mixup)
        if self.allowed is not None:
            self.allowed = self.allowed.to(labels.device)  # where it stays
        partners = draw_partners(labels, self.allowed)
        if cut:
            images, share = cutmix(images, partners, share)
        else:
            images = mixup(images, partners, share)
        targets = F.one_hot(labels, self.classes).float()
        return images, mixup(targets, partners, share)


def draw_share(alpha: float) -> float:
    """Draw the share of the image itself from Beta(alpha, alpha), 0 to 1."""
    parameter = torch.tensor([alpha], dtype=torch.float32)
    return float(Beta(parameter, parameter).sample(()))


def draw_partners(labels: Tensor, allowed: Tensor | None) -> Tensor:
    """Choose the partner of each image, by its place (B,) in the batch.

    Args:
        labels: Classes (B,).
        allowed: Whether two classes are mixed (K, K), symmetric, on the same device. None for any: the partner is the
            image before.

    Returns:
        Places (B,); its own for an image that has no partner.
    """
    places = torch.arange(len(labels), device=labels.device)
    if allowed is None:
        return places.roll(1)
    fitting = allowed[labels][:, labels]
    drawn = torch.rand(fitting.shape, device=labels.device, dtype=torch.float32).masked_fill(~fitting, -1)
    return torch.where(fitting.any(1), drawn.argmax(1), places)


def mixup(values: Tensor, partners: Tensor, share: float) -> Tensor:
    """Mix images, or targets (B, ...), with those of their partners (B,): share * own + (1 - share) * partner's."""
    return values[partners].mul_(1 - share).add_(values * share)


def cutmix(images: Tensor, partners: Tensor, share: float) -> tuple[Tensor, float]:
    """Paste a rectangle of each partner (B,) over the same place of an image (B, C, H, W).

    Args:
        images: Images.
        partners: Places in the batch.
        share: Share of the area that the image keeps, before the rectangle is cut at the border.

    Returns:
        Images, and the share of the area that they do keep.
    """
    height, width = images.shape[-2:]
    x, y = int(torch.randint(width, (1,))), int(torch.randint(height, (1,)))
    half = 0.5 * math.sqrt(1 - share)
    half_width, half_height = int(half * width), int(half * height)
    left, right = max(x - half_width, 0), min(x + half_width, width)
    top, bottom = max(y - half_height, 0), min(y + half_height, height)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partners][..., top:bottom, left:right]
    return mixed, 1 - (right - left) * (bottom - top) / (width * height)


def allowed_pairs(pairs: Any, class_names: Sequence[str]) -> Tensor:  # noqa: ANN401 - what a configuration holds
    """Return whether two classes are mixed (K, K), symmetric.

    Raises:
        UserError: If pairs are not pairs of two of the classes.
    """
    if isinstance(pairs, str):
        raise UserError(f"data.mix.pairs names the run {pairs!r}: `fashion-tl fit` looks it up. Give pairs of classes.")
    names, allowed = list(class_names), torch.zeros(len(class_names), len(class_names), dtype=torch.bool)
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or len(set(pair)) < 2:
            raise UserError(
                f"data.mix.pairs has {shown(pair)}: a pair names two classes, such as [{names[0]}, {names[1]}]."
            )
        for name in pair:
            check_known("class", name, names, "data.mix.pairs names it.")
        first, second = (names.index(name) for name in pair)
        allowed[first, second] = allowed[second, first] = True
    return allowed
