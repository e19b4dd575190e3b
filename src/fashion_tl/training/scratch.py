"""A convolutional network trained from scratch."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from fashion_tl.errors import UserError, check_known
from fashion_tl.models.scratch import LightCNN, PlainCNN
from fashion_tl.models.staged import StagedNetwork, divide_by_children, probe
from fashion_tl.training.classifier import ImageClassifier

NETWORKS: dict[str, type[LightCNN] | type[PlainCNN]] = {"light": LightCNN, "plain": PlainCNN}


class ScratchClassifier(ImageClassifier):
    """Trains a small convolutional network from random weights.

    Args:
        class_names: Names of the K classes, in the order of their labels.
        network: light (residual, below 0.5 M parameters) or plain (a stack of convolution blocks).
        network_args: Arguments of the network, such as {widths: [32, 64, 128], dropout: 0.25}.
        **kwargs: The arguments of ``ImageClassifier``.
    """

    caches_features = True

    def __init__(
        self,
        class_names: list[str],
        network: str = "light",
        network_args: dict[str, Any] | None = None,
        **kwargs: Any,  # noqa: ANN401 - the arguments of ImageClassifier, checked there
    ) -> None:
        super().__init__(class_names, **kwargs)
        check_known("network", network, NETWORKS, "Set it with --model.network.")
        spec = self.input_spec
        allowed = set(inspect.signature(NETWORKS[network]).parameters) - {"in_channels", "image_size"}
        given = network_args or {}
        for name in given:
            check_known(f"argument of network {network!r}", name, sorted(allowed))
        size: dict[str, Any] = {"image_size": spec.image_size} if network == "plain" else {}
        try:
            body = NETWORKS[network](in_channels=spec.channels, **size, **given)
            probe(body, spec.channels, spec.image_size)
        except (RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"cannot build network {network!r} with {given} for images of {spec.image_size} px: {error}"
            ) from error
        head = nn.Linear(body.features, len(class_names))
        self.build(StagedNetwork(body, head, divide_by_children(body)), spec.channels, (0.5,), (0.5,))
        self.architecture, self.weights, self.weights_hash = network, "random", None
