"""Objectives map logits, targets and the batch to a loss and counts; this is what all of them share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from fashion_tl.data.batches import declared
from fashion_tl.errors import UserError

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier


class Outcome(NamedTuple):
    """What an objective says of a batch.

    Attributes:
        loss: Mean loss (), to be minimised.
        correct: How many samples are classified right (), for the accuracy in training.
    """

    loss: Tensor
    correct: Tensor


class Objective(nn.Module):
    """A loss and its counts. A subclass overrides ``losses``, or ``loss`` where that does not say it.

    Targets are classes (B,), or shares of classes (B, K) that sum to one, as mixed images have. Whatever ``losses``
    gives for the classes is averaged with the shares as weights: for MixUp that is the paper's own loss (Zhang et al.
    2018, section 2).

    An objective that needs more than logits and targets takes it from the batch (``fashion_tl.data.batches.Samples``),
    from the network (``attach``), or from the data (``prepare``). Tensors that belong to the run are registered as
    buffers in ``attach``, so that checkpoints keep them. Parameters of its own train at the head's rate.

    A subclass of your own is named by its class path (``--model.objective mine.Loss``) and gets ``objective_args``.

    Args:
        class_weights: Weight of each class (K,), or None for equal weights.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016), 0 to 1.

    Attributes:
        takes_shares: Whether a class that overrides ``loss`` takes shares of classes as targets; it has to say so.
        confusion: Where the share goes instead: K rows of K numbers, or the checkpoint whose mistakes on the validation
            images tell.
        processes: How many processes train together: a group of an earlier training may still be there.
        told_by: Hash of that checkpoint's weights, by a name for messages; a run that goes on has the same.
    """

    takes_shares: bool = False
    processes: int = 1
    class_weights: Tensor | None
    spread: Tensor | None

    def __init__(self, class_weights: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.confusion: list[list[float]] | str | None = None
        self.told_by: dict[str, str] = {}
        self.register_buffer("spread", None, persistent=False)
        self.weigh(class_weights)

    @property
    def needs_images(self) -> bool:
        """Whether it needs the images of each batch, so that training on cached features is no way."""
        return False

    @property
    def label(self) -> str:
        """What a record calls it."""
        return type(self).__name__

    def weigh(self, class_weights: list[float] | None) -> None:
        """Set the weight of each class (K,)."""
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def attach(self, module: ImageClassifier) -> None:
        """Take what is needed of a classifier whose network has just been built, its ``class_names`` among it."""

    def prepare(self, module: ImageClassifier, data: Any) -> None:  # noqa: ANN401 - any data module, or None
        """Take what training needs of the data, after their ``setup`` and before training starts; called repeatedly.

        Raises:
            UserError: If it is not to be had.
        """

    def settle(self, module: ImageClassifier, data: Any, device: torch.device) -> None:  # noqa: ANN401 - as above
        """Compare what every objective is given with what it can do, and find where smoothing goes; once is enough.

        Args:
            module: The classifier that trains.
            data: Its data module, or None.
            device: Where the run whose mistakes tell is computed.

        Raises:
            UserError: If it computes a loss of its own, and the data mix images though it takes no shares of classes,
                or smoothing is to go by confusions; or if these are not to be had.
        """
        own = type(self).loss is not Objective.loss
        if own and getattr(data, "mix", None) is not None and not declared(self, "takes_shares"):
            raise UserError(
                f"data.mix makes targets shares of classes (B, K), and {self.label} does not declare takes_shares = "
                "True: have it take them, or leave the mixing out."
            )
        if own and self.confusion is not None:
            raise UserError(
                f"model.smoothing_confusion says where label smoothing goes, and {self.label} overrides loss, which "
                "does not ask for it: have it override losses instead, or leave the setting out."
            )
        if self.confusion is not None and self.spread is None:
            from fashion_tl.training.confusion import confusion_of, spread_of

            where = "model.smoothing_confusion"
            counts, told = confusion_of(self.confusion, module, data, where, device)
            self.told_by = {} if told is None else {"smoothing_confusion (weights)": told}
            self.register_buffer("spread", spread_of(counts).to(module.device), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, batch: Any) -> Outcome:  # noqa: ANN401 - whatever the loader gives
        """Judge a batch.

        Args:
            logits: Logits (B, K).
            targets: Classes (B,), or shares of classes (B, K).
            batch: The batch as the step got it, for objectives that need more than its targets.
        """
        with torch.no_grad():
            correct = self.correct(logits, targets)
        return Outcome(self.loss(logits, targets, batch), correct)

    def loss(self, logits: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as above
        """Compute the mean loss (), weighed and smoothed; 0 where no class of the batch has a weight."""
        if targets.ndim != 1 or self.spread is not None or type(self).losses is not Objective.losses:
            return self.expected(self.losses(logits), targets)
        if self.class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        own = self.class_weights[targets].sum()
        weights = torch.where(own > 0, self.class_weights, 1.0)  # torch divides by their sum
        share = own / self.weight_of(own)
        return share * F.cross_entropy(logits, targets, weights, label_smoothing=self.label_smoothing)

    def losses(self, logits: Tensor) -> Tensor:
        """Compute the loss (B, K) that each sample would have were it of each class; cross-entropy by default."""
        return -F.log_softmax(logits, 1)

    def expected(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Average the losses of classes (B, K) over the targets of a batch, weighed and smoothed, to ().

        Weights count as torch's cross-entropy counts them: the sum is divided by the weight of the targets before they
        are smoothed (``weight_of``). Where that is 0, so is the loss.
        """
        shares = F.one_hot(targets, losses.shape[1]) if targets.ndim == 1 else targets
        shares = shares.to(losses.dtype)
        weights = losses.new_ones(losses.shape[1]) if self.class_weights is None else self.class_weights
        smoothed, part = shares, self.label_smoothing
        if part and self.spread is None:
            smoothed = (1 - part) * shares + part / losses.shape[1]
        elif part:
            with torch.autocast(losses.device.type, enabled=False):
                smoothed = (1 - part) * shares + part * (shares @ self.spread.to(losses.dtype))  # type: ignore[union-attr]
        return (smoothed * weights * losses).sum() / self.weight_of((shares * weights).sum())

    def weight_of(self, own: Tensor) -> Tensor:
        """Return what a sum over the batch is divided by (): the weight of its targets, infinite where that is 0.

        Of several processes that train it is the mean of theirs: they take the mean of their gradients, which is then
        that of all their images in one batch. Each of them calls this once a loss.

        Args:
            own: The weight of this process's targets ().
        """
        if self.class_weights is not None and self.training and self.processes > 1:
            own = own.detach().clone()
            distributed.all_reduce(own)
            own /= self.processes
        return own.masked_fill(own == 0, torch.inf)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Count the samples that are classified right (): as the class with the largest share of the target."""
        return (logits.argmax(1) == (targets if targets.ndim == 1 else targets.argmax(1))).sum()


def prepare_objective(
    module: ImageClassifier,
    data: Any,  # noqa: ANN401 - as above
    device: torch.device,
    processes: int = 1,
) -> None:
    """Have an objective, with all that it consists of, settled and prepared, whichever methods a subclass overrides.

    Args:
        module: The classifier that it belongs to.
        data: Any data module after its ``setup``, or None.
        device: Where other runs are computed.
        processes: How many processes train together.

    Raises:
        UserError: If it does not fit the data, or what it needs is not to be had.
    """
    for part in module.objective.modules():
        if isinstance(part, Objective):
            part.processes = processes
            Objective.settle(part, module, data, device)
    module.objective.prepare(module, data)


class CrossEntropy(Objective):
    """Cross-entropy, with class weights and label smoothing."""


class Focal(Objective):
    """Focal loss (Lin et al. 2017): cross-entropy that counts well classified samples less, by (1 - p)^gamma.

    Args:
        class_weights: Weight of each class (K,), the paper's alpha; the loss is divided by the sum of weights used, as
            cross-entropy divides.
        label_smoothing: Must be 0: the loss is defined for one target. That of mixed targets is the mean over them.
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

    def losses(self, logits: Tensor) -> Tensor:
        """Compute the focal loss (B, K) of each sample for each class."""
        log_p = F.log_softmax(logits, 1)
        # A power below 1 has no gradient at 0; no other number lies below half of eps.
        left = (1 - log_p.exp()).clamp(min=torch.finfo(log_p.dtype).eps / 8)
        return -(left**self.gamma) * log_p
