"""Preprocessing of a batch of images on the device: channels, size, normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.errors import UserError, check_known, out_of_range

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
RESIZES = ("crop", "stretch", "pad")
LARGEST = 4096  # height and width of an image in pixels
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision turn colour to grey


@dataclass(frozen=True)
class InputSpec:
    """How images are stored and at which size a network sees them; plain values that a checkpoint can keep.

    Attributes:
        channels: Channels of the images as stored: 1 (grey), 3 (RGB) or any other number.
        storage_size: Height and width of the images as stored, in pixels; None if unknown.
        image_size: Height and width that the network sees, in pixels.
        interpolation: "bilinear" and "bicubic" (both antialiased), or "nearest".
        resize: How a file of other proportions is brought to a square: "crop", "stretch" or "pad".
        crop: Side of the cropped square as a share of the shorter side.
    """

    channels: int = 3
    storage_size: int | None = None
    image_size: int = 224
    interpolation: str = "bilinear"
    resize: str = "crop"
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Check the values a user can set."""
        check_known("interpolation", self.interpolation, INTERPOLATIONS, "Set it with --data.interpolation.")
        check_known("resize", self.resize, RESIZES, "Set it with --data.source.resize.")
        if not 0 < self.crop <= 1:
            raise UserError(f"data.source.crop is {self.crop}, it must be above 0 and at most 1.")
        sizes = {"image_size": (self.image_size, 4, LARGEST), "source.storage_size": (self.storage_size, 1, LARGEST)}
        if problems := out_of_range(sizes, "data."):
            raise UserError("; ".join(problems) + ", in pixels.")
        if self.channels < 1:
            raise UserError(f"the images have {self.channels} channels; they need at least 1.")

    @property
    def stored(self) -> int:
        """Height and width of the stored images, in pixels; those that the network sees if nothing else is known."""
        return self.storage_size or self.image_size


class Preprocess(nn.Module):
    """Turns images into what a network expects: channels, one resize, normalisation, its precision.

    All is computed in float32, with statistics that stay float32; only what comes out follows the dtype that the
    module was moved to, as Lightning moves it with ``--trainer.precision bf16-true``.

    Args:
        spec: How the images come and at which size they go.
        channels: Channels that the network takes.
        mean: Mean per channel on the scale 0 to 1; one value serves all channels.
        std: Standard deviation per channel, likewise, above 0.

    Raises:
        UserError: If the images' channels cannot become the network's, or the statistics do not fit them.
    """

    like: Tensor
    mean_bits: Tensor
    std_bits: Tensor

    def __init__(self, spec: InputSpec, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _check_channels(spec.channels, channels)
        _check_statistics(channels, mean, std)
        self.spec, self.channels = spec, channels
        self.register_buffer("like", torch.empty(0, dtype=torch.float32), persistent=False)
        # As integers, which a move to another dtype leaves alone: in bfloat16 a mean of 0.485 would be 0.4844.
        for name, values in (("mean_bits", mean), ("std_bits", std)):
            bits = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1).view(torch.int32)
            self.register_buffer(name, bits, persistent=False)

    @property
    def mean(self) -> Tensor:
        """Mean per channel, float32 (1, 1 or channels, 1, 1)."""
        return self.mean_bits.view(torch.float32)

    @property
    def std(self) -> Tensor:
        """Standard deviation per channel, likewise."""
        return self.std_bits.view(torch.float32)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what comes out, which is the network's."""
        return self.like.dtype

    def forward(self, images: Tensor) -> Tensor:
        """Prepare images (B, C, H, W), uint8 or float in 0 to 1; returns (B, channels, size, size), the module's dtype.

        Raises:
            UserError: If C channels cannot become those of the network.
        """
        _check_channels(images.shape[1], self.channels)
        images = to_float(images)
        if images.shape[1] == 3 and self.channels == 1:
            images = to_grey(images)
        images = resize_images(images, self.spec.image_size, self.spec.interpolation)
        if images.shape[1] == 1 and self.channels > 1:
            images = images.expand(-1, self.channels, -1, -1)
        images = (images - self.mean) / self.std
        return images.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def undo(self, images: Tensor) -> Tensor:
        """Take the normalisation back, to look at images: float32 (B, C, H, W) on the scale 0 to 1."""
        return (images.float() * self.std + self.mean).clamp(0, 1)


def _check_channels(held: int, taken: int) -> None:
    """Raise a UserError unless images of ``held`` channels can be brought to ``taken``."""
    if held in (1, taken) or (held, taken) == (3, 1):
        return
    raise UserError(
        f"the images have {held} channels, the network takes {taken}: one channel is copied to any number, three "
        "become one grey, all others must be as many as the network's. "
        f"Give such images; or train a network that takes {held}: `fit` with "
        f"`--model.backbone_args '{{in_chans: {held}}}'` builds a timm backbone of as many."
    )


def _check_statistics(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise one UserError that tells all that is wrong with the mean and the standard deviation per channel."""
    problems = []
    for name, values, above in (("mean", mean, -math.inf), ("std", std, 0.0)):
        if len(values) not in (1, channels):
            allowed = "1" if channels == 1 else f"1 or {channels}"
            problems.append(
                f"model.{name} has {len(values)} values; the network takes {channels} channels: give {allowed}."
            )
        # As the network divides by them: float32 turns 1e-50 into 0.
        held = torch.tensor(values, dtype=torch.float32).tolist()
        if not all(math.isfinite(value) and value > above for value in held):
            allowed = "finite" if above < 0 else "finite and above 0"
            problems.append(f"model.{name} is {list(values)}; allowed are numbers that are {allowed}.")
    if problems:
        raise UserError("\n".join(problems))


def to_float(images: Tensor) -> Tensor:
    """Bring images to float32: uint8 to 0 to 1, float ones as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def to_bytes(images: Tensor) -> Tensor:
    """Bring images to uint8: float ones of 0 to 1, and beyond, by rounding; uint8 as they are."""
    return images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)


def visible(images: Tensor) -> Tensor:
    """Return what can be shown of images (B, C, H, W): (B, 1 or 3, H, W), for other C the mean over the channels."""
    if images.shape[1] in (1, 3):
        return images
    mean = images.float().mean(1, keepdim=True)
    return mean.round().to(torch.uint8) if images.dtype == torch.uint8 else mean.to(images.dtype)


def to_grey(images: Tensor) -> Tensor:
    """Turn RGB images (B, 3, H, W) into float grey ones (B, 1, H, W) in 0 to 1."""
    images = to_float(images)
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def resize_images(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize float images (B, C, H, W) to (B, C, size, size)."""
    if images.shape[-2:] == (size, size):
        return images
    resized = interpolate(images, (size, size), interpolation)
    return resized.clamp(0, 1) if interpolation == "bicubic" else resized


def interpolate(images: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    """Bring float images (B, C, H, W) to a height and a width; bicubic values may leave the range of the images."""
    if interpolation == "nearest":
        return F.interpolate(images, size=size, mode="nearest-exact")
    return F.interpolate(images, size=size, mode=interpolation, align_corners=False, antialias=True)


def describe_preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    """List what a run's record says about the input, as plain values."""
    spec = preprocess.spec
    return {
        "image_size": spec.image_size,
        "channels": preprocess.channels,
        "interpolation": spec.interpolation,
        "mean": preprocess.mean.flatten().tolist(),
        "std": preprocess.std.flatten().tolist(),
    }
