"""The weights of a checkpoint against those that its run started from: what no phase trained is still the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from fashion_tl.models.staged import StagedNetwork
from fashion_tl.records.verify import HOLDS, UNKNOWN, Check, compared, concluded
from fashion_tl.training.classifier import ImageClassifier


def check_start(
    config: Namespace, checkpoint: dict[str, Any], record: dict[str, Any], started: ImageClassifier
) -> Iterator[Check]:
    """Compare the weights that a run started from with their hash, and with what of them was frozen throughout.

    Args:
        config: The parsed configuration of the run.
        checkpoint: Its best checkpoint.
        record: Its record.
        started: A classifier as the run began.
    """
    arguments = config.model.init_args
    random = not arguments.get("pretrained") and not arguments.get("init_from")
    recorded = (record.get("model") or {}).get("weights_hash")
    if recorded is not None:
        same = started.weights_hash == recorded
        told = f"{started.weights}, hash {recorded}"
        if not same and random:  # other versions of torch may draw others
            yield Check(
                "starting weights", UNKNOWN, f"random weights of seed {record.get('seed')} come out otherwise here"
            )
            return
        yield compared("starting weights", {"weights_hash": recorded}, {"weights_hash": started.weights_hash}, told)
        if not same:
            return
    elif random:
        return  # nothing says what they were
    yield _frozen(checkpoint, started, len((record.get("model") or {}).get("phases") or []))


def _frozen(checkpoint: dict[str, Any], started: ImageClassifier, phases: int) -> Check:
    """Compare what no phase has trained, buffers included, with what the run started from, bit for bit."""
    network, what = started.network, "frozen weights"
    state = {name.removeprefix("network."): value for name, value in checkpoint["state_dict"].items()}
    moving = _moving(started, min(phases or 1, len(started.plan.phases)))
    frozen = {name: value for name, value in network.state_dict().items() if name not in moving and name in state}
    if not frozen:
        return Check(what, HOLDS, "nothing was frozen in all phases")
    changed = [name for name, value in frozen.items() if not _equal(value, state[name])]
    told = f"{len(frozen)} of {len(state)} tensors, as the run started from them, bit for bit"
    stages = _stages(network)
    return concluded(
        what, [f"{stages.get(n, 'a buffer')}: {n} is not what the run started from" for n in changed], told
    )


def _moving(module: ImageClassifier, phases: int) -> set[str]:
    """Name what any phase trains."""
    moving: set[str] = set()
    for index in range(phases):
        module.enter_phase(index)
        moving |= module.network.moving().keys()
    return moving


def _stages(network: StagedNetwork) -> dict[str, str]:
    names = (*network.stage_names, "head")
    return {name: f"stage {names[index]}" for name, index, _ in network.staged_parameters()}


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one.to(two.dtype), two)
