"""Pictures of robustness: every corruption on one image, accuracies as a heat map, curves, histograms of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from fashion_tl.data.transforms import visible
from fashion_tl.inspection.corruption_table import CORRUPTIONS, STRENGTHS, corrupt
from fashion_tl.inspection.diagnose_plots import GREY, INK, PALETTE, drawing, png, show_image


def corruption_sheet(image: Tensor, index: int, seed: int) -> bytes:
    """Draw one image (C, H, W), uint8, clean and under every corruption at every strength."""
    names = list(CORRUPTIONS)
    half = -(-len(names) // 2)
    place = torch.tensor([index])
    with drawing():
        figure = Figure(figsize=(14.2, 1.02 * half + 0.4), layout="constrained")
        shares = [1.35, *[1.0] * (STRENGTHS + 1)]
        grid: Any = figure.subplots(half, 2 * len(shares), squeeze=False, width_ratios=shares * 2)
        for axes in grid.flat:
            axes.axis("off")
        for number, name in enumerate(names):
            line = grid[number % half, (number // half) * len(shares) :]
            line[0].text(1, 0.5, name, transform=line[0].transAxes, ha="right", va="center")
            versions = [image] + [corrupt(image[None], name, k + 1, seed, place)[0] for k in range(STRENGTHS)]
            for column, version in enumerate(versions):
                axes = line[column + 1]
                pixels = visible(version[None])[0].permute(1, 2, 0).cpu().numpy()
                show_image(axes, pixels[..., 0] if pixels.shape[2] == 1 else pixels)
                strength = f"{CORRUPTIONS[name].strengths[column - 1]:g}" if column else "clean"
                axes.set_title(strength, fontsize=7, pad=2)
        return png(figure)


def heat_map(cells: dict[str, Any], clean: float) -> bytes:
    """Draw accuracies by corruption (row) and strength (column) as numbers on colours."""
    values = np.array([[cell["accuracy"] for cell in row] for row in cells.values()])
    with drawing():
        figure = Figure(figsize=(5.6, 0.31 * len(values) + 1.0), layout="constrained")
        axes = figure.add_subplot()
        shown = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(values.shape[1]), [str(k + 1) for k in range(values.shape[1])])
        axes.set_yticks(range(len(values)), list(cells))
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=8)
        axes.set(xlabel="strength", title=f"accuracy under corruption; on clean images {clean:.3f}")
        figure.colorbar(shown, ax=axes, pad=0.02, aspect=30)
        return png(figure)


def sensitivity_curves(curves: dict[str, Any], clean: dict[str, Any]) -> bytes:
    """Draw accuracy against shift and against rotation."""
    with drawing():
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        kinds = [
            ("horizontal shift", left, "to the right"),
            ("vertical shift", left, "down"),
            ("rotation", right, None),
        ]
        for (kind, axes, label), colour, marker in zip(kinds, PALETTE, ("o", "s", "o"), strict=False):
            points = {float(place): cell["accuracy"] for place, cell in curves[kind].items()}
            points[0.0] = clean["accuracy"]
            places = sorted(points)
            axes.plot(places, [points[p] for p in places], color=colour, marker=marker, markersize=3.5, label=label)
        for axes in (left, right):
            axes.axhline(clean["accuracy"], color=GREY, linewidth=0.9, zorder=0)
            axes.grid(visible=True)
            axes.set_ylim(0, 1.02)
        left.set(xlabel="shift in px of an image of 28", ylabel="accuracy")
        left.legend(frameon=False, fontsize=8, loc="lower center")
        right.set(xlabel="rotation in degrees, counter-clockwise")
        right.set_xticks(range(-180, 181, 45))
        return png(figure)


def score_histograms(figures: dict[str, Any], scores: dict[str, np.ndarray]) -> bytes:
    """Draw how each score is distributed over the run's own test images and over each other set."""
    names = [key.split("/", 1)[1] for key in scores if key.startswith("inside/")]
    sets = list(figures["sets"])
    with drawing():
        size = (2.45 * len(names) + 0.6, 1.75 * len(sets) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(len(sets), len(names), squeeze=False)
        for row, other in enumerate(sets):
            for column, name in enumerate(names):
                axes = grid[row, column]
                inside, outside = scores[f"inside/{name}"], scores[f"{other}/{name}"]
                if name.startswith("Mahalanobis, input"):
                    inside, outside = (-np.log10(np.maximum(-values, 1e-12)) for values in (inside, outside))
                edges = np.linspace(*_range(inside, outside), 41)
                for values, colour in ((inside, PALETTE[0]), (outside, PALETTE[1])):
                    share = np.full(len(values), 1 / len(values))
                    clipped = values.clip(edges[0], edges[-1])
                    axes.hist(clipped, edges, weights=share, color=colour, alpha=0.6)
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
                axes.set_title(f"AUROC {figures['sets'][other][name]['auroc']:.3f}", fontsize=8, color=INK, pad=2)
                axes.tick_params(labelsize=7)
                if row == len(sets) - 1:
                    axes.set_xlabel(_axis(name), fontsize=8)
            grid[row, 0].set_ylabel(other, fontsize=9)
        handles = [Patch(color=colour, alpha=0.6) for colour in PALETTE[:2]]
        figure.legend(handles, ["test images", "others, named on the left"], loc="outside upper center", ncols=2)
        return png(figure)


def _axis(name: str) -> str:
    first, _, rest = name.partition(", ")
    label = f"{first},\n{rest}" if rest else name
    return label + ("\n(minus log10 of the distance²)" if name.startswith("Mahalanobis, input") else "")


def _range(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float]:
    both = [np.quantile(values, [0.005, 0.995]) for values in (inside, outside)]
    low, high = float(min(b[0] for b in both)), float(max(b[1] for b in both))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
