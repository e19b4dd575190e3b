"""What the runs of all folds of a cross-validation say together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fashion_tl.errors import UserError
from fashion_tl.metrics.cross_validation import cross_validation
from fashion_tl.records.analysis import write_arrays
from fashion_tl.records.predictions import read_arrays
from fashion_tl.records.record import PREDICTIONS
from fashion_tl.runs.fit import Run

ARRAYS = ("image", "label", "logits")


def conclude_folds(runs: Sequence[Run]) -> list[str]:
    """Combine the figures and the predictions of the folds of each seed.

    The predictions go to one file beside the versions, ``out_of_fold_version_N.npz``, named by the newest of them: for
    every image (N,) of the source's training images its index there, label and logits, and the fold and the version
    that have tested it.

    Args:
        runs: Completed runs; each seed has one of each fold.

    Returns:
        What is to be said, in lines.
    """
    by_seed: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        by_seed[run.record["seed"]].append(run)
    lines = []
    for seed, several in by_seed.items():
        found = cross_validation(
            [run.test for run in several], [run.record["data"]["sizes"]["train"] for run in several]
        )
        told = found.lines()
        if len(by_seed) > 1:
            told = [f"seed {seed}, {line}" for line in told]
        lines += [*told, f"predictions of all folds: {_pool(several)}"]
    lines.append(
        "intervals: 95 %, over folds Nadeau and Bengio's (2003), since folds share training images and are not "
        "independent; pooled Wilson's, of these networks on other images"
    )
    return lines


def _pool(runs: Sequence[Run]) -> Path:
    """Write the predictions of all folds to one file; raise a UserError if they do not belong together."""
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    folders = [run.paths.logs for run in runs if run.paths is not None]
    versions = [run.record["version"] for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        for name, array in zip(ARRAYS, read_arrays(folder / PREDICTIONS, *ARRAYS), strict=True):
            parts[name].append(array)
        for name, value in (("fold", run.record["data"]["fold"]), ("version", run.record["version"])):
            parts[name].append(np.full(len(parts["image"][-1]), value))
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    order = np.argsort(whole["image"], kind="stable")
    twice = len(order) - len(np.unique(whole["image"]))
    if twice:
        raise UserError(f"the folds are no division of one set: {twice} images were tested twice. Give another --name.")
    path = folders[0].with_name(f"out_of_fold_version_{max(versions)}.npz")
    write_arrays(path, {name: array[order] for name, array in whole.items()})
    return path
