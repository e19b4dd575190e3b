"""The drawing that both synthetic tasks share: outlines, textures, light, deformation, blur, clutter and noise.

An artist draws one class: it puts filled outlines and lines on a `Pen`, in coordinates of its own (x to the right,
y down, any scale). Everything else is the same for every class and task, so that features learned on one task help on
the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Point: TypeAlias = tuple[float, float]
Outline: TypeAlias = Sequence[Point]
Floats: TypeAlias = npt.NDArray[np.float64]
Field: TypeAlias = npt.NDArray[np.floating[Any]]

LOOK_NUMBERS = 20
_SUPERSAMPLING = 4


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


def on_side(side: int, path: Outline) -> list[Point]:
    """Return a path on the right side (1) as it is, or on the left side (-1)."""
    return [(side * x, y) for x, y in path]


def mirrored(right_half: Outline) -> list[Point]:
    """Close a right half (x >= 0, from top to bottom) by its mirror image."""
    return [*right_half, *((-x, y) for x, y in reversed(right_half))]


def rasterise(pen: Pen, size: int) -> npt.NDArray[np.uint8]:
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


def photograph(layers: npt.NDArray[np.uint8], look: Field, noise: Field) -> npt.NDArray[np.uint8]:
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
