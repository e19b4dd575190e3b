"""Corruptions: the same for the same image in any batch, stronger with each level, and what their names say."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import kstest, poisson

from fashion_tl.data.augment import translate_images
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.transforms import to_float
from fashion_tl.inspection import corruptions as c
from fashion_tl.inspection.affine import warp
from fashion_tl.inspection.corruptions import CORRUPTIONS, corrupt
from fashion_tl.inspection.random_numbers import RandomNumbers

COUNT = 48


@pytest.fixture(scope="module")
def images():
    return SyntheticGarments().draw(COUNT, 0, 28)[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_batch_does_not_matter_and_seed_and_index_do(images, name) -> None:
    index = torch.arange(100, 100 + COUNT)
    whole = corrupt(images, name, 3, 7, index)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    for size in (1, 5):
        parts = [corrupt(images[i : i + size], name, 3, 7, index[i : i + size]) for i in range(0, 10, size)]
        assert torch.equal(torch.cat(parts), whole[:10])
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    assert torch.equal(corrupt(images[order], name, 3, 7, index[order]), whole[order])
    fixed = {"Gaussian blur", "brightness", "contrast", "pixelate", "JPEG", "scale"}
    for other in (corrupt(images, name, 3, 8, index), corrupt(images, name, 3, 7, index + 1)):
        assert torch.equal(other, whole) == (name in fixed)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_strength_is_farther_from_the_image(images, name) -> None:
    clean, index = images.float(), torch.arange(COUNT)
    distances = [(corrupt(images, name, level, 0, index).float() - clean).abs().mean() for level in range(1, 6)]
    assert distances[0] > 0
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_colour_and_larger_images_are_corrupted_alike(images, name) -> None:
    index = torch.arange(8)
    small = corrupt(images[:8].expand(-1, 3, -1, -1), name, 5, 0, index).float()
    assert small.shape == (8, 3, 28, 28)
    large = images[:8].repeat_interleave(2, 2).repeat_interleave(2, 3)
    back = torch.nn.functional.avg_pool2d(corrupt(large, name, 5, 0, index).float(), 2)
    assert back.shape == (8, 1, 28, 28)
    if name in ("Gaussian blur", "motion blur", "shift", "rotation", "shear", "scale", "pixelate", "occlusion"):
        assert (back - corrupt(images[:8], name, 5, 0, index).float()).abs().mean() < 8


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_number_of_channels_is_corrupted(images, name, channels) -> None:
    index = torch.arange(4)
    found = corrupt(images[:4].expand(-1, channels, -1, -1), name, 3, 0, index)
    assert found.shape == (4, channels, 28, 28)
    if name == "JPEG":  # each as a grey image
        assert torch.equal(found, corrupt(images[:4], name, 3, 0, index).expand(-1, channels, -1, -1))


def test_draws_are_uniform_normal_and_independent() -> None:
    draws = RandomNumbers(3, 1, torch.arange(40))
    numbers = draws.uniform(1000)
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.001
    assert kstest(draws.normal(1000).flatten().double().numpy(), "norm").pvalue > 0.001
    index = draws.index
    for other in (RandomNumbers(4, 1, index), RandomNumbers(3, 2, index), RandomNumbers(3, 1, index + 40)):
        correlation = torch.corrcoef(torch.stack([numbers.flatten(), other.uniform(1000).flatten()]))[0, 1]
        assert correlation.abs() < 0.025
    columns = torch.corrcoef(numbers)
    assert (columns - torch.eye(40)).abs().max() < 0.15


def test_shot_noise_is_poisson() -> None:
    grey = torch.full((60, 1, 28, 28), 102 / 255)
    counts = (c.shot_noise(grey, 12, RandomNumbers(0, 0, torch.arange(60))) * 12).round().flatten()
    assert counts.mean() == pytest.approx(4.8, abs=0.05)
    for k in range(10):
        assert (counts == k).float().mean() == pytest.approx(poisson.pmf(k, 4.8), abs=0.006)
    assert c.shot_noise(torch.zeros(2, 1, 28, 28), 60, RandomNumbers(0, 0, torch.arange(2))).max() == 0


def test_impulses_are_as_many_as_said() -> None:
    grey = torch.full((60, 1, 28, 28), 0.5)
    noisy = c.impulse_noise(grey, 0.2, RandomNumbers(0, 0, torch.arange(60)))
    assert (noisy == 0).float().mean() == pytest.approx(0.1, abs=0.01)
    assert (noisy == 1).float().mean() == pytest.approx(0.1, abs=0.01)


def test_warps_are_rotations_and_shifts(images) -> None:
    values, each = to_float(images), torch.ones(COUNT)
    assert torch.allclose(warp(values, degrees=90 * each), values.rot90(1, (2, 3)), atol=1e-4)
    moved = translate_images(values, torch.full((COUNT,), 3), torch.full((COUNT,), -5), 5)
    assert torch.allclose(warp(values, down=3 * each, right=-5 * each), moved, atol=1e-4)
    assert torch.allclose(warp(values), values, atol=1e-5)


def test_blurs_keep_the_light_and_move_no_image() -> None:
    dot = torch.zeros(30, 1, 29, 29)
    dot[:, :, 14, 14] = 1
    draws = RandomNumbers(0, 0, torch.arange(30))
    places = torch.arange(29) - 14.0
    for blur, strength in ((c.gaussian_blur, 2.0), (c.motion_blur, 7.0)):
        blurred = blur(dot, strength, draws)
        assert torch.allclose(blurred.sum((1, 2, 3)), torch.ones(30), atol=1e-4)
        assert (blurred.sum(2) @ places).abs().max() < 1e-3
    sigma = 2.0 * 29 / 28
    across = c.gaussian_blur(dot, 2.0, draws)[0, 0].sum(0) @ places**2
    assert across == pytest.approx(sigma**2, rel=0.03)


def test_occlusion_covers_its_share() -> None:
    covered = c.occlusion(torch.zeros(20, 1, 28, 28), 0.3, RandomNumbers(0, 0, torch.arange(20)))
    assert ((covered == 0.5).float().mean((1, 2, 3)) - 0.3).abs().max() < 0.03


@pytest.mark.parametrize(("name", "size"), [("glass blur", 14), ("glass blur", 16), ("pixelate", 20), ("pixelate", 24)])
def test_strengths_of_small_images_grow_too(images, name, size) -> None:
    small = torch.nn.functional.adaptive_avg_pool2d(images.float(), size).round().to(torch.uint8)
    index = torch.arange(COUNT)
    levels = [(corrupt(small, name, k, 0, index).float() - small.float()).abs().mean() for k in range(1, 6)]
    assert levels[0] > 0
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(levels)), levels


def test_the_largest_draw_is_below_one(monkeypatch) -> None:
    monkeypatch.setattr(
        "fashion_tl.inspection.random_numbers._scramble", lambda values: torch.full_like(values, 2**32 - 1)
    )
    draws = RandomNumbers(0, 0, torch.arange(1))
    assert 0 < float(draws.uniform(1)) < 1
    assert torch.isfinite(draws.normal(1)).all()
