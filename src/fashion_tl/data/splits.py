"""Stratified, seeded splits by index."""

from __future__ import annotations

import torch
from torch import Tensor


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices so that each class gives the same share.

    Args:
        labels: Integer labels (N,).
        fraction: Share of each class that is held out, 0 to 1; above 0, a class of at least 2 images gives at least
            one. Every class keeps at least one.
        seed: The same seed gives the same split.

    Returns:
        Sorted indices that stay, and sorted indices that are held out.
    """
    generator = torch.Generator().manual_seed(seed)
    stay, held = [], []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(round(len(members) * fraction), 1), len(members) - 1) if fraction > 0 else 0
        held.append(members[:count])
        stay.append(members[count:])
    return torch.cat(stay).sort().values, torch.cat(held).sort().values


def take_per_class(labels: Tensor, indices: Tensor, count: int, seed: int) -> Tensor:
    """Keep at most ``count`` indices of each class, drawn by seed; a smaller count takes a subset of a larger one.

    Args:
        labels: Integer labels (N,) of the whole set.
        indices: The indices to choose from.
        count: Images a class.
        seed: The same seed gives the same choice.
    """
    order = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]
    kept = [order[labels[order] == label][:count] for label in torch.unique(labels).tolist()]
    return torch.cat(kept).sort().values
