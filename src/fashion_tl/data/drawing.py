"""The small world in which both drawn tasks live: outlines, textures, light, deformation, blur, clutter and noise.

A task is a sequence of artists, one per class. An artist puts filled outlines and lines on a `Pen`, in coordinates of
its own (x to the right, y down, any scale); everything else happens here and is the same for every class and task, so
that features learned on one task are worth something on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fashion_tl.errors import UserError

Point: TypeAlias = tuple[float, float]
Outline: TypeAlias = Sequence[Point]
Floats: TypeAlias = npt.NDArray[np.float64]
Field: TypeAlias = npt.NDArray[np.floating[Any]]

MIN_SIZE, MAX_SIZE = 16, 256
_SUPERSAMPLING = 4
_CHUNK = 256
_LOOK_NUMBERS = 20
_LABEL_STREAM = 1 << 32


class Pen:
    """Collects what one artist draws, and is the artist's only source of random numbers.

    Attributes:
        tone: The object's own grey, 0 (black) to 1 (white). Details are given relative to it.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        """Start an empty drawing.

        Args:
            rng: The image's generator; numbers are taken from it in blocks.
        """
        self._rng = rng
        self._uniforms: list[float] = []
        self.points: list[Point] = []
        self.strokes: list[tuple[int, int, int, float, tuple[int, int, int]]] = []
        self.tone = self.between(0.3, 0.95)

    def between(self, low: float, high: float) -> float:
        """Draw a number uniformly from [low, high)."""
        if not self._uniforms:
            self._uniforms = self._rng.random(64).tolist()
        return low + (high - low) * self._uniforms.pop()

    def chance(self, probability: float) -> bool:
        """Answer yes with the given probability."""
        return self.between(0.0, 1.0) < probability

    def fill(self, outline: Outline, delta: float = 0.0, texture: float = 1.0, smooth: int = 0) -> None:
        """Fill a closed outline.

        Args:
            outline: Corners in order, shape (n, 2).
            delta: Tone relative to the object's own, -1 to 1; the sign turns where it would leave the range.
            texture: How much of the image's texture this part shows, 0 to 1.
            smooth: Rounds of corner cutting (Chaikin 1974); 0 keeps the corners, 2 looks like a spline.
        """
        self._add(outline, smooth, 0.0, (self._level(delta), round(255 * texture), 255))

    def cut(self, outline: Outline, smooth: int = 0) -> None:
        """Make a hole: the background shows through."""
        self._add(outline, smooth, 0.0, (0, 0, 0))

    def line(self, path: Outline, delta: float = 0.0, width: float = 0.08) -> None:
        """Draw an open line without texture, `width` in the artist's units."""
        self._add(path, 0, width, (self._level(delta), 0, 255))

    def bar(self, start: Point, end: Point, width: float, end_width: float | None = None, delta: float = 0.0) -> None:
        """Fill a straight, possibly tapering bar between two points, texture included."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.sqrt(dx * dx + dy * dy)
        nx, ny = -dy / length / 2, dx / length / 2
        last = width if end_width is None else end_width
        self.fill(
            [
                (start[0] + nx * width, start[1] + ny * width),
                (end[0] + nx * last, end[1] + ny * last),
                (end[0] - nx * last, end[1] - ny * last),
                (start[0] - nx * width, start[1] - ny * width),
            ],
            delta,
        )

    def oval(self, x: float, y: float, rx: float, ry: float, delta: float = 0.0, texture: float = 1.0) -> None:
        """Fill an ellipse with the given centre and radii."""
        self.fill(oval(x, y, rx, ry), delta, texture, smooth=1)

    def _level(self, delta: float) -> int:
        level = self.tone + delta
        if not 0.12 <= level <= 1.0:
            level = self.tone - delta
        return round(255 * min(1.0, max(0.12, level)))

    def _add(self, outline: Outline, smooth: int, width: float, colour: tuple[int, int, int]) -> None:
        start = len(self.points)
        self.points.extend(outline)
        self.strokes.append((start, len(self.points), smooth, width, colour))


Artist: TypeAlias = Callable[[Pen], None]


def oval(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """Give eight corners that one round of corner cutting turns into an ellipse."""
    near, far = 0.43, 1.04
    octagon = [(near, -far), (far, -near), (far, near), (near, far)]
    octagon += [(-near, far), (-far, near), (-far, -near), (-near, -far)]
    return [(x + rx * u, y + ry * v) for u, v in octagon]


def mirrored(right_half: Outline) -> list[Point]:
    """Close a right half (x >= 0, from top to bottom) by its mirror image."""
    return [*right_half, *((-x, y) for x, y in reversed(right_half))]


def draw(artists: Sequence[Artist], task: int, count: int, seed: int, size: int) -> tuple[Tensor, Tensor]:
    """Draw a balanced task; image i and its label depend on (task, seed, i, size) alone.

    Args:
        artists: One per class, in the order of the labels.
        task: Tells the random streams of different tasks apart.
        count: Number of images.
        seed: 0 to 2**63 - 1.
        size: Height and width in pixels, 16 to 256.

    Returns:
        Images, uint8, shape (count, 1, size, size), and labels, int64, shape (count,), in shuffled order; the classes'
        counts differ by at most one. The same versions of NumPy and Pillow give the same pixels on every machine.

    Raises:
        UserError: If an argument is out of its range; all such arguments are named at once.
    """
    _check(count, seed, size)
    labels = _labels(len(artists), task, count, seed)
    images = np.empty((count, 1, size, size), dtype=np.uint8)
    for start in range(0, count, _CHUNK):
        chosen = labels[start : start + _CHUNK]
        layers = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
        look = np.empty((len(chosen), _LOOK_NUMBERS), dtype=np.float32)
        noise = np.empty((len(chosen), size, size), dtype=np.float32)
        for row, label in enumerate(chosen.tolist()):
            rng = _generator(task, seed, start + row)
            rng.random(dtype=np.float32, out=look[row])
            pen = Pen(rng)
            artists[label](pen)
            layers[row] = _rasterise(pen, size)
            # Last, because it alone depends on the size: an image keeps its shape and look at every size.
            rng.standard_normal(dtype=np.float32, out=noise[row])
        images[start : start + _CHUNK, 0] = _photograph(layers, look, noise)
    return torch.from_numpy(images), torch.from_numpy(labels)


def _check(count: int, seed: int, size: int) -> None:
    ranges = [
        ("count", count, 1, 10_000_000, "such as 1000"),
        ("seed", seed, 0, 2**63 - 1, "such as 0"),
        ("size", size, MIN_SIZE, MAX_SIZE, "such as 28"),
    ]
    problems = [
        f"{name} is {value!r}; give a whole number from {low} to {high}, {example}"
        for name, value, low, high, example in ranges
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
    ]
    if problems:
        raise UserError("cannot draw these images: " + "; ".join(problems) + ".")


def _generator(task: int, seed: int, index: int) -> np.random.Generator:
    # Philox takes (seed, index) as its key as it stands: no two images share a stream, none needs the one before.
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, 0, task]))


def _labels(num_classes: int, task: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    # One permutation of all classes after the other: every prefix is balanced.
    blocks = -(-count // num_classes)
    rng = _generator(task, seed, _LABEL_STREAM)
    return np.concatenate([rng.permutation(num_classes) for _ in range(blocks)])[:count].astype(np.int64)


def _rasterise(pen: Pen, size: int) -> npt.NDArray[np.uint8]:
    """Place and deform a drawing; returns tone, texture weight and coverage, uint8, shape (size, size, 3)."""
    side = size * _SUPERSAMPLING
    placed, scale = _place(pen)
    placed = (placed + 1) * (side / 2)
    image = Image.new("RGB", (side, side))
    canvas = ImageDraw.Draw(image)
    if pen.chance(0.4):
        _clutter(canvas, pen, side, behind=True)
    for start, end, smooth, width, colour in pen.strokes:
        path = placed[start:end]
        if width:
            thickness = max(_SUPERSAMPLING * 3 // 4, round(width * scale * side / 2))
            canvas.line(path.ravel().tolist(), fill=colour, width=thickness)
        else:
            for _ in range(smooth):
                path = _cut_corners(path)
            canvas.polygon(path.ravel().tolist(), fill=colour)
    if pen.chance(0.25):
        _clutter(canvas, pen, side, behind=False)
    return np.asarray(image.reduce(_SUPERSAMPLING))


def _place(pen: Pen) -> tuple[Floats, float]:
    """Centre, deform, turn and shift; returns points in [-1, 1] and the scale from the artist's units to these."""
    points = np.array(pen.points)
    visible = np.concatenate([points[start:end] for start, end, _, _, colour in pen.strokes if colour[2]])
    low, high = visible.min(axis=0), visible.max(axis=0)
    half = float((high - low).max()) / 2
    x, y = ((points - (low + high) / 2) / half).T
    # A random polynomial of low order is a smooth elastic deformation without any image resampling.
    bend = [pen.between(-0.13, 0.13) for _ in range(6)]
    u = x * pen.between(0.8, 1.15) + bend[0] * (y * y - 0.3) + bend[1] * x * y + bend[2] * y * (y * y - 0.5)
    v = y * pen.between(0.88, 1.1) + bend[3] * (x * x - 0.3) + bend[4] * x * y + bend[5] * x * (x * x - 0.5)
    if pen.chance(0.4):
        u = -u
    angle, shear = pen.between(-0.35, 0.35), pen.between(-0.16, 0.16)
    fit = pen.between(0.62, 0.95)
    cos, sin = math.cos(angle) * fit, math.sin(angle) * fit
    u = u + shear * v
    shift_x, shift_y = pen.between(-0.14, 0.14), pen.between(-0.12, 0.12)
    placed = np.stack([cos * u - sin * v + shift_x, sin * u + cos * v + shift_y], axis=1)
    return placed, fit / half


