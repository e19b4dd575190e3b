"""``fashion-tl verify [RUN ...]``: whether what records say is what their files, data and weights give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_tl.errors import UserError, check_options

if TYPE_CHECKING:
    from fashion_tl.records.record import RunPaths
    from fashion_tl.records.verify import Check


def verify(
    *runs: str,
    quick: bool = False,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 500,
) -> dict[str, list[Check]]:
    """Check recorded runs: every figure is computed again, and data, split, weights and configuration are compared.

    Prints a line for each check: it holds, does not hold, or cannot be checked. Nothing is written.

    Args:
        runs: Names of runs (their newest version) or folders of versions; all completed ones if none is given.
        quick: Check what the files alone tell: without data, networks and predictions.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the runs.
        batch_size: Images in a batch, at least 1.

    Returns:
        The checks of each run, by its name and version.

    Raises:
        UserError: If there is no such run, or a check does not hold.
    """
    from fashion_tl.records.verify import DIFFERS, HOLDS

    check_options(batch_size=(batch_size, 1))
    found: dict[str, list[Check]] = {}
    with ExitStack() as shared:
        if not quick:
            from fashion_tl.data.sources import loading_once

            shared.enter_context(loading_once())
        for paths in _chosen(runs, log_dir, checkpoint_dir):
            label = f"{paths.name} version {paths.version}"
            print(label)
            found[label] = []
            for check in _checks(paths, quick, log_dir, checkpoint_dir, root, batch_size):
                found[label].append(check)
                print(f"  {check.result:17} {check.what}: {check.told}".rstrip(": "), flush=True)
    wrong = [f"{label}: {check.what}" for label, checks in found.items() for check in checks if check.result == DIFFERS]
    every = [check for checks in found.values() for check in checks]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(every)} checks do not hold ({'; '.join(wrong)}). The lines above say why."
        )
    held = sum(check.result == HOLDS for check in every)
    print(f"{held} of {len(every)} checks hold, {len(every) - held} cannot be made")
    return found


def _chosen(runs: tuple[str, ...], log_dir: Path, checkpoint_dir: Path) -> list[RunPaths]:
    from fashion_tl.records.record import COMPLETED, all_records, paths_of, run_paths

    if runs:
        return [run_paths(run, log_dir, checkpoint_dir) for run in dict.fromkeys(runs)]
    found = [
        paths_of(log_dir, checkpoint_dir, folder.parent.name, int(folder.name.removeprefix("version_")))
        for folder, record in all_records(log_dir)
        if isinstance(record, UserError) or record["status"] == COMPLETED
    ]
    if not found:
        raise UserError(f"no completed run in {log_dir}: name its folder with --log_dir, or train one first.")
    return found


def _checks(
    paths: RunPaths, quick: bool, log_dir: Path, checkpoint_dir: Path, root: str | None, batch_size: int
) -> Iterator[Check]:
    """Check one run, the cheapest first."""
    from fashion_tl.records.record import COMPLETED, read_record
    from fashion_tl.records.verify import (
        DIFFERS,
        UNKNOWN,
        Check,
        check_certificate,
        check_checkpoint_file,
        check_files,
        check_history,
        check_members,
        well_formed,
    )

    try:
        record = read_record(paths.logs)
    except UserError as error:
        yield Check("record", DIFFERS, str(error))
        return
    if record["status"] != COMPLETED:
        yield Check("record", UNKNOWN, f"the run is not completed (its status is {record['status']})")
        return
    yield from check_files(paths.logs, record)
    yield check_checkpoint_file(paths, record)
    yield from well_formed("members", check_members(record, log_dir, checkpoint_dir))
    yield from well_formed("test figures", _figures(paths, record))
    yield from well_formed("history", check_history(paths.logs, record))
    if not record.get("kind"):  # nothing trained in what was made of other runs
        yield from well_formed("freeze certificate", check_certificate(record))
    if not quick:
        from fashion_tl.inspection.verify_run import check_run

        yield from check_run(paths, record, root, batch_size)


def _figures(paths: RunPaths, record: dict[str, Any]) -> Iterator[Check]:
    """Compute the figures of the test again from its predictions, by the package and by scikit-learn."""
    from fashion_tl.metrics.metrics import summarise
    from fashion_tl.records.predictions import read_predictions
    from fashion_tl.records.record import measured
    from fashion_tl.records.verify import UNKNOWN, Check, concluded, value_differences

    what, names = "test figures", (record.get("data") or {}).get("class_names") or []
    recorded = measured(record, "test")
    if not recorded:
        yield Check(what, UNKNOWN, "the record holds none")
        return
    try:
        found = read_predictions(paths.logs, record, len(names))
        figures = summarise(found.logits, found.labels, list(names))
    except UserError as error:
        yield Check(what, UNKNOWN, str(error))
        return
    told = list(value_differences(recorded, figures))
    told += [each for each in value_differences(recorded, _independent(found.logits, found.labels)) if each not in told]
    checked = sorted(recorded.keys() & figures.keys())
    lost = sorted(recorded.keys() - figures.keys())
    more = f"; nothing computes {', '.join(lost)}" if lost else ""
    yield concluded(what, told, f"{', '.join(checked)} of {len(found.labels):,} predictions{more}")


def _independent(logits: Any, labels: Any) -> dict[str, Any]:  # noqa: ANN401 - arrays
    """Compute the scalar figures without this package's functions."""
    import numpy as np
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, recall_score

    values = np.asarray(logits, dtype=np.float64)
    classes, predicted = range(values.shape[1]), values.argmax(axis=1)
    there = np.union1d(labels, predicted)
    macro = precision_recall_fscore_support(labels, predicted, labels=there, average="macro", zero_division=0)
    loss = np.logaddexp.reduce(values, axis=1) - np.take_along_axis(values, labels[:, None], axis=1)[:, 0]
    return {
        "images": len(labels),
        "accuracy": float(accuracy_score(labels, predicted)),
        "loss": float(loss.mean()),
        "balanced_accuracy": float(recall_score(labels, predicted, labels=np.unique(labels), average="macro")),
        "macro_precision": float(macro[0]),
        "macro_f1": float(macro[2]),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=classes).tolist(),
    }
