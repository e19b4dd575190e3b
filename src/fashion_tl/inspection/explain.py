"""``fashion-tl explain RUN [RUN ...]``: where a classifier looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fashion_tl.errors import UserError, check_options

if TYPE_CHECKING:
    from torch import Tensor

    from fashion_tl.inspection.explained_images import ExplainedRun
    from fashion_tl.inspection.run import OpenedRun
    from fashion_tl.records.analysis import Analysis

MOST_IMAGES, PROJECTED = 48, 2000


def explain(
    runs: list[str],
    method: Literal["grad_cam", "integrated_gradients", "occlusion"] = "grad_cam",
    stage: str | None = None,
    images: list[Path] | None = None,
    channels: list[int] | None = None,
    features: list[str] | None = None,
    projector: list[int] | None = None,
    all: bool = False,
    invert: bool = False,
    skip_unreadable: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
) -> None:
    """Show where a classifier looks: saliency, filters, channels, features.

    Without --images, --channels, --features or --projector: saliency of two test images of each class, of the most
    confident mistakes and of randomised networks, the first layer's filters, and, of several runs, saliency side by
    side. Pictures and figures go to the folder "analysis" of each run and to TensorBoard; nothing is written before
    everything is found.

    Args:
        runs: Names of runs, folders of versions, or best.ckpt files.
        method: How saliency is computed.
        stage: Stage whose output is explained; the last one of 4 x 4 or more if not given.
        images: Explain image files, or folders of them, instead.
        channels: Test images that excite these channels most; without a number, channels that tell classes apart.
        features: Make images that excite classes (by name) or channels (by number); without one, every class.
        projector: Features of so many test images (2,000 without a number) for TensorBoard's projector.
        all: All of these, and what is made without a choice.
        invert: Invert --images first: for dark objects on white, as photographed.
        skip_unreadable: Leave out --images that cannot be read.
        seed: Seed of made images and of the projector's sample, at least 0.
        batch_size: Images in a batch when all test images are run.
        log_dir: Folder of all records.
        checkpoint_dir: Folder of all checkpoints.
        root: Folder with the data, where it lies elsewhere than for the runs.

    Raises:
        UserError: If a run, stage, channel, class or image is not there, or runs are not alike.
    """
    if len(projector or ()) > 1:
        raise UserError(f"--projector takes one number, not {projector}.")
    projected = projector[0] if projector else PROJECTED
    check_options(batch_size=(batch_size, 1), seed=(seed, 0), projector=(projected, 1))
    from fashion_tl.inspection import saliency_analysis as saliency
    from fashion_tl.inspection.channels import channel_analysis, check_channels, filter_analysis
    from fashion_tl.inspection.explained_images import check_same_test, prepare
    from fashion_tl.inspection.run import open_runs
    from fashion_tl.inspection.visualisation import feature_analysis, parse_objectives

    if all:
        channels, features, projector = channels or [], features or [], projector or []
    without_choice = all or (images is None and channels is None and features is None and projector is None)
    opened = open_runs(runs, log_dir, checkpoint_dir, root)
    check_same_test(opened)
    explained = [prepare(run, stage, method, batch_size) for run in opened]
    numbers = [check_channels(channels or [], run.target) for run in explained]
    objectives = [parse_objectives(features or [], run.run.class_names, run.target) for run in explained]
    names, given = _decoded(opened, images or [], invert, skip_unreadable)

    found: list[tuple[OpenedRun, str, Analysis]] = []
    for one, wanted, goals in zip(explained, numbers, objectives, strict=True):
        if without_choice:
            found.append((one.run, saliency.stem(method), saliency.saliency_analysis(one)))
            found.append((one.run, "explain_filters", filter_analysis(one)))
        if channels is not None:
            found.append((one.run, "explain_channels", channel_analysis(one, wanted)))
        if features is not None:
            found.append((one.run, "explain_features", feature_analysis(one, goals, seed)))
        if projector is not None:
            _ = one.activations  # before anything is written
    if names:
        found.append((opened[0], "explain_images", saliency.given_images_analysis(explained, given, names)))
    if without_choice and len(explained) > 1:
        found.append((opened[0], f"{saliency.stem(method)}_compared", saliency.comparison_analysis(explained)))
    for run, name, analysis in found:
        path = analysis.write(run.paths.logs, name)
        analysis.log(run.paths.logs, name)
        for file in (path.name, *analysis.pictures):
            print(path.parent / file)
    for one in explained if projector is not None else ():
        print(_project(one, projected, seed))


def _decoded(runs: list[OpenedRun], paths: list[Path], invert: bool, skip: bool) -> tuple[list[str], list[Tensor]]:
    """Decode image files as each run stores its images; returns their names, and the images for each run."""
    if not paths:
        return [], []
    from fashion_tl.data.file_list import image_files
    from fashion_tl.data.files import decoded

    files = image_files(paths)
    if len(files) > MOST_IMAGES:
        print(f"{len(files)} images: the first {MOST_IMAGES} are explained.")
        files = files[:MOST_IMAGES]
    names: list[str] = []
    given: list[Tensor] = []
    for run in runs:
        batches = list(decoded(files, run.module.input_spec, len(files), skip, invert))
        if not batches:
            raise UserError("none of the files given with --images can be read.")
        ((readable, images),) = batches
        names = [path.name for path in readable]
        given.append(images)
    return names, given


def _project(explained: ExplainedRun, count: int, seed: int) -> str:
    """Write the features of a sample of the test images for the projector; returns what to tell the user."""
    from fashion_tl.inspection.projector import MOST_COLOURS, sample, write_projector
    from fashion_tl.models.staged import HEAD

    run = explained.run
    index, names = sample(run.labels, count, seed), run.class_names
    probabilities = explained.probabilities[index]
    folder = write_projector(
        run.paths.logs,
        explained.activations[1][HEAD][index],
        run.images(index),
        index,
        [names[k] for k in run.labels[index]],
        [names[k] for k in probabilities.argmax(axis=1)],
        probabilities.max(axis=1).tolist(),
    )
    more = f"; it colours by no more than {MOST_COLOURS} classes" if len(names) > MOST_COLOURS else ""
    return f"{folder}   (`tensorboard --logdir {folder.parent.parent.parent}`, tab Projector{more})"
