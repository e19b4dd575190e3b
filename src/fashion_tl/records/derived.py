"""Records of results that are no training run: ensembles, averages of weights, solved heads.

Such a record lies where a run's does and holds the same fields, except for those of training: ``kind`` says what it
is, ``members`` which runs it was made of. ``fashion-tl runs`` and ``compare`` read it like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fashion_tl.errors import UserError
from fashion_tl.files import replacing_folder, sha256, write_bytes, write_text
from fashion_tl.records.analysis import Analysis, plain, write_arrays
from fashion_tl.records.environment import environment, now
from fashion_tl.records.predictions import Predictions
from fashion_tl.records.record import COMPLETED, CONFIG, PREDICTIONS, RunPaths, next_paths, taken, write_record


def write_derived(
    log_dir: Path,
    checkpoint_dir: Path,
    name: str,
    *,
    kind: str,
    data: Mapping[str, Any],
    model: Mapping[str, Any],
    test: Mapping[str, Any],
    predictions: Predictions,
    members: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    config: str | None = None,
    checkpoint: bytes | memoryview | None = None,
    analysis: tuple[str, Analysis] | None = None,
) -> RunPaths:
    """Write the record of a completed result as the next version of a name, whole or not at all.

    The checkpoint is written first, then the folder of the record appears with all its files: ``run.json`` with their
    checksums, ``test_predictions.npz`` and, where given, ``config.yaml`` and ``analysis/``. With a checkpoint and a
    configuration whose ``data`` is that of a run, the result opens like a run (``explain``, ``diagnose``, ``init_from``
    by its name).

    Args:
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        name: Name of the result, as a run's.
        kind: What it is, such as "ensemble".
        data: The entry ``data`` of a run's record: ``ImageDataModule.describe()``, or that of a member.
        model: The entry ``model``: "architecture", "parameters", "strategy" (how the result came about, in words that
            the report shows where a run has its phases), and whatever else says what it is.
        test: Test figures, as ``metrics.metrics.summarise`` computes them from the predictions.
        predictions: Logits of the test images.
        members: Entries of ``member``, in the order in which they were used.
        facts: More entries of the record, such as "seed", "command", "started", "time", "chosen" (what validation
            chose, and by which figures) and "environment" (added to the versions of libraries).
        config: Content of ``config.yaml``.
        checkpoint: Content of ``best.ckpt``, as ``training.checkpoints.packed`` makes it.
        analysis: A document for the report, and its name.

    Returns:
        The folders of the version.

    Raises:
        UserError: If the name cannot be a folder's, or another process writes the same version.
        OSError: If a file cannot be written.
    """
    more = dict(facts or {})
    paths = next_paths(log_dir, checkpoint_dir, name)
    began = more.pop("started", now())
    record = {
        "name": name,
        "version": paths.version,
        "status": COMPLETED,
        "reason": "nothing left to do",
        "kind": kind,
        "members": list(members),
        "seed": None,
        "command": None,
        "study": None,
        "started": began,
        "finished": now(),
        "data": dict(data),
        "model": dict(model),
        "test": dict(test),
        **more,
        "environment": {**environment(), **more.get("environment", {})},
    }
    new = [folder for folder in (paths.logs.parent, paths.checkpoints.parent) if not folder.exists()]
    try:
        with taken(paths, new=False):
            if paths.logs.exists() or paths.checkpoints.exists():
                raise UserError(f"another process has taken {paths.logs}: start this one again.")
            try:
                if checkpoint is not None:
                    write_bytes(paths.best, checkpoint)
                    record["checkpoint"] = sha256(paths.best)
                with replacing_folder(paths.logs) as draft:
                    _fill(draft, plain(record), predictions, config, analysis)
            except BaseException:
                _remove(paths.best, paths.checkpoints)
                raise
    except BaseException:
        _remove(*new)
        raise
    return paths


def member(paths: RunPaths, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - plain values
    """Describe a run that a result is made of: its name, version, the hash of its checkpoint, and what else is given.

    Raises:
        OSError: If its checkpoint cannot be read.
    """
    return {"name": paths.name, "version": paths.version, "checkpoint": sha256(paths.best), **facts}


def _fill(
    folder: Path,
    record: dict[str, Any],
    predictions: Predictions,
    config: str | None,
    analysis: tuple[str, Analysis] | None,
) -> None:
    arrays = {"index": predictions.index, "label": predictions.labels, "logits": predictions.logits}
    write_arrays(folder / PREDICTIONS, arrays)
    if config is not None:
        write_text(folder / CONFIG, config)
    if analysis is not None:
        name, document = analysis
        document.write(folder, name)
    write_record(folder, record)


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):  # what is not there, or holds something else
            path.unlink() if path.is_file() else path.rmdir()
