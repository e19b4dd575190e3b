"""Corruptions of whole batches on their device, after Hendrycks and Dietterich (2019) and Mu and Gilmer (2019).

Each function takes float images (B, C, H, W) in 0 to 1, a strength and the draws of the images, and returns float
images, which the caller clamps. Strengths in pixels are pixels of an image of 28, and grow with the image.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.inspection.random_draws import Draws

UNIT = 28
LEVELS = 256


def gaussian_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Add normal noise of a standard deviation to every value."""
    return images + strength * draws.normal(*images.shape[1:])


def shot_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Count photons: Poisson numbers of a mean of ``strength`` times the value, divided by it again."""
    # Images come as 256 levels: one sorted table holds the distribution of each of them, shifted by its number.
    level = (images * (LEVELS - 1)).round().clamp(0, LEVELS - 1)
    most = math.ceil(strength + 10 * math.sqrt(strength) + 10)
    counts = torch.arange(most, device=images.device, dtype=torch.float64)
    mean = torch.arange(LEVELS, device=images.device, dtype=torch.float64).unsqueeze(1) * (strength / (LEVELS - 1))
    chances = torch.exp(torch.special.xlogy(counts, mean) - mean - torch.lgamma(counts + 1)).cumsum(1).clamp(max=1)
    table = (chances + torch.arange(LEVELS, device=images.device).unsqueeze(1)).flatten()
    found = torch.searchsorted(table, level.double() + draws.uniform(*images.shape[1:]).double())
    return (found - level.long() * most).clamp(0, most - 1).to(images.dtype) / strength


def impulse_noise(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Set a share of all values to black or white, half of them each."""
    chance = draws.uniform(*images.shape[1:])
    return torch.where(chance < strength, (chance < strength / 2).to(images.dtype), images)


def gaussian_blur(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Blur with a Gaussian of a standard deviation in pixels."""
    sigma = strength * _scale(images)
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.transpose(2, 3), groups=images.shape[1])


def motion_blur(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Average along a line of a length in pixels, its direction drawn for each image."""
    count, channels, height, width = images.shape
    length = strength * _scale(images)
    radius = math.ceil(length / 2)
    angle = draws.uniform(1, 1) * math.pi
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


def glass_blur(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Take every pixel from a place drawn within a distance in pixels, twice, then blur a little.

    Hendrycks and Dietterich swap neighbours one after the other; here all move at once.
    """
    count, channels, height, width = images.shape
    reach = strength * _scale(images)
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    for turn in range(2):
        moves = (draws.uniform(2, height, width, part=turn) * 2 - 1) * reach
        # Rounded up or down by chance: a reach below half a pixel moves some pixels, not none.
        moves = (moves + draws.uniform(2, height, width, part=2 + turn)).floor().long()
        places = (rows + moves[:, 0]).clamp(0, height - 1) * width + (columns + moves[:, 1]).clamp(0, width - 1)
        flat = places.view(count, 1, -1).expand(-1, channels, -1)
        images = images.flatten(2).gather(2, flat).view(count, channels, height, width)
    return gaussian_blur(images, 0.4, draws)


def brightness(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Add a constant to every value; the background of a dark image turns grey."""
    return images + strength


def contrast(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Bring all values nearer to the image's mean, by a factor."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + (images - mean) * strength


def fog(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Add clouds of an amount relative to white, then darken so that the brightest value stays within the range.

    The clouds are sums of noise at ever finer scales, each of half the height of the one before.
    """
    height, width = images.shape[2:]
    clouds = torch.zeros(len(images), 1, height, width, device=images.device, dtype=images.dtype)
    for octave in range(1, max(2, int(math.log2(min(height, width))))):
        side = 2**octave + 1
        noise = draws.uniform(1, side, side, part=octave)
        finer = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=True)
        clouds = clouds + finer * 0.5 ** (octave - 1)
    low, high = clouds.amin((1, 2, 3), keepdim=True), clouds.amax((1, 2, 3), keepdim=True)
    brightest = images.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (images + strength * (clouds - low) / (high - low)) * brightest / (brightest + strength)


def pixelate(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Replace blocks of about a side in pixels by their means; there are whole numbers of them, so sides may vary."""
    height, width = images.shape[2:]
    side = max(1.0, strength * _scale(images))
    blocks = F.adaptive_avg_pool2d(images, (max(1, round(height / side)), max(1, round(width / side))))
    return F.interpolate(blocks, size=(height, width), mode="nearest-exact")


def jpeg(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Compress as JPEG of a quality, 1 to 100, on the CPU, with Pillow: torchvision's coder is about to go."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for one in pixels:
        file = io.BytesIO()
        Image.fromarray(one[..., 0] if one.shape[2] == 1 else one).save(file, "JPEG", quality=round(strength))
        decoded.append(np.asarray(Image.open(file)).reshape(one.shape))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(images.device, images.dtype) / 255


def shift(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Move by a distance in pixels, in a direction drawn for each image; what comes in is black."""
    angle = draws.uniform(1)[:, 0] * (2 * math.pi)
    distance = strength * _scale(images)
    return warp(images, down=distance * angle.sin(), right=distance * angle.cos())


def rotation(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Rotate by an angle in degrees, to either side; what comes in is black."""
    return warp(images, degrees=strength * draws.sign())


def shear(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Slant by a share of the height, to either side; what comes in is black."""
    return warp(images, slant=strength * draws.sign())


def scale(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Shrink by a factor, around the centre, on black."""
    return warp(images, factor=torch.full((len(images),), strength, device=images.device))


def occlusion(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Cover a share of the area by one grey square, at a place drawn for each image."""
    height, width = images.shape[2:]
    side = round(math.sqrt(strength * height * width))
    corner = draws.uniform(2)
    top = (corner[:, :1] * (height - side + 1)).floor()
    left = (corner[:, 1:] * (width - side + 1)).floor()
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((rows >= top) & (rows < top + side)).unsqueeze(2) & (
        (columns >= left) & (columns < left + side)
    ).unsqueeze(1)
    return torch.where(inside.unsqueeze(1), torch.full_like(images, 0.5), images)


def warp(
    images: Tensor,
    degrees: Tensor | None = None,
    slant: Tensor | None = None,
    factor: Tensor | None = None,
    down: Tensor | None = None,
    right: Tensor | None = None,
) -> Tensor:
    """Scale, slant, rotate (counter-clockwise), then shift square images, in one bilinear resampling.

    Args:
        images: Float images (B, C, H, W); what comes in is black.
        degrees: Angles (B,).
        slant: Shears (B,) as a share of the height: positive moves the upper half to the left.
        factor: Factors (B,) of the size, above 0.
        down: Shifts (B,) in pixels.
        right: Shifts (B,) in pixels.
    """
    zero = torch.zeros(len(images), device=images.device, dtype=images.dtype)
    angle = (zero if degrees is None else degrees) * (math.pi / 180)
    lean, size = zero if slant is None else slant, zero + 1 if factor is None else factor
    cos, sin = angle.cos(), angle.sin()
    # affine_grid maps where a pixel goes to where it comes from: the inverse, with rows and columns from -1 to 1.
    turned = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    sheared = torch.stack([zero + 1, -lean, zero, zero + 1], 1).view(-1, 2, 2)
    inverse = (sheared @ turned) / size.view(-1, 1, 1)
    height, width = images.shape[2:]
    moved = torch.stack(
        [zero if right is None else right * (2 / width), zero if down is None else down * (2 / height)], 1
    )
    theta = torch.cat([inverse, -(inverse @ moved.unsqueeze(2))], 2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _scale(images: Tensor) -> float:
    return float(images.shape[2] / UNIT)
