"""The runs that a combination is made of, opened and checked to belong together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
from torch import Tensor

from fashion_tl.errors import UserError
from fashion_tl.inspection.inference import recorded_predictions, validation_predictions
from fashion_tl.inspection.run import OpenedRun, open_run
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.records.predictions import Predictions
from fashion_tl.records.record import check_name


def open_members(
    runs: Sequence[str], name: str, log_dir: Path, checkpoint_dir: Path, root: str | None, least: int = 2
) -> list[OpenedRun]:
    """Open the runs to combine.

    Args:
        runs: Names of runs, folders of versions, or their best.ckpt.
        name: Name of the result.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the runs.
        least: How many runs it takes.

    Raises:
        UserError: If there are too few runs or one comes twice, the result would take the name of one of them, one
            cannot be opened, or they differ in their classes or test images.
    """
    check_name(name)
    if len(runs) < least:
        raise UserError(f"{len(runs)} run{'s' * (len(runs) != 1)} given: this takes at least {least}, by name.")
    opened: list[OpenedRun] = []
    for run in runs:
        opened.append(open_run(run, log_dir, checkpoint_dir, root, opened))
    labels = [one.label for one in opened]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"{twice} is given twice: each run counts once.")
    if name in [one.paths.name for one in opened]:
        raise UserError(f"--name {name} is the name of one of the runs: name the result otherwise.")
    first = opened[0]
    for other in opened[1:]:
        if other.class_names != first.class_names:
            raise UserError(
                f"{other.label} tells other classes apart ({', '.join(other.class_names)}) than {first.label} "
                f"({', '.join(first.class_names)}): combine runs on the same data."
            )
        mine, theirs = (one.data.describe()["test_set"] for one in (first, other))
        if mine != theirs:
            raise UserError(
                f"{other.label} was tested on other images (test set {theirs}) than {first.label} (test set {mine}): "
                "combine runs on the same data, with the same data.test_fraction and data.split_seed."
            )
    return opened


def test_logits(members: Sequence[OpenedRun]) -> list[Predictions]:
    """Read the recorded logits of all members, which are of the same test images in the same order.

    Raises:
        UserError: If those of a member are missing or damaged.
    """
    found = [recorded_predictions(member) for member in members]
    for member, one in zip(members, found, strict=True):
        if not np.array_equal(one.index, found[0].index):
            raise UserError(
                f"{member.paths.logs} holds the logits of other test images than {members[0].paths.logs}: test both "
                "on the whole test set."
            )
    return found


def validation_logits(members: Sequence[OpenedRun], batch_size: int) -> tuple[Ints, list[Floats]]:
    """Return labels (N,) and the logits (N, K) of each member on the validation images.

    Raises:
        UserError: If the members have other validation images, so that nothing can be chosen on them.
    """
    check_validation(members)
    found = [validation_predictions(member, batch_size) for member in members]
    return found[0].labels.astype(np.int64), [np.asarray(one.logits, dtype=np.float64) for one in found]


def check_validation(members: Sequence[OpenedRun]) -> None:
    """Raise a UserError unless all members have the same validation images, and none was fitted to them."""
    first = members[0]
    for other in members:
        if other.fitted_to_validation:
            raise UserError(
                f"{other.label} is, or is made of, a stack, which was fitted to the validation images: nothing can be "
                "chosen on them again. Name its members, or take `fashion-tl ensemble --method mean` without --tta."
            )
        if not _same_validation([first, other]):
            raise UserError(
                f"{other.label} has other validation images than {first.label}, so that one may have trained on what "
                "the other validates on: combine runs with the same data.split_seed, data.val_fraction and "
                "data.label_budget, or take `fashion-tl ensemble --method mean`, which chooses nothing."
            )


def validation_serves(members: Sequence[OpenedRun]) -> bool:
    """Say whether the validation images tell how good a combination of the members is; see ``check_validation``."""
    return _same_validation(members) and not any(member.fitted_to_validation for member in members)


def seen_by(members: Sequence[OpenedRun], fitted: bool = False) -> dict[str, dict[str, Tensor]]:
    """Return which images the members have seen, for the checkpoint of what is made of them.

    Args:
        members: The runs.
        fitted: Whether it was fitted to the validation images.
    """
    seen = reduce(or_, (member.module.seen for member in members))
    return (seen.fitted_to_chosen() if fitted else seen).kept()


def told_of_starts(members: Sequence[OpenedRun]) -> list[str]:
    """Tell where members started from different weights, between which a mean of weights is seldom of use."""
    starts = [_start(member, members) for member in members]
    if len(set(starts)) == 1:
        return []
    listed = ", ".join(f"{member.label} from {start}" for member, start in zip(members, starts, strict=True))
    return [f"the runs did not start from the same weights ({listed}): a mean of theirs may be of no use"]


def _start(member: OpenedRun, members: Sequence[OpenedRun]) -> str:
    """Name the weights that a member started from; where that was another member, those of that one.

    What was made of runs without a hash of their start counts as a start of its own.
    """
    model = member.record.get("model") or {}
    before = str(model.get("weights")).rpartition(", then ")[2]
    for other in members:
        if other is not member and before == str(other.paths.best):
            return _start(other, [one for one in members if one is not member])
    hashed = model.get("weights_hash") or member.module.weights_hash
    return hashed or (member.label if member.record.get("kind") else f"random ones of seed {member.record.get('seed')}")


def _same_validation(members: Sequence[OpenedRun]) -> bool:
    first, *others = (member.data.splits["val"].indices.numpy() for member in members)
    return all(np.array_equal(first, other) for other in others)
