"""What happens to a batch of images on the device: augmentation, then what the network expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.errors import UserError, unknown_name

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision turn colour to grey


@dataclass(frozen=True)
class InputSpec:
    """How images are held and at which size a network sees them; plain values that a checkpoint can keep.

    Attributes:
        channels: Channels of the images as held: 1 (grey), 3 (RGB) or any other number.
        held_size: Height and width of the images as held, in pixels; None if unknown.
        image_size: Height and width that the network sees, in pixels.
        interpolation: "bilinear" and "bicubic" (both antialiased), or "nearest".
        resize: How a file of other proportions is brought to a square: "crop" or "squash".
        crop: Side of the cropped square as a share of the shorter side.
    """

    channels: int = 3
    held_size: int | None = None
    image_size: int = 224
    interpolation: str = "bilinear"
    resize: str = "crop"
    crop: float = 1.0

    def __post_init__(self) -> None:
        """Check the values a user can set."""
        if self.interpolation not in INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, INTERPOLATIONS, "Set it with --data.interpolation.")
        if self.resize not in ("crop", "squash"):
            raise unknown_name("resize", self.resize, ("crop", "squash"), "Set it with --data.resize.")
        if self.image_size < 4:
            raise UserError(f"data.image_size is {self.image_size}; it must be at least 4 pixels.")
        if self.channels < 1:
            raise UserError(f"the images have {self.channels} channels; they need at least 1.")


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

    mean: Tensor
    std: Tensor
    like: Tensor

    def __init__(self, spec: InputSpec, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _check_channels(spec.channels, channels)
        _check_statistics(channels, mean, std)
        self.spec, self.channels = spec, channels
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("like", torch.empty(0, dtype=torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to a device, and to a dtype what comes out alone: in bfloat16 a mean of 0.485 would be 0.4844."""
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            setattr(self, name, buffer.to(self.like.device))
        return self

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
        f"Give a timm backbone as many: `--model.backbone_args '{{in_chans: {held}}}'`."
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


def visible(images: Tensor) -> Tensor:
    """Return what can be shown of images (B, C, H, W): (B, 1 or 3, H, W), for other C the mean over the channels."""
    if images.shape[1] in (1, 3):
        return images
    mean = images.float().mean(1, keepdim=True)
    return mean.round().to(torch.uint8) if images.dtype == torch.uint8 else mean.to(images.dtype)


