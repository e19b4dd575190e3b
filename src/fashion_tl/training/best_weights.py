"""The best weights of a phase, which the next one starts from."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fashion_tl.models.staged import StagedNetwork
from fashion_tl.training.phases import improves


class BestWeights:
    """Keeps what has moved in a phase as it was at the best validation loss of the phase.

    Attributes:
        phase: The phase that it is of; None if nothing is kept.
        loss: The loss.
    """

    def __init__(self) -> None:
        self.phase: int | None = None
        self.loss = math.inf
        self._tensors: dict[str, Tensor] = {}

    def take(self, network: StagedNetwork, phase: int, loss: float) -> None:
        """Keep the weights if their validation loss is the best of the phase so far."""
        best = self.loss if phase == self.phase else math.inf
        if improves(loss, best):
            self.phase, self.loss = phase, loss
            self._tensors = {name: tensor.detach().clone() for name, tensor in network.moving().items()}

    def restore(self, network: StagedNetwork) -> None:
        """Put the weights back and forget them."""
        found = dict(network.named_parameters(remove_duplicate=False)) | dict(
            network.named_buffers(remove_duplicate=False)
        )
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                found[name].copy_(tensor)
        self.phase, self.loss, self._tensors = None, math.inf, {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: plain values and tensors."""
        return {} if self.phase is None else {"phase": self.phase, "loss": self.loss, "tensors": dict(self._tensors)}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint has kept."""
        self.phase, self.loss = state.get("phase"), float(state.get("loss", math.inf))
        self._tensors = dict(state.get("tensors", {}))
