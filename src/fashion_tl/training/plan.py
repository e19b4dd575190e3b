"""Phases: from which epoch on what trains, at which rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fashion_tl.errors import UserError

TrainSpec = str | int | dict[int, Any]


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which the boundary stands still.

    Attributes:
        start: First epoch of the phase, from 0.
        train: The boundary as a user writes it: "head", "all", a stage's name, or a number of top stages.
        lr: Learning rate of the head in this phase, or None for the run's.
        backbone_lr: Learning rate of the top stage in this phase, or None for the run's.
    """

    start: int
    train: str | int
    lr: float | None = None
    backbone_lr: float | None = None


def parse_phases(spec: TrainSpec) -> tuple[Phase, ...]:
    """Read what a user wrote under ``train``.

    Args:
        spec: One boundary for the whole run, or a mapping from the first epoch of each phase to a boundary or to
            ``{train: boundary, lr: rate, backbone_lr: rate}``.

    Returns:
        The phases in order; the first one starts at epoch 0.

    Raises:
        UserError: If the mapping has no epoch 0 or an entry cannot be read.

    >>> [(phase.start, phase.train) for phase in parse_phases({0: "head", 5: "layer4"})]
    [(0, 'head'), (5, 'layer4')]
    """
    if not isinstance(spec, dict):
        return (Phase(0, spec),)
    phases = []
    for epoch, entry in spec.items():
        try:
            start = int(epoch)
            fields = dict(entry) if isinstance(entry, dict) else {"train": entry}
            phases.append(_checked(Phase(start, **fields)))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"model.train: cannot read the phase {epoch!r}: {entry!r} ({error}). "
                "Write the first epoch and a boundary, as in {0: head, 5: layer4}, "
                "or {5: {train: layer4, lr: 0.001, backbone_lr: 0.0001}}."
            ) from error
    phases.sort(key=lambda phase: phase.start)
    if not phases or phases[0].start != 0:
        raise UserError(
            f"model.train: the first phase must start at epoch 0, as in {{0: head, 5: layer4}}; got {spec}."
        )
    return tuple(phases)


def _checked(phase: Phase) -> Phase:
    """Raise a TypeError or ValueError for what is no boundary or no learning rate."""
    if not isinstance(phase.train, str | int):
        raise TypeError("a boundary is a name or a number")
    rates = [None if rate is None else float(rate) for rate in (phase.lr, phase.backbone_lr)]
    if any(rate is not None and not rate >= 0 for rate in rates):
        raise ValueError("a learning rate is not below 0")
    return Phase(phase.start, phase.train, *rates)


def phase_at(phases: tuple[Phase, ...], epoch: float) -> int:
    """Return the index of the phase that an epoch (from 0) belongs to.

    >>> phase_at(parse_phases({0: "head", 5: "all"}), 4.99)
    0
    """
    return max(i for i, phase in enumerate(phases) if phase.start <= epoch)
