"""``fashion-tl robustness RUN [RUN ...]``: corruptions, shifts and rotations, out-of-distribution images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_tl.errors import UserError, check_options

if TYPE_CHECKING:
    from fashion_tl.inspection.run import OpenedRun
    from fashion_tl.records.analysis import Analysis

TRAIN_IMAGES, VAL_IMAGES = 10_000, 2000


def robustness(
    runs: list[str],
    baseline: str | None = None,
    images: int = 1000,
    ood: list[Path] | None = None,
    seed: int = 0,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 250,
) -> list[Analysis]:
    """Measure runs on corrupted, shifted and rotated images, and how well they detect out-of-distribution images.

    Writes ``analysis/robustness.json``, its pictures and ``robustness.npz`` of scores for each run.

    Args:
        runs: Names of runs, folders of versions, or best.ckpt files.
        baseline: Run that corruption errors are relative to.
        images: Test images to measure on, stratified, drawn by seed, at least 1; all if there are no more.
        ood: Folders of out-of-distribution images, beside MNIST's, garments and noise.
        seed: Seed of the corruptions and of the choice of images, at least 0.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the runs.
        batch_size: Images in a batch.

    Returns:
        The analysis of each run.

    Raises:
        UserError: If a run or file is missing or damaged, or the baseline was tested on other images; nothing is
            written then.
    """
    check_options(images=(images, 1), batch_size=(batch_size, 1), seed=(seed, 0))
    from fashion_tl import __version__
    from fashion_tl.data.sources import data_root
    from fashion_tl.inspection.calibration import digest, read_calibration
    from fashion_tl.inspection.corruption_error import corruption_figures, mean_corruption_error, subset_of
    from fashion_tl.inspection.ood import detect, ood_sets
    from fashion_tl.inspection.robustness_analysis import robustness_analysis, scalars, summary
    from fashion_tl.inspection.run import open_runs

    names = dict.fromkeys([*runs, *([] if baseline is None else [baseline])])
    opened = dict(zip(names, open_runs(names, log_dir, checkpoint_dir, root), strict=True))
    base = None if baseline is None else opened[baseline]
    for run in opened.values():
        if base is not None and _test_images(run) != _test_images(base):
            raise UserError(
                f"--baseline {baseline} was tested on other images than {run.paths.logs}, or stores them at another "
                "size: their errors cannot be compared. Choose a baseline of the same data."
            )

    tests = {run.paths.logs: subset_of(run.data.splits["test"], images, seed) for run in opened.values()}
    measured: dict[Path, dict[str, Any]] = {}

    def settings(run: OpenedRun) -> dict[str, Any]:
        return {
            "seed": seed,
            "images": len(tests[run.paths.logs].labels),
            "test_images": len(run.labels),
            "checkpoint": digest(run.paths.best),
            "fashion_tl": __version__,
        }

    def corrupted(run: OpenedRun) -> dict[str, Any]:
        logs = run.paths.logs
        if logs not in measured:
            calibration = read_calibration(run.paths.best)
            measured[logs] = corruption_figures(run.module, tests[logs], seed, batch_size, calibration)
        return measured[logs]

    reference = None if base is None else _recorded(base, settings(base)) or corrupted(base)
    results = []
    for run in (opened[name] for name in dict.fromkeys(runs)):
        data, calibration = run.data, read_calibration(run.paths.best)
        folder = getattr(data.source, "root", data_root(root))
        sets, left_out = ood_sets(run.module.input_spec, folder, data.source_name, list(ood or []), images, seed)
        test, figures = tests[run.paths.logs], corrupted(run)
        errors = mean_corruption_error(figures["cells"], figures["clean"], reference)
        train = subset_of(data.splits["train"], TRAIN_IMAGES, seed)
        validation = subset_of(data.splits["val"], VAL_IMAGES, seed)
        temperature = None if calibration is None else calibration.temperature
        detected, scores = detect(run.module, train, validation, test, sets, batch_size, temperature)
        if calibration is None:
            left_out.append(
                f"{run.paths.name} has no calibration (`fashion-tl diagnose` makes one): no calibrated figures"
            )
        whole = {
            "settings": settings(run),
            **figures,
            "corruption_error": {**errors, "baseline": None if base is None else base.label},
            "out_of_distribution": detected,
            "left_out": left_out,
        }
        results.append((run, robustness_analysis(whole, scores, test), scores))
    for run, analysis, scores in results:
        path = analysis.write(run.paths.logs, "robustness", scores)
        analysis.log(run.paths.logs, "robustness", scalars(analysis.figures))
        print("\n".join(summary(run.label, analysis.figures)) + f"\n  {path}")
    return [analysis for _, analysis, _ in results]


def _test_images(run: OpenedRun) -> list[Any]:
    """List what decides which images are corrupted: the test set, and how its images are stored."""
    described = run.data.describe()
    return [described[name] for name in ("test_set", "channels", "storage_size", "resize", "crop")]


def _recorded(run: OpenedRun, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return a run's recorded figures, if they were measured in the same way."""
    import json

    from fashion_tl.records.analysis import FOLDER

    try:
        path = run.paths.logs / FOLDER / "robustness.json"
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
        return figures if figures["settings"] == settings and {"cells", "clean"} <= figures.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