def _clutter(canvas: ImageDraw.ImageDraw, pen: Pen, side: int, behind: bool) -> None:
    """Draw a faint band or patch behind the object, or cover a little of it."""
    level = round(pen.between(15, 70)) if behind else round(pen.between(0, 160))
    colour = (level, 0, 255)
    x, y = pen.between(0, side), pen.between(0, side)
    if pen.chance(0.5):
        ends = (
            [x, 0.0, pen.between(0, side), float(side)]
            if pen.chance(0.5)
            else [0.0, y, float(side), pen.between(0, side)]
        )
        canvas.line(ends, fill=colour, width=round(side * pen.between(0.02, 0.07)))
    else:
        width, height = side * pen.between(0.06, 0.16), side * pen.between(0.06, 0.16)
        canvas.ellipse([x - width, y - height, x + width, y + height], fill=colour)


def _cut_corners(path: Floats) -> Floats:
    following = np.concatenate([path[1:], path[:1]])
    out = np.empty((2 * len(path), 2))
    out[0::2] = 0.75 * path + 0.25 * following
    out[1::2] = 0.25 * path + 0.75 * following
    return out


def _photograph(layers: npt.NDArray[np.uint8], look: Field, noise: Field) -> npt.NDArray[np.uint8]:
    """Give flat drawings their texture, light, blur and sensor noise.

    Args:
        layers: Tone, texture weight and coverage, shape (n, size, size, 3).
        look: Uniform numbers in [0, 1) that decide everything about an image's look, shape (n, 20).
        noise: Standard normal numbers, shape (n, size, size).

    Returns:
        Grey images, shape (n, size, size).
    """
    # Only + - * / and comparisons on float32: these are exact by IEEE 754, so no machine rounds a pixel differently.
    tone, weight, cover = (layers[..., channel].astype(np.float32) / 255 for channel in range(3))
    size = tone.shape[1]
    axis = (np.arange(size, dtype=np.float32) * 2 + 1) / size - 1
    x, y = axis[None, None, :], axis[None, :, None]
    n = [column[:, None, None] for column in look.T]

    surface = weight * _texture(x, y, n[:8], noise) + _folds(x, y, n[8:11]) * weight
    soft = _blur(_blur(cover))
    light = (n[11] - 0.5) * _slope(soft, 2) + (n[12] - 0.3) * _slope(soft, 1)
    glow = (n[13] - 0.5) * x * 0.4 + (n[14] - 0.5) * y * 0.4
    image = tone * np.maximum(0.2, 1 + surface + glow + 0.9 * light - 0.35 * n[15] * (1 - soft) * cover)

    blurred = _blur(image)
    image = image + n[16] * (blurred - image)
    image = image + np.maximum(0, n[17] - 0.6) * 2 * (_blur(blurred) - image)
    # Neighbours share part of the noise, as after a camera's own processing.
    grain = noise[:, ::-1, :]
    image = image + (0.01 + 0.06 * n[18] * n[18]) * (0.6 * grain + 0.5 * np.roll(grain, 1, axis=2))
    image = image * (0.75 + 0.4 * n[19])
    grey: npt.NDArray[np.uint8] = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return grey


