"""Which images weights have seen, so that no run tests on what its weights were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
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
        contents: Digests (int64, sorted) of the contents of both, by "trained" and "chosen": by these they are known in
            another set, such as a folder that has grown. Images that a run had in several splits are left out.
    """

    trained: Mapping[str, Tensor] = field(default_factory=dict)
    chosen: Mapping[str, Tensor] = field(default_factory=dict)
    contents: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def by_training(cls, data: object) -> Self:
        """Return what a run sees that trains on a data module; nothing of one that does not tell (``positions``)."""
        if not hasattr(data, "positions"):
            return cls()
        trained, chosen = ({name: bits} for name, bits in (_packed(data, part) for part in ("train", "val")))
        return cls(trained, chosen, _contents(data))

    @classmethod
    def restored(cls, kept: Mapping[str, Mapping[str, Tensor]] | None) -> Self:
        """Return what ``kept`` gave."""
        return cls(**{each.name: dict((kept or {}).get(each.name, {})) for each in fields(cls)})

    def kept(self) -> dict[str, dict[str, Tensor]]:
        """Return plain values for a checkpoint."""
        return {each.name: dict(getattr(self, each.name)) for each in fields(self)}

    def __or__(self, other: Self) -> Self:
        """Return what either has seen."""
        contents = _union(self.contents, other.contents)
        return type(self)(_either(self.trained, other.trained), _either(self.chosen, other.chosen), contents)

    def fitted_to_chosen(self) -> Self:
        """Return what has been seen once weights are fitted to the images that chose between them."""
        contents = dict(self.contents)
        if "chosen" in contents:
            contents = dict(_union(contents, {"trained": contents["chosen"]}))
        return type(self)(_either(self.trained, self.chosen), self.chosen, contents)

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
            count, total = _count(used & known[name]) if name in known else self._count_known(data, part), _count(used)
            if count:
                raise UserError(
                    f"{whose} has seen {count:,} of the {total:,} images that this run {_USES[part]} on: figures of "
                    "them would be too good. Give both runs the same division of the images (data.split_seed, "
                    "data.val_fraction, data.test_fraction, data.label_budget, data.folds), keep the test images of a "
                    "set that grows apart from the others (test/, a column of splits), or start from other weights."
                )

    def _count_known(self, data: object, part: str) -> int:
        """Count the images of a split of another set that are known by their content."""
        digests = data.digests(part) if hasattr(data, "digests") else None
        kinds = ("trained", "chosen") if part == "test" else ("trained",)
        known = [self.contents[kind] for kind in kinds if kind in self.contents]
        return int(torch.isin(digests, torch.cat(known)).sum()) if digests is not None and known else 0


def _packed(data: Any, part: str) -> tuple[str, Tensor]:  # noqa: ANN401 - a data module that tells
    name, positions, size = data.positions(part)
    mask = np.zeros(size, dtype=bool)
    mask[positions.numpy()] = True
    return name, torch.from_numpy(np.packbits(mask))


def _contents(data: Any) -> dict[str, Tensor]:  # noqa: ANN401 - likewise
    """Return the digests of what trains and what chooses, without those of copies that validate or test."""
    if not hasattr(data, "digests"):
        return {}
    train, val, test = (data.digests(part) for part in ("train", "val", "test"))
    if train is None or val is None or test is None:
        return {}
    trained, chosen = train[~torch.isin(train, torch.cat([val, test]))], val[~torch.isin(val, test)]
    return {"trained": torch.unique(trained), "chosen": torch.unique(chosen)}


def _union(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    both = {name: torch.cat([each[name] for each in (one, other) if name in each]) for name in {**one, **other}}
    return {name: torch.unique(digests) for name, digests in both.items()}


def _either(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**one, **{name: one[name] | bits if name in one else bits for name, bits in other.items()}}


def _count(bits: Tensor) -> int:
    return int(np.unpackbits(bits.numpy()).sum())
