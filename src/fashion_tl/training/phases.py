"""The phases of a plan: how a user writes them, and where they begin when one may end early."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fashion_tl.errors import UserError, shown

PLATEAU = "plateau"
PATIENCE = 2  # validations without improvement that end a phase, where nothing else is given
PLATEAU_THRESHOLD = 1e-4  # relative improvement that counts, as in torch's ReduceLROnPlateau

_OPTIONAL = ("until", "patience")


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which what trains stays the same.

    Attributes:
        start: First epoch of the phase, from 0; where a phase before it may end early, the latest.
        train: What trains, as a user writes it: a boundary ("head", "all", a stage's name, a number of top stages) or
            a selection of parameters, see ``models.selection.select``.
        lr: Learning rate of the head in this phase, or None for the run's.
        backbone_lr: Learning rate of the top stage in this phase, or None for the run's.
        until: "plateau" for a phase that ends when the validation loss no longer falls, or None.
        patience: Validations without a better loss after which it does.
    """

    start: int
    train: str | int | tuple[str | int, ...]
    lr: float | None = None
    backbone_lr: float | None = None
    until: str | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        """Take a list, as YAML and checkpoints hold it."""
        if isinstance(self.train, list):
            object.__setattr__(self, "train", tuple(self.train))

    def settings(self) -> dict[str, Any]:
        """Return plain values; those of a phase with a fixed end do not tell of plateaus."""
        plain = {key: value for key, value in asdict(self).items() if value is not None or key not in _OPTIONAL}
        plain["train"] = list(self.train) if isinstance(self.train, tuple) else self.train
        return plain


def improves(loss: float, best: float) -> bool:
    """Say whether a loss is better than the best one so far, by a relative 1e-4."""
    return loss < best * (1 - PLATEAU_THRESHOLD)


def place(
    phases: Sequence[Phase], losses: Mapping[int, float], starts: Sequence[int] = (), earliest: int = 0
) -> tuple[tuple[Phase, ...], int]:
    """Find where phases begin.

    Args:
        phases: The phases as planned.
        losses: Validation loss of each epoch that is done and was validated.
        starts: Where phases have begun.
        earliest: The epoch from which a plateau may end a phase: one that the end of a run had cut off begins no
            earlier than training goes on.

    Returns:
        The phases with their starts, and the epochs that were saved in all.

    >>> phases = parse_phases({0: {"train": "head", "until": "plateau", "patience": 2}, 10: "all"})
    >>> [phase.start for phase in place(phases, {0: 0.9, 1: 0.8, 2: 0.85, 3: 0.82})[0]]
    [0, 4]
    """
    saved = 0
    found: list[Phase] = []
    for i, phase in enumerate(phases):
        start = phase.start - saved
        if i < len(starts):
            start = starts[i]
        elif found and found[-1].until:
            own = [(epoch, losses[epoch]) for epoch in sorted(losses) if found[-1].start <= epoch < start]
            start = min(start, max(earliest, _plateau_end(own, found[-1].patience or PATIENCE)))
        found.append(replace(phase, start=start))
        saved = phase.start - start
    return tuple(found), saved


def _plateau_end(losses: Sequence[tuple[int, float]], patience: int) -> int:
    """Return the epoch that begins when the losses, given with their epochs, have stopped falling, else a late one."""
    best, bad = math.inf, 0
    for epoch, loss in losses:
        best, bad = (loss, 0) if improves(loss, best) else (best, bad + 1)
        if bad >= patience:
            return epoch + 1
    return sys.maxsize


def written(phases: Sequence[Mapping[str, Any]]) -> str:
    """Write the settings of phases as a user would."""
    entries = []
    for phase in phases:
        more = {key: value for key, value in phase.items() if key not in ("start", "train") and value is not None}
        train = phase["train"]
        train = train if isinstance(train, str | int) else "[" + ", ".join(map(str, train)) + "]"
        text = ", ".join(f"{key}: {value}" for key, value in {"train": train, **more}.items())
        entries.append(f"{phase['start']}: {{{text}}}" if more else f"{phase['start']}: {train}")
    return "{" + ", ".join(entries) + "}"


def parse_phases(spec: str | int | list[Any] | dict[Any, Any]) -> tuple[Phase, ...]:
    """Read what a user wrote under ``train``.

    Args:
        spec: What trains in the whole run, or a mapping from the first epoch of each phase to what trains in it or to
            ``{train: ..., lr: rate, backbone_lr: rate, until: plateau, patience: validations}``.

    Returns:
        The phases in order; the first one starts at epoch 0.

    Raises:
        UserError: If the mapping has no epoch 0 or an entry cannot be read.

    >>> [(phase.start, phase.train) for phase in parse_phases({0: "head", 5: ["norms", "head"]})]
    [(0, 'head'), (5, ('norms', 'head'))]
    """
    phases = []
    for epoch, entry in (spec if isinstance(spec, dict) else {0: spec}).items():
        try:
            if isinstance(epoch, bool | float):
                raise TypeError("a phase starts with a whole epoch")
            start = int(epoch)
            given: dict[str, Any] = dict(entry) if isinstance(entry, dict) else {"train": entry}
            phases.append(_checked(Phase(start, **given)))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"model.train: cannot read the phase {shown(epoch)}: {shown(entry)} ({error}). "
                "Write the first epoch and a boundary, as in {0: head, 5: layer4}, "
                "or {5: {train: layer4, lr: 0.001, backbone_lr: 0.0001}}."
            ) from error
    phases.sort(key=lambda phase: phase.start)
    starts = [phase.start for phase in phases]
    if starts[:1] != [0] or len(set(starts)) < len(starts):
        raise UserError(
            "model.train: the first phase must start at epoch 0 and each at another one, as in {0: head, 5: layer4}; "
            f"got {shown(spec)}."
        )
    if phases[-1].until:
        raise UserError(
            f"model.train: the last phase ({phases[-1].start}) says until: {phases[-1].until}, and no phase follows: "
            "leave it out there. --patience N ends a run early."
        )
    return tuple(phases)


def _checked(phase: Phase) -> Phase:
    """Raise a TypeError or ValueError for what is no selection, no learning rate or no end of a phase."""
    entries = phase.train if isinstance(phase.train, tuple) else (phase.train,)
    if not entries or not all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in entries):
        raise TypeError("a boundary is a name or a number, and a list holds names, patterns and numbers")
    rates = [None if rate is None else float(rate) for rate in (phase.lr, phase.backbone_lr)]
    if any(rate is not None and not 0 <= rate < math.inf for rate in rates):
        raise ValueError("a learning rate is finite and not below 0")
    if phase.until not in (None, PLATEAU):
        raise ValueError(f"until is {shown(phase.until)}; allowed: {PLATEAU}")
    if phase.until is None:
        if phase.patience is not None:
            raise ValueError("patience goes with until: plateau")
        return replace(phase, lr=rates[0], backbone_lr=rates[1])
    patience = PATIENCE if phase.patience is None else phase.patience
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"patience is {shown(patience)}; allowed is a whole number of validations from 1")
    return replace(phase, lr=rates[0], backbone_lr=rates[1], patience=patience)