def to_grey(images: Tensor) -> Tensor:
    """Turn RGB images (B, 3, H, W) into float grey ones (B, 1, H, W) in 0 to 1."""
    images = to_float(images)
    return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def resize_images(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize float images (B, C, H, W) to (B, C, size, size)."""
    if images.shape[-2:] == (size, size):
        return images
    if interpolation == "nearest":
        return F.interpolate(images, size=(size, size), mode="nearest-exact")
    resized = F.interpolate(images, size=(size, size), mode=interpolation, align_corners=False, antialias=True)
    return resized.clamp(0, 1) if interpolation == "bicubic" else resized


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images, drawn anew for every image; zero turns a part off.

    Attributes:
        mirror: Probability of a horizontal mirror image, 0 to 1.
        shift: Largest shift in pixels of the image as held, in each direction; what comes in is black.
        rotation: Largest rotation in degrees, in each direction.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast around the image's mean, 0 to 1.
        saturation: Largest relative change of saturation, 0 to 1; grey images have none.
        hue: Largest turn of the hue in degrees, 0 to 180; grey images have none.
        erase: Probability that a rectangle is erased (Zhong et al. 2020, "Random Erasing"), 0 to 1.
        erase_area: Largest share of the image that is erased; the smallest is 0.02.
    """

    mirror: float = 0.0
    shift: int = 0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0
    erase_area: float = 0.25

    def __post_init__(self) -> None:
        """Check all strengths and tell all problems at once."""
        problems = [
            f"{name} is {getattr(self, name)}, allowed is 0 to {high}"
            for name, high in {**dict.fromkeys(_SHARES, 1), "rotation": 180, "hue": 180, "shift": 1000}.items()
            if not 0 <= getattr(self, name) <= high
        ]
        if problems:
            raise UserError("data.augment: " + "; ".join(problems) + ".")

    @property
    def active(self) -> bool:
        """Whether anything is random."""
        return any(getattr(self, name) > 0 for name in (*_SHARES, "rotation", "hue", "shift") if name != "erase_area")

    @property
    def views(self) -> dict[str, float] | None:
        """The fixed views that training draws from, with their probabilities; None if there is no end of them.

        A subclass that augments in another way may declare its own; it has none by itself.
        """
        others = any(getattr(self, name) > 0 for name in (*_SHARES, "rotation", "hue", "shift") if name not in _FIXED)
        if others:
            return None
        return {"identity": 1 - self.mirror, "mirror": self.mirror} if self.mirror > 0 else {"identity": 1.0}

    def __call__(self, images: Tensor) -> Tensor:
        """Augment a batch (B, C, H, W), uint8 or float in 0 to 1; returns float32 in 0 to 1 of the same shape.

        Draws from torch's global generator of the images' device.
        """
        images = to_float(images)
        if not self.active:
            return images
        count = len(images)
        if self.rotation > 0:
            flip = _draw(images, self.mirror) if self.mirror > 0 else None
            images = _warp(images, flip, _uniform(images, self.rotation), self._shifts(images))
        else:
            if self.mirror > 0:
                flip = _draw(images, self.mirror)
                images = torch.where(flip.view(count, 1, 1, 1), images.flip(-1), images)
            if self.shift > 0:
                images = shift_images(images, *self._shifts(images).unbind(1))
        images = self._colour(images)
        return erase_rectangles(images, self.erase, self.erase_area) if self.erase > 0 else images

    def _shifts(self, images: Tensor) -> Tensor:
        return torch.randint(-self.shift, self.shift + 1, (len(images), 2), device=images.device)

    def _colour(self, images: Tensor) -> Tensor:
        changed = images
        if self.brightness > 0:
            changed = changed * (1 + _uniform(images, self.brightness)).view(-1, 1, 1, 1)
        if self.contrast > 0:
            mean = changed.mean((1, 2, 3), keepdim=True)
            changed = mean + (changed - mean) * (1 + _uniform(images, self.contrast)).view(-1, 1, 1, 1)
        if images.shape[1] == 3 and (self.saturation > 0 or self.hue > 0):
            changed = turn_colour(changed, 1 + _uniform(images, self.saturation), _uniform(images, self.hue))
        return changed if changed is images else changed.clamp(0, 1)


_FIXED = ("mirror", "erase_area")
_SHARES = ("mirror", "brightness", "contrast", "saturation", "erase", "erase_area")


def _draw(images: Tensor, probability: float) -> Tensor:
    return _rand(images) < probability


def _uniform(images: Tensor, limit: float) -> Tensor:
    return (_rand(images) * 2 - 1) * limit


def _rand(images: Tensor) -> Tensor:
    """Draw one number an image, on its device; float32 whatever the default of the moment."""
    return torch.rand(len(images), device=images.device, dtype=torch.float32)


def shift_images(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift each image by whole pixels; what comes in is black.

    Args:
        images: Float images (B, C, H, W).
        down: Integers (B,), positive downwards.
        right: Integers (B,), positive to the right.
    """
    count, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) - down.view(-1, 1)
    columns = torch.arange(width, device=images.device) - right.view(-1, 1)
    inside = ((rows >= 0) & (rows < height)).view(count, 1, height, 1)
    inside = inside & ((columns >= 0) & (columns < width)).view(count, 1, 1, width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    flat = (rows.view(count, 1, height, 1) * width + columns.view(count, 1, 1, width)).expand(-1, channels, -1, -1)
    moved = images.flatten(2).gather(2, flat.flatten(2)).view_as(images)
    return moved * inside


def _warp(images: Tensor, flip: Tensor | None, degrees: Tensor, shifts: Tensor) -> Tensor:
    """Mirror, rotate counter-clockwise, then shift, in one bilinear resampling, so that an image is smoothed once."""
    height, width = images.shape[-2:]
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    sign = torch.ones_like(cos) if flip is None else 1 - 2 * flip.float()
    aspect = height / width
    down, right = shifts.float().unbind(1)
    across, along = -right * (2 / width), -down * (2 / height)
    # affine_grid maps where a pixel goes to where it comes from, in coordinates from -1 to 1 on each axis.
    first = torch.stack([sign * cos, -sign * sin * aspect, sign * (cos * across - sin * aspect * along)], 1)
    second = torch.stack([sin / aspect, cos, sin / aspect * across + cos * along], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def turn_colour(images: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Scale the chroma of RGB images and turn it around the grey axis, in YIQ coordinates.

    Args:
        images: Float RGB images (B, 3, H, W).
        saturation: Factor (B,) on the chroma; 0 gives a grey image.
        hue: Turn (B,) in degrees.
    """
    to_yiq = images.new_tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
    angle = hue * (math.pi / 180)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    cos, sin = saturation * angle.cos(), saturation * angle.sin()
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
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
