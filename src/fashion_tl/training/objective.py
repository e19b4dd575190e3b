"""What training minimises, by name: an objective, and terms that are added to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from fashion_tl.errors import UserError, shown, unknown_name
from fashion_tl.imports import import_class
from fashion_tl.training.objectives.auxiliary import Auxiliary
from fashion_tl.training.objectives.base import CrossEntropy, Focal, Objective, Outcome, prepare_objective
from fashion_tl.training.objectives.distillation import Distillation
from fashion_tl.training.objectives.l2_sp import L2SP
from fashion_tl.training.objectives.structured import ExpectedCost, Hierarchical
from fashion_tl.training.objectives.terms import Composed, Term

__all__ = [
    "BALANCED",
    "OBJECTIVES",
    "TERMS",
    "Objective",
    "Outcome",
    "Term",
    "balanced_weights",
    "check_balanced_once",
    "make_objective",
    "prepare_objective",
]

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "hierarchical": Hierarchical,
    "expected_cost": ExpectedCost,
}
TERMS: dict[str, type[Term]] = {"l2_sp": L2SP, "distillation": Distillation, "auxiliary": Auxiliary}
BALANCED = "balanced"
M = TypeVar("M", bound=nn.Module)


def make_objective(
    name: str,
    classes: int,
    class_weights: list[float] | str | None = None,
    label_smoothing: float = 0.0,
    arguments: dict[str, Any] | None = None,
    terms: Mapping[str, Any] | None = None,
    confusion: list[list[float]] | str | None = None,
) -> Objective:
    """Make an objective.

    Args:
        name: "cross_entropy", "focal", "hierarchical", "expected_cost", or the class path of a subclass of
            ``Objective``.
        classes: Number of classes K.
        class_weights: Weight of each class, "balanced" (set later, from the training labels), or None.
        label_smoothing: Share of the target spread over all classes, 0 to 1.
        arguments: More arguments of the objective, such as {gamma: 2}.
        terms: Arguments of each term by its name ("l2_sp", "distillation", "auxiliary", or the class path of a subclass
            of ``Term``), in the order in which they change the loss.
        confusion: Where label smoothing goes: K rows of K numbers, or a checkpoint; all classes alike if not given.

    Raises:
        UserError: If there is no such objective or term, or an argument does not fit.
    """
    kind = _kind("objective", name, OBJECTIVES, Objective)
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
    if confusion is not None and not label_smoothing:
        raise UserError("model.smoothing_confusion says where label smoothing goes: give --model.label_smoothing too.")
    given = {"class_weights": class_weights, "label_smoothing": label_smoothing}
    objective = _make(
        kind, {**given, **_arguments("objective_args", arguments)}, f"objective_args do not fit objective {name!r}"
    )
    objective.confusion = confusion
    if not terms:
        return objective
    made = {
        term: _make(
            _kind("terms", term, TERMS, Term),
            _arguments(f"terms.{term}", settings),
            f"terms.{term} do not fit",
        )
        for term, settings in _arguments("terms", terms).items()
    }
    return Composed(objective, made, classes)


def _kind(setting: str, name: str, known: Mapping[str, type[M]], base: type[M]) -> type[M]:
    if "." in name:
        return import_class(name, base, f"model.{setting}")
    if name not in known:
        what = "term" if setting == "terms" else setting
        raise unknown_name(what, name, known, f"Set it with --model.{setting}; MODULE.CLASS names your own.")
    return known[name]


def _arguments(setting: str, given: Any) -> dict[str, Any]:  # noqa: ANN401 - what a configuration holds
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"model.{setting} is {shown(given)}: it must be a mapping of arguments, such as {{weight: 1}}.")
    return {str(name): value for name, value in (given or {}).items()}


def _make(kind: type[M], arguments: Mapping[str, Any], problem: str) -> M:
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"model.{problem}: {error}.") from error


def check_balanced_once(class_weights: object, sampler: str | None) -> None:
    """Refuse weights and a sampler that would each make up for the same imbalance.

    Raises:
        UserError: If both are "balanced"; weights that are given as numbers are costs of one's own.
    """
    if class_weights == BALANCED == sampler:
        raise UserError(
            "model.class_weights and data.sampler are both balanced: rare classes would be corrected for twice. Leave "
            "one of them out."
        )


def balanced_weights(counts: list[int]) -> list[float]:
    """Weigh classes by the inverse of their share, N / (K * count), so that the mean weight of a sample is 1.

    >>> balanced_weights([30, 10])
    [0.6666666666666666, 2.0]
    """
    return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]
