"""Which images weights have seen, so that no run tests on what its weights were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fashion_tl.errors import UserError

_USES = {"test": "tests", "val": "validates"}


@dataclass(frozen=True)
class Seen:
    """The images that weights have seen, also those of other weights that they start from or were taught by.

    Attributes:
        trained: Packed bits (uint8) of each set of images, by its name: those that were trained on.
        chosen: The same for those that chose between weights: they may validate again, and not test.
    """

    trained: Mapping[str, Tensor] = field(default_factory=dict)
    chosen: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def by_training(cls, data: object) -> Self:
        """Return what a run sees that trains on a data module; nothing of one that does not tell (``positions``)."""
        if not hasattr(data, "positions"):
            return cls()
        return cls(*({name: bits} for name, bits in (_packed(data, part) for part in ("train", "val"))))

    @classmethod
    def restored(cls, kept: Mapping[str, Mapping[str, Tensor]] | None) -> Self:
        """Return what ``kept`` gave."""
        return cls(**{name: dict((kept or {}).get(name, {})) for name in ("trained", "chosen")})

    def kept(self) -> dict[str, dict[str, Tensor]]:
        """Return plain values for a checkpoint."""
        return {"trained": dict(self.trained), "chosen": dict(self.chosen)}

    def __or__(self, other: Self) -> Self:
        """Return what either has seen."""
        return type(self)(_either(self.trained, other.trained), _either(self.chosen, other.chosen))

    def fitted_to_chosen(self) -> Self:
        """Return what has been seen once weights are fitted to the images that chose between them."""
        return type(self)(_either(self.trained, self.chosen), self.chosen)

    def check(self, data: object, whose: str, parts: tuple[str, ...] = ("test", "val")) -> None:
        """Refuse to test, or to validate, on images that weights were trained on.

        Args:
            data: Any data module after its ``setup``; nothing is known of one without ``positions``.
            whose: The weights, for the message.
            parts: Those of "test" and "val" to compare. Images that chose the weights may not test either.

        Raises:
            UserError: If there are such images.
        """
        if not hasattr(data, "positions"):
            return
        for part in parts:
            name, used = _packed(data, part)
            known = _either(self.trained, self.chosen) if part == "test" else self.trained
            count, total = _count(used & known[name]) if name in known else 0, _count(used)
            if count:
                raise UserError(
                    f"{whose} has seen {count:,} of the {total:,} images that this run {_USES[part]} on: figures of "
                    "them would be too good. Give both runs the same division of the images (data.split_seed, "
                    "data.val_fraction, data.test_fraction, data.label_budget, data.folds), or start from other "
                    "weights."
                )


def _packed(data: Any, part: str) -> tuple[str, Tensor]:  # noqa: ANN401 - a data module that tells
    name, positions, size = data.positions(part)
    mask = np.zeros(size, dtype=bool)
    mask[positions.numpy()] = True
    return name, torch.from_numpy(np.packbits(mask))


def _either(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**one, **{name: one[name] | bits if name in one else bits for name, bits in other.items()}}


def _count(bits: Tensor) -> int:
    return int(np.unpackbits(bits.numpy()).sum())
