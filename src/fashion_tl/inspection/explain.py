"""The verb ``explain``: its arguments, and the order in which the parts are made and written."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fashion_tl.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from fashion_tl.inspection.explained_run import Advance, Subject
    from fashion_tl.records.findings import Findings

NAME = "explain"
HELP = "show where a classifier looks: class activation maps, filters, channels, features"
METHODS = ("grad_cam", "integrated_gradients", "occlusion")
MOST_IMAGES, PROJECTED = 48, 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``explain`` to its parser."""
    add = parser.add_argument
    parser.description = (
        "Show where a classifier looks. Without a choice below: maps of two test images of each class, of the worst "
        "mistakes and of randomised networks, the first layer's filters, and, of several runs, maps side by side. "
        "Pictures and figures go to the folder 'analysis' of each run and to TensorBoard."
    )
    add("runs", nargs="+", metavar="RUN", help="name of a run, folder of a version, or its best.ckpt")
    add("--method", choices=METHODS, default="grad_cam", help="how evidence is found (default: grad_cam)")
    add("--stage", help="stage whose map is taken; the last one with a map of 4 x 4 or more if not given")
    choice = parser.add_argument_group("choices, alone or together")
    add = choice.add_argument
    add("--images", type=Path, nargs="+", metavar="PATH", help="explain image files, or folders of them, instead")
    add("--channels", type=int, nargs="*", metavar="N", help="test images that excite channels most; without N, "
        "channels that tell classes apart")  # fmt: skip
    add("--features", nargs="*", metavar="WHAT", help="make images that excite classes (by name) or channels (by "
        "number); without WHAT, every class")  # fmt: skip
    add("--projector", type=int, nargs="?", const=PROJECTED, metavar="N",
        help=f"features of N test images ({PROJECTED:,}) for TensorBoard's projector")  # fmt: skip
    add("--all", action="store_true", dest="everything", help="all of these, and what is made without a choice")
    add = parser.add_argument
    add("--invert", action="store_true", help="invert --images first: for dark objects on white, as photographed")
    add("--skip_unreadable", action="store_true", help="leave out --images that cannot be read")
    add("--seed", type=int, default=0, help="seed of made images and of the projector's sample (default: 0)")
    add("--batch_size", type=int, default=256, help="images in a batch when all test images are run (default: 256)")
    add("--log_dir", type=Path, default=Path("lightning_logs"), help="folder of all records")
    add("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="folder of all checkpoints")
    add("--root", help="folder with the data, where it lies elsewhere than for the run")


def run(
    runs: list[str],
    method: str = "grad_cam",
    stage: str | None = None,
    images: list[Path] | None = None,
    channels: list[int] | None = None,
    features: list[str] | None = None,
    projector: int | None = None,
    everything: bool = False,
    invert: bool = False,
    skip_unreadable: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    log_dir: Path = Path("lightning_logs"),
    checkpoint_dir: Path = Path("checkpoints"),
    root: str | None = None,
) -> None:
    """Explain runs; see ``add_arguments``. Nothing is written before everything is found.

    Raises:
        UserError: If a run, stage, channel, class or image is not there, or runs are not alike.
    """
    for name, value in (("batch_size", batch_size), ("projector", PROJECTED if projector is None else projector)):
        if value < 1:
            raise UserError(f"--{name} is {value}, it must be at least 1.")
    if seed < 0:
        raise UserError(f"--seed is {seed}, it must be at least 0.")
    from fashion_tl.inspection import explain_parts as parts
    from fashion_tl.inspection import side_by_side as compare
    from fashion_tl.inspection.channels import check_channels, parse_objectives
    from fashion_tl.inspection.explained_run import check_alike, subject_of
    from fashion_tl.inspection.opened import open_run
    from fashion_tl.records.findings import progress_bar

    if everything:
        channels, features = channels or [], features or []
        projector = PROJECTED if projector is None else projector
    plain = everything or (images is None and channels is None and features is None and projector is None)
    subjects = [subject_of(open_run(run, log_dir, checkpoint_dir, root), stage, batch_size) for run in runs]
    check_alike(subjects)
    wanted = [check_channels(channels or [], s.target) for s in subjects]
    objectives = [parse_objectives(features or [], s.class_names, s.target) for s in subjects]
    names, given = _own_images(subjects, images or [], invert, skip_unreadable)

    found: list[tuple[Subject, str, Findings]] = []
    suffix = "" if method == "grad_cam" else f"_{method}"
    with progress_bar() as bar:

        def task(what: str, total: int) -> Advance:
            number = bar.add_task(what, total=total)
            return lambda done: bar.advance(number, done)

        for subject, numbers, goals in zip(subjects, wanted, objectives, strict=True):
            label = subject.label
            if plain:
                advance = task(f"{label}: maps", parts.count_maps(subject))
                found.append((subject, f"explain{suffix}", parts.maps_of(subject, method, advance)))
                found.append((subject, "explain_filters", parts.filters_of(subject)))
            if channels is not None:
                advance = task(f"{label}: channels", len(subject.labels))
                found.append((subject, "explain_channels", parts.channels_of(subject, numbers, advance)))
            if features is not None:
                advance = task(f"{label}: features", parts.STEPS)
                found.append((subject, "explain_features", parts.features_of(subject, goals, seed, advance)))
            if projector is not None:
                subject.survey(task(f"{label}: projector", len(subject.labels)))
        if names:
            advance = task("images of one's own", len(names) * len(subjects))
            found.append((subjects[0], "explain_images", compare.images_of(subjects, given, names, method, advance)))
        if plain and len(subjects) > 1:
            advance = task("side by side", compare.count_compared(subjects))
            found.append((subjects[0], f"explain{suffix}_compared", compare.compared(subjects, method, advance)))
    for subject, name, findings in found:
        path = findings.write(subject.opened.paths.logs, name)
        findings.log(subject.opened.paths.logs, name)
        for file in (path.name, *findings.pictures):
            print(path.parent / file)
    for subject in subjects if projector is not None else ():
        print(_project(subject, projector or PROJECTED, seed))


def _own_images(subjects: list[Subject], paths: list[Path], invert: bool, skip: bool) -> tuple[list[str], list[Tensor]]:
    """Decode one's own images as each run holds its images; returns their names, and the images for each run."""
    if not paths:
        return [], []
    import torch

    from fashion_tl.data.files import decoded, image_files

    files = image_files(paths)
    if len(files) > MOST_IMAGES:
        print(f"{len(files)} images: the first {MOST_IMAGES} are explained.")
        files = files[:MOST_IMAGES]
    names: list[str] = []
    given: list[Tensor] = []
    for subject in subjects:
        batches = list(decoded(files, subject.opened.module.input_spec, len(files), skip))
        if not batches:
            raise UserError("none of the files given with --images can be read.")
        names = [path.name for path in batches[0][0]]
        images = batches[0][1]
        full = 255 if images.dtype == torch.uint8 else 1
        given.append(full - images if invert else images)
    return names, given


def _project(subject: Subject, count: int, seed: int) -> str:
    """Write the features of a sample of the test images for the projector; returns what to tell the user."""
    from fashion_tl.inspection.projector import MOST_COLOURS, sample, write_projector

    index = sample(subject.labels, count, seed)
    survey, names = subject.survey(), subject.class_names
    probabilities = subject.probabilities[index]
    folder = write_projector(
        subject.opened.paths.logs,
        survey.features[index],
        subject.images(index),
        index,
        [names[k] for k in subject.labels[index]],
        [names[k] for k in probabilities.argmax(axis=1)],
        probabilities.max(axis=1).tolist(),
    )
    more = f"; it colours by no more than {MOST_COLOURS} classes" if len(names) > MOST_COLOURS else ""
    return f"{folder}   (`tensorboard --logdir {folder.parent.parent.parent}`, tab Projector{more})"
