"""Classification by the nearest neighbours among training images, by cosine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

COUNTS = (1, 5, 10, 20)
_SIMILARITIES = 2**25  # that are computed at a time
_TIE = 1e-3  # weight of a similarity beside a vote: it decides where votes are equal


def vote(
    features: Tensor, labels: Tensor, queries: Tensor, classes: int, counts: Sequence[int] = COUNTS
) -> dict[int, Tensor]:
    """Classify by the majority of the nearest neighbours; among equal votes by the larger sum of similarities.

    Args:
        features: Features (N, F) of the training images.
        labels: Their classes (N,) from 0 to K - 1.
        queries: Features (M, F) of the images to classify.
        classes: Number of classes K.
        counts: Numbers of neighbours to try; those above N are left out.

    Returns:
        Predicted classes (M,) by number of neighbours.
    """
    tried = [count for count in counts if count <= len(features)]
    near = F.normalize(features, dim=1)
    rows = max(1, _SIMILARITIES // len(features))
    found: dict[int, list[Tensor]] = {count: [] for count in tried}
    for batch in torch.split(F.normalize(queries, dim=1), rows):
        similarity, index = (batch @ near.T).topk(max(tried), dim=1)
        votes = F.one_hot(labels[index], classes) * (1 + _TIE * similarity[..., None])
        for count in tried:
            found[count].append(votes[:, :count].sum(1).argmax(1))
    return {count: torch.cat(parts) for count, parts in found.items()}
