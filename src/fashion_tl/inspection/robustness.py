"""``fashion-tl robustness RUN [RUN ...]``: corruptions, shifts and rotations, images of other kinds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fashion_tl.errors import UserError

if TYPE_CHECKING:
    from fashion_tl.records.findings import Findings

NAME = "robustness"
HELP = "measure runs on corrupted, moved and foreign images"
IMAGES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``run``."""
    parser.add_argument("runs", metavar="RUN", nargs="+", help="names of runs, folders of versions, or best.ckpt files")
    parser.add_argument("--baseline", metavar="RUN", help="run that corruption errors are relative to")
    parser.add_argument("--images", type=int, default=IMAGES, help="test images, stratified and drawn by seed")
    parser.add_argument(
        "--ood", type=Path, action="append", metavar="FOLDER", help="more images of other kinds; repeatable"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the corruptions and of the choice of images")
    parser.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="folder of all records")
    parser.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="folder of all checkpoints")
    parser.add_argument("--root", help="folder with the data, where it lies elsewhere than for the runs")
    parser.add_argument("--batch_size", type=int, default=250, help="images in a batch")


def run(
    runs: list[str],
    baseline: str | None = None,
    images: int = IMAGES,
    ood: list[Path] | None = None,
    seed: int = 0,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 250,
) -> list[Findings]:
    """Measure runs and write ``analysis/robustness.json``, its pictures and ``robustness.npz`` of scores for each.

    Args:
        runs: Names of runs, folders of versions, or best.ckpt files.
        baseline: Run that corruption errors are relative to.
        images: Test images to measure on, at least 1; all of them if there are no more.
        ood: Folders of images of other kinds, beside MNIST's, garments and noise.
        seed: Seed of the corruptions and of the choice of images, 0 or more.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data.
        batch_size: Images in a batch.

    Returns:
        What was found of each run.

    Raises:
        UserError: If a run or file is missing or damaged, or the baseline was tested on other images; nothing is
            written then.
    """
    problems = [
        f"--{name} is {value}, it must be at least {least}"
        for name, value, least in (("images", images, 1), ("batch_size", batch_size, 1), ("seed", seed, 0))
        if value < least
    ]
    if problems:
        raise UserError("; ".join(problems) + ".")
    from fashion_tl.inspection.measure import Measuring, Options

    measuring = Measuring(Options(images, seed, batch_size, log_dir, checkpoint_dir, root, list(ood or [])))
    found = measuring.all(runs, baseline)
    findings: list[Any] = []
    for result in found:
        logs = result.opened.paths.logs
        path = result.findings.write(logs, NAME, result.scores)
        result.findings.log(logs, NAME, result.scalars())
        findings.append(result.findings)
        print("\n".join(result.lines()) + f"\n  {path}")
    return findings
