"""What excites channels and classes, and the files of the projector."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.inspection.networks import classifier
from torch import nn

from fashion_tl.errors import UserError
from fashion_tl.inspection import channels, visualisation
from fashion_tl.inspection.inference import Reader, infer
from fashion_tl.inspection.layers import Target, choose_target, find_targets
from fashion_tl.inspection.projector import sample, write_projector
from fashion_tl.inspection.visualisation import Objective
from fashion_tl.training.scratch import ScratchClassifier


def looked_at() -> tuple[ScratchClassifier, Target]:
    module = classifier()
    return module, choose_target(find_targets(module.network, 1, 28), module.network, None)


def test_layers_are_read_as_the_network_gives_them() -> None:
    module, target = looked_at()
    images = torch.randint(0, 256, (10, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    readers: dict[str, Reader] = {
        "peaks": (target.module, lambda output: target.fold(output).amax((2, 3))),
        "maps": (target.module, lambda output: target.fold(output).clone()),
        "features": (module.network.backbone, torch.clone),
        "nothing": (nn.Identity(), torch.clone),
    }
    logits, found = infer(module, [images[:4], images[4:8], images[8:]], readers)
    with torch.no_grad():
        prepared = module.preprocess(images)
        pooled = module.network.backbone(prepared)
        expected = module(prepared)
    np.testing.assert_allclose(found["features"], pooled.numpy(), atol=1e-5)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found["peaks"], found["maps"].max((2, 3)), atol=1e-5)
    np.testing.assert_allclose(found["maps"].mean((2, 3)), pooled.numpy(), atol=1e-5)  # this head pools the target
    assert set(found) == {"peaks", "maps", "features"}
    assert not any(part._forward_hooks for part in module.modules())


def test_the_strongest_come_first_and_ties_by_index() -> None:
    assert channels.strongest([1, 3, 2, 3], 3).tolist() == [1, 3, 2]
    assert channels.strongest([1.0], 8).tolist() == [0]


def test_a_telling_channel_sets_its_class_apart() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    peaks = np.stack([labels == 2, labels == 0, np.ones(6), labels == 1], axis=1).astype(float)
    assert channels.telling_channels(peaks, labels, 3, 9) == [1, 3, 0]
    assert channels.telling_channels(peaks, labels, 3, 2) == [1, 3]
    assert channels.telling_channels(peaks[:, :2], labels, 3, 9) == [1, 0]  # fewer channels than classes
    assert channels.telling_channels(peaks[:, :1], np.zeros(6, dtype=int), 3, 9) == []


def test_wrong_channels_and_classes_are_named() -> None:
    _, target = looked_at()
    assert channels.check_channels([3, 0, 3], target) == [3, 0]
    with pytest.raises(UserError, match=r"no channel -1, 8; it has 0 to 7"):
        channels.check_channels([-1, 2, 8], target)
    names = ["Bag", "3"]
    found = visualisation.parse_objectives(["2", "class:3", "Bag"], names, target)
    assert found == [Objective("channel", 2, "channel 2"), Objective("class", 1, "3"), Objective("class", 0, "Bag")]
    with pytest.raises(UserError, match="did you mean 'Bag'"):
        visualisation.parse_objectives(["Bagg"], names, target)
    with pytest.raises(UserError, match="no channel 99"):
        visualisation.parse_objectives(["99"], names, target)


def test_made_images_excite_and_come_out_alike_for_one_seed() -> None:
    module, target = looked_at()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wanted = [Objective("class", 1, "b"), Objective("channel", 2, "channel 2")]
    images, at_first, at_last = visualisation.visualise(module, target, wanted, steps=12)
    assert images.shape == (2, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1
    assert all(after > first for first, after in zip(at_first, at_last, strict=True))
    assert torch.equal(visualisation.visualise(module, target, wanted, steps=12)[0], images)
    assert not torch.equal(visualisation.visualise(module, target, wanted, steps=12, seed=1)[0], images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_sample_is_even_over_the_classes() -> None:
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50)
    index = sample(labels, 23)
    assert np.bincount(labels[index]).tolist() == [10, 3, 10]
    assert (np.diff(index) > 0).all()
    assert len(sample(labels, 1000)) == len(labels)
    assert not np.array_equal(sample(labels, 23, seed=1), index)


@pytest.mark.parametrize("colours", [1, 2, 3, 5])
def test_the_projector_gets_one_row_and_one_picture_an_image(tmp_path: Path, colours: int) -> None:
    images = torch.randint(0, 256, (5, colours, 100, 100), dtype=torch.uint8)
    for _ in range(2):  # a second time replaces the first
        folder = write_projector(
            tmp_path,
            np.arange(15, dtype=np.float32).reshape(5, 3),
            images,
            np.arange(5),
            ["a\tb", "c", "c", "c", "c"],
            ["a\tb", "c", "d\n", "c", "c"],
            [0.5] * 5,
        )
    assert [p.name for p in tmp_path.iterdir()] == ["projector"]
    config = (folder / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 1
    paths = dict(re.findall(r'(\w+_path): "(.*)"', config))
    rows = (folder / paths["metadata_path"]).read_text().splitlines()
    assert len(rows) == 1 + 5
    assert rows[1].split("\t")[:3] == ["a b", "a b", "right"]
    assert rows[3].split("\t")[:3] == ["c", "d", "wrong"]
    assert len((folder / paths["tensor_path"]).read_text().splitlines()) == 5
    assert re.findall(r"single_image_dim: (\d+)", config) == ["48", "48"]
    with Image.open(folder / paths["image_path"]) as sprite:
        assert sprite.size == (3 * 48, 3 * 48)
    assert len(list(folder.glob("events.*"))) == 1
