"""Averages of the weights of networks of one architecture, and BatchNorm statistics estimated again for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.data.transforms import describe_preprocessing
from fashion_tl.errors import UserError
from fashion_tl.inspection.inference import infer, tracked
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.metrics.metrics import Floats, Ints, cross_entropy
from fashion_tl.models.batch_norm import estimating
from fashion_tl.records.predictions import Predictions
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier

State = dict[str, Tensor]
STATISTICS = ("running_mean", "running_var")
# Hyperparameters that say what a network computes from the same weights.
_COMPUTES = ("lora", "backbone_args", "network_args")


@dataclass(frozen=True)
class Score:
    """What a network achieves on the validation images; larger is better: by accuracy, then by loss."""

    accuracy: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """What scores are ordered by."""
        return self.accuracy, -self.loss


def score(logits: Floats, labels: Ints) -> Score:
    """Score logits (N, K) by labels (N,)."""
    return Score(float((logits.argmax(axis=1) == labels).mean()), cross_entropy(logits, labels))


def states_of(members: Sequence[OpenedRun]) -> list[State]:
    """Read the weights and buffers of all members, without those of their objectives.

    Raises:
        UserError: If they are not of one architecture with the same input, so that weights do not correspond.
    """
    first = members[0]
    contents = [load_checkpoint(member.paths.best) for member in members]
    states = [_without_objective(content["state_dict"]) for content in contents]
    given = [content["hyper_parameters"] for content in contents]
    for member, state, other in zip(members[1:], states[1:], given[1:], strict=True):
        mine, theirs = first.module.architecture, member.module.architecture
        if type(member.module) is not type(first.module) or mine != theirs or _shapes(state) != _shapes(states[0]):
            raise UserError(
                f"{member.label} ({theirs}) and {first.label} ({mine}) are not networks of the same layers: weights "
                "can be averaged of runs with the same --model alone; `fashion-tl ensemble --method mean` takes any."
            )
        if different := [name for name in _COMPUTES if (given[0].get(name) or {}) != (other.get(name) or {})]:
            raise UserError(
                f"{member.label} and {first.label} compute otherwise from the same weights (their "
                f"{', '.join(different)} differ): weights can be averaged of runs with the same --model alone; "
                "`fashion-tl ensemble --method mean` takes any."
            )
        inputs = [describe_preprocessing(one.module.preprocess) for one in (first, member)]
        if different := [name for name, value in inputs[0].items() if inputs[1][name] != value]:
            raise UserError(
                f"{member.label} and {first.label} get other inputs (their {', '.join(different)} differ): weights can "
                "be averaged of runs with the same input alone; `fashion-tl ensemble --method mean` takes any."
            )
    return states


def _without_objective(state: Mapping[str, Tensor]) -> State:
    """Leave out what only training reads, such as the weights that a penalty pulls to."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("objective.")}


def _shapes(state: State) -> dict[str, Any]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def interpolated(start: State, end: State, share: float) -> State:
    """Return (1 - share) start + share end, exactly one of them at 0 and 1; whole numbers are those of the nearer."""
    mixed = {}
    for name, one in start.items():
        other = end[name]
        if one.is_floating_point():
            mixed[name] = torch.lerp(one, other, share)
        else:
            mixed[name] = one if share < 0.5 else other
    return mixed


def averaged(states: Sequence[State]) -> State:
    """Return the mean of weights and buffers, summed in float64; whole numbers are those of the first."""
    if len(states) == 1:
        return dict(states[0])
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(one.dtype)
        if one.is_floating_point()
        else one
        for name, one in states[0].items()
    }


def differing_norms(module: ImageClassifier, states: Sequence[State]) -> list[str]:
    """Name the BatchNorm layers whose statistics differ between states.

    Statistics that are the same in all of them were not trained: averaged weights were trained for them as they are.
    """
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        and layer.track_running_stats
        and any(not _same(states[0], state, [f"{name}.{key}" for key in STATISTICS]) for state in states[1:])
    ]


def _same(one: State, other: State, names: Iterable[str]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in names)


def estimate_batch_norm(module: ImageClassifier, names: Sequence[str], batches: Iterable[Tensor]) -> None:
    """Estimate the statistics of BatchNorm layers anew, as the plain mean over batches (Izmailov et al. 2018).

    All other layers stay in eval mode: neither dropout nor other statistics change.

    Args:
        module: A classifier, on its device; it is in eval mode afterwards.
        names: The layers, by qualified name.
        batches: Training images as stored (B, C, H, W), without augmentation.
    """
    layers = dict(module.named_modules())
    module.eval()
    norms = [layer for layer in map(layers.__getitem__, names) if isinstance(layer, _BatchNorm)]
    with estimating(module, norms), torch.inference_mode():
        for images in batches:
            module.logits(images.to(module.device))


@dataclass
class Averager:
    """Scores states of one network on the validation images.

    Args:
        run: The run whose network, training and validation images are used; its module is changed.
        norms: BatchNorm layers whose statistics are estimated anew for each state.
        images: Training images to estimate them from, at most.
        batch_size: Images in a batch.
    """

    run: OpenedRun
    norms: Sequence[str]
    images: int
    batch_size: int

    def load(self, state: State) -> None:
        """Bring a state into the network, and estimate its BatchNorm statistics anew."""
        module = self.run.module
        module.load_state_dict({**module.state_dict(), **state})
        module.eval()
        if self.norms:
            estimate_batch_norm(module, self.norms, self._training_images())

    def score(self, labels: Ints) -> Score:
        """Score the network as it is on the validation images."""
        logits, _ = infer(self.run.module, self.run.data.in_order("val", self.batch_size))
        return score(logits.astype("float64"), labels)

    def test(self, recorded: Predictions) -> Floats:
        """Compute the logits (N, K), float64, of the test images that are recorded of a member."""
        batches = self.run.data.in_order("test", self.batch_size)
        tracking = tracked(batches, "test images", len(recorded.labels))
        logits: Floats = infer(self.run.module, tracking)[0].astype("float64")
        return logits[recorded.index]

    def state(self) -> State:
        """Return the network's state as it is, on the CPU."""
        state = _without_objective(self.run.module.state_dict())
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _training_images(self) -> Iterable[Tensor]:
        """Yield a fixed draw of training images, as stored; every batch has at least two images."""
        split = self.run.data.splits["train"]
        drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[: self.images]
        for positions in drawn.tensor_split(max(1, -(-len(drawn) // self.batch_size))):
            yield split.reading.read(positions)
