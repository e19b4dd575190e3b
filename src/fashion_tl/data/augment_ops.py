"""Operations on a batch of float images (B, C, H, W) in 0 to 1, each with parameters of its own for every image.

They compute what Pillow and torchvision compute for one image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.transforms import LUMA


def warp_affine(images: Tensor, matrix: Tensor) -> Tensor:
    """Resample by an affine map, bilinear; what comes from outside is black.

    Args:
        images: Images (B, C, H, W).
        matrix: Maps (B, 2, 3) from a pixel (x, y, 1) of the result to where it comes from, in pixels from the centre,
            x to the right and y down.
    """
    height, width = images.shape[-2:]
    # affine_grid takes coordinates from -1 to 1 on each axis.
    scale = matrix.new_tensor([[1, height / width, 2 / width], [width / height, 1, 2 / height]])
    grid = F.affine_grid(matrix * scale, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def resize_crops(images: Tensor, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Resize one crop an image to the size of the image, bilinear.

    Args:
        images: Images (B, C, H, W).
        top: First row (B,) of each crop.
        left: First column (B,).
        tall: Height (B,) of each crop, 1 to H.
        wide: Width (B,), 1 to W.
    """
    rows = _sources(images.shape[-2], top, tall)
    columns = _sources(images.shape[-1], left, wide)
    shape = (len(images), rows.shape[1], columns.shape[1])
    grid = torch.stack([columns.unsqueeze(1).expand(shape), rows.unsqueeze(2).expand(shape)], 3)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _sources(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Return where the pixels of a resized crop come from along one axis (B, size), -1 to 1; never from beside it."""
    start, length = start.float().unsqueeze(1), length.float().unsqueeze(1)
    steps = (torch.arange(size, device=start.device, dtype=torch.float32) + 0.5) * (length / size)
    centres = start + steps.clamp(min=0.5).minimum(length - 0.5)
    return centres * (2 / size) - 1


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Go from another image (factor 0) to the image (1) or beyond, cut to 0 to 1; a factor (B,) for each image."""
    return torch.lerp(other.expand_as(images), images, factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image by its factor (B,)."""
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_color(images: Tensor, factor: Tensor) -> Tensor:
    """Blend RGB images with their grey versions; others have no colour to change."""
    return blend(images, _grey(images), factor) if images.shape[1] == 3 else images


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with the mean of its grey version."""
    grey = _grey(images) if images.shape[1] == 3 else images
    return blend(images, grey.mean((1, 2, 3), keepdim=True), factor)


def adjust_sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with a smoothed one; the border stays as it is."""
    smooth = images.clone()
    if min(images.shape[-2:]) > 2:
        three = (images[..., :-2] + images[..., 1:-1]).add_(images[..., 2:])
        nine = (three[..., :-2, :] + three[..., 1:-1, :]).add_(three[..., 2:, :])
        smooth[..., 1:-1, 1:-1].mul_(4).add_(nine).div_(13)
    return blend(images, smooth, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest of the 8 bits of each value; as many as given (B,), 0 to 8."""
    step = torch.exp2(8 - bits).view(-1, 1, 1, 1)
    return _levels(images).div_(step).floor_().mul_(step).div_(255)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the values that are not below a threshold (B,)."""
    return torch.where(images < threshold.view(-1, 1, 1, 1), images, 1 - images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel to the whole range, unless it has one value only."""
    from torchvision.transforms.v2.functional import autocontrast_image  # slow to import, and few runs need it

    stretched: Tensor = autocontrast_image(images.reshape(-1, 1, *images.shape[-2:]))  # it takes 1 or 3 channels
    return stretched.view(images.shape)


def equalize(images: Tensor) -> Tensor:
    """Spread the 256 values of each channel evenly, as Pillow's ``ImageOps.equalize`` does."""
    from torchvision.transforms.v2.functional import equalize_image  # as above

    spread: Tensor = equalize_image(_levels(images).to(torch.uint8))
    return spread.float() / 255


def _levels(images: Tensor) -> Tensor:
    return (images * 255).round_()
