"""``fashion-tl diagnose RUN``: errors and calibration of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fashion_tl.errors import check_options

if TYPE_CHECKING:
    from fashion_tl.records.analysis import Analysis


def diagnose(
    run: str,
    costs: Path | None = None,
    groups: Path | None = None,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 512,
) -> Analysis:
    """Measure a run's errors and calibration, and calibrate its checkpoint.

    Writes ``analysis/diagnose.json`` with its pictures, and ``calibration.json`` beside the checkpoint.

    Args:
        run: Name of a run, folder of a version, or its best.ckpt.
        costs: YAML file of what mistakes cost: true class -> predicted class -> cost, or rows of costs.
        groups: YAML file of groups of classes: group -> list of classes; Fashion-MNIST has its own.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the run.
        batch_size: Images in a batch.

    Returns:
        The analysis.

    Raises:
        UserError: If the run or a file is missing or damaged; nothing is written then.
    """
    check_options(batch_size=(batch_size, 1))
    from fashion_tl.inspection.calibration import digest, fit_calibration, no_calibration, write_calibration
    from fashion_tl.inspection.calibration_analysis import add_calibration
    from fashion_tl.inspection.error_analysis import add_errors
    from fashion_tl.inspection.groups_and_costs import read_costs, read_groups
    from fashion_tl.inspection.inference import recorded_predictions, validation_predictions
    from fashion_tl.inspection.run import open_run
    from fashion_tl.records.analysis import Analysis

    opened = open_run(run, log_dir, checkpoint_dir, root)
    logs, names = opened.paths.logs, opened.class_names
    cost_matrix = None if costs is None else read_costs(costs, names)
    grouping = read_groups(groups, names)
    test, validation = recorded_predictions(opened), validation_predictions(opened, batch_size)
    checkpoint, images = digest(opened.paths.best), len(validation.labels)
    if opened.fitted_to_validation:
        calibration = no_calibration(checkpoint, names, images)
        how = f"There are no thresholds and no scalings: {calibration.reason}."
    else:
        calibration = fit_calibration(validation.logits, validation.labels, checkpoint, names)
        how = (
            f"Thresholds and scalings are fitted to {images:,} validation images alone, which the choice of the "
            "checkpoint has seen. Errors are those of the run as trained: a temperature changes no predicted class, "
            "vector scaling may."
        )
    analysis = Analysis("Errors and calibration", f"On {len(test.labels):,} test images. {how}")
    add_calibration(analysis, test, calibration)
    add_errors(analysis, opened, test, validation, calibration, grouping, cost_matrix)
    path = analysis.write(logs, "diagnose")
    sidecar = write_calibration(opened.paths.best, calibration)
    figures = analysis.figures["calibration"]
    before, after = figures["test"]["as trained"]["ece"], figures["test"][figures["chosen"]]["ece"]
    covered = figures["selective"][figures["chosen"]]["accuracy_at"]["0.90"]
    shown = {
        "calibration_error_as_trained": before,
        "calibration_error_calibrated": after,
        "accuracy_at_90_percent_coverage": covered,
    }
    analysis.log(logs, "diagnose", shown)
    print(f"calibration error {before:.4f}, calibrated ({calibration.method}) {after:.4f}: {sidecar}")
    print(f"{calibration.method}: {calibration.reason}")
    print(f"accuracy at 90 % coverage {covered:.4f}: {path}")
    return analysis
