"""An ensemble as one classifier: of classes with their own arguments, and of networks that are sure of themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fashion_tl.combine.classifier import EnsembleClassifier, Part, ensemble_of
from fashion_tl.combine.predictions import Stack, mean_of_probabilities
from fashion_tl.combine.views import IDENTITY, view
from fashion_tl.inspection.inference import classify
from fashion_tl.metrics.metrics import Floats
from fashion_tl.training.loading import finished_checkpoint, load_classifier

from .test_averaging import Small

IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def networks() -> list[Small]:
    torch.manual_seed(0)
    return [Small().eval(), Small().eval()]


def logits_of(network: Small, name: str = IDENTITY) -> Floats:
    return np.asarray(classify(network, view(IMAGES, name)), dtype=np.float64)


def made_of(parts: list[Part], stack: Stack | None = None) -> EnsembleClassifier:
    made = ensemble_of(parts, None if stack is None else (stack.weight, stack.bias))
    assert isinstance(made, EnsembleClassifier)
    return made


def test_a_class_without_the_argument_class_names(networks: list[Small], tmp_path) -> None:
    made = made_of([Part(one, {IDENTITY: 1}) for one in networks])
    expected = mean_of_probabilities([logits_of(one) for one in networks])
    assert classify(made, IMAGES).numpy() == pytest.approx(expected, abs=1e-5)
    (tmp_path / "best.ckpt").write_bytes(finished_checkpoint(made))
    assert torch.equal(classify(load_classifier(tmp_path / "best.ckpt"), IMAGES), classify(made, IMAGES))


def test_a_stack_of_sure_networks_computes_what_was_fitted(networks: list[Small]) -> None:
    rng = np.random.default_rng(0)
    scale, views = 1e4, {IDENTITY: 2, "hflip": 1}
    logs = [
        mean_of_probabilities([scale * logits_of(one), scale * logits_of(one, "hflip")], [2, 1]) for one in networks
    ]
    assert min(one.min() for one in logs) < -200
    stack = Stack(rng.standard_normal((2, 4)) / 100, rng.standard_normal(2), 1.0, {}, 0.0, 0.0)
    made = made_of([Part(one, views, scale=scale) for one in networks], stack)
    found = classify(made, IMAGES).double().log_softmax(1).numpy()
    assert found == pytest.approx(stack.apply(logs), abs=1e-3)
