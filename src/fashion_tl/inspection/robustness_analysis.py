"""Robustness figures as tables and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fashion_tl.inspection.corruption_error import CURVES, Subset
from fashion_tl.inspection.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from fashion_tl.inspection.ood import HEAD_DISTANCE, IN_DISTRIBUTION
from fashion_tl.inspection.run import picture
from fashion_tl.metrics.metrics import Floats
from fashion_tl.plots.style import GREY, PALETTE, png, style
from fashion_tl.plots.tiles import Tile, draw_tiles, in_rows
from fashion_tl.records.analysis import Analysis

LEVELS = [str(level) for level in range(1, STRENGTHS + 1)]
UNITS = {"horizontal shift": "px", "vertical shift": "px", "rotation": "degrees"}


def scalars(figures: dict[str, Any]) -> dict[str, float | None]:
    """Return the numbers that TensorBoard shows."""
    ood, errors = figures["out_of_distribution"], figures["corruption_error"]
    return {
        "clean_accuracy": figures["clean"]["accuracy"],
        "mean_corrupted_error": errors["error"],
        "mean_corruption_error": errors["mce"],
        **{f"auroc_{s.replace(' ', '_')}": ood["sets"][s][score]["auroc"] for s, score in ood["best"].items()},
    }


def summary(label: str, figures: dict[str, Any]) -> list[str]:
    """Return the figures of a run in a few lines."""
    errors, ood = figures["corruption_error"], figures["out_of_distribution"]
    lines = [
        f"{label}: accuracy {figures['clean']['accuracy']:.4f}, under corruption {1 - errors['error']:.4f}, "
        f"on {figures['settings']['images']:,} test images"
    ]
    if errors["mce"] is not None:
        lines.append(f"  mean corruption error relative to {errors['baseline']}: {errors['mce']:.4f}")
    for name, score in ood["best"].items():
        lines.append(f"  detection of {name}: AUROC {ood['sets'][name][score]['auroc']:.4f} ({score})")
    return lines + [f"  {line}" for line in figures["left_out"]]


def robustness_analysis(figures: dict[str, Any], scores: dict[str, Floats], test: Subset) -> Analysis:
    """Lay out figures.

    Args:
        figures: "settings", what ``corruption_figures`` returned, "corruption_error", "out_of_distribution" and
            "left_out", a line for each set that was left out.
        scores: Scores that ``detect`` returned.
        test: The test images; the first one is shown under every corruption.
    """
    settings, images = figures["settings"], len(test.labels)
    lines = [
        f"on {images:,} of {settings['test_images']:,} test images, drawn by seed {settings['seed']}, as stored",
        *([f"at an accuracy of 0.9 the standard error is {(0.09 / images) ** 0.5:.3f}"] if images < 10_000 else []),
        *figures["left_out"],
    ]
    note = " ".join(f"{line[0].upper()}{line[1:]}." for line in lines)
    analysis = Analysis("Robustness", note, figures=figures)
    _add_accuracy(analysis)
    _add_calibration(analysis)
    for kind in CURVES:
        values, accuracies = _curve(figures, kind)
        columns = [UNITS[kind], *(f"{value:g}" for value in values)]
        analysis.add_table(f"Accuracy against {kind}", columns, [["accuracy", *accuracies]])
    _add_detection(analysis)
    rows = [
        [name, *(f"{s:g}" for s in entry.strengths), entry.unit, entry.source] for name, entry in CORRUPTIONS.items()
    ]
    analysis.add_table(
        "The corruptions; pixels are those of an image of 28", ["corruption", *LEVELS, "strength is", "source"], rows
    )
    for name, drawn, alt in (
        ("corruptions", corruption_sheet(test, settings["seed"]), "Every corruption at each strength on a test image"),
        ("accuracy", accuracy_grid(figures), "Accuracy by corruption and strength"),
        ("curves", accuracy_curves(figures), "Accuracy against shift and rotation of the images"),
        ("scores", score_histograms(figures, scores), "Histograms of the scores of test images and OOD images"),
    ):
        analysis.add_picture(f"robustness-{name}.png", drawn, alt)
    return analysis


def _curve(figures: dict[str, Any], kind: str) -> tuple[list[float], list[float]]:
    """Return the values of a shift or rotation, 0 among them, and the accuracies."""
    cells = {0.0: figures["clean"], **{float(value): cell for value, cell in figures["curves"][kind].items()}}
    return sorted(cells), [cells[value]["accuracy"] for value in sorted(cells)]


def _rows(figures: dict[str, Any], figure: str) -> list[list[Any]]:
    """Return a row of one figure for clean images and for each corruption: by strength, then the mean."""
    cells = {"clean": [figures["clean"]] * STRENGTHS, **figures["cells"]}
    values = {name: [cell[figure] for cell in row] for name, row in cells.items()}
    return [[name, *row, float(np.mean(row))] for name, row in values.items()]


def _add_accuracy(analysis: Analysis) -> None:
    errors, rows = analysis.figures["corruption_error"], _rows(analysis.figures, "accuracy")
    columns = ["corruption", *LEVELS, "mean"]
    caption = f"Accuracy by corruption and strength; mean corrupted error {errors['error']:.4f}"
    if errors.get("by_corruption") is not None:
        columns.append(f"corruption error / {errors['baseline']}")
        means = [
            f"{name} {errors[key]:.4f}"
            if errors[key] is not None
            else f"{name} not defined (the baseline loses nothing)"
            for key, name in (("mce", "mean corruption error"), ("relative_mce", "relative"))
        ]
        caption += f"; relative to {errors['baseline']}: {', '.join(means)}"
        for row, ratio in zip(rows, ["", *errors["by_corruption"].values()], strict=True):
            row.append(ratio)
    analysis.add_table(caption, columns, rows)


def _add_calibration(analysis: Analysis) -> None:
    rows, columns = _rows(analysis.figures, "ece"), ["corruption", *LEVELS, "mean"]
    if analysis.figures["clean"]["ece_calibrated"] is not None:
        columns.append("mean, calibrated")
        for row, calibrated in zip(rows, _rows(analysis.figures, "ece_calibrated"), strict=True):
            row.append(calibrated[-1])
    analysis.add_table("Expected calibration error by corruption and strength (15 bins)", columns, rows)


def _add_detection(analysis: Analysis) -> None:
    ood = analysis.figures["out_of_distribution"]
    rows = [
        [f"{name} ({ood['images'][name]:,})", score + (" (best)" if ood["best"][name] == score else "")]
        + [found[key] for key in ("auroc", "aupr_in", "aupr_out", "fpr95")]
        for name, by_score in ood["sets"].items()
        for score, found in by_score.items()
    ]
    analysis.add_table(
        f"Detection of out-of-distribution images against {ood['images'][IN_DISTRIBUTION]:,} test images; Gaussians of "
        f"{', '.join(ood['stages'])} fitted to {ood['training_images']:,} training images",
        ["OOD images", "score", "AUROC", "AUPR, in-distribution", "AUPR, OOD", "FPR at 95 % TPR"],
        rows,
    )


def corruption_sheet(test: Subset, seed: int) -> bytes:
    """Draw the first test image clean and under every corruption at every strength."""
    image, index = test.images[:1], test.index[:1]
    tiles = []
    for name, entry in CORRUPTIONS.items():
        tiles.append(Tile(picture(image[0]), name))
        for level, strength in enumerate(entry.strengths, 1):
            tiles.append(Tile(picture(corrupt(image, name, level, seed, index)[0]), f"{strength:g}"))
    return draw_tiles(in_rows(tiles, 2 * (STRENGTHS + 1)), side=0.95)


def accuracy_grid(figures: dict[str, Any]) -> bytes:
    """Draw accuracies by corruption (row) and strength (column) as numbers on colours."""
    values = np.array([[cell["accuracy"] for cell in row] for row in figures["cells"].values()])
    with style():
        figure = Figure(figsize=(5.6, 0.31 * len(values) + 1.0), layout="constrained")
        axes = figure.add_subplot()
        shown = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(LEVELS)), LEVELS)
        axes.set_yticks(range(len(values)), list(figures["cells"]))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink, fontsize=8)
        title = f"accuracy under corruption; on clean images {figures['clean']['accuracy']:.3f}"
        axes.set(xlabel="strength", title=title)
        figure.colorbar(shown, ax=axes, pad=0.02, aspect=30)
        return png(figure)


def accuracy_curves(figures: dict[str, Any]) -> bytes:
    """Draw accuracy against shift and against rotation."""
    with style():
        figure = Figure(figsize=(8.6, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, kind, label, colour, marker in (
            (left, "horizontal shift", "to the right", PALETTE[0], "o"),
            (left, "vertical shift", "down", PALETTE[1], "s"),
            (right, "rotation", None, PALETTE[2], "o"),
        ):
            axes.plot(*_curve(figures, kind), color=colour, marker=marker, markersize=3.5, label=label)
        for axes in (left, right):
            axes.axhline(figures["clean"]["accuracy"], color=GREY, linewidth=0.9, zorder=0)
            axes.grid(visible=True)
            axes.set_ylim(0, 1.02)
        left.set(xlabel="shift in px of an image of 28", ylabel="accuracy")
        left.legend(loc="lower center")
        right.set(xlabel="rotation in degrees, counter-clockwise", xticks=range(-180, 181, 45))
        return png(figure)


def score_histograms(figures: dict[str, Any], scores: dict[str, Floats]) -> bytes:
    """Draw how each score is distributed over the run's own test images and over each set of OOD images."""
    sets = figures["out_of_distribution"]["sets"]
    names = list(next(iter(sets.values())))
    with style():
        size = (2.45 * len(names) + 0.6, 1.75 * len(sets) + 0.9)
        figure = Figure(figsize=size, layout="constrained")
        grid: Any = figure.subplots(len(sets), len(names), squeeze=False)
        for (row, column), axes in np.ndenumerate(grid):
            ood, name = list(sets)[row], names[column]
            both = [scores[f"{IN_DISTRIBUTION}/{name}"], scores[f"{ood}/{name}"]]
            if name == HEAD_DISTANCE:
                both = [-np.log10(np.maximum(-values, 1e-12)) for values in both]
            low, high = (pick(np.quantile(v, q) for v in both) for pick, q in ((min, 0.005), (max, 0.995)))
            edges = np.linspace(low, high, 41) if high > low else np.linspace(low - 0.5, low + 0.5, 41)
            for values, colour in zip(both, PALETTE, strict=False):
                share = np.full(len(values), 1 / len(values))
                axes.hist(values.clip(edges[0], edges[-1]), edges, weights=share, color=colour, alpha=0.6)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_title(f"AUROC {sets[ood][name]['auroc']:.3f}", fontsize=8, pad=2)
            axes.tick_params(labelsize=7)
            axes.locator_params(axis="x", nbins=4)
        for axes, ood in zip(grid[:, 0], sets, strict=True):
            axes.set_ylabel(ood, fontsize=9)
        for axes, name in zip(grid[-1], names, strict=True):
            scale = "\n(minus log10 of the distance²)" if name == HEAD_DISTANCE else ""
            axes.set_xlabel(name.replace(", ", ",\n") + scale, fontsize=8)
        handles = [Patch(color=colour, alpha=0.6) for colour in PALETTE[:2]]
        figure.legend(handles, ["test images", "OOD images, named on the left"], loc="outside upper center", ncols=2)
        return png(figure)
