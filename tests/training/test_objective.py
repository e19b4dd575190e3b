"""Objectives against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from fashion_tl.training.objective import balanced_weights, make_objective

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, TARGETS = torch.randn(40, 3, generator=GENERATOR), torch.randint(3, (40,), generator=GENERATOR)
WEIGHTS = [0.2, 1.0, 3.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weights", [None, WEIGHTS, [0.0, 1.0, 3.0]])
def test_cross_entropy_is_torchs(smoothing: float, weights: list[float] | None) -> None:
    outcome = make_objective("cross_entropy", 3, weights, smoothing)(LOGITS, TARGETS, None)
    tensor = None if weights is None else torch.tensor(weights)
    assert outcome.loss == F.cross_entropy(LOGITS, TARGETS, tensor, label_smoothing=smoothing)
    assert outcome.correct == (LOGITS.argmax(1) == TARGETS).sum()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_of_two_classes_is_torchvisions(gamma: float) -> None:
    logits, targets = torch.stack([torch.zeros(40), LOGITS[:, 0]], 1), TARGETS.clamp(max=1)
    ours = make_objective("focal", 2, arguments={"gamma": gamma})(logits, targets, None).loss
    theirs = sigmoid_focal_loss(LOGITS[:, 0], targets.float(), alpha=-1, gamma=gamma, reduction="mean")
    assert ours == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_without_focus_is_cross_entropy(weights: list[float] | None) -> None:
    focal, plain = (
        make_objective(name, 3, weights, arguments=given)(LOGITS, TARGETS, None).loss
        for name, given in (("focal", {"gamma": 0.0}), ("cross_entropy", {}))
    )
    assert focal == pytest.approx(float(plain), abs=1e-6)


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.repeat([0, 1, 2], [50, 7, 3])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced_weights([50, 7, 3]) == pytest.approx(theirs)
