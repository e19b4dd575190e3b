"""Preprocessing against Pillow and torchvision."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.data.transforms import (
    InputSpec,
    Preprocess,
    describe_preprocessing,
    resize_images,
    to_float,
    to_grey,
    visible,
)
from fashion_tl.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
TORCHVISION = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST_EXACT,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


# Preprocessing


def in_pillow(channel: Tensor, size: int, interpolation: str) -> Tensor:
    """Resize one channel (H, W) in float by Pillow, which antialiases."""
    resized = Image.fromarray(channel.numpy(), "F").resize((size, size), PILLOW[interpolation])
    return torch.from_numpy(np.array(resized)).clamp(0, 1)


@pytest.mark.parametrize("size", [64, 12])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_grey_is_resized_copied_and_normalised(interpolation: str, size: int) -> None:
    images = pixels(3, 1, 28, 28)
    preprocess = Preprocess(InputSpec(1, 28, size, interpolation), 3, MEAN, STD)
    scaled = images.float() / 255
    ours = preprocess(images)
    by_torchvision = tvf.resize(scaled, [size, size], TORCHVISION[interpolation], antialias=True).clamp(0, 1)
    by_pillow = torch.stack([in_pillow(image[0], size, interpolation) for image in scaled]).unsqueeze(1)
    for expected in (by_torchvision, by_pillow):
        assert_close(ours, tvf.normalize(expected.expand(-1, 3, -1, -1), list(MEAN), list(STD)), atol=1e-5, rtol=0)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_close(preprocess(scaled), ours, atol=0, rtol=0)


def test_colour_keeps_its_channels() -> None:
    images = pixels(2, 3, 16, 16)
    ours = Preprocess(InputSpec(3, 16, 16), 3, MEAN, STD)(images)
    assert_close(ours, tvf.normalize(images.float() / 255, list(MEAN), list(STD)))
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_colour_to_grey() -> None:
    images = pixels(2, 3, 16, 16)
    ours = Preprocess(InputSpec(3, 16, 16), 1, (0.0,), (1.0,))(images)
    assert ours.shape == (2, 1, 16, 16)
    # Both round to whole levels, torchvision downwards.
    assert (ours - tvf.rgb_to_grayscale(images).float() / 255).abs().max() <= 1.1 / 255
    levels = np.stack([np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in images])
    assert (ours[:, 0] - torch.from_numpy(levels).float() / 255).abs().max() <= 0.51 / 255


def test_undo_inverts() -> None:
    images = pixels(2, 1, 28, 28)
    preprocess = Preprocess(InputSpec(1, 28, 20), 3, MEAN, STD)
    expected = resize_images(to_float(images), 20, "bilinear").expand(-1, 3, -1, -1)
    assert_close(preprocess.undo(preprocess(images)), expected, atol=1e-6, rtol=0)


def test_preprocessing_is_described_in_plain_values() -> None:
    described = describe_preprocessing(Preprocess(InputSpec(1, 28, 64, "bicubic"), 3, MEAN, STD))
    assert json.loads(json.dumps(described)) == described
    assert described["mean"] == pytest.approx(MEAN)
    assert described["std"] == pytest.approx(STD)
    assert (described["image_size"], described["channels"], described["interpolation"]) == (64, 3, "bicubic")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"interpolation": "bilinaer"},
            r"interpolation 'bilinaer'; did you mean 'bilinear'\? .*nearest.*--data\.interp",
        ),
        ({"resize": "corp"}, r"resize 'corp'; did you mean 'crop'\? .*stretch.*--data\.source\.resize"),
        ({"crop": 1.5}, r"data\.source\.crop is 1\.5, it must be above 0 and at most 1"),
        ({"image_size": 3}, "image_size is 3, allowed is 4 to 4096, in pixels"),
        ({"channels": 0}, "images have 0 channels; they need at least 1"),
    ],
)
def test_wrong_input_spec(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputSpec(**values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_statistics_stay_exact_where_the_network_has_another_precision(interpolation: str, dtype: torch.dtype) -> None:
    images = pixels(2, 3, 28, 28)
    preprocess = Preprocess(InputSpec(3, 28, 20, interpolation), 3, MEAN, STD)
    exact = preprocess(images)
    # A move after the cast keeps both.
    preprocess.to(dtype).to("cpu")
    assert torch.equal(preprocess(images), exact.to(dtype))
    assert torch.equal(preprocess.mean, torch.tensor(MEAN).view(1, 3, 1, 1))
    described = describe_preprocessing(preprocess)
    assert (described["mean"], described["std"]) == (pytest.approx(MEAN, rel=1e-6), pytest.approx(STD, rel=1e-6))
    assert preprocess.undo(preprocess(images)).dtype == torch.float32
    assert_close(preprocess.undo(preprocess(images)), preprocess.undo(exact), atol=0.01, rtol=0)
    assert torch.equal(preprocess.float()(images), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_images_are_prepared_in_single_precision(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 28, 28).to(dtype)
    preprocess = Preprocess(InputSpec(3, 28, 20, "bicubic"), 1, (0.5,), (0.25,))
    assert torch.equal(preprocess(images), preprocess(images.float()))


def test_statistics_in_a_checkpoint_overwrite_those_in_half_precision() -> None:
    preprocess = Preprocess(InputSpec(3, 16, 16), 3, MEAN, STD).to(torch.bfloat16)
    preprocess.mean.copy_(torch.full((1, 3, 1, 1), 0.3))
    assert preprocess.mean.flatten().tolist() == pytest.approx([0.3] * 3)


@pytest.mark.parametrize(("held", "taken"), [(1, 1), (1, 2), (1, 5), (2, 2), (3, 1), (3, 3), (4, 4), (7, 7)])
def test_channels_that_fit(held: int, taken: int) -> None:
    images = pixels(2, held, 12, 12)
    ours = Preprocess(InputSpec(held, 12, 12), taken, (0.0,), (1.0,))(images)
    assert ours.shape == (2, taken, 12, 12)
    expected = to_grey(images) if (held, taken) == (3, 1) else to_float(images)
    assert_close(ours, expected.expand(-1, taken, -1, -1))


@pytest.mark.parametrize(("held", "taken"), [(2, 1), (2, 3), (3, 2), (3, 4), (4, 1), (4, 3)])
def test_channels_that_do_not_fit(held: int, taken: int) -> None:
    wanted = rf"images have {held} channels, the network takes {taken}\b.*backbone_args '{{in_chans: {held}}}'"
    with pytest.raises(UserError, match=wanted):
        Preprocess(InputSpec(held, 12, 12), taken, (0.0,), (1.0,))
    preprocess = Preprocess(InputSpec(taken, 12, 12), taken, (0.0,), (1.0,))
    with pytest.raises(UserError, match=wanted):
        preprocess(pixels(2, held, 12, 12))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.1, 0.2), STD, r"model\.mean has 2 values; the network takes 3 channels: give 1 or 3"),
        (MEAN, (), r"model\.std has 0 values; the network takes 3 channels: give 1 or 3"),
        (MEAN, (0.1, 0.0, 0.2), r"model\.std is \[0\.1, 0\.0, 0\.2\]; .*finite.*above 0"),
        (MEAN, (-0.5,), r"model\.std is \[-0\.5\]; .*above 0"),
        (MEAN, (math.nan,), r"model\.std is \[nan\]"),
        (MEAN, (math.inf,), r"model\.std is \[inf\]"),
        (MEAN, (1e-50,), r"model\.std is \[1e-50\]"),
        ((math.nan, 0, 0), STD, r"model\.mean is \[nan, 0, 0\]; .*finite"),
        ((0.1, 0.2), (0.0,), r"model\.mean has 2 values.*\n.*model\.std is"),
    ],
)
def test_wrong_statistics(mean: tuple[float, ...], std: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess(InputSpec(3, 16, 16), 3, mean, std)


def test_one_value_serves_all_channels() -> None:
    images = pixels(2, 3, 8, 8)
    one = Preprocess(InputSpec(3, 8, 8), 3, (0.5,), (0.25,))(images)
    assert torch.equal(one, Preprocess(InputSpec(3, 8, 8), 3, (0.5,) * 3, (0.25,) * 3)(images))


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 1), (9, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_can_be_shown_has_one_or_three_channels(channels: int, shown: int, dtype: torch.dtype) -> None:
    images = pixels(2, channels, 4, 4) if dtype == torch.uint8 else torch.rand(2, channels, 4, 4)
    seen = visible(images)
    assert (seen.dtype, seen.shape) == (dtype, (2, shown, 4, 4))
    expected = images.double() if channels == shown else images.double().mean(1, keepdim=True)
    assert_close(seen.double(), expected, atol=0.5 if dtype == torch.uint8 else 1e-6, rtol=0)
