"""Corruptions of whole batches on their device, after Hendrycks and Dietterich (2019) and Mu and Gilmer (2019).

Each takes float images (B, C, H, W) in 0 to 1, a strength and random numbers for the images, and returns float images,
which ``corrupt`` clamps. Strengths in pixels are pixels of an image of 28, and grow with the image.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.transforms import to_bytes, to_float
from fashion_tl.inspection.affine import warp
from fashion_tl.inspection.random_numbers import RandomNumbers

UNIT, LEVELS, STRENGTHS = 28, 256, 5
HENDRYCKS, MNIST_C = "Hendrycks and Dietterich 2019", "Mu and Gilmer 2019 (MNIST-C)"
Change = Callable[[Tensor, float, RandomNumbers], Tensor]
Strengths = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        change: What it does to float images.
        strengths: Five strengths, from weak to strong; pixels are those of an image of 28.
        unit: What the strengths are.
        source: Where the corruption and its strengths come from.
    """

    change: Change
    strengths: Strengths
    unit: str
    source: str


CORRUPTIONS: dict[str, Corruption] = {}


def corruption(name: str, strengths: Strengths, unit: str, source: str) -> Callable[[Change], Change]:
    """Enter a function into ``CORRUPTIONS``."""

    def enter(change: Change) -> Change:
        CORRUPTIONS[name] = Corruption(change, strengths, unit, source)
        return change

    return enter


def corrupt(images: Tensor, name: str, level: int, seed: int, index: Tensor) -> Tensor:
    """Corrupt images as stored.

    The same seed and index give the same image, whatever the batch; a stronger level does the same thing more.

    Args:
        images: Images (B, C, H, W), uint8.
        name: Name in ``CORRUPTIONS``.
        level: Strength, 1 to 5.
        seed: Seed of all random numbers.
        index: Index (B,) of each image in its set.

    Returns:
        Images (B, C, H, W), uint8, on the device of the images.
    """
    entry = CORRUPTIONS[name]
    random = RandomNumbers(seed, zlib.crc32(name.encode()), index.to(images.device))
    return to_bytes(entry.change(to_float(images), entry.strengths[level - 1], random))


@corruption("Gaussian noise", (0.08, 0.12, 0.18, 0.26, 0.38), "standard deviation", f"{HENDRYCKS}, their strengths")
def gaussian_noise(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Add normal noise of a standard deviation to every value."""
    return images + strength * random.normal(*images.shape[1:])


@corruption("shot noise", (60, 25, 12, 5, 3), "photons at white", f"{HENDRYCKS}, their strengths")
def shot_noise(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Count photons: Poisson numbers of a mean of ``strength`` times the value, divided by it again."""
    # Images come as 256 levels: one sorted table holds the distribution of each of them, shifted by its number.
    level = (images * (LEVELS - 1)).round().clamp(0, LEVELS - 1)
    most = math.ceil(strength + 10 * math.sqrt(strength) + 10)
    counts = torch.arange(most, device=images.device, dtype=torch.float64)
    mean = torch.arange(LEVELS, device=images.device, dtype=torch.float64).unsqueeze(1) * (strength / (LEVELS - 1))
    chances = torch.exp(torch.special.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)).cumsum(1).clamp(max=1)
    table = (chances + torch.arange(LEVELS, device=images.device).unsqueeze(1)).flatten()
    found = torch.searchsorted(table, level.double() + random.uniform(*images.shape[1:]).double())
    return (found - level.long() * most).clamp(0, most - 1).to(images.dtype) / strength


@corruption("impulse noise", (0.03, 0.06, 0.09, 0.17, 0.27), "share of the values", f"{HENDRYCKS}, their strengths")
def impulse_noise(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Set a share of all values to black or white, half of them each."""
    chance = random.uniform(*images.shape[1:])
    return torch.where(chance < strength, (chance < strength / 2).to(images.dtype), images)


@corruption("Gaussian blur", (0.5, 0.8, 1.1, 1.5, 2.0), "standard deviation in px", f"{HENDRYCKS}, weaker for 28 px")
def gaussian_blur(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Blur with a Gaussian of a standard deviation in pixels."""
    sigma = strength * _scale(images)
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=images.shape[1])


