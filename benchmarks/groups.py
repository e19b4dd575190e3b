"""What a group of timed programs is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

QUICK = 600  # training images of a quick run


@dataclass(frozen=True)
class Side:
    """One program and its arguments.

    Attributes:
        name: What it is called in the results.
        module: Its module in ``benchmarks.sides``.
        arguments: Its arguments.
        environment: "main", or the peer whose environment it needs: "fastai" or "fts".
        factor: What its seconds are multiplied by, where it does a part of the work.
        tuned: Whether its number of DataLoader workers is tried out first.
        warm: Whether it must find all of its activations in the cache; if not, it is run again.
        before: Arguments of a run of the same module that must come right before, untimed.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    environment: str = "main"
    factor: int = 1
    tuned: bool = False
    warm: bool = False
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """Seconds of one side over seconds of ours: above 1 means that ours is faster.

    Attributes:
        ours: Name of our side.
        other: Name of the other side.
        target: The ratio to reach, or None.
        measure: Figure of the sides' results that is compared.
        accuracy: Whether our test accuracy must not be lower.
    """

    ours: str
    other: str
    target: float | None
    measure: str = "seconds"
    accuracy: bool = False


@dataclass(frozen=True)
class Group:
    """Sides that take turns on the same work, and the ratios between them."""

    name: str
    title: str
    sides: tuple[Side, ...]
    ratios: tuple[Ratio, ...]
    notes: str = ""


@dataclass(frozen=True)
class Settings:
    """What a run of the benchmarks is about.

    Attributes:
        work: Folder for all that the sides read and write.
        images: Training images where the slow side would take too long on all of them; 0 for all.
        quick: A few hundred images and one or two epochs, to see whether the programs work.
        pretrained: Folder with pretrained weights of MobileNetV2 0.35, or None.
    """

    work: Path
    images: int = 10_000
    quick: bool = False
    pretrained: Path | None = None

    def epochs(self, count: int) -> int:
        """Return a number of epochs, at most 2 in a quick run."""
        return min(count, 2) if self.quick else count

    def some(self) -> int:
        """Return the number of training images of the slow pairs; 0 for all."""
        return QUICK if self.quick else self.images

    def most(self) -> int:
        """Return the number of training images of the other pairs; 0 for all."""
        return QUICK if self.quick else 0
