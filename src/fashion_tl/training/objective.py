"""What training minimises: objectives map logits, targets and the batch to a loss and counts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.imports import import_class


class Outcome(NamedTuple):
    """What an objective says of a batch.

    Attributes:
        loss: Mean loss (), to be minimised.
        correct: How many samples are classified right (), for the accuracy in training.
    """

    loss: Tensor
    correct: Tensor


class Objective(nn.Module):
    """A loss and its counts. A subclass overrides ``loss``; one with mixed targets overrides ``correct`` too.

    A subclass of your own is named by its class path (``--model.objective mine.Loss``) and gets ``objective_args``.

    Args:
        class_weights: Weight of each class (K,), or None for equal weights.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016), 0 to 1.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.weigh(class_weights)

    def weigh(self, class_weights: list[float] | None) -> None:
        """Set the weight of each class (K,)."""
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, batch: Any) -> Outcome:  # noqa: ANN401 - whatever the loader gives
        """Judge a batch.

        Args:
            logits: Logits (B, K).
            targets: Classes (B,).
            batch: The batch as the step got it, for objectives that need more than its targets.
        """
        with torch.no_grad():
            correct = self.correct(logits, targets)
        return Outcome(self.loss(logits, targets, batch), correct)

    def loss(self, logits: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as above
        """Compute the mean cross-entropy (), weighed and smoothed."""
        return F.cross_entropy(logits, targets, self.class_weights, label_smoothing=self.label_smoothing)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count the samples that are classified right ()."""
        return (logits.argmax(1) == targets).sum()


class CrossEntropy(Objective):
    """Cross-entropy, with class weights and label smoothing."""


class Focal(Objective):
    """Focal loss (Lin et al. 2017): cross-entropy that counts well classified samples less, by (1 - p)^gamma.

    Args:
        class_weights: Weight of each class (K,), the paper's alpha; the loss is divided by the sum of weights used, as
            cross-entropy divides.
        label_smoothing: Must be 0: the loss is defined for one target.
        gamma: Focusing exponent, from 0 (cross-entropy); the paper's best is 2.
    """

    def __init__(
        self, class_weights: list[float] | None = None, label_smoothing: float = 0.0, gamma: float = 2.0
    ) -> None:
        super().__init__(class_weights, label_smoothing)
        if label_smoothing:
            raise UserError(f"model.label_smoothing is {label_smoothing}: the focal loss takes none.")
        if not 0 <= gamma < float("inf"):
            raise UserError(f"model.objective_args.gamma is {gamma}, allowed is 0 and above.")
        self.gamma = gamma

    def loss(self, logits: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as above
        """Compute the mean focal loss ()."""
        log_p = F.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
        losses = -((1 - log_p.exp()) ** self.gamma) * log_p
        if self.class_weights is None:
            return losses.mean()
        weights = self.class_weights[targets]
        return (weights * losses).sum() / weights.sum()


OBJECTIVES: dict[str, type[Objective]] = {"cross_entropy": CrossEntropy, "focal": Focal}
BALANCED = "balanced"


def make_objective(
    name: str,
    classes: int,
    class_weights: list[float] | str | None = None,
    label_smoothing: float = 0.0,
    arguments: dict[str, Any] | None = None,
) -> Objective:
    """Make an objective.

    Args:
        name: "cross_entropy", "focal", or the class path of a subclass of ``Objective``.
        classes: Number of classes K.
        class_weights: Weight of each class, "balanced" (set later, from the training labels), or None.
        label_smoothing: Share of the target spread over all classes, 0 to 1.
        arguments: More arguments of the objective, such as {gamma: 2}.

    Raises:
        UserError: If there is no such objective, or an argument does not fit.
    """
    if "." in name:
        kind = import_class(name, Objective, "model.objective")
    elif name in OBJECTIVES:
        kind = OBJECTIVES[name]
    else:
        raise unknown_name("objective", name, OBJECTIVES, "Set it with --model.objective; MODULE.CLASS names your own.")
    if isinstance(class_weights, str):
        if class_weights != BALANCED:
            raise unknown_name("class_weights", class_weights, (BALANCED,), "Or a list of one number a class.")
        class_weights = None
    if class_weights is not None and (
        len(class_weights) != classes or not all(0 <= w < float("inf") for w in class_weights) or not sum(class_weights)
    ):
        raise UserError(
            f"model.class_weights is {class_weights}: it needs {classes} numbers from 0 up, one a class and not all 0, "
            f"or '{BALANCED}'."
        )
    try:
        return kind(class_weights=class_weights, label_smoothing=label_smoothing, **(arguments or {}))
    except TypeError as error:
        raise UserError(f"model.objective_args do not fit objective {name!r}: {error}.") from error


def balanced_weights(counts: list[int]) -> list[float]:
    """Weigh classes by the inverse of their share, N / (K * count), so that the mean weight of a sample is 1.

    >>> balanced_weights([30, 10])
    [0.6666666666666666, 2.0]
    """
    return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]
