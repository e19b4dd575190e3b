"""Classifiers on the features of one stage: a logistic regression, its strength chosen on validation; neighbours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import cross_entropy
from fashion_tl.metrics.uncertainty import wilson_interval
from fashion_tl.probe.neighbours import vote
from fashion_tl.probe.solver import Regression, Solution
from fashion_tl.probe.stages import Stage

STRENGTHS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
LIMITS = (1e-6, 1e3)  # up to which the path goes on while its best strength lies at an end
ROUGH = 1e-3  # of the gradient's largest magnitude, where strengths are compared
WORTH = 0.002  # of validation accuracy, for which a path goes on
_FLAT = 1e-6  # deviation, as a share of the mean, below which a feature is rounding


@dataclass(frozen=True)
class Scaling:
    """The standardisation of features: (features - mean) / scale.

    Attributes:
        mean: Mean of each feature (F,), float32.
        scale: Standard deviation (F,), float32; 1 where a feature is constant.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Scaling:
        """Fit to features (N, F)."""
        scale, mean = torch.std_mean(features, 0, correction=0)
        flat = scale <= _FLAT * mean.abs().clamp(min=1e-12)
        return cls(mean, torch.where(flat, 1, scale))

    def apply_(self, features: Tensor) -> Tensor:
        """Standardise features (N, F) in place."""
        return features.sub_(self.mean).div_(self.scale)

    def fold(self, solution: Solution) -> tuple[Tensor, Tensor]:
        """Return weights (K, F) and biases (K,) for features as they are, that give the solution's logits; float32."""
        weight = solution.weight.double() / self.scale.double()
        bias = solution.bias.double() - weight @ self.mean.double()
        return weight.float(), bias.float()


@dataclass(frozen=True)
class StageProbe:
    """What classifiers on the features of a stage reach.

    Attributes:
        boundary: As of the ``Stage``.
        stage: Its name.
        features: Number of features F.
        chosen: The solution that validation chose.
        path: For each strength that was tried, ascending: strength, validation accuracy and loss, gradient, iterations.
        accuracy: Accuracy on train, val and test.
        loss: Mean cross-entropy on val and test, in nats.
        interval: Wilson's interval of the test accuracy at 0.95.
        neighbours: Number of neighbours that validation chose, and accuracy on val and test with interval; None if not
            asked for.
        seconds: Time that it took.
        weight: Weights (K, F) for the features as they are.
        bias: Biases (K,).
        val_correct: Whether each validation image is classified correctly (N,).
        test_logits: Logits of the test images (N, K), float32.
    """

    boundary: int
    stage: str
    features: int
    chosen: Solution
    path: list[dict[str, Any]]
    accuracy: dict[str, float]
    loss: dict[str, float]
    interval: tuple[float, float]
    neighbours: dict[str, Any] | None
    seconds: float
    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)
    val_correct: np.ndarray = field(repr=False)
    test_logits: np.ndarray = field(repr=False)


def probe_stage(
    stage: Stage,
    labels: dict[str, Tensor],
    classes: int,
    strengths: Sequence[float] | None = None,
    knn: bool = False,
    device: torch.device | str = "cpu",
) -> StageProbe:
    """Solve the regressions of a stage, choose one on validation, and test it alone.

    The strength with the best validation accuracy is taken, among equals the one with the lower validation loss.

    Args:
        stage: Pooled features of train, val and test.
        labels: Classes (N,) of each part.
        classes: Number of classes K.
        strengths: Strengths to try; if not given, half decades from 1e-3 to 1, and on while the best is at an end.
        knn: Whether to classify by nearest neighbours as well.
        device: Where to compute.

    Raises:
        UserError: If features are not finite.
    """
    began = time.perf_counter()
    there = {part: each.to(device) for part, each in labels.items()}
    train = _features(stage, "train", device)
    scaling = Scaling.of(train)
    regression = Regression(scaling.apply_(train), there["train"], classes)
    val = scaling.apply_(_features(stage, "val", device))
    tried, best = _path(regression, val, labels["val"].numpy(), strengths)
    chosen, val_logits = best.solution, best.logits
    weight, bias = scaling.fold(chosen)
    raw = _features(stage, "test", device)
    test_logits = torch.addmm(bias, raw, weight.T).cpu().numpy()
    truth = {part: each.numpy() for part, each in labels.items()}
    val_correct = val_logits.argmax(1) == truth["val"]
    test_correct = test_logits.argmax(1) == truth["test"]
    train_correct = chosen.logits(train).argmax(1) == there["train"]
    del train, regression
    neighbours = _neighbours(stage, there, classes, device) if knn else None
    return StageProbe(
        stage.boundary,
        stage.name,
        len(scaling.mean),
        chosen,
        [
            {
                "strength": each.solution.strength,
                "val_accuracy": each.accuracy,
                "val_loss": each.loss,
                "gradient": each.solution.gradient,
                "iterations": each.solution.iterations,
            }
            for each in tried
        ],
        {
            "train": float(train_correct.double().mean()),
            "val": float(val_correct.mean()),
            "test": float(test_correct.mean()),
        },
        {"val": cross_entropy(val_logits, truth["val"]), "test": cross_entropy(test_logits, truth["test"])},
        wilson_interval(int(test_correct.sum()), len(test_correct)),
        neighbours,
        time.perf_counter() - began,
        weight.cpu(),
        bias.cpu(),
        val_correct,
        test_logits,
    )


