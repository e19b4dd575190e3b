"""The freeze certificate: that what is frozen in a phase is, bit for bit, the same at its end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fashion_tl.models.staged import StagedNetwork


class FreezeCertificate:
    """Hashes the frozen weights and buffers of each phase when it begins and when it ends.

    Attributes:
        phases: For each phase that has begun its number ("phase", from 0), hashes "before" and "after" of its
            "frozen_weights" and "frozen_buffers" (None where there are none, "after" also until the phase ends),
            whether they are the "same" (None until then), and of the "cache" whether it was "used", and the
            "largest_difference" of a logit with and without it.
    """

    def __init__(self) -> None:
        self.phases: list[dict[str, Any]] = []
        self._names: dict[str, list[str]] = {}

    @property
    def _open(self) -> bool:
        return bool(self._names)

    def follow(self, network: StagedNetwork, phase: int, difference: float | None) -> None:
        """Go on in a phase, or end the one before it and begin it.

        Args:
            network: The network, frozen as the phase asks.
            phase: Number of the phase, from 0.
            difference: The largest difference of a logit with and without the cache, None without a cache.
        """
        if self._open and self.phases[-1]["phase"] != phase:
            self.close(network)
        if not self._open:
            names = frozen_names(network)
            hashes = {kind: {"before": value, "after": None} for kind, value in _hashes(network, names).items()}
            former = [entry for entry in self.phases if entry["phase"] < phase]
            # All at once: Ctrl-C may come at any moment, and then ends the phase.
            self.phases, self._names = [*former, {"phase": phase, **hashes, "same": None}], names
        finite = difference is not None and math.isfinite(difference)
        self.phases[-1]["cache"] = {
            "used": difference is not None,
            "largest_difference": difference if finite else None,
        }

    def close(self, network: StagedNetwork) -> None:
        """End the phase in progress, if there is one."""
        if not self._open:
            return
        entry, after = self.phases[-1], _hashes(network, self._names)
        for kind, value in after.items():
            entry[kind]["after"] = value
        entry["same"] = all(entry[kind]["before"] == value for kind, value in after.items())
        self._names = {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as plain values: a phase may go on in another process."""
        phases = [{key: dict(v) if isinstance(v, dict) else v for key, v in entry.items()} for entry in self.phases]
        return {"phases": phases, "names": {kind: list(names) for kind, names in self._names.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint keeps."""
        self.phases = [dict(entry) for entry in state["phases"]]
        self._names = {kind: list(names) for kind, names in state["names"].items()}


def frozen_names(network: StagedNetwork) -> dict[str, list[str]]:
    """Name the parameters that take no gradient, and the buffers of modules that are kept in eval mode."""
    moving = network.moving()
    return {
        "frozen_weights": [name for name, _ in network.named_parameters() if name not in moving],
        "frozen_buffers": [name for name, _ in network.named_buffers() if name not in moving],
    }


def _hashes(network: StagedNetwork, names: Mapping[str, Iterable[str]]) -> dict[str, str | None]:
    tensors: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {kind: hash_tensors(tensors, each) for kind, each in names.items()}


def hash_tensors(tensors: Mapping[str, Tensor], names: Iterable[str]) -> str | None:
    """Hash tensors with their names to 16 hexadecimal digits of SHA-256; None if none is named.

    One that is gone changes the hash.
    """
    digest = None
    for name in names:
        digest = digest or hashlib.sha256()
        if name in tensors:
            plain = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.view(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return None if digest is None else digest.hexdigest()[:16]