@corruption(
    "motion blur", (3, 4, 5.5, 7, 9), "length in px", f"{HENDRYCKS}, a line in any direction, shorter for 28 px"
)
def motion_blur(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Average along a line of a length in pixels, its direction drawn for each image."""
    count, channels, height, width = images.shape
    length = strength * _scale(images)
    radius = math.ceil(length / 2)
    angle = random.uniform(1, 1) * math.pi
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    down, right = offsets.view(1, -1, 1), offsets.view(1, 1, -1)
    along = (right * angle.cos() + down * angle.sin()).abs()
    aside = (down * angle.cos() - right * angle.sin()).abs()
    kernel = (1 - aside).clamp(min=0) * ((length + 1) / 2 - along).clamp(0, 1)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    padded = F.pad(images, (radius,) * 4, mode="replicate").reshape(1, count * channels, *_padded(images, radius))
    kernels = kernel.unsqueeze(1).repeat_interleave(channels, 0)
    return F.conv2d(padded, kernels, groups=count * channels).view(count, channels, height, width)


def _padded(images: Tensor, radius: int) -> tuple[int, int]:
    return images.shape[2] + 2 * radius, images.shape[3] + 2 * radius


@corruption("glass blur", (0.6, 0.8, 1.1, 1.6, 2.2), "reach in px", f"{HENDRYCKS}, all pixels at once, for 28 px")
def glass_blur(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Take every pixel from a place drawn within a distance in pixels, twice, then blur a little.

    Hendrycks and Dietterich swap neighbours one after the other; here all move at once.
    """
    count, channels, height, width = images.shape
    reach = strength * _scale(images)
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    for turn in range(2):
        moves = (random.uniform(2, height, width, part=turn) * 2 - 1) * reach
        # Rounded up or down by chance: a reach below half a pixel moves some pixels, not none.
        moves = (moves + random.uniform(2, height, width, part=2 + turn)).floor().long()
        places = (rows + moves[:, 0]).clamp(0, height - 1) * width + (columns + moves[:, 1]).clamp(0, width - 1)
        flat = places.view(count, 1, -1).expand(-1, channels, -1)
        images = images.flatten(2).gather(2, flat).view(count, channels, height, width)
    return gaussian_blur(images, 0.4, random)


@corruption("brightness", (0.1, 0.2, 0.3, 0.4, 0.5), "added", f"{HENDRYCKS}, their strengths, added to every channel")
def brightness(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Add a constant to every value; the background of a dark image turns grey."""
    return images + strength


@corruption("contrast", (0.4, 0.3, 0.2, 0.1, 0.05), "factor", f"{HENDRYCKS}, their strengths")
def contrast(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Bring all values nearer to the image's mean, by a factor."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + (images - mean) * strength


@corruption(
    "fog", (0.2, 0.5, 0.75, 1.0, 1.5), "amount", f"{HENDRYCKS}, the amounts of CIFAR-10-C, clouds of summed octaves"
)
def fog(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Add clouds of an amount relative to white, then darken so that the brightest value stays within the range.

    The clouds are sums of noise at ever finer scales, each of half the height of the one before.
    """
    height, width = images.shape[2:]
    clouds = torch.zeros(len(images), 1, height, width, device=images.device, dtype=images.dtype)
    for octave in range(1, max(2, int(math.log2(min(height, width))))):
        side = 2**octave + 1
        noise = random.uniform(1, side, side, part=octave)
        finer = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=True)
        clouds = clouds + finer * 0.5 ** (octave - 1)
    low, high = clouds.amin((1, 2, 3), keepdim=True), clouds.amax((1, 2, 3), keepdim=True)
    brightest = images.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (images + strength * (clouds - low) / (high - low)) * brightest / (brightest + strength)


@corruption("pixelate", (2, 3, 4, 5, 6), "side of a block in px", f"{HENDRYCKS}, whole blocks for 28 px")
def pixelate(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Replace blocks of about a side in pixels by their means; there are whole numbers of them, so sides may vary."""
    height, width = images.shape[2:]
    side = max(1.0, strength * _scale(images))
    blocks = F.adaptive_avg_pool2d(images, (max(1, round(height / side)), max(1, round(width / side))))
    return F.interpolate(blocks, size=(height, width), mode="nearest-exact")


@corruption("JPEG", (25, 18, 15, 10, 7), "quality", f"{HENDRYCKS}, their strengths")
def jpeg(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Compress as JPEG of a quality, 1 to 100."""
    return to_float(as_jpeg(to_bytes(images), round(strength))).to(images.device)


def as_jpeg(images: Tensor, quality: int) -> Tensor:
    """Compress uint8 images (B, C, H, W) as JPEG, on the CPU, with Pillow: torchvision's coder is about to go.

    JPEG knows grey and colour; other channels are compressed one by one, each as a grey image.
    """
    pixels = images.cpu().numpy()
    planes = pixels if pixels.shape[1] == 3 else pixels.reshape(-1, 1, *pixels.shape[2:])
    decoded = []
    for plane in planes:
        file = io.BytesIO()
        drawn = plane[0] if len(plane) == 1 else plane.transpose(1, 2, 0)
        Image.fromarray(drawn).save(file, "JPEG", quality=quality)
        decoded.append(np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(decoded)).reshape(images.shape)


@corruption("shift", (1, 2, 3, 4, 6), "px", f"{MNIST_C} (translate), graded here")
def shift(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Move by a distance in pixels, in a direction drawn for each image; what comes in is black."""
    angle = random.uniform(1)[:, 0] * (2 * math.pi)
    distance = strength * _scale(images)
    return warp(images, down=distance * angle.sin(), right=distance * angle.cos())


@corruption("rotation", (10, 20, 30, 45, 60), "degrees", f"{MNIST_C} (rotate), graded here")
def rotation(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Rotate by an angle in degrees, to either side; what comes in is black."""
    return warp(images, degrees=strength * random.sign())


@corruption("shear", (0.1, 0.2, 0.3, 0.45, 0.6), "share of the height", f"{MNIST_C}, graded here")
def shear(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Slant by a share of the height, to either side; what comes in is black."""
    return warp(images, slant=strength * random.sign())


@corruption("scale", (0.9, 0.8, 0.7, 0.6, 0.5), "factor", f"{MNIST_C}, graded here")
def scale(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Shrink by a factor, around the centre, on black."""
    return warp(images, factor=torch.full((len(images),), strength, device=images.device))


@corruption(
    "occlusion", (0.03, 0.07, 0.12, 0.2, 0.3), "share of the area", "DeVries and Taylor 2017 (a square), graded here"
)
def occlusion(images: Tensor, strength: float, random: RandomNumbers) -> Tensor:
    """Cover a share of the area by one grey square, at a place drawn for each image."""
    height, width = images.shape[2:]
    side = round(math.sqrt(strength * height * width))
    corner = random.uniform(2)
    top = (corner[:, :1] * (height - side + 1)).floor()
    left = (corner[:, 1:] * (width - side + 1)).floor()
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((rows >= top) & (rows < top + side)).unsqueeze(2) & (
        (columns >= left) & (columns < left + side)
    ).unsqueeze(1)
    return torch.where(inside.unsqueeze(1), torch.full_like(images, 0.5), images)


def _scale(images: Tensor) -> float:
    return float(images.shape[2] / UNIT)