@dataclass(frozen=True)
class _Tried:
    """A solution, with validation accuracy, loss and logits (N, K)."""

    solution: Solution
    accuracy: float
    loss: float
    logits: np.ndarray

    @classmethod
    def of(cls, solution: Solution, val: Tensor, labels: np.ndarray) -> _Tried:
        logits = solution.logits(val).cpu().numpy()
        return cls(solution, float(np.mean(logits.argmax(1) == labels)), cross_entropy(logits, labels), logits)

    @property
    def rank(self) -> tuple[float, float]:
        """What the best of several has the least of."""
        return -self.accuracy, self.loss


def _path(
    regression: Regression, val: Tensor, labels: np.ndarray, strengths: Sequence[float] | None
) -> tuple[list[_Tried], _Tried]:
    """Try strengths; returns all by ascending strength, and the best of those that are solved to the optimum.

    A path is solved roughly; its best strength and the two beside it are then solved to the optimum.
    """
    if strengths is not None:
        given = [_Tried.of(each, val, labels) for each in regression.solve(sorted(set(strengths)))]
        return given, min(given, key=lambda each: each.rank)
    tried: list[_Tried] = []
    new: tuple[float, ...] = STRENGTHS
    while new:
        tried += [_Tried.of(each, val, labels) for each in regression.solve(new, ROUGH)]
        tried.sort(key=lambda each: each.solution.strength)
        best = min(range(len(tried)), key=lambda i: tried[i].rank)
        new = _further(tried, best)
    near = slice(max(best - 1, 0), best + 2)
    rough = [each.solution for each in tried[near]]
    final = regression.solve([each.strength for each in rough], start=rough)
    tried[near] = [_Tried.of(each, val, labels) for each in final]
    return tried, min(tried[near], key=lambda each: each.rank)


def _further(tried: Sequence[_Tried], best: int) -> tuple[float, ...]:
    """Return the next strengths beyond the end of a path at which its best one lies; none if it lies between.

    They are none, too, where the best is not better than the one beside it by a figure that matters.
    """
    beside = {0: 1, len(tried) - 1: len(tried) - 2}.get(best)
    if beside is None or tried[best].accuracy - tried[beside].accuracy < WORTH:
        return ()
    at, way = tried[best].solution.strength, -1 if best == 0 else 1
    further = (_step(at, way * half_decades) for half_decades in (1, 2))
    return tuple(strength for strength in further if LIMITS[0] <= strength <= LIMITS[1])


def _step(strength: float, half_decades: int) -> float:
    """Go on from a strength by half decades: 1, 3, 10, 30, ...

    >>> _step(0.001, -1), _step(1.0, 2)
    (0.0003, 10.0)
    """
    place = round(2 * float(np.log10(strength))) + half_decades
    return float(f"{1 if place % 2 == 0 else 3}e{place // 2}")


def _neighbours(stage: Stage, labels: dict[str, Tensor], classes: int, device: torch.device | str) -> dict[str, Any]:
    """Classify by neighbours, their number chosen on validation: among equals the smaller."""
    train = _features(stage, "train", device)
    found = vote(train, labels["train"], _features(stage, "val", device), classes)
    accuracies = {count: float((each == labels["val"]).double().mean()) for count, each in found.items()}
    count = max(accuracies, key=lambda count: (accuracies[count], -count))
    predicted = vote(train, labels["train"], _features(stage, "test", device), classes, (count,))[count]
    correct = int((predicted == labels["test"]).sum())
    return {
        "neighbours": count,
        "val_accuracy": accuracies[count],
        "accuracy": correct / len(predicted),
        "interval": list(wilson_interval(correct, len(predicted))),
    }


def _features(stage: Stage, part: str, device: torch.device | str) -> Tensor:
    """Copy the features (N, F) of a part to a device, float32."""
    features = _tensor(stage.parts[part], device)
    if not features.isfinite().all():
        raise UserError(
            f"the features behind stage {stage.name} of {part} are not finite, so that nothing can be solved on them: "
            "try --trainer.precision 32-true; if that changes nothing, the network's weights are not finite."
        )
    return features


def _tensor(array: np.ndarray, device: torch.device | str) -> Tensor:
    """Copy rows of a memory map to a device, float32."""
    return torch.from_numpy(np.array(array, dtype=np.float32)).to(device)
