"""``fashion-tl diagnose RUN``: errors and calibration of a finished run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fashion_tl.records.findings import Findings

NAME = "diagnose"
HELP = "look into a run's errors and calibration, and calibrate its checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("run_name", metavar="RUN", help="name of a run, folder of a version, or its best.ckpt")
    parser.add_argument("--costs", type=Path, help="YAML file: true class -> predicted class -> cost, or rows of costs")
    parser.add_argument("--groups", type=Path, help="YAML file: group -> list of classes; Fashion-MNIST has its own")
    parser.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="folder of all records")
    parser.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="folder of all checkpoints")
    parser.add_argument("--root", help="folder with the data, where it lies elsewhere than for the run")
    parser.add_argument("--batch_size", type=int, default=512, help="images in a batch")


def run(
    run_name: str,
    costs: Path | None = None,
    groups: Path | None = None,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 512,
) -> Findings:
    """Diagnose a run: write ``analysis/diagnose.json`` with its pictures, and ``calibration.json`` of its checkpoint.

    Args:
        run_name: Name of a run, folder of a version, or its best.ckpt.
        costs: YAML file of what mistakes cost.
        groups: YAML file of groups of classes.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data.
        batch_size: Images in a batch.

    Returns:
        What was found.

    Raises:
        UserError: If the run or a file is missing or damaged; nothing is written then.
    """
    from fashion_tl.data.transforms import visible
    from fashion_tl.inspection.calibration import diagnose_calibration
    from fashion_tl.inspection.groups_and_costs import read_costs, read_groups
    from fashion_tl.inspection.mistakes import Case, diagnose_errors
    from fashion_tl.inspection.opened import open_run
    from fashion_tl.inspection.predictions import (
        check_batch_size,
        digest,
        test_predictions,
        to_best_device,
        validation_predictions,
    )
    from fashion_tl.inspection.scaling import fit_calibration, write_calibration
    from fashion_tl.metrics.metrics import softmax
    from fashion_tl.records.findings import Findings

    check_batch_size(batch_size)
    opened = open_run(run_name, log_dir, checkpoint_dir, root)
    names = opened.module.class_names
    cost_matrix = None if costs is None else read_costs(costs, names)
    grouping = read_groups(groups, names)
    test = test_predictions(opened)
    to_best_device(opened.module)
    validation = validation_predictions(opened, batch_size)
    calibration = fit_calibration(validation, digest(opened.paths.best), names)
    split = opened.data.splits["test"]
    findings = Findings(
        "Errors and calibration",
        f"On {len(test.labels):,} test images. Thresholds and scalings are fitted to {len(validation.labels):,} "
        "validation images alone, which the choice of the checkpoint has seen. Errors are those of the run as trained: "
        "a temperature changes no predicted class, vector scaling may.",
    )
    diagnose_calibration(findings, test, calibration)
    case = Case(
        names,
        test,
        validation,
        softmax(calibration.apply(test.logits)),
        lambda indices: visible(split.images.__getitems__(split.indices[indices])[0]).numpy(),
    )
    diagnose_errors(findings, case, softmax(test.logits), softmax(validation.logits), grouping, cost_matrix)
    path = findings.write(opened.paths.logs, NAME)
    sidecar = write_calibration(opened.paths.best, calibration)
    figures = findings.figures["calibration"]
    before, after = figures["test"]["as trained"], figures["test"][figures["chosen"]]
    kept_right = figures["selective"][figures["chosen"]]["accuracy_at"]["0.90"]
    findings.log(
        opened.paths.logs,
        NAME,
        {
            "calibration_error_as_trained": before["ece"],
            "calibration_error_calibrated": after["ece"],
            "accuracy_at_90_percent_coverage": kept_right,
        },
    )
    print(f"calibration error {before['ece']:.4f}, calibrated ({calibration.method}) {after['ece']:.4f}: {sidecar}")
    print(f"accuracy at 90 % coverage {kept_right:.4f}: {path}")
    return findings
