"""BatchNorm statistics estimated anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def moving_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the BatchNorm layers of a network whose statistics move in the mode that it is in."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, _BatchNorm) and layer.training and layer.running_mean is not None
    ]


@contextmanager
def estimating(network: nn.Module, layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Have layers take the mean of the statistics of all batches that pass meanwhile (Izmailov et al. 2018).

    All else is in eval mode: neither dropout nor other statistics change. Modes and counters are put back.
    """
    modes = {module: module.training for module in network.modules()}
    kept = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    network.eval()
    for layer in layers:
        layer.num_batches_tracked = None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over batches
        layer.training = True
    try:
        yield
    finally:
        for layer, momentum, counter in kept:
            layer.momentum, layer.num_batches_tracked = momentum, counter
        for module, mode in modes.items():
            module.training = mode
