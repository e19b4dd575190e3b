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


def budget_split(labels: Tensor, indices: Tensor, budget: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose labelled images of each class, to train and to validate on, within a budget.

    A smaller budget takes a subset of a larger one, of the images to train on and of those to validate on alike.

    Args:
        labels: Integer labels (N,) of the whole set.
        indices: The indices to choose from.
        budget: Labelled images of each class in all, at least 2.
        fraction: Share of them that validates, above 0 to 0.5; one in every ``round(1 / fraction)``, beginning with
            the second.
        seed: The same seed gives the same choice.

    Returns:
        Sorted indices to train on, and sorted indices to validate on.
    """
    generator = torch.Generator().manual_seed(seed)
    every = max(2, round(1 / fraction))
    train, val = [], []
    for label in torch.unique(labels[indices]).tolist():
        members = indices[labels[indices] == label]
        members = members[torch.randperm(len(members), generator=generator)][:budget]
        validates = torch.arange(len(members)) % every == 1
        train.append(members[~validates])
        val.append(members[validates])
    return torch.cat(train).sort().values, torch.cat(val).sort().values


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
