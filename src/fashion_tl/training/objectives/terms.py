"""Terms: what is added to the loss of an objective, whichever that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fashion_tl.training.objectives.base import Objective, Outcome

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier


class Term(nn.Module):
    """Changes the loss of a batch, by a penalty or towards something else; a subclass overrides ``forward``.

    A subclass of your own is named by its class path (``--model.terms '{mine.Penalty: {weight: 0.1}}'``).
    """

    @property
    def needs_images(self) -> bool:
        """As ``Objective.needs_images``."""
        return False

    def attach(self, module: ImageClassifier) -> None:
        """As ``Objective.attach``."""

    def prepare(self, module: ImageClassifier, data: Any) -> None:  # noqa: ANN401 - any data module, or None
        """As ``Objective.prepare``."""

    def forward(self, loss: Tensor, outputs: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as there
        """Return the loss () with this term.

        Args:
            loss: The loss () so far.
            outputs: Logits (B, K); columns beyond the K classes are those of an auxiliary head.
            targets: Classes (B,), or shares of classes (B, K).
            batch: The batch as the step got it.
        """
        raise NotImplementedError


class Composed(Objective):
    """An objective with terms, which change its loss one after another, in their order.

    Args:
        base: The objective.
        terms: The terms, by name.
        classes: Number of classes K.
    """

    def __init__(self, base: Objective, terms: Mapping[str, Term], classes: int) -> None:
        super().__init__()
        self.base, self.names, self.classes = base, tuple(terms), classes
        self.terms = nn.ModuleList(terms.values())

    @property
    def label(self) -> str:
        """What a record calls it, such as "CrossEntropy + l2_sp"."""
        return " + ".join((self.base.label, *self.names))

    def weigh(self, class_weights: list[float] | None) -> None:
        """Set the weight of each class (K,) in the objective; terms have none."""
        super().weigh(class_weights)
        if hasattr(self, "base"):
            self.base.weigh(class_weights)

    def attach(self, module: ImageClassifier) -> None:
        """Have objective and terms take what they need of the network."""
        for part in self._parts():
            part.attach(module)

    def prepare(self, module: ImageClassifier, data: Any) -> None:  # noqa: ANN401 - as there
        """Have objective and terms take what they need of the data."""
        for part in self._parts():
            part.prepare(module, data)

    def forward(self, logits: Tensor, targets: Tensor, batch: Any) -> Outcome:  # noqa: ANN401 - as there
        """Judge a batch; columns of an auxiliary head follow those of the classes."""
        loss, correct = self.base(logits[:, : self.classes], targets, batch)
        for term in self.terms:
            loss = term(loss, logits, targets, batch)
        return Outcome(loss, correct)

    @property
    def needs_images(self) -> bool:
        """Whether any of them needs the images of a batch."""
        return any(part.needs_images for part in self._parts())

    def _parts(self) -> list[Any]:
        return [self.base, *self.terms]
