"""What single channels and classes answer to: test images that excite them most, and images made to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_tl.errors import UserError, unknown_name
from fashion_tl.inspection.layers import Target, tapped
from fashion_tl.training.classifier import ImageClassifier

Floats = npt.NDArray[np.float32]

RATE, TOTAL_VARIATION = 0.05, 0.5
MOST_TURN, MOST_ZOOM, MOST_SHIFT = 5.0, 0.1, 1 / 8  # degrees; shares
# Square root of the colour covariance of ImageNet (Olah et al. 2017): colours vary together, mostly in brightness.
_COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


@dataclass(frozen=True)
class Survey:
    """What a network gives for a set of images.

    Attributes:
        peaks: Highest activation of each of the target's channels (N, C).
        features: What the head gets (N, F).
        logits: What it makes of them (N, K).
    """

    peaks: Floats
    features: Floats
    logits: Floats


def survey(module: ImageClassifier, target: Target, batches: Iterable[Tensor]) -> Survey:
    """Run images, as held, through a network once."""
    peaks, features, logits = [], [], []
    kept: list[Tensor] = []
    with torch.inference_mode(), tapped(target) as tap:
        tap.register_forward_hook(lambda _, __, output: kept.append(output))
        for images in batches:
            given = module.network.backbone(module.preprocess(images.to(module.device)))
            peaks.append(kept.pop().amax((2, 3)).float().cpu())
            features.append(given.float().cpu())
            logits.append(module.network.head(given).float().cpu())
    return Survey(torch.cat(peaks).numpy(), torch.cat(features).numpy(), torch.cat(logits).numpy())


def activation_maps(module: ImageClassifier, target: Target, images: Tensor) -> Tensor:
    """Compute the target's map (B, C, side, side) of images as held."""
    kept: list[Tensor] = []
    with torch.inference_mode(), tapped(target) as tap:
        tap.register_forward_hook(lambda _, __, output: kept.append(output))
        module.network.backbone(module.preprocess(images.to(module.device)))
    return kept[0].float().cpu()


def strongest(values: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the highest values (N,), highest first, equal ones by index."""
    return np.argsort(-np.asarray(values), kind="stable")[:count].astype(np.int64)


def telling_channels(peaks: npt.ArrayLike, labels: npt.ArrayLike, classes: int, most: int) -> list[int]:
    """Choose for each class the channel that tells it apart best from all others, each channel once.

    A channel tells by how far its mean peak on the class is above that on all other images, in standard deviations.

    Args:
        peaks: Peaks (N, C).
        labels: Classes (N,).
        classes: Number of classes K.
        most: How many channels to return at most.
    """
    values, truth = np.asarray(peaks, dtype=np.float64), np.asarray(labels)
    spread = np.maximum(values.std(axis=0), 1e-12)
    chosen: list[int] = []
    for label in range(classes):
        own = truth == label
        if own.any() and not own.all() and len(chosen) < min(most, values.shape[1]):
            distance = (values[own].mean(axis=0) - values[~own].mean(axis=0)) / spread
            chosen.append(next(int(c) for c in np.argsort(-distance, kind="stable") if int(c) not in chosen))
    return chosen


def check_channels(channels: Iterable[int], target: Target) -> list[int]:
    """Return channels, or raise a UserError if the target does not have them."""
    wanted = list(dict.fromkeys(channels))
    wrong = [str(c) for c in wanted if not 0 <= c < target.channels]
    if wrong:
        raise UserError(
            f"stage {target.stage!r} has no channel {', '.join(wrong)}; it has 0 to {target.channels - 1}. "
            "--stage chooses another stage."
        )
    return wanted


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
        if name not in names:
            raise unknown_name("class", name, names, "A number means a channel of the stage; 'class:NAME' a class.")
        objectives.append(Objective("class", names.index(name), name))
    return objectives


@dataclass(frozen=True)
class Made:
    """Images made to excite, and how much they do.

    Attributes:
        images: Images (B, C, S, S), 0 to 1.
        before: Each objective at the start: a class's logit or a channel's mean activation (B,).
        after: The same at the end (B,).
    """

    images: Tensor
    before: list[float]
    after: list[float]


def visualise(
    module: ImageClassifier,
    target: Target,
    objectives: list[Objective],
    steps: int = 256,
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Made:
    """Make an image for each objective by gradient ascent (Olah et al. 2017, "Feature Visualization").

    The image is held as its Fourier spectrum with decorrelated colours, turned, zoomed and shifted at random before
    every step, and its total variation costs.

    Args:
        module: A classifier in eval mode; it stays as it is.
        target: The layer that channels are of.
        objectives: What to excite.
        steps: Steps of Adam.
        seed: Seed of the first image and of the random shifts.
        advance: Called with 1 after each step.
    """
    spec, generator = module.input_spec, torch.Generator().manual_seed(seed)
    size, count = spec.image_size, len(objectives)
    shape = (count, spec.channels, size, size // 2 + 1, 2)
    spectrum = (0.01 * torch.randn(shape, generator=generator)).to(module.device).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=RATE)
    kept: list[Tensor] = []
    first: list[float] = []
    with tapped(target) as tap, torch.enable_grad():
        tap.register_forward_hook(lambda _, __, output: kept.append(output))

        def scores(images: Tensor) -> Tensor:
            kept.clear()
            logits = module.network(module.preprocess(images))
            found = [
                kept[0][i, o.index].mean() if o.kind == "channel" else logits[i, o.index]
                for i, o in enumerate(objectives)
            ]
            return torch.stack(found)

        for step in range(steps):
            images = _image_of(spectrum, size)
            if step == 0:
                first = scores(images.detach()).tolist()
            variation = (images.diff(dim=2).abs().mean((1, 2, 3)) + images.diff(dim=3).abs().mean((1, 2, 3))).sum()
            loss = TOTAL_VARIATION * variation - scores(_moved(images, generator)).sum()
            (spectrum.grad,) = torch.autograd.grad(loss, [spectrum])
            optimizer.step()
            if advance is not None:
                advance(1)
        images = _image_of(spectrum.detach(), size)
        after = scores(images).tolist()
    return Made(images.cpu(), first, after)


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
