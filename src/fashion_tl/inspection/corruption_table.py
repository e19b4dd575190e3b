"""The one table of corruptions, their strengths and where they come from."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fashion_tl.data.transforms import to_float
from fashion_tl.inspection import corruptions as c
from fashion_tl.inspection.random_draws import Draws

HENDRYCKS = "Hendrycks and Dietterich 2019"
MNIST_C = "Mu and Gilmer 2019 (MNIST-C)"
Corrupt = Callable[[Tensor, float, Draws], Tensor]


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        function: What it does to float images.
        strengths: Five strengths, from weak to strong; pixels are those of an image of 28.
        unit: What the strengths are.
        source: Where the corruption and its strengths come from.
    """

    function: Corrupt
    strengths: tuple[float, float, float, float, float]
    unit: str
    source: str


CORRUPTIONS: dict[str, Corruption] = {
    "Gaussian noise": Corruption(
        c.gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "standard deviation", f"{HENDRYCKS}, their strengths"
    ),
    "shot noise": Corruption(c.shot_noise, (60, 25, 12, 5, 3), "photons at white", f"{HENDRYCKS}, their strengths"),
    "impulse noise": Corruption(
        c.impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), "share of the values", f"{HENDRYCKS}, their strengths"
    ),
    "Gaussian blur": Corruption(
        c.gaussian_blur, (0.5, 0.8, 1.1, 1.5, 2.0), "standard deviation in px", f"{HENDRYCKS}, weaker for 28 px"
    ),
    "motion blur": Corruption(
        c.motion_blur, (3, 4, 5.5, 7, 9), "length in px", f"{HENDRYCKS}, a line in any direction, shorter for 28 px"
    ),
    "glass blur": Corruption(
        c.glass_blur, (0.6, 0.8, 1.1, 1.6, 2.2), "reach in px", f"{HENDRYCKS}, all pixels at once, for 28 px"
    ),
    "brightness": Corruption(
        c.brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "added", f"{HENDRYCKS}, their strengths, added to every channel"
    ),
    "contrast": Corruption(c.contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "factor", f"{HENDRYCKS}, their strengths"),
    "fog": Corruption(
        c.fog, (0.2, 0.5, 0.75, 1.0, 1.5), "amount", f"{HENDRYCKS}, the amounts of CIFAR-10-C, clouds of summed octaves"
    ),
    "pixelate": Corruption(
        c.pixelate, (2, 3, 4, 5, 6), "side of a block in px", f"{HENDRYCKS}, whole blocks for 28 px"
    ),
    "JPEG": Corruption(c.jpeg, (25, 18, 15, 10, 7), "quality", f"{HENDRYCKS}, their strengths"),
    "shift": Corruption(c.shift, (1, 2, 3, 4, 6), "px", f"{MNIST_C} (translate), graded here"),
    "rotation": Corruption(c.rotation, (10, 20, 30, 45, 60), "degrees", f"{MNIST_C} (rotate), graded here"),
    "shear": Corruption(c.shear, (0.1, 0.2, 0.3, 0.45, 0.6), "share of the height", f"{MNIST_C}, graded here"),
    "scale": Corruption(c.scale, (0.9, 0.8, 0.7, 0.6, 0.5), "factor", f"{MNIST_C}, graded here"),
    "occlusion": Corruption(
        c.occlusion,
        (0.03, 0.07, 0.12, 0.2, 0.3),
        "share of the area",
        "DeVries and Taylor 2017 (a square), graded here",
    ),
}
STRENGTHS = 5


def corrupt(images: Tensor, name: str, level: int, seed: int, index: Tensor) -> Tensor:
    """Corrupt images as they are held.

    The same seed and index give the same image, whatever the batch; a stronger level does the same thing more.

    Args:
        images: Images (B, C, H, W), uint8.
        name: Name in ``CORRUPTIONS``.
        level: Strength, 1 to 5.
        seed: Seed of all draws.
        index: Index (B,) of each image in its set.

    Returns:
        Images (B, C, H, W), uint8, on the device of the images.
    """
    entry = CORRUPTIONS[name]
    draws = Draws(seed, zlib.crc32(name.encode()), index.to(images.device))
    return to_bytes(entry.function(to_float(images), entry.strengths[level - 1], draws))


def to_bytes(images: Tensor) -> Tensor:
    """Bring float images in 0 to 1, and beyond, to uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
