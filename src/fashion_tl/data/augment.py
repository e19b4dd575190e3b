"""Random augmentation of a batch on the device, with parameters drawn for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.data.augment_ops import resize_crops
from fashion_tl.data.policies import LEVELS, rand_augment, trivial_augment
from fashion_tl.data.transforms import LUMA, to_float
from fashion_tl.errors import UserError, out_of_range

_LIMITS = {
    "random_resized_crop": 1,
    "hflip": 1,
    "translate": 1000,
    "rotation": 180,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "hue": 180,
    "trivial_augment": 1,
    "rand_augment": 20,
    "rand_augment_magnitude": LEVELS,
    "random_erasing": 1,
    "random_erasing_area": 1,
}
HOW = ("random_erasing_area", "rand_augment_magnitude")  # they say how another part is done
CROP_RATIO = 4 / 3  # largest width to height of a crop, and height to width
_CROP_TRIES = 10


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images, drawn anew for every image; zero turns a part off.

    Crops come first, then flips, rotations and translations, colour, a policy, erasing.

    Attributes:
        random_resized_crop: Smallest share of the image's area that a random crop of aspect ratio 3/4 to 4/3 keeps,
            0 to 1; it is resized to the size of the image (Szegedy et al. 2015, "Going Deeper with Convolutions").
        hflip: Probability of a horizontal flip, 0 to 1.
        translate: Largest translation in pixels of the stored image, in each direction; the border is black.
        rotation: Largest rotation in degrees, in each direction.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast around the image's mean, 0 to 1.
        saturation: Largest relative change of saturation, 0 to 1; grey images have none.
        hue: Largest rotation of the hue in degrees, 0 to 180; grey images have none.
        trivial_augment: Whether each image undergoes one operation of random strength (Müller & Hutter 2021,
            "TrivialAugment", wide ranges); translations reach 32 pixels.
        rand_augment: Operations that each image undergoes (Cubuk et al. 2020, "RandAugment"), 0 to 20.
        rand_augment_magnitude: Their strength, 0 to 30.
        random_erasing: Probability that a rectangle is erased (Zhong et al. 2020, "Random Erasing"), 0 to 1.
        random_erasing_area: Largest share of the image that is erased; the smallest is 0.02.
        replayable: Whether all that it draws comes from torch's global generators, so that a seed draws it again. A
            subclass that augments in another way says so itself.
    """

    replayable: ClassVar[bool] = True
    random_resized_crop: float = 0.0
    hflip: float = 0.0
    translate: int = 0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    trivial_augment: bool = False
    rand_augment: int = 0
    rand_augment_magnitude: float = 9.0
    random_erasing: float = 0.0
    random_erasing_area: float = 0.25

    def __post_init__(self) -> None:
        """Check all strengths and tell all problems at once."""
        ranges = {name: (getattr(self, name), 0, high) for name, high in _LIMITS.items()}
        problems = out_of_range(ranges, "data.augment.")
        if self.trivial_augment and self.rand_augment:
            problems.append("data.augment.trivial_augment and rand_augment exclude each other: give one of them")
        if problems:
            raise UserError("; ".join(problems) + ".")

    @property
    def active(self) -> list[str]:
        """Names of the parts that are turned on."""
        return [name for name in _LIMITS if getattr(self, name) > 0 and name not in HOW]

    @property
    def views(self) -> dict[str, float] | None:
        """The fixed views that training draws from, with their probabilities; None if there is no end of them.

        A subclass that augments in another way may declare its own; it has none by itself.
        """
        if not self.active:
            return {"identity": 1.0}
        return {"identity": 1 - self.hflip, "hflip": self.hflip} if self.active == ["hflip"] else None

    def __call__(self, images: Tensor) -> Tensor:
        """Augment a batch (B, C, H, W), uint8 or float in 0 to 1; returns float32 in 0 to 1 of the same shape.

        Draws from torch's global generator of the images' device.
        """
        images = to_float(images)
        if not self.active:
            return images
        count = len(images)
        if self.random_resized_crop > 0:
            images = resize_crops(images, *draw_crops(images, self.random_resized_crop))
        if self.rotation > 0:
            flip = _draw(images, self.hflip) if self.hflip > 0 else None
            images = _warp(images, flip, _uniform(images, self.rotation), self._offsets(images))
        else:
            if self.hflip > 0:
                flip = _draw(images, self.hflip)
                images = torch.where(flip.view(count, 1, 1, 1), images.flip(-1), images)
            if self.translate > 0:
                down, right = self._offsets(images).unbind(1)
                images = translate_images(images, down, right, self.translate)
        images = self._colour(images)
        if self.trivial_augment:
            images = trivial_augment(images)
        if self.rand_augment > 0:
            images = rand_augment(images, self.rand_augment, self.rand_augment_magnitude)
        if self.random_erasing > 0:
            images = erase_rectangles(images, self.random_erasing, self.random_erasing_area)
        return images

    def _offsets(self, images: Tensor) -> Tensor:
        return torch.randint(-self.translate, self.translate + 1, (len(images), 2), device=images.device)

    def _colour(self, images: Tensor) -> Tensor:
        changed = images
        if self.brightness > 0:
            changed = changed * (1 + _uniform(images, self.brightness)).view(-1, 1, 1, 1)
        if self.contrast > 0:
            mean = changed.mean((1, 2, 3), keepdim=True)
            changed = mean + (changed - mean) * (1 + _uniform(images, self.contrast)).view(-1, 1, 1, 1)
        if images.shape[1] == 3 and (self.saturation > 0 or self.hue > 0):
            changed = rotate_hue(changed, 1 + _uniform(images, self.saturation), _uniform(images, self.hue))
        return changed if changed is images else changed.clamp(0, 1)


