"""Feature visualisation: images made to excite a class or a channel (Olah et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.errors import check_known
from fashion_tl.inspection.channels import check_channels
from fashion_tl.inspection.explained_images import ExplainedRun
from fashion_tl.inspection.inference import progress, reading
from fashion_tl.inspection.layers import Target
from fashion_tl.inspection.run import picture
from fashion_tl.plots.tiles import Tile, draw_tiles, in_rows
from fashion_tl.records.analysis import Analysis
from fashion_tl.training.classifier import ImageClassifier

MOST_MADE, STEPS = 12, 256
RATE, TOTAL_VARIATION = 0.05, 0.5
MOST_TURN, MOST_ZOOM, MOST_SHIFT = 5.0, 0.1, 1 / 8  # degrees; shares
# Square root of the colour covariance of ImageNet (Olah et al. 2017): colours vary together, mostly in brightness.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


def feature_analysis(explained: ExplainedRun, objectives: Sequence[Objective], seed: int) -> Analysis:
    """Make images that excite channels or classes, all classes if none is named."""
    names = explained.run.class_names[:MOST_MADE]
    wanted = list(objectives) or [Objective("class", i, name) for i, name in enumerate(names)]
    images, first, last = visualise(explained.run.module, explained.target, wanted, STEPS, seed)
    note = (
        f"{STEPS} steps of gradient ascent on the image's Fourier spectrum, with random rotations, zooms and shifts "
        f"and a penalty on total variation (Olah et al. 2017); seed {seed}. {explained.layer}"
    )
    rows = [[o.name, o.kind, b, a] for o, b, a in zip(wanted, first, last, strict=True)]
    found = Analysis(
        "Images made to excite a class or a channel", note, figures={**explained.layer_figures(), "seed": seed}
    )
    tiles = [
        Tile(picture(image), below=f"{name}\n{before:.1f} → {after:.1f}")
        for image, (name, _, before, after) in zip(images, rows, strict=True)
    ]
    title = f"{explained.run.label}: images made to excite a class or a channel"
    found.add_picture(
        "explain_features-made.png",
        draw_tiles(in_rows(tiles, 4), title=title, note=note, side=1.9, smooth=True),
        "Images made to excite " + ", ".join(objective.name for objective in wanted),
    )
    columns = ["of", "kind", "at first", "at last"]
    found.add_table("Logit of the class, or mean activation of the channel", columns, rows)
    return found


@dataclass(frozen=True)
class Objective:
    """What a made image is to excite.

    Attributes:
        kind: "channel" of the target, or "class".
        index: Which.
        name: Words for it.
    """

    kind: str
    index: int
    name: str


def parse_objectives(wanted: Iterable[str], class_names: Iterable[str], target: Target) -> list[Objective]:
    """Read objectives as a user writes them: a channel's number, a class's name, or "class:NAME".

    Raises:
        UserError: If there is no such class or channel.
    """
    names, objectives = list(class_names), []
    for text in wanted:
        if text.isdigit():
            check_channels([int(text)], target)
            objectives.append(Objective("channel", int(text), f"channel {text}"))
            continue
        name = text.removeprefix("class:")
        check_known("class", name, names, "A number means a channel of the stage; 'class:NAME' a class.")
        objectives.append(Objective("class", names.index(name), name))
    return objectives


def visualise(
    module: ImageClassifier, target: Target, objectives: Sequence[Objective], steps: int = STEPS, seed: int = 0
) -> tuple[Tensor, list[float], list[float]]:
    """Make an image for each objective by gradient ascent (Olah et al. 2017, "Feature Visualization").

    The image is represented by its Fourier spectrum with decorrelated colours, and rotated, zoomed and shifted at
    random before every step, with a penalty on its total variation.

    Args:
        module: A classifier in eval mode; it stays as it is.
        target: The layer that channels are of.
        objectives: What to excite.
        steps: Steps of Adam.
        seed: Seed of the first image and of the random shifts.

    Returns:
        Images (B, C, S, S), 0 to 1, and each objective, a class's logit or a channel's mean activation, before and
        after (B,).
    """
    spec, generator = module.input_spec, torch.Generator().manual_seed(seed)
    size = spec.image_size
    shape = (len(objectives), spec.channels, size, size // 2 + 1, 2)
    spectrum = (0.01 * torch.randn(shape, generator=generator)).to(module.device).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=RATE)
    activation = {"channel": (target.module, lambda output: target.fold(output).mean((2, 3)))}
    first: list[float] = []
    with reading(activation) as outputs, progress("feature visualisation", steps) as advance, torch.enable_grad():

        def scores(images: Tensor) -> Tensor:
            outputs["class"] = module.network(module.preprocess(images))
            return torch.stack([outputs[o.kind][i, o.index] for i, o in enumerate(objectives)])

        for step in range(steps):
            images = _image_of(spectrum, size)
            if step == 0:
                first = scores(images.detach()).tolist()
            variation = (images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))).sum()
            loss = TOTAL_VARIATION * variation - scores(_moved(images, generator)).sum()
            (spectrum.grad,) = torch.autograd.grad(loss, [spectrum])
            optimizer.step()
            advance(1)
        images = _image_of(spectrum.detach(), size)
        after = scores(images).tolist()
    return images.cpu(), first, after


def _image_of(spectrum: Tensor, size: int) -> Tensor:
    """Turn spectra (B, C, S, S // 2 + 1, 2) into images (B, C, S, S) in 0 to 1."""
    down, across = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    frequency = (down[:, None] ** 2 + across[None] ** 2).sqrt().clamp(min=1 / size).to(spectrum.device)
    weighted = torch.view_as_complex(spectrum) * (size / frequency)
    images = torch.fft.irfft2(weighted, s=(size, size)) / 4
    if spectrum.shape[1] == 3:
        colours = images.new_tensor(_COLOURS)
        images = torch.einsum("oi,bihw->bohw", colours / colours.norm(dim=0).max(), images)
    made: Tensor = images.sigmoid()
    return made


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, zoom and shift a batch at random, all images alike; what comes in is the image's mirror."""
    draw = (torch.rand(4, generator=generator) * 2 - 1).tolist()
    angle, zoom = math.radians(draw[0] * MOST_TURN), 1 + draw[1] * MOST_ZOOM
    cos, sin = math.cos(angle) * zoom, math.sin(angle) * zoom
    shift = [value * MOST_SHIFT * 2 for value in draw[2:]]
    matrix = images.new_tensor([[cos, -sin, shift[0]], [sin, cos, shift[1]]]).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    moved: Tensor = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return moved
