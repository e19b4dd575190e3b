"""Features of stages, and Gaussians whose ridge and scale validation images choose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from fashion_tl.inspection.inference import infer
from fashion_tl.inspection.mahalanobis import fit_distances, pooled, stage_readers
from fashion_tl.metrics.detection import detection
from fashion_tl.training.scratch import ScratchClassifier

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def module():
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    return ScratchClassifier(NAMES, input_spec=spec).eval()


def test_features_are_what_the_stages_give(module) -> None:
    images = torch.randint(0, 256, (7, 1, 28, 28), dtype=torch.uint8)
    logits, features = infer(module, torch.split(images, 3), stage_readers(module.network))
    network, values = module.network, module.preprocess(images)
    with torch.no_grad():
        assert logits == pytest.approx(network(values).numpy(), abs=1e-5)
        for name, stage in list(network.backbone.named_children())[:-1]:
            values = stage(values)
            assert features[name] == pytest.approx(values.mean((2, 3)).numpy(), abs=1e-5)
        assert torch.allclose(network.head(torch.from_numpy(features["head"])), torch.from_numpy(logits), atol=1e-5)
    assert list(features)[-1] == "head"
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_maps_and_tokens_are_averaged() -> None:
    maps = torch.rand(2, 5, 3, 4)
    assert torch.allclose(pooled(maps.permute(0, 2, 3, 1), channels_last=True), pooled(maps))
    assert torch.allclose(pooled(maps.flatten(2).transpose(1, 2)), pooled(maps))
    assert pooled(maps[:, :, 0, 0]).shape == (2, 5)


def clusters(seed: int, count: int = 400, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    spread = np.array([1.0, 3.0, 0.2, 1.0])
    values = np.eye(4)[labels] * 5 + generator.normal(size=(count, 4)) * spread
    values[:, 2] += shift
    return values, labels


def test_the_head_score_is_the_distance_to_the_nearest_mean() -> None:
    values, labels = clusters(0)
    found = fit_distances({"head": values}, labels, {"head": clusters(1)[0]})
    means = np.stack([values[labels == k].mean(0) for k in range(3)])
    centred = values - means[labels]
    covariance = centred.T @ centred / len(values)
    covariance += found.ridges["head"] * np.trace(covariance) / 4 * np.eye(4)
    other = clusters(2)[0]
    direct = cdist(other, means, "mahalanobis", VI=np.linalg.inv(covariance)).min(1) ** 2
    assert -found.head({"head": other}) == pytest.approx(direct, rel=1e-9)


def test_few_images_in_many_dimensions_get_a_larger_ridge() -> None:
    generator = np.random.default_rng(0)
    wide = {
        part: {"head": generator.normal(size=(count, 60))}
        for part, count in (("few", 70), ("many", 4000), ("val", 500))
    }
    ridges = {}
    for part in ("few", "many"):
        labels = np.arange(len(wide[part]["head"])) % 3
        ridges[part] = fit_distances(wide[part], labels, wide["val"]).ridges["head"]
    assert ridges["few"] > ridges["many"]


def test_the_ensemble_sees_what_either_stage_sees() -> None:
    values, labels = clusters(0)
    validation, inside, odd = clusters(1)[0], clusters(2)[0], clusters(3, shift=3.0)[0]
    found = fit_distances({"low": values, "head": values}, labels, {"low": validation, "head": validation})
    scores = found.ensemble({"low": inside, "head": inside})
    for shown in ({"low": odd, "head": inside}, {"low": inside, "head": odd}):
        assert detection(scores, found.ensemble(shown)).auroc > 0.95
    same = {"low": validation, "head": validation}
    logs = np.log(-found.head(same))
    assert found.ensemble(same) == pytest.approx((logs.mean() - logs) / logs.std(), abs=1e-9)
    assert detection(found.head({"head": inside}), found.head({"head": odd})).auroc > 0.99
