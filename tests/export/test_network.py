"""A classifier as one plain network computes what the classifier does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fashion_tl.combine.classifier import Part, ensemble_of
from fashion_tl.data.transforms import InputSpec, Preprocess, resize_images
from fashion_tl.errors import UserError
from fashion_tl.export.network import MatrixPreprocess, input_shape, plain_network, resize_matrix
from fashion_tl.inspection.inference import classify
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

from .conftest import SIZES


def images(channels: int = 1, size: int = 28, count: int = 5) -> Tensor:
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("stored", "size"), [(28, 64), (48, 20), (33, 32), (7, 7), (224, 96)])
def test_a_resize_is_two_matrix_products(stored: int, size: int, interpolation: str) -> None:
    pictures = images(2, stored, 3).float() / 255
    matrix = resize_matrix(stored, size, interpolation)
    assert matrix.shape == (size, stored)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size), atol=1e-6, rtol=0)
    found = matrix @ pictures @ matrix.T
    found = found.clamp(0, 1) if interpolation == "bicubic" else found
    torch.testing.assert_close(found, resize_images(pictures, size, interpolation), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("held", "taken"), [(1, 1), (1, 3), (3, 1), (3, 3), (5, 5)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preprocessing_by_matrices_is_that_of_training(held: int, taken: int, interpolation: str) -> None:
    spec = InputSpec(held, 28, 32, interpolation)
    mean, std = [0.1 * (i + 1) for i in range(taken)], [0.2 + 0.1 * i for i in range(taken)]
    preprocess = Preprocess(spec, taken, mean, std)
    for pictures in (images(held), images(held).float() / 255):
        found = MatrixPreprocess(preprocess, 28)(pictures)
        torch.testing.assert_close(found, preprocess(pictures), atol=1e-5, rtol=0)


def test_one_mean_serves_all_channels() -> None:
    preprocess = Preprocess(InputSpec(1, 32, 32), 3, (0.5,), (0.25,))
    found = MatrixPreprocess(preprocess, 32)(images(1, 32))
    assert found.shape == (5, 3, 32, 32)
    torch.testing.assert_close(found, preprocess(images(1, 32)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("preprocessing", [True, False])
def test_a_plain_network_gives_the_logits_of_its_classifier(scratch: ScratchClassifier, preprocessing: bool) -> None:
    expected = classify(scratch, images())
    inputs = images() if preprocessing else scratch.preprocess(images())
    assert inputs.shape[1:] == input_shape(scratch, preprocessing)
    torch.testing.assert_close(plain_network(scratch, preprocessing)(inputs), expected, atol=1e-5, rtol=0)


def test_adapters_are_merged(adapted: TransferClassifier) -> None:
    expected = classify(adapted, images())
    network = plain_network(adapted, True)
    assert not any("parametrizations" in name or "lora" in name for name in network.state_dict())
    torch.testing.assert_close(network(images()), expected, atol=1e-4, rtol=0)


def ensemble() -> ImageClassifier:
    """Two members of different sizes, one of them with a mirrored and moved views."""
    members = []
    for seed, size in ((0, 32), (1, 20)):
        torch.manual_seed(seed)
        spec = {**SIZES, "image_size": size}
        members.append(ScratchClassifier(["a", "b"], "plain", {"widths": [3, 4]}, input_spec=spec).eval())
    views = {"identity": 1, "hflip": 2, "up:2": 1}
    made = ensemble_of([Part(members[0], views, scale=1.5), Part(members[1], {"identity": 1}, share=2.0)])
    assert not isinstance(made, str)
    return made


def test_an_ensemble_is_one_network() -> None:
    module = ensemble()
    expected = classify(module, images())
    torch.testing.assert_close(plain_network(module, True)(images()), expected, atol=1e-5, rtol=0)


def test_a_forward_of_its_own_is_refused(scratch: ScratchClassifier) -> None:
    class Doubled(ScratchClassifier):
        def forward(self, images: Tensor) -> Any:
            return 2 * super().forward(images)

    module = Doubled(["a", "b"], "plain", {"widths": [3, 4]}, input_spec=SIZES)
    with pytest.raises(UserError, match="Doubled computes its logits in a way of its own"):
        plain_network(module, True)
