"""An ensemble as one classifier, so that its checkpoint serves wherever a run's does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fashion_tl.combine.views import IDENTITY, view
from fashion_tl.imports import class_path, import_class
from fashion_tl.models.staged import StagedNetwork, divide_by_children
from fashion_tl.training.classifier import ImageClassifier


class Member(nn.Module):
    """One member: maps stored images as float (B, C, H, W) in 0 to 1 to log-probabilities (B, K).

    Args:
        classifier: A classifier; its network and preprocessing are taken.
        views: How often each view counts in the mean of its probabilities.
        classes: Number of classes K.
    """

    scale: Tensor
    bias: Tensor

    def __init__(self, classifier: ImageClassifier, views: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.network, self.preprocess = classifier.network, classifier.preprocess
        # The image as it is comes last, so that what reads the layers' last outputs gets those of the image as it is.
        taken = [(name, count) for name, count in views.items() if count]
        self.views = {
            name: count / sum(views.values()) for name, count in sorted(taken, key=lambda i: i[0] == IDENTITY)
        }
        self.register_buffer("scale", torch.ones(classes))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, images: Tensor) -> Tensor:
        """Average over the views."""
        seen = []
        for name, share in self.views.items():
            logits = self.network(self.preprocess(view(images, name))).float()
            seen.append((logits * self.scale + self.bias).log_softmax(1) + math.log(share))
        return torch.stack(seen).logsumexp(0)


class Members(nn.Module):
    """Log-probabilities (B, M K) of M members, one after another."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Ask all members."""
        return torch.cat([member(images) for member in self.members], dim=1)


class MeanOfProbabilities(nn.Module):
    """Maps log-probabilities (B, M K) of M members to those of their weighted mean (B, K)."""

    shares: Tensor

    def __init__(self, members: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((members,), 1 / members))

    def forward(self, logs: Tensor) -> Tensor:
        """Average in the space of logarithms."""
        apart = logs.view(logs.shape[0], len(self.shares), -1)  # not len(logs), which a tracer takes for a constant
        return (apart + self.shares.log()[:, None]).logsumexp(1)


class EnsembleClassifier(ImageClassifier):
    """Several finished classifiers as one; made by ``fashion-tl ensemble``, it is not trained further.

    Args:
        class_names: Names of the K classes.
        members: Of each member "module", its class by import path, "hyper_parameters" that build it again, and "views".
        stacked: Whether a linear layer on the members' log-probabilities combines them, else their mean.
        **kwargs: The arguments of ``ImageClassifier``.
    """

    def __init__(
        self,
        class_names: list[str],
        members: list[dict[str, Any]],
        stacked: bool = False,
        **kwargs: Any,  # noqa: ANN401 - the arguments of ImageClassifier, checked there
    ) -> None:
        super().__init__(class_names, **kwargs)
        built = []
        for one in members:
            kind = import_class(one["module"], ImageClassifier, "a member of the ensemble is of a class")
            built.append(kind(**one["hyper_parameters"]))
        parts = Members([Member(one, own["views"], len(class_names)) for one, own in zip(built, members, strict=True)])
        count = len(class_names)
        head = nn.Linear(len(members) * count, count) if stacked else MeanOfProbabilities(len(members))
        network = StagedNetwork(parts, head, divide_by_children(parts))
        self.build(network, self.input_spec.channels, (0.0,), (1.0,))
        self.architecture = names_of(built)
        self.weights, self.weights_hash = "its members'", None


def names_of(classifiers: Sequence[ImageClassifier]) -> str:
    """Name several networks: how many, and of which architectures."""
    several = f"{len(classifiers)} x " if len(classifiers) > 1 else ""
    return several + " + ".join(dict.fromkeys(one.architecture for one in classifiers))


@dataclass(frozen=True)
class Part:
    """A member to build an ensemble of.

    Attributes:
        classifier: The classifier.
        views: How often each view counts.
        scale: Factor of its logits, one or of each class (K,).
        bias: Summand of its logits, likewise.
        share: Its weight in a mean.
    """

    classifier: ImageClassifier
    views: Mapping[str, int]
    scale: Sequence[float] | float = 1.0
    bias: Sequence[float] | float = 0.0
    share: float = 1.0


def ensemble_of(parts: Sequence[Part], stack: tuple[Any, Any] | None = None) -> EnsembleClassifier | str:
    """Build the classifier that computes an ensemble from images.

    Args:
        parts: The members.
        stack: Weights (K, M K) and intercepts (K,) of a stack; None for the weighted mean.

    Returns:
        The classifier in eval mode, on the CPU; or why there is none, in words.
    """
    classifiers = [part.classifier for part in parts]
    for one in classifiers:
        if not one.is_plain:  # what ``Member`` computes
            return f"{type(one).__name__} computes its logits in a way of its own"
    specs = [replace(one.input_spec, image_size=one.input_spec.stored, interpolation="bilinear") for one in classifiers]
    if any(spec != specs[0] for spec in specs):
        return "the runs store their images in different ways"
    members = [
        {"module": class_path(type(one)), "hyper_parameters": _plain(one), "views": dict(part.views)}
        for one, part in zip(classifiers, parts, strict=True)
    ]
    names = list(classifiers[0].class_names)
    made = EnsembleClassifier(names, members, stacked=stack is not None, input_spec=asdict(specs[0]))
    for member, part in zip(made.network.backbone.members, parts, strict=True):  # type: ignore[arg-type]
        member.network.load_state_dict(part.classifier.network.state_dict())
        member.scale.copy_(torch.as_tensor(part.scale, dtype=torch.float32))
        member.bias.copy_(torch.as_tensor(part.bias, dtype=torch.float32))
    with torch.no_grad():
        if stack is not None:
            made.network.head.weight.copy_(torch.as_tensor(stack[0]))  # type: ignore[operator]
            made.network.head.bias.copy_(torch.as_tensor(stack[1]))  # type: ignore[operator]
        else:
            shares = torch.tensor([part.share for part in parts])
            made.network.head.shares.copy_(shares / shares.sum())  # type: ignore[operator]
    return made.eval()


def _plain(classifier: ImageClassifier) -> dict[str, Any]:
    content: dict[str, Any] = {}
    classifier.on_save_checkpoint(content)
    found: dict[str, Any] = content["hyper_parameters"]
    return found
