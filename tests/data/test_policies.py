"""TrivialAugment and RandAugment on a batch, against torchvision's on single images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from fashion_tl.data import policies
from fashion_tl.data.policies import OPERATIONS, RAND, TRIVIAL_WIDE, apply_operations, strengths

LEVELS = torch.tensor([0.0, 11.0, 30.0, 11.0, 30.0]) / 30
NEGATIVE = torch.tensor([False, False, False, True, True])
NAMES = {"shear_x": "ShearX", "translate_x": "TranslateX", "shear_y": "ShearY", "translate_y": "TranslateY"}
NAMES |= {"autocontrast": "AutoContrast"}
THEIRS: dict[str, Any] = {
    "trivial": (TRIVIAL_WIDE, v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)),
    "rand": (RAND, v2.RandAugment(interpolation=InterpolationMode.BILINEAR)),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("policy", THEIRS)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 26)])
def test_each_operation_at_each_level_is_torchvisions(name: str, policy: str, shape: tuple[int, ...]) -> None:
    ranges, theirs = THEIRS[policy]
    assert len(OPERATIONS) == len(theirs._AUGMENTATION_SPACE)
    images = torch.randint(0, 256, (len(LEVELS), *shape), dtype=torch.uint8)
    kinds = torch.full((len(LEVELS),), OPERATIONS.index(name))
    strength = strengths(images, kinds, LEVELS, NEGATIVE, ranges)
    changed = apply_operations(images.float() / 255, kinds, strength)
    known = NAMES.get(name, name.capitalize())
    magnitudes, signed = theirs._AUGMENTATION_SPACE[known]
    for index, ours in enumerate(changed):
        table = magnitudes(31, *shape[1:])
        magnitude = 0.0 if table is None else float(table[round(float(LEVELS[index]) * 30)])
        if signed and NEGATIVE[index]:
            magnitude = -magnitude
        image = images[index] if name in ("posterize", "equalize") else images[index].float() / 255
        expected = theirs._apply_image_or_video_transform(
            image, known, magnitude, InterpolationMode.BILINEAR, {torch.Tensor: None}
        )
        expected = expected / 255 if expected.dtype == torch.uint8 else expected
        assert_close(ours, expected.float(), atol=1e-3, rtol=0)


def test_a_mixed_batch_equals_each_image_alone() -> None:
    images = torch.rand(60, 3, 12, 15)
    kinds = torch.randint(len(OPERATIONS), (60,))
    strength = strengths(images, kinds, torch.rand(60), torch.rand(60) < 0.5, RAND)
    together = apply_operations(images, kinds, strength)
    for index in range(60):
        one = slice(index, index + 1)
        assert_close(together[one], apply_operations(images[one], kinds[one], strength[one]), atol=1e-6, rtol=0)


class Drawn:
    """Keeps the operations and strengths that were drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        real = policies.apply_operations

        def keep(images: Tensor, kinds: Tensor, strength: Tensor) -> Tensor:
            self.calls.append((kinds, strength))
            return real(images, kinds, strength)

        monkeypatch.setattr(policies, "apply_operations", keep)


def test_trivial_augment_draws_operation_strength_and_sign_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    policies.trivial_augment(torch.rand(14_000, 1, 3, 3))
    ((kinds, strength),) = drawn.calls
    counts = torch.bincount(kinds, minlength=14)
    assert counts.min() > 850
    assert counts.max() < 1150
    shears = strength[kinds == OPERATIONS.index("shear_x")]
    levels, numbers = torch.unique((shears / 0.99 * 30).round(), return_counts=True)
    assert levels.tolist() == list(range(-30, 31))
    assert numbers[levels == 0].item() < 3 * numbers.float().mean()  # both signs of level 0
    assert 0.4 < (shears < 0).float().mean() / (shears != 0).float().mean() < 0.6
    solar = strength[kinds == OPERATIONS.index("solarize")]
    assert solar.min() == 0
    assert solar.max() == 1


def test_rand_augment_draws_operations_of_one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    policies.rand_augment(torch.rand(2_000, 3, 4, 4), 3, 15)
    assert len(drawn.calls) == 3
    for kinds, strength in drawn.calls:
        assert torch.bincount(kinds, minlength=14).min() > 90
        rotations = strength[kinds == OPERATIONS.index("rotate")]
        assert set(rotations.abs().tolist()) == {15.0}
        assert len(set(rotations.tolist())) == 2
    assert not torch.equal(drawn.calls[0][0], drawn.calls[1][0])


@pytest.mark.parametrize(
    "augment", [policies.trivial_augment, lambda images: policies.rand_augment(images, 2, 30)], ids=["trivial", "rand"]
)
def test_values_stay_in_their_range(augment: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(300, 3, 11, 9)
    before = images.clone()
    changed = augment(images)
    assert torch.equal(images, before)
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6


def test_the_ranges_are_copied_to_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, made = torch.rand(4, 1, 9, 31), []
    policies.rand_augment(images, 1, 9)
    monkeypatch.setattr(torch, "tensor", lambda *given, **more: made.append(given))
    policies.rand_augment(images, 2, 9)
    assert made == []