def _draw(images: Tensor, probability: float) -> Tensor:
    return _rand(images) < probability


def _uniform(images: Tensor, limit: float) -> Tensor:
    return (_rand(images) * 2 - 1) * limit


def _rand(images: Tensor) -> Tensor:
    """Draw one number an image, on its device; float32 whatever the default of the moment."""
    return torch.rand(len(images), device=images.device, dtype=torch.float32)


def draw_crops(images: Tensor, smallest: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a crop for each image, as torchvision's ``RandomResizedCrop`` draws one.

    Args:
        images: Images (B, C, H, W).
        smallest: Smallest share of the area, above 0 to 1.

    Returns:
        Top row, left column, height and width (B,) of each crop. Ten are drawn; where none fits into the image, it is
        the largest one at the centre.
    """
    height, width = images.shape[-2:]
    draws = torch.rand(4, len(images), _CROP_TRIES, device=images.device, dtype=torch.float32)
    area = (smallest + (1 - smallest) * draws[0]) * (height * width)
    ratio = torch.exp((draws[1] * 2 - 1) * math.log(CROP_RATIO))
    wide, tall = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first = fits.int().argmax(1, keepdim=True)
    wide, tall, down, right = (each.gather(1, first).squeeze(1) for each in (wide, tall, draws[2], draws[3]))
    top, left = ((height - tall + 1) * down).floor(), ((width - wide + 1) * right).floor()
    largest = (min(height, round(width * CROP_RATIO)), min(width, round(height * CROP_RATIO)))
    centre = ((height - largest[0]) // 2, (width - largest[1]) // 2)
    found = fits.any(1)
    drawn = zip((top, left, tall, wide), (*centre, *largest), strict=True)
    first_row, first_column, rows, columns = (torch.where(found, each, float(other)) for each, other in drawn)
    return first_row, first_column, rows, columns


def translate_images(images: Tensor, down: Tensor, right: Tensor, reach: int) -> Tensor:
    """Translate each image by whole pixels; the border is black.

    Args:
        images: Images (B, C, H, W).
        down: Integers (B,), positive downwards.
        right: Integers (B,), positive to the right.
        reach: The largest of them, in either direction.
    """
    height, width = images.shape[-2:]
    windows = F.pad(images, [reach] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, reach - down, reach - right]


def _warp(images: Tensor, flip: Tensor | None, degrees: Tensor, offsets: Tensor) -> Tensor:
    """Flip, rotate counter-clockwise, then translate, in one bilinear resampling, so that an image is smoothed once."""
    height, width = images.shape[-2:]
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    sign = torch.ones_like(cos) if flip is None else 1 - 2 * flip.float()
    aspect = height / width
    down, right = offsets.float().unbind(1)
    across, along = -right * (2 / width), -down * (2 / height)
    # affine_grid maps where a pixel goes to where it comes from, in coordinates from -1 to 1 on each axis.
    first = torch.stack([sign * cos, -sign * sin * aspect, sign * (cos * across - sin * aspect * along)], 1)
    second = torch.stack([sin / aspect, cos, sin / aspect * across + cos * along], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def rotate_hue(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the chroma of RGB images and rotate it around the grey axis, in YIQ coordinates.

    Args:
        images: Float RGB images (B, 3, H, W).
        saturation: Factor (B,) on the chroma; 0 gives a grey image.
        hue: Rotation (B,) in degrees.
    """
    to_yiq = images.new_tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    angle = hue * (math.pi / 180)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    matrix = torch.linalg.inv(to_yiq) @ rotation @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, images)


def erase_rectangles(images: Tensor, probability: float, largest: float) -> Tensor:
    """Fill one random rectangle an image with noise (Zhong et al. 2020, aspect ratio 0.3 to 3.3).

    Args:
        images: Float images (B, C, H, W).
        probability: Probability for each image.
        largest: Largest area as a share of the image.
    """
    height, width = images.shape[-2:]
    device = images.device
    smallest = min(0.02, largest)
    area = (smallest + (largest - smallest) * _rand(images)) * height * width
    ratio = torch.exp((_rand(images) * 2 - 1) * math.log(3.3))
    tall = (area * ratio).sqrt().round().clamp(1, height)
    wide = (area / ratio).sqrt().round().clamp(1, width)
    top = ((height - tall + 1) * _rand(images)).floor()
    left = ((width - wide + 1) * _rand(images)).floor()
    rows = torch.arange(height, device=device).view(1, -1)
    columns = torch.arange(width, device=device).view(1, -1)
    in_rows = (rows >= top.view(-1, 1)) & (rows < (top + tall).view(-1, 1))
    in_columns = (columns >= left.view(-1, 1)) & (columns < (left + wide).view(-1, 1))
    hit = in_rows.unsqueeze(2) & in_columns.unsqueeze(1) & _draw(images, probability).view(-1, 1, 1)
    return torch.where(hit.unsqueeze(1), torch.rand_like(images), images)
