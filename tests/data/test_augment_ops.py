"""Operations with parameters for each image of a batch, against torchvision's on single images."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.data import augment_ops as ops

SHAPES = [(1, 28, 28), (3, 17, 30), (3, 30, 16)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def stored(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return images (count, C, H, W) as they are stored, of which some use a part of the range only."""
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    images[1::2] = images[1::2] // 3 + 40
    return images


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_resized_as_torchvision_resizes_one(shape: tuple[int, ...]) -> None:
    images = torch.rand(5, *shape)
    _, height, width = shape
    top, left = torch.tensor([0, 3, 5, 15, 0]), torch.tensor([0, 2, 9, 15, 4])
    tall = torch.tensor([height, 9, 7, 1, 12])
    wide = torch.tensor([width, 12, 5, 1, 3])
    for index, ours in enumerate(ops.resize_crops(images, top, left, tall, wide)):
        crop = [int(each[index]) for each in (top, left, tall, wide)]
        expected = tvf.resized_crop(images[index], *crop, size=[height, width], antialias=True)
        assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_affine_maps_of_each_image(shape: tuple[int, ...]) -> None:
    images = torch.rand(2, *shape)
    maps = torch.tensor([[[1.0, 0.0, -3.0], [0.0, 1.0, 2.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    moved = ops.warp_affine(images, maps)
    expected = tvf.affine(images[0], 0.0, [3, -2], 1.0, [0.0, 0.0], InterpolationMode.BILINEAR)
    assert_close(moved[0], expected, atol=1e-5, rtol=0)
    assert_close(moved[1], images[1], atol=1e-5, rtol=0)


FACTORS = {  # torchvision's weights of red, green and blue differ in the fourth decimal
    "brightness": (ops.adjust_brightness, tvf.adjust_brightness),
    "color": (ops.adjust_color, tvf.adjust_saturation),
    "contrast": (ops.adjust_contrast, tvf.adjust_contrast),
    "sharpness": (ops.adjust_sharpness, tvf.adjust_sharpness),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 2, 9)])
def test_factors_of_each_image(name: str, shape: tuple[int, ...]) -> None:
    ours, theirs = FACTORS[name]
    images, factors = stored(4, shape).float() / 255, torch.tensor([0.0, 0.4, 1.0, 1.9])
    for index, changed in enumerate(ours(images, factors)):
        assert_close(changed, theirs(images[index], float(factors[index])), atol=3e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_posterize_keeps_bits_of_the_stored_values(shape: tuple[int, ...]) -> None:
    images, bits = stored(4, shape), torch.tensor([8.0, 5.0, 2.0, 1.0])
    changed = ops.posterize(images.float() / 255, bits)
    for index, ours in enumerate(changed):
        assert torch.equal((ours * 255).round().byte(), tvf.posterize(images[index], int(bits[index])))


@pytest.mark.parametrize("shape", SHAPES)
def test_solarize(shape: tuple[int, ...]) -> None:
    images, thresholds = torch.rand(3, *shape), torch.tensor([0.0, 0.4, 1.0])
    for index, ours in enumerate(ops.solarize(images, thresholds)):
        assert torch.equal(ours, tvf.solarize(images[index], float(thresholds[index])))


@pytest.mark.parametrize("shape", [*SHAPES, (2, 9, 8), (4, 9, 8)])
def test_autocontrast_and_equalize(shape: tuple[int, ...]) -> None:
    images = stored(5, shape)
    images[2] = 77  # one value
    images[3] = images[3] // 128 * 200  # two values
    stretched = ops.autocontrast(images.float() / 255)
    spread = ops.equalize(images.float() / 255)
    for index, image in enumerate(images):
        for channel, ours in zip(image.double() / 255, stretched[index].double(), strict=True):
            low, high = channel.min(), channel.max()
            assert_close(ours, (channel - low) / (high - low) if high > low else channel, atol=1e-6, rtol=0)
        assert torch.equal((spread[index] * 255).round().byte(), tvf.equalize(image))
        for channel, ours in zip(image, spread[index], strict=True):
            pillow = ImageOps.equalize(Image.fromarray(channel.numpy()))
            assert torch.equal((ours * 255).round().byte(), tvf.pil_to_tensor(pillow)[0])
