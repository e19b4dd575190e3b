"""``fashion-tl audit``: exact and near duplicates across the splits of a data set, and runs scored without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fashion_tl.errors import UserError, check_options, out_of_range

if TYPE_CHECKING:
    from fashion_tl.data.datamodule import ImageDataModule
    from fashion_tl.inspection.run import OpenedRun
    from fashion_tl.records.analysis import Analysis
    from fashion_tl.training.classifier import ImageClassifier


def audit(
    *runs: str,
    config: Path | None = None,
    backbone: str | None = None,
    pixels: bool = False,
    threshold: float = 0.995,
    top: int = 24,
    output: Path = Path("reports/audit"),
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> Analysis:
    """Find duplicates across train, validation and test, and score finished runs without the test images they affect.

    The data are those of a configuration, or of the first run. Writes ``audit.json`` and pictures of the pairs into a
    folder, and ``analysis/audit.json`` beside the record of each run, for the report.

    Args:
        runs: Names of runs, folders of versions, or best.ckpt files, to score again.
        config: YAML file of a run, whose data and backbone are taken.
        backbone: Backbone whose features find candidates, instead of that of the configuration.
        pixels: Find candidates by pixels alone, without a network.
        threshold: Least correlation of the pixels of near duplicates, 0.5 to 1.
        top: Pairs to draw of each kind, at least 1.
        output: Folder to write to, new or an earlier one of this command.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than the configuration says.
        batch_size: Images in a batch, at least 1.
        seed: Seed of the sample of altered copies, at least 0.

    Returns:
        The analysis.

    Raises:
        UserError: If a run or the data are not there, runs were tested on other images, or the folder holds something
            else; nothing is written then.
    """
    check_options(top=(top, 1), batch_size=(batch_size, 1), seed=(seed, 0))
    problems = out_of_range({"threshold": (threshold, 0.5, 1)}, "--")
    if not runs and config is None:
        problems.append("audit needs the data of a run, or of a configuration: `fashion-tl audit RUN`, or -c FILE")
    if config is None and backbone is not None:
        problems.append("--backbone goes with -c FILE: a run has its own network")
    if problems:
        raise UserError("; ".join(problems) + ".")
    _check_output(output)
    from fashion_tl.data.sources import loading_once
    from fashion_tl.inspection.audit_analysis import analysed, find_duplicates, of_run
    from fashion_tl.inspection.run import open_runs

    with loading_once():
        opened = open_runs(dict.fromkeys(runs), log_dir, checkpoint_dir, root)
        if config is None:
            data, module = opened[0].data, opened[0].module
        else:
            data, module = _configured(config, backbone, pixels, root)
    _check_same_test(data, opened)
    without = pixels or (module.weights == "random" and config is not None)  # random features tell little
    found = find_duplicates(data, None if without else module, batch_size, seed)
    whole = analysed(found, data, opened, threshold, top)
    document = whole.write_into(output, "audit")
    for run in opened:
        of_run(whole, run).write(run.paths.logs, "audit")
    print(whole.note)
    for table in whole.tables:
        print(f"\n{table['caption']}")
        for row in (table["columns"], *table["rows"]):
            print(
                "  " + "  ".join(f"{_cell(value):>12}" if i else f"{_cell(value):<34}" for i, value in enumerate(row))
            )
    print("\n" + "\n".join(str(path) for path in (document, *(output / name for name in whole.pictures))))
    return whole


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def _check_output(output: Path) -> None:
    """Refuse a folder that cannot be written to, or holds what this command did not write, before anything is read."""
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not existing.is_dir():
        raise UserError(f"--output {output} cannot be written: {existing} is not a folder. Name another one.")
    if output.is_dir() and any(output.iterdir()) and not (output / "audit.json").is_file():
        raise UserError(f"--output {output} holds something else than an audit. Name a new folder.")


def _configured(
    config: Path, backbone: str | None, pixels: bool, root: str | None
) -> tuple[ImageDataModule, ImageClassifier]:
    """Build data and classifier of a configuration, and load the data."""
    from fashion_tl.process import own_device
    from fashion_tl.runs.checks import settle, to_build
    from fashion_tl.runs.parser import instantiate, parse

    args = ["-c", str(config)]
    args += [] if backbone is None else ["--model.backbone", backbone]
    args += [] if root is None else ["--data.source.root", root]
    parsed = parse("fit", args)
    parsed.trainer.logger, parsed.trainer.callbacks = False, None
    if not pixels:
        settle(parsed)
    try:
        built = instantiate("fit", to_build(parsed, Path()) if pixels else parsed)
    except UserError as error:
        raise UserError(f"{error} Or compare pixels alone: --pixels.") from error
    built.data.prepare_data()
    built.data.setup()
    return built.data, built.model.eval().to(own_device())


def _check_same_test(data: ImageDataModule, runs: list[OpenedRun]) -> None:
    described = data.describe()
    for run in runs:
        own = run.data.describe()
        if own["test_set"] != described["test_set"]:
            raise UserError(
                f"{run.paths.logs} was tested on other images ({own['source']}) than are looked at "
                f"({described['source']}): give runs of the same data."
            )
