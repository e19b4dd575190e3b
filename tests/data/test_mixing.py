"""Mixed images and targets against torchvision's and against the pixels themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from fashion_tl.data.augment import Augment
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.mixing import Mix, Mixer, draw_partners
from fashion_tl.errors import UserError

NAMES = ["ant", "bee", "cat", "dog", "eel"]
IMAGES = torch.rand(32, 3, 11, 17, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(5, (32,), generator=torch.Generator().manual_seed(1))


def mixed(seed: int = 0, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return Mixer(Mix(**settings), NAMES)(IMAGES, LABELS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("kind", "theirs"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_any_two_images_are_mixed_as_torchvision_mixes_them(kind: str, theirs: Any, seed: int) -> None:
    ours = mixed(seed, **{kind: 0.7})
    torch.manual_seed(seed)
    expected = theirs(alpha=0.7, num_classes=5)(IMAGES, LABELS)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("pairs", [None, [["ant", "bee"], ["cat", "dog"]]])
def test_targets_sum_to_one_and_images_are_left_as_they_were(kind: str, pairs: Any) -> None:
    before = IMAGES.clone()
    for seed in range(20):
        images, targets = mixed(seed, **{kind: 1.0}, pairs=pairs)
        torch.testing.assert_close(targets.sum(1), torch.ones(32))
        assert images.shape == IMAGES.shape
        assert ((targets > 0).sum(1) <= 2).all()
    assert torch.equal(IMAGES, before)


def test_the_share_of_cutmix_is_the_area_that_an_image_keeps() -> None:
    levels = torch.arange(32.0).view(32, 1, 1, 1).expand(32, 1, 9, 13)
    for seed in range(20):
        torch.manual_seed(seed)
        images, targets = Mixer(Mix(cutmix=1.0), [str(i) for i in range(32)])(levels, torch.arange(32))
        kept = (images == levels).float().mean((1, 2, 3))
        torch.testing.assert_close(targets[torch.arange(32), torch.arange(32)], kept)
        torch.testing.assert_close(targets[torch.arange(32), torch.arange(32) - 1], 1 - kept)


def test_partners_are_of_a_class_that_is_in_a_pair_with_ones_own() -> None:
    allowed = Mixer(Mix(mixup=1.0, pairs=[["ant", "bee"], ["bee", "cat"]]), NAMES).allowed
    assert allowed is not None
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        partners = draw_partners(LABELS, allowed)
        for place, partner in enumerate(partners.tolist()):
            pair = (int(LABELS[place]), int(LABELS[partner]))
            assert pair in {(0, 1), (1, 0), (1, 2), (2, 1)} if pair[0] < 3 else partner == place
            seen.add(partner)
    assert seen == set(range(32))  # each image of such a class is somebody's partner at some time
    alone = draw_partners(torch.tensor([0, 0, 3]), allowed)
    assert alone.tolist() == [0, 1, 2]


def test_the_table_of_pairs_is_moved_to_the_device_once() -> None:
    mixer = Mixer(Mix(mixup=1.0, pairs=[["ant", "bee"]]), NAMES)
    tables = []
    for _ in range(2):
        mixer(IMAGES.to("meta"), LABELS.to("meta"))
        tables.append(mixer.allowed)
    assert tables[0] is tables[1]
    assert tables[0] is not None
    assert tables[0].device.type == "meta"


def test_a_batch_is_mixed_with_the_given_probability_and_keeps_its_classes_else() -> None:
    targets = [mixed(seed, mixup=1.0, probability=0.3)[1] for seed in range(300)]
    plain = [each for each in targets if each.ndim == 1]
    assert all(torch.equal(each, LABELS) for each in plain)
    assert 0.62 < len(plain) / 300 < 0.78


def test_both_kinds_take_turns() -> None:
    found = [torch.equal(mixed(seed, mixup=1.0, cutmix=1.0)[0][0, 0, 0, 0], IMAGES[0, 0, 0, 0]) for seed in range(200)]
    # A pixel of a corner is rarely in a rectangle, and MixUp changes every one.
    assert 0.3 < sum(found) / 200 < 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixup": -1}, r"data\.mix\.mixup is -1, allowed is 0 to 1000"),
        ({"cutmix": float("nan"), "probability": 2}, r"data\.mix\.cutmix is nan.*data\.mix\.probability is 2"),
        ({"mixup": 1, "pairs": [["ant", "bea"]]}, r"unknown class 'bea'; did you mean 'bee'.*data\.mix\.pairs"),
        ({"mixup": 1, "pairs": [["ant", "ant"]]}, r"a pair names two classes, such as \[ant, bee\]"),
        ({"mixup": 1, "pairs": [["ant", "bee", "cat"]]}, "a pair names two classes"),
        ({"mixup": 1, "pairs": []}, r"data\.mix\.pairs is empty"),
        ({"mixup": 1, "pairs": "phase1"}, r"names the run 'phase1': `fashion-tl fit` looks it up"),
    ],
)
def test_what_cannot_be_mixed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixer(Mix(**settings), NAMES)


def data(mix: Mix | None, **augment: Any) -> ImageDataModule:
    made = ImageDataModule(SyntheticGarments(60), batch_size=16, mix=mix, augment=Augment(**augment))
    made.setup()
    return made


class Stage:
    """Stands for the trainer, for what the data module asks of it."""

    testing = predicting = False
    lightning_module = None

    def __init__(self, training: bool) -> None:
        self.training = training


def test_training_batches_are_mixed_and_no_others() -> None:
    made = data(Mix(mixup=1.0))
    batch, other = next(iter(made.train_dataloader())), next(iter(made.val_dataloader()))
    made.trainer = Stage(True)  # type: ignore[assignment]
    samples = made.on_after_batch_transfer(batch, 0)
    inputs, targets = samples
    assert targets.shape == (16, 10)
    assert torch.equal(samples.labels, batch.labels)
    assert samples.images is inputs
    made.trainer = Stage(False)  # type: ignore[assignment]
    assert made.on_after_batch_transfer(other, 0)[1].ndim == 1


def test_mixed_images_have_no_fixed_views_and_are_part_of_what_a_run_is() -> None:
    plain, mixing = data(None, hflip=0.5), data(Mix(mixup=0.2), hflip=0.5)
    assert plain.views == {"identity": 0.5, "hflip": 0.5}
    assert mixing.views is None
    assert plain.identity["mix"] is None
    assert mixing.identity["mix"]["mixup"] == 0.2
    assert data(Mix(mixup=0.0)).identity["mix"] is None


def test_the_view_that_is_drawn_is_noted_and_is_what_augmentation_draws() -> None:
    made = data(None, hflip=0.5)
    batch = next(iter(made.train_dataloader()))
    made.trainer = Stage(True)  # type: ignore[assignment]
    torch.manual_seed(4)
    samples = made.on_after_batch_transfer(batch, 0)
    assert samples.images is not None
    assert samples.views is not None
    torch.manual_seed(4)
    stored = batch.images
    assert stored is not None
    assert torch.equal(samples.images, made.augment(stored))
    flipped = (samples.images == stored.flip(-1) / 255).all(3).all(2).all(1)
    assert torch.equal(samples.views.bool(), flipped)
