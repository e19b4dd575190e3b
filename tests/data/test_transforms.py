"""Preprocessing against Pillow and torchvision; augmentation per image, against slow references."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.data import transforms
from fashion_tl.data.transforms import (
    Augment,
    InputSpec,
    Preprocess,
    describe_preprocessing,
    erase_rectangles,
    resize_images,
    shift_images,
    to_float,
    to_grey,
    turn_colour,
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
        ({"resize": "corp"}, r"resize 'corp'; did you mean 'crop'\? .*squash.*--data\.resize"),
        ({"image_size": 3}, "image_size is 3; it must be at least 4 pixels"),
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


# Augmentation as a whole


def test_nothing_is_the_identity() -> None:
    images = pixels(4, 3, 8, 8)
    state = torch.get_rng_state()
    augment = Augment()
    assert not augment.active
    assert torch.equal(augment(images), images.float() / 255)
    assert torch.equal(torch.get_rng_state(), state)


EACH: list[dict[str, Any]] = [
    {"mirror": 0.5},
    {"shift": 3},
    {"rotation": 30.0},
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"saturation": 0.5},
    {"hue": 60.0},
    {"erase": 0.5},
    {"mirror": 0.5, "shift": 2, "rotation": 180.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 180.0},
]


@pytest.mark.parametrize("strengths", EACH, ids=lambda strengths: "-".join(strengths))
@pytest.mark.parametrize("channels", [1, 3])
def test_drawn_for_every_image(strengths: dict[str, Any], channels: int) -> None:
    image = pixels(1, channels, 20, 14)
    batch = image.expand(24, -1, -1, -1)
    torch.manual_seed(1)
    changed = Augment(**strengths)(batch)
    assert changed.shape == batch.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    kinds = len(torch.unique(changed.flatten(1), dim=0))
    if channels == 1 and set(strengths) <= {"saturation", "hue"}:
        assert torch.equal(changed, batch.float() / 255)
    elif set(strengths) == {"mirror"}:
        assert kinds == 2
    else:
        assert kinds > 8
    torch.manual_seed(1)
    assert torch.equal(Augment(**strengths)(batch), changed)
    assert not torch.equal(Augment(**strengths)(batch), changed) or kinds == 1
    assert torch.equal(batch[5], image[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strengths", [{}, *EACH], ids=lambda strengths: "-".join(strengths))
def test_half_images_are_augmented_in_single_precision(strengths: dict[str, Any], dtype: torch.dtype) -> None:
    images = torch.rand(6, 3, 12, 10).to(dtype)
    torch.manual_seed(1)
    expected = Augment(**strengths)(images.float())
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)  # as Lightning does around a step
        torch.manual_seed(1)
        changed = Augment(**strengths)(images)
    finally:
        torch.set_default_dtype(default)
    assert changed.dtype == torch.float32
    assert torch.equal(changed, expected)


def test_mirror() -> None:
    images = pixels(40, 1, 6, 5).float() / 255
    changed = Augment(mirror=0.5)(images)
    mirrored = (changed == images.flip(-1)).flatten(1).all(1)
    assert (mirrored | (changed == images).flatten(1).all(1)).all()
    assert 8 < int(mirrored.sum()) < 32
    assert torch.equal(Augment(mirror=1)(images), images.flip(-1))


def test_shift_reaches_all_offsets() -> None:
    images = torch.zeros(800, 1, 9, 9)
    images[:, :, 4, 4] = 1
    changed = Augment(shift=2)(images)
    assert torch.equal(changed.sum((1, 2, 3)), torch.ones(800))
    rows, columns = changed[:, 0].sum(0).nonzero().unbind(1)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [
        (row, column) for row in range(2, 7) for column in range(2, 7)
    ]


def test_brightness_is_a_factor_within_its_limits() -> None:
    factors = Augment(brightness=0.4)(torch.full((400, 3, 2, 2), 0.5)).flatten(1) / 0.5
    assert_close(factors, factors[:, :1].expand(-1, 12))
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4


def test_contrast_keeps_the_mean() -> None:
    images = 0.4 + 0.2 * torch.rand(400, 1, 6, 6)
    changed = Augment(contrast=0.4)(images)
    assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)))
    factors = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.6 <= factors.min() + 1e-5 < 0.65
    assert 1.35 < factors.max() <= 1.4 + 1e-5


def test_all_wrong_strengths_are_told_together() -> None:
    with pytest.raises(UserError) as caught:
        Augment(mirror=1.5, shift=-1, rotation=181, contrast=2, hue=200, erase=math.nan, erase_area=-0.1)
    message = str(caught.value)
    for part in (
        "mirror is 1.5, allowed is 0 to 1",
        "shift is -1",
        "rotation is 181, allowed is 0 to 180",
        "contrast is 2",
        "hue is 200",
        "erase is nan",
        "erase_area is -0.1",
    ):
        assert part in message
    assert "brightness" not in message
    assert "saturation" not in message


# Shift, rotation, and both with the mirror in one resampling


def test_shift_against_a_loop() -> None:
    images = torch.rand(7, 2, 6, 9)
    down = torch.tensor([0, 1, -2, 3, -5, 6, -40])
    right = torch.tensor([0, -4, 2, 0, 8, 1, 2])
    expected = torch.zeros_like(images)
    for index, (dy, dx) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        for row in range(6):
            for column in range(9):
                if 0 <= row + dy < 6 and 0 <= column + dx < 9:
                    expected[index, :, row + dy, column + dx] = images[index, :, row, column]
    assert torch.equal(shift_images(images, down, right), expected)


SHAPES = [(20, 20), (17, 30), (30, 16)]
NO_SHIFT = torch.zeros(1, 2, dtype=torch.int64)


def test_quarter_turn_is_counter_clockwise() -> None:
    image = torch.rand(1, 3, 8, 8)
    turned = transforms._warp(image, None, torch.tensor([90.0]), NO_SHIFT)
    assert_close(turned, torch.rot90(image, 1, (-2, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [30.0, -115.0])
def test_rotation_against_torchvision(shape: tuple[int, int], angle: float) -> None:
    image = torch.rand(1, 2, *shape)
    expected = tvf.rotate(image, angle, InterpolationMode.BILINEAR)
    assert_close(transforms._warp(image, None, torch.tensor([angle]), NO_SHIFT), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_mirror_then_rotation_then_shift(shape: tuple[int, int]) -> None:
    images = torch.rand(3, 1, *shape)
    flip = torch.tensor([True, False, True])
    degrees = torch.tensor([25.0, -70.0, 160.0])
    shifts = torch.tensor([[3, -2], [-4, 5], [0, 1]])
    margin = 30  # what leaves the frame in the rotation can come back in the shift
    for index, ours in enumerate(transforms._warp(images, flip, degrees, shifts)):
        image = torch.nn.functional.pad(images[index], [margin] * 4)
        image = image.flip(-1) if flip[index] else image
        image = tvf.rotate(image, float(degrees[index]), InterpolationMode.BILINEAR)
        image = image.roll(shifts[index].tolist(), (-2, -1))
        assert_close(ours, image[:, margin:-margin, margin:-margin], atol=1e-4, rtol=0)


# Colour


def luma(images: Tensor) -> Tensor:
    return to_grey(images)[:, 0]


def test_no_saturation_is_grey() -> None:
    images = torch.rand(2, 3, 5, 5)
    grey = turn_colour(images, torch.zeros(2), torch.tensor([0.0, 77.0]))
    assert_close(grey, to_grey(images).expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


def test_saturation_scales_the_distance_to_grey() -> None:
    images = torch.rand(1, 3, 5, 5)
    grey = to_grey(images)
    expected = grey + (images - grey) * 1.5
    assert_close(turn_colour(images, torch.tensor([1.5]), torch.zeros(1)), expected, atol=1e-5, rtol=0)


def test_hue_turns_in_a_circle_and_keeps_the_luma() -> None:
    images = torch.rand(3, 3, 5, 5)
    one = torch.ones(3)
    assert_close(turn_colour(images, one, torch.tensor([0.0, 360.0, -360.0])), images, atol=1e-5, rtol=0)
    turned = turn_colour(images, one, torch.tensor([40.0, 120.0, -170.0]))
    assert (turned - images).abs().amax((1, 2, 3)).min() > 0.1
    assert_close(luma(turned), luma(images), atol=1e-5, rtol=0)
    back = turn_colour(turned, one, torch.tensor([-40.0, -120.0, 170.0]))
    assert_close(back, images, atol=1e-5, rtol=0)


# Erasing


def erased(height: int, width: int, largest: float, count: int = 300) -> Tensor:
    """Return masks (N, H, W) of what was erased, after checking that the rest is untouched noise-free ground."""
    images = torch.full((count, 2, height, width), -1.0)
    changed = erase_rectangles(images, 1.0, largest)
    mask = changed != -1
    assert torch.equal(mask[:, 0], mask[:, 1])
    assert not torch.equal(changed[:, 0][mask[:, 0]], changed[:, 1][mask[:, 1]])
    assert changed[mask].min() >= 0
    assert changed.max() <= 1
    return mask[:, 0]


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 24)])
def test_erased_is_one_rectangle_of_the_given_area(height: int, width: int) -> None:
    areas = []
    for mask in erased(height, width, 0.25):
        tall, wide = int(mask.any(1).sum()), int(mask.any(0).sum())
        assert mask.sum() == tall * wide
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert rows[-1] - rows[0] + 1 == tall
        assert columns[-1] - columns[0] + 1 == wide
        # Sides are rounded to whole pixels.
        assert (tall - 0.5) * (wide - 0.5) <= 0.25 * height * width
        assert (tall + 0.5) * (wide + 0.5) >= 0.02 * height * width
        assert (tall - 0.5) / (wide + 0.5) <= 3.3
        assert (wide - 0.5) / (tall + 0.5) <= 3.3
        areas.append(tall * wide / (height * width))
    assert min(areas) < 0.05
    assert max(areas) > 0.22


def test_every_pixel_can_be_erased() -> None:
    assert erased(12, 9, 0.2, 1500).any(0).all()


def test_erase_probability() -> None:
    images = torch.full((400, 1, 10, 10), -1.0)
    hit = (erase_rectangles(images, 0.25, 0.2) != images).flatten(1).any(1)
    assert 60 < int(hit.sum()) < 140
    assert torch.equal(erase_rectangles(images, 0.0, 0.2), images)


@pytest.mark.parametrize("make", [to_float, Augment(erase=1.0)])
def test_inputs_are_not_changed(make: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(4, 1, 8, 8)
    before = images.clone()
    make(images)
    assert torch.equal(images, before)
