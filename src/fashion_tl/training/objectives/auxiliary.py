"""An auxiliary head: what else the features are trained to tell, beside the classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.errors import UserError, check_ranges
from fashion_tl.training.objectives.structured import group_index
from fashion_tl.training.objectives.terms import Term

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier

AUXILIARY = "auxiliary"


class AuxiliaryHead(nn.Sequential):
    """A head that in training appends outputs of a linear layer of its own to the logits; in eval mode it has none.

    Args:
        head: The head, which maps features (B, F) to logits (B, K).
        outputs: Number of outputs G of the auxiliary layer.

    Raises:
        UserError: If the head has no linear layer to tell F.
    """

    def __init__(self, head: nn.Module, outputs: int) -> None:
        parts = dict(head.named_children()) if isinstance(head, nn.Sequential) else {"classes": head}
        widths = [layer.in_features for layer in parts.values() if isinstance(layer, nn.Linear)]
        if not widths:
            raise UserError(f"term 'auxiliary' needs a head with a linear layer; this one is {type(head).__name__}.")
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.auxiliary = nn.Linear(widths[0], outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits (B, K) of features (B, F); in training (B, K + G)."""
        logits = features
        for name, part in self.named_children():
            if name != AUXILIARY:
                logits = part(logits)
        return torch.cat([logits, self.auxiliary(features)], 1) if self.training else logits


class Auxiliary(Term):
    """Has a second linear head tell the group of the class, and adds its cross-entropy (Caruana 1997).

    The head is a part of the network's, so it trains in every phase and on cached features, and checkpoints keep it;
    predictions and exported models do without it. Its target is a function of the batch's classes, mixed ones
    included. Rotation as self-supervision (Gidaris et al. 2018) has no place here: it would need images of each batch
    a second time, rotated, and so a forward pass that the training step does not have.

    Args:
        groups: Class names of each group; a class in none is a group of its own. Those of Fashion-MNIST if not given
            and the classes are its own.
        weight: Weight of the cross-entropy of the groups, from 0.
    """

    membership: Tensor

    def __init__(self, groups: dict[str, list[str]] | None = None, weight: float = 0.5) -> None:
        super().__init__()
        check_ranges({"weight": (weight, 0, float("inf"))}, "model.terms.auxiliary.")
        self.groups, self.weight = groups, weight

    def attach(self, module: ImageClassifier) -> None:
        """Put the auxiliary layer into the network's head."""
        index = torch.tensor(group_index(self.groups, module.class_names, "model.terms.auxiliary.groups"))
        membership = F.one_hot(index).float()
        self.register_buffer("membership", membership, persistent=False)
        module.network.head = AuxiliaryHead(module.network.head, membership.shape[1])

    def forward(self, loss: Tensor, outputs: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as there
        """Add the cross-entropy of the groups."""
        classes = self.membership.shape[0]
        logits = outputs[:, classes:]
        if not logits.shape[1]:
            return loss  # of a network in eval mode
        if targets.ndim == 1:
            return loss + self.weight * F.cross_entropy(logits, self.membership.argmax(1)[targets])
        shares = (targets.unsqueeze(2) * self.membership).sum(1)
        return loss + self.weight * F.cross_entropy(logits, shares)
