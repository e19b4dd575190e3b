"""Losses that know that some mistakes are worse than others: groups of classes, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.errors import UserError, check_known, check_ranges
from fashion_tl.metrics.decisions import check_costs
from fashion_tl.metrics.errors import FASHION_MNIST_GROUPS
from fashion_tl.training.objectives.base import Objective

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier

Groups = Mapping[str, Sequence[str]]


class Hierarchical(Objective):
    """Cross-entropy of the classes, and with a weight that of their groups.

    The probability of a group is the sum of those of its classes: -log p(class) - weight * log p(group). That is the
    hierarchical cross-entropy of Bertinetto et al. 2020 (section 3) for two levels, up to a factor.

    Args:
        class_weights: Weight of each class (K,); a group's cross-entropy counts with that of the class.
        label_smoothing: Share of the target spread over all classes, 0 to 1.
        groups: Class names of each group; a class in none is a group of its own. Those of Fashion-MNIST (tops,
            footwear, ...) if not given and the classes are its own.
        weight: Weight of the groups, from 0.
    """

    membership: Tensor

    def __init__(
        self,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        groups: dict[str, list[str]] | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(class_weights, label_smoothing)
        check_ranges({"weight": (weight, 0, float("inf"))}, "model.objective_args.")
        self.groups, self.weight = groups, weight

    def attach(self, module: ImageClassifier) -> None:
        """Find the group of each class.

        Raises:
            UserError: If a group names a class that there is not, or a class is in two.
        """
        super().attach(module)
        index = group_index(self.groups, module.class_names, "model.objective_args.groups")
        self.register_buffer("membership", F.one_hot(torch.tensor(index)).float(), persistent=False)

    def losses(self, logits: Tensor) -> Tensor:
        """Compute the loss (B, K) of each sample for each class."""
        log_p = F.log_softmax(logits, 1)
        outside = torch.where(self.membership.bool(), 0.0, -torch.inf).to(log_p.dtype)
        groups = torch.logsumexp(log_p.unsqueeze(2) + outside, 1)
        return -log_p - self.weight * groups.index_select(1, self.membership.argmax(1))


class ExpectedCost(Objective):
    """Cross-entropy, and with a weight the mean cost under the predicted probabilities (Galdran et al. 2020).

    For a sample of class y that is -log p(y) + weight * sum over j of p(j) * costs[y][j].

    Args:
        class_weights: Weight of each class (K,).
        label_smoothing: Share of the target spread over all classes, 0 to 1.
        costs: What it costs to predict a class (column) where another is true (row), 0 or more (K, K).
        weight: Weight of the mean cost, from 0.
        cross_entropy: Weight of the cross-entropy, from 0: the mean cost alone trains slowly from a poor start.
    """

    costs: Tensor

    def __init__(
        self,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        costs: list[list[float]] | None = None,
        weight: float = 1.0,
        cross_entropy: float = 1.0,
    ) -> None:
        super().__init__(class_weights, label_smoothing)
        numbers = {"weight": (weight, 0, float("inf")), "cross_entropy": (cross_entropy, 0, float("inf"))}
        check_ranges(numbers, "model.objective_args.")
        if costs is None:
            raise UserError("objective 'expected_cost' needs model.objective_args.costs: K rows of K numbers.")
        matrix = torch.from_numpy(check_costs(costs)).float()
        self.register_buffer("costs", matrix, persistent=False)
        self.weight, self.share = weight, cross_entropy

    def attach(self, module: ImageClassifier) -> None:
        """Compare the costs with the classes.

        Raises:
            UserError: If they are not as many.
        """
        super().attach(module)
        if len(self.costs) != len(module.class_names):
            raise UserError(
                f"model.objective_args.costs has {len(self.costs)} rows, and there are {len(module.class_names)} "
                f"classes: give a row for each of {', '.join(module.class_names)}."
            )

    def losses(self, logits: Tensor) -> Tensor:
        """Compute the loss (B, K) of each sample for each class."""
        log_p = F.log_softmax(logits, 1)
        with torch.autocast(logits.device.type, enabled=False):
            costs = log_p.exp() @ self.costs.to(log_p.dtype).T
        return self.weight * costs - self.share * log_p


def group_index(groups: Groups | None, class_names: Sequence[str], where: str) -> list[int]:
    """Number the groups of classes.

    Args:
        groups: Class names of each group; a class in none is a group of its own. None for those of Fashion-MNIST.
        class_names: Names of the K classes.
        where: The setting, for messages.

    Returns:
        The number of each class's group (K,), from 0.

    Raises:
        UserError: If there are none, one names a class that there is not, or a class is in two.
    """
    if groups is None:
        groups = FASHION_MNIST_GROUPS
        if {name for members in groups.values() for name in members} != set(class_names):
            raise UserError(f"{where} is missing: give the class names of each group, as {{tops: [Shirt, Coat]}}.")
    found: dict[str, int] = {}
    for number, (group, members) in enumerate(groups.items()):
        if isinstance(members, str) or not isinstance(members, Sequence):
            raise UserError(f"{where}: group {group!r} is {members!r}, it must be a list of class names.")
        for name in map(str, members):
            check_known("class", name, class_names, f"Group {group!r} of {where} names it.")
            if name in found:
                raise UserError(f"{where}: class {name!r} is in two groups.")
            found[name] = number
    alone = iter(range(len(groups), len(groups) + len(class_names)))
    index = [found[name] if name in found else next(alone) for name in class_names]
    numbers = sorted(set(index))
    if len(numbers) < 2:
        raise UserError(f"{where}: all classes are in one group; give at least two.")
    return [numbers.index(number) for number in index]
