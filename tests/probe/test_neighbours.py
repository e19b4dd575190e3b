"""Nearest neighbours against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from fashion_tl.probe import neighbours
from fashion_tl.probe.neighbours import vote


@pytest.mark.parametrize("at_a_time", [2**25, 700])
def test_votes_are_those_of_scikit_learn(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_SIMILARITIES", at_a_time)
    generator = torch.Generator().manual_seed(0)
    features, queries = (torch.randn(count, 6, generator=generator) for count in (200, 50))
    labels = (features[:, 0] > 0).long()
    found = vote(features, labels, queries, 2, (1, 5, 500))
    assert list(found) == [1, 5]  # there are no 500
    for count, predicted in found.items():
        theirs = KNeighborsClassifier(count, metric="cosine").fit(features.numpy(), labels.numpy())
        assert predicted.tolist() == theirs.predict(queries.numpy()).tolist()


def test_similarity_decides_between_equal_votes() -> None:
    features = torch.tensor([[1.0, 0.1], [1.0, -0.3]])
    found = vote(features, torch.tensor([1, 0]), torch.tensor([[1.0, 0.0]]), 2, (2,))
    assert found[2].tolist() == [1]
