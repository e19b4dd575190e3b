"""L2-SP: a penalty on the distance of a network from the weights that it started from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fashion_tl.errors import check_ranges
from fashion_tl.models.staged import StagedNetwork
from fashion_tl.training.objectives.terms import Term

if TYPE_CHECKING:
    from fashion_tl.training.classifier import ImageClassifier


class L2SP(Term):
    """Adds alpha/2 |w - w0|^2 over the backbone and beta/2 |w|^2 over the head (Xuhong et al. 2018, equation 2).

    w are the parameters that train in the current phase: frozen ones add nothing. w0 are the weights that the run
    started from. Checkpoints keep them, so that a run that goes on is pulled to the same place; that adds the size of
    the backbone's weights to their size. It stands in the place of weight decay (``--model.weight_decay 0``).

    Args:
        alpha: Pull of the backbone to its start, from 0; the paper tries 0.001 to 1.
        beta: Pull of the head to 0, from 0; the paper has 0.01.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 0.01) -> None:
        super().__init__()
        numbers = {"alpha": (alpha, 0, float("inf")), "beta": (beta, 0, float("inf"))}
        check_ranges(numbers, "model.terms.l2_sp.")
        self.alpha, self.beta = alpha, beta
        # In a tuple: the network is no part of its objective.
        self._network: tuple[StagedNetwork, ...] = ()

    def attach(self, module: ImageClassifier) -> None:
        """Keep the weights of the network as they are now."""
        self._network = (module.network,)
        for i, parameter in enumerate(module.network.backbone.parameters()):
            self.register_buffer(f"start_{i:03d}", parameter.detach().clone())

    def prepare(self, module: ImageClassifier, data: Any) -> None:  # noqa: ANN401 - unused
        """Keep the weights that training starts from; where it goes on, those of its start stay.

        A checkpoint to go on from brings them with it.
        """
        if module.global_step:
            return
        for start, parameter in zip(self.buffers(), module.network.backbone.parameters(), strict=True):
            start.copy_(parameter.detach())

    def forward(self, loss: Tensor, outputs: Tensor, targets: Tensor, batch: Any) -> Tensor:  # noqa: ANN401 - as there
        """Add the penalty."""
        (network,) = self._network
        pairs = zip(network.backbone.parameters(), self.buffers(), strict=True)
        moved = [(w - start).float().pow(2).sum() for w, start in pairs if w.requires_grad]
        head = [w.float().pow(2).sum() for w in network.head.parameters() if w.requires_grad]
        for factor, sums in ((self.alpha, moved), (self.beta, head)):
            if sums:
                loss = loss + factor / 2 * torch.stack(sums).sum()
        return loss
