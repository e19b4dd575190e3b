"""The two synthetic tasks keep what they promise: stable pixels, balance, neither trivial nor hopeless."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.objects import SyntheticObjects
from fashion_tl.errors import UserError

Draw = Callable[..., tuple[Tensor, Tensor]]
TASKS = [
    pytest.param(kind().draw, kind.class_names, id=kind.__name__) for kind in (SyntheticGarments, SyntheticObjects)
]


@pytest.mark.parametrize(("draw", "names"), TASKS)
def test_shapes_types_and_range(draw: Draw, names: tuple[str, ...]) -> None:
    images, labels = draw(2 * len(names), seed=0)
    assert images.shape == (2 * len(names), 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert (images.flatten(1).amax(dim=1) > 40).all()
    assert images.float().mean() < 100
    assert draw(3, seed=0, size=40)[0].shape == (3, 1, 40, 40)


@pytest.mark.parametrize(("draw", "names"), TASKS)
def test_an_image_depends_on_its_seed_and_index_alone(draw: Draw, names: tuple[str, ...]) -> None:
    images, labels = draw(300, seed=5)
    again, same_labels = draw(270, seed=5)
    assert torch.equal(images[:270], again)
    assert torch.equal(labels[:270], same_labels)
    assert not torch.equal(draw(20, seed=6)[0], images[:20])


@pytest.mark.parametrize(("draw", "names"), TASKS)
def test_every_prefix_is_balanced_and_shuffled(draw: Draw, names: tuple[str, ...]) -> None:
    _, labels = draw(7 * len(names) + 3, seed=1, size=16)
    for end in (len(names) - 1, len(names), len(labels)):
        counts = labels[:end].bincount(minlength=len(names))
        assert counts.max() - counts.min() <= 1
    assert not torch.equal(labels[: len(names)], torch.arange(len(names)))
    assert not torch.equal(labels[: len(names)], labels[len(names) : 2 * len(names)])


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "names"), TASKS)
def test_classes_differ_but_not_trivially(draw: Draw, names: tuple[str, ...]) -> None:
    images, labels = draw(1000, seed=0)
    test_images, test_labels = draw(500, seed=1)
    pixels = images.flatten(1).float()
    means = torch.stack([pixels[labels == label].mean(dim=0) for label in range(len(names))])
    predicted = torch.cdist(test_images.flatten(1).float(), means).argmin(dim=1)
    accuracy = (predicted == test_labels).float().mean().item()
    assert 3 / len(names) < accuracy < 0.85


@pytest.mark.parametrize(("draw", "names"), TASKS)
def test_the_same_drawing_at_another_size(draw: Draw, names: tuple[str, ...]) -> None:
    small, large = draw(20, seed=3, size=28)[0].float(), draw(20, seed=3, size=56)[0].float()
    reduced = torch.nn.functional.avg_pool2d(large, 2)
    same = (small - reduced).abs().mean()
    assert same < 0.5 * (small - reduced.roll(1, dims=0)).abs().mean()


def test_the_tasks_share_no_class() -> None:
    assert len(SyntheticGarments.class_names) == 10
    assert len(set(SyntheticObjects.class_names)) == len(SyntheticObjects.class_names) >= 20
    assert not {name.lower() for name in SyntheticGarments.class_names} & {
        name.lower() for name in SyntheticObjects.class_names
    }


@pytest.mark.parametrize(("draw", "names"), TASKS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0, "seed": 0}, ["count is 0", "allowed is 1 to"]),
        ({"count": 5, "seed": -1}, ["seed is -1", "allowed is 0 to"]),
        ({"count": 0, "seed": 0, "size": 8}, ["count is 0", "size is 8", "16 to 256"]),
    ],
)
def test_mistakes_are_named_together(
    draw: Draw, names: tuple[str, ...], arguments: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        draw(**arguments)
    assert all(word in str(caught.value) for word in words)