def _texture(x: Field, y: Field, n: Sequence[Field], noise: Field) -> Field:
    """Plain, stripes, checks, dots or knit, as a relative change of tone."""
    kind, strength = n[0], (0.1 + 0.4 * n[1]) * np.where(n[2] < 0.5, 1, -1)
    turn = np.where(n[3] < 0.4, 0, np.where(n[3] < 0.8, 1, 2 * n[3] - 1.3))
    frequency = 1.2 + 2.6 * n[4]
    p = frequency * (turn * x + (1 - turn) * y) + n[5]
    q = frequency * ((1 - turn) * x - turn * y) + n[6]
    first, second = _wave(p), _wave(q)
    hard = np.where(n[7] < 0.5, 4, 1).astype(np.float32)
    stripes = np.clip(hard * first, -1, 1)
    checks = (first + second) / 2
    dots = np.clip(2 * (first + second) - 2, 0, 1) * 1.6
    knit = 0.5 * _wave(3.1 * p) + 0.35 * noise
    chosen = np.where(kind < 0.54, stripes, np.where(kind < 0.68, checks, np.where(kind < 0.8, dots, knit)))
    return np.where(kind < 0.36, 0, strength * chosen).astype(np.float32)


def _folds(x: Field, y: Field, n: Sequence[Field]) -> Field:
    slant = 2 * n[0] - 1
    ripple = _wave(1.1 * (x + slant * y) + n[1] + 0.25 * y * y)
    return (0.28 * n[2] * n[2] * ripple).astype(np.float32)


def _wave(t: Field) -> Field:
    """Approximate a sine of period 1 by two parabolas."""
    s = t - np.floor(t) - 0.5
    wave: Field = 8 * s * (1 - 2 * np.abs(s))
    return wave


def _slope(field: Field, axis: int) -> Field:
    return np.roll(field, 1, axis=axis) - np.roll(field, -1, axis=axis)


def _blur(field: Field) -> Field:
    """Smooth with the binomial kernel (1, 2, 1) along both axes; the border counts as black."""
    padded = np.pad(field, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    blurred: Field = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return blurred
