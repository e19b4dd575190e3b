"""Augmentation per image, against slow references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms.v2 import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.data import augment
from fashion_tl.data.augment import Augment, erase_rectangles, rotate_hue, translate_images
from fashion_tl.data.transforms import to_float, to_grey
from fashion_tl.errors import UserError


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


# Augmentation as a whole


def test_nothing_is_the_identity() -> None:
    images = pixels(4, 3, 8, 8)
    state = torch.get_rng_state()
    augment = Augment()
    assert not augment.active
    assert torch.equal(augment(images), images.float() / 255)
    assert torch.equal(torch.get_rng_state(), state)


EACH: list[dict[str, Any]] = [
    {"random_resized_crop": 0.3},
    {"trivial_augment": True},
    {"rand_augment": 2},
    {"hflip": 0.5},
    {"translate": 3},
    {"rotation": 30.0},
    {"brightness": 0.5},
    {"contrast": 0.5},
    {"saturation": 0.5},
    {"hue": 60.0},
    {"random_erasing": 0.5},
    {
        "hflip": 0.5,
        "translate": 2,
        "rotation": 180.0,
        "brightness": 1.0,
        "contrast": 1.0,
        "saturation": 1.0,
        "hue": 180.0,
    },
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
    elif set(strengths) == {"hflip"}:
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


def test_hflip() -> None:
    images = pixels(40, 1, 6, 5).float() / 255
    changed = Augment(hflip=0.5)(images)
    flipped = (changed == images.flip(-1)).flatten(1).all(1)
    assert (flipped | (changed == images).flatten(1).all(1)).all()
    assert 8 < int(flipped.sum()) < 32
    assert torch.equal(Augment(hflip=1)(images), images.flip(-1))


def test_translation_reaches_all_offsets() -> None:
    images = torch.zeros(800, 1, 9, 9)
    images[:, :, 4, 4] = 1
    changed = Augment(translate=2)(images)
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
        Augment(
            hflip=1.5,
            translate=-1,
            rotation=181,
            contrast=2,
            hue=200,
            random_erasing=math.nan,
            random_erasing_area=-0.1,
        )
    message = str(caught.value)
    for part in (
        "hflip is 1.5, allowed is 0 to 1",
        "translate is -1",
        "rotation is 181, allowed is 0 to 180",
        "contrast is 2",
        "hue is 200",
        "random_erasing is nan",
        "random_erasing_area is -0.1",
    ):
        assert part in message
    assert "brightness" not in message
    assert "saturation" not in message


def test_two_policies_are_one_too_many() -> None:
    with pytest.raises(UserError, match="trivial_augment and rand_augment exclude each other"):
        Augment(trivial_augment=True, rand_augment=1)
    with pytest.raises(UserError, match="rand_augment_magnitude is 31"):
        Augment(rand_augment_magnitude=31)


@pytest.mark.parametrize("strengths", EACH, ids=lambda strengths: "-".join(strengths))
def test_only_flips_are_fixed_views(strengths: dict[str, Any]) -> None:
    assert Augment(**strengths).active == list(strengths)
    assert (Augment(**strengths).views is None) == (set(strengths) != {"hflip"})


# Random crops


@pytest.mark.parametrize(("height", "width"), [(28, 28), (40, 25)])
@pytest.mark.parametrize("smallest", [0.08, 0.5, 1.0])
def test_crops_are_drawn_as_torchvision_draws_them(height: int, width: int, smallest: float) -> None:
    count = 4000
    ours = torch.stack(augment.draw_crops(torch.zeros(count, 1, height, width), smallest), 1)
    draw = RandomResizedCrop(8, scale=(smallest, 1.0))
    drawn = [draw.make_params([torch.zeros(1, height, width)]) for _ in range(count)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in drawn], dtype=torch.float32)
    assert torch.equal(ours, ours.round())
    top, left, tall, wide = ours.unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert (top + tall).max() <= height
    assert (left + wide).max() <= width
    for index in range(4):
        assert ours[:, index].mean() == pytest.approx(theirs[:, index].mean(), abs=0.5)
        for share in (0.1, 0.5, 0.9):
            assert ours[:, index].quantile(share) == pytest.approx(theirs[:, index].quantile(share), abs=1.0)


def test_crops_of_what_none_fits_into_are_the_largest_at_the_centre() -> None:
    top, left, tall, wide = (int(each[0]) for each in augment.draw_crops(torch.zeros(1, 1, 12, 90), 1.0))
    assert (top, left, tall, wide) == (0, 37, 12, 16)


# Translation, rotation, and both with the flip in one resampling


def test_translation_against_a_loop() -> None:
    images = torch.rand(7, 2, 6, 9)
    down = torch.tensor([0, 1, -2, 3, -5, 6, -40])
    right = torch.tensor([0, -4, 2, 0, 8, 1, 2])
    expected = torch.zeros_like(images)
    for index, (dy, dx) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        for row in range(6):
            for column in range(9):
                if 0 <= row + dy < 6 and 0 <= column + dx < 9:
                    expected[index, :, row + dy, column + dx] = images[index, :, row, column]
    assert torch.equal(translate_images(images, down, right, 40), expected)


SHAPES = [(20, 20), (17, 30), (30, 16)]
NO_SHIFT = torch.zeros(1, 2, dtype=torch.int64)


def test_quarter_turn_is_counter_clockwise() -> None:
    image = torch.rand(1, 3, 8, 8)
    rotated = augment._warp(image, None, torch.tensor([90.0]), NO_SHIFT)
    assert_close(rotated, torch.rot90(image, 1, (-2, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [30.0, -115.0])
def test_rotation_against_torchvision(shape: tuple[int, int], angle: float) -> None:
    image = torch.rand(1, 2, *shape)
    expected = tvf.rotate(image, angle, InterpolationMode.BILINEAR)
    assert_close(augment._warp(image, None, torch.tensor([angle]), NO_SHIFT), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_hflip_then_rotation_then_translation(shape: tuple[int, int]) -> None:
    images = torch.rand(3, 1, *shape)
    flip = torch.tensor([True, False, True])
    degrees = torch.tensor([25.0, -70.0, 160.0])
    offsets = torch.tensor([[3, -2], [-4, 5], [0, 1]])
    margin = 30  # what leaves the frame in the rotation can come back in the translation
    for index, ours in enumerate(augment._warp(images, flip, degrees, offsets)):
        image = torch.nn.functional.pad(images[index], [margin] * 4)
        image = image.flip(-1) if flip[index] else image
        image = tvf.rotate(image, float(degrees[index]), InterpolationMode.BILINEAR)
        image = image.roll(offsets[index].tolist(), (-2, -1))
        assert_close(ours, image[:, margin:-margin, margin:-margin], atol=1e-4, rtol=0)


# Colour


def luma(images: Tensor) -> Tensor:
    return to_grey(images)[:, 0]


def test_no_saturation_is_grey() -> None:
    images = torch.rand(2, 3, 5, 5)
    grey = rotate_hue(images, torch.zeros(2), torch.tensor([0.0, 77.0]))
    assert_close(grey, to_grey(images).expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


def test_saturation_scales_the_distance_to_grey() -> None:
    images = torch.rand(1, 3, 5, 5)
    grey = to_grey(images)
    expected = grey + (images - grey) * 1.5
    assert_close(rotate_hue(images, torch.tensor([1.5]), torch.zeros(1)), expected, atol=1e-5, rtol=0)


def test_hue_turns_in_a_circle_and_keeps_the_luma() -> None:
    images = torch.rand(3, 3, 5, 5)
    one = torch.ones(3)
    assert_close(rotate_hue(images, one, torch.tensor([0.0, 360.0, -360.0])), images, atol=1e-5, rtol=0)
    rotated = rotate_hue(images, one, torch.tensor([40.0, 120.0, -170.0]))
    assert (rotated - images).abs().amax((1, 2, 3)).min() > 0.1
    assert_close(luma(rotated), luma(images), atol=1e-5, rtol=0)
    back = rotate_hue(rotated, one, torch.tensor([-40.0, -120.0, 170.0]))
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


@pytest.mark.parametrize("make", [to_float, Augment(random_erasing=1.0)])
def test_inputs_are_not_changed(make: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(4, 1, 8, 8)
    before = images.clone()
    make(images)
    assert torch.equal(images, before)
