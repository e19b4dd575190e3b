"""Saliency of test images, of mistakes, of a randomised network, of several runs side by side, of given images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fashion_tl.inspection.explained_images import SCALE_NOTE, ExplainedImage, ExplainedRun
from fashion_tl.inspection.saliency import METHODS, Step, randomise_downwards
from fashion_tl.metrics.errors import most_confident_mistakes
from fashion_tl.plots.tiles import Tile, draw_tiles, heat_map, in_rows, overlay
from fashion_tl.records.analysis import Analysis

EACH, MOST_CLASSES, WORST, RANDOMISED, DISAGREEMENTS = 2, 20, 12, 6, 6


def stem(method: str) -> str:
    """Return what the files of a method's analyses begin with."""
    return "explain" if method == "grad_cam" else f"explain_{method}"


def saliency_analysis(explained: ExplainedRun) -> Analysis:
    """Explain two test images of each class and the most confident mistakes, and randomise the network."""
    found = Analysis(f"Saliency: {METHODS[explained.method]}", explained.note)
    found.figures = {**explained.layer_figures(), "method": explained.method}
    items = explained.explain(explained.first_of_each_class(EACH, MOST_CLASSES))
    found.add_picture(
        f"{stem(explained.method)}-classes.png",
        draw_explained(
            items,
            f"{explained.run.label}: the first {EACH} test images of each class",
            f"Image, saliency and overlay. {explained.note}",
        ),
        f"The first {EACH} test images of each class with the saliency of the predicted class",
    )
    found.figures["classes"] = [item.figures() for item in items]
    _mistakes(explained, found)
    _randomised(explained, found)
    return found


def draw_explained(
    items: Sequence[ExplainedImage], title: str, note: str, against: Sequence[ExplainedImage] = ()
) -> bytes:
    """Draw image, saliency and overlay of each item, two items a row.

    With ``against``, the same images with saliency of another class, overlays of both follow the image.
    """
    tiles: list[Tile] = []
    for place, item in enumerate(items):
        shown = [heat_map(item.saliency), overlay(item.image, item.saliency)]
        if against:
            shown = [overlay(item.image, item.saliency), overlay(item.image, against[place].saliency)]
        above = item.name if item.truth is None else f"{item.truth}\n{item.name}"
        tiles += [Tile(item.image, above), Tile(shown[0], below=item.verdict, ink=item.ink), Tile(shown[1])]
    return draw_tiles(in_rows(tiles, 6), title=title, note=note)


def draw_side_by_side(rows: Sequence[Sequence[ExplainedImage]], heads: Sequence[str], title: str, note: str) -> bytes:
    """Draw one image a row, then its overlay and prediction by each run."""
    tiles = []
    for row, items in enumerate(rows):
        name = items[0].name if items[0].truth is None else f"{items[0].truth}\n{items[0].name}"
        tiles.append([Tile(items[0].image, below=name)])
        for item, head in zip(items, heads, strict=True):
            shown = overlay(item.image, item.saliency)
            tiles[-1].append(Tile(shown, head if row == 0 else "", item.verdict, item.ink))
    return draw_tiles(tiles, title=title, note=note, side=1.5)


def _mistakes(explained: ExplainedRun, found: Analysis) -> None:
    labels = explained.run.labels
    positions = most_confident_mistakes(explained.probabilities, labels, WORST).tolist()
    found.figures["worst"] = []
    if not positions:
        found.note += " No test image is classified wrong."
        return
    items = explained.explain(positions)
    found.add_picture(
        f"{stem(explained.method)}-worst.png",
        draw_explained(
            items,
            f"{explained.run.label}: its {len(items)} most confident mistakes",
            f"Image, evidence for the predicted class, evidence for the true class. {SCALE_NOTE}",
            explained.explain(positions, [int(labels[position]) for position in positions]),
        ),
        "The most confident mistakes, with the evidence for the predicted and for the true class",
    )
    found.add_table(
        "Most confident mistakes",
        ["test image", "true class", "predicted class", "confidence"],
        [[str(item.index), item.truth, item.predicted, item.confidence] for item in items],
    )
    found.figures["worst"] = [item.figures() for item in items]


def _randomised(explained: ExplainedRun, found: Analysis) -> None:
    run = explained.run
    positions = explained.first_of_each_class(1, RANDOMISED)
    with torch.no_grad():
        prepared = run.module.preprocess(run.images(positions).to(run.module.device))
        classes = run.module(prepared).argmax(1)
    trained, steps = randomise_downwards(run.module.network, explained.target, prepared, classes, explained.saliency)
    shown = [steps[i] for i in sorted({round(i) for i in np.linspace(0, len(steps) - 1, min(len(steps), 6))})]
    heads = ["image", "trained", *(f"{step.stage.removeprefix('features.')}\n{_correlation(step)}" for step in shown)]
    rows = []
    for i, image in enumerate(run.pictures(positions)):
        maps = [maps[i].cpu().numpy() for maps in (trained, *(step.maps for step in shown))]
        pictures = [image, *(overlay(image, values) for values in maps)]
        rows.append([Tile(p, head if i == 0 else "") for p, head in zip(pictures, heads, strict=True)])
    found.add_picture(
        f"{stem(explained.method)}-randomised.png",
        draw_tiles(
            rows,
            [run.class_names[run.labels[position]] for position in positions],
            f"{run.label}: saliency when the network is randomised from the head down",
            "Adebayo et al. 2018. Below each stage: mean rank correlation with the trained network's saliency. A "
            "method whose maps stay as they were (near 1) shows the image, not what was learned.",
        ),
        "Saliency of the trained network and of randomised ones",
    )
    found.add_table(
        f"Rank correlation with the trained network's saliency, {len(positions)} images, randomised from the head down "
        "to",
        ["stage", "mean rank correlation", "images with a map"],
        [[step.stage, step.mean, len([c for c in step.correlations if c is not None])] for step in steps],
    )
    found.figures["randomised"] = [
        {"stage": step.stage, "mean": step.mean, "correlations": step.correlations} for step in steps
    ]


def _correlation(step: Step) -> str:
    return "no map" if step.mean is None else f"{step.mean:.2f}"


def given_images_analysis(runs: Sequence[ExplainedRun], given: Sequence[Tensor], names: Sequence[str]) -> Analysis:
    """Explain given images, by one run or by several side by side.

    Args:
        runs: The runs.
        given: For each run the images (B, C, H, W) as it holds them.
        names: Names of the images.
    """
    explained = [run.explain_images(images, names) for run, images in zip(runs, given, strict=True)]
    labels = [run.run.label for run in runs]
    found = Analysis("Given images", runs[0].note)
    drawn = (
        draw_explained(explained[0], f"{labels[0]}: given images", runs[0].note)
        if len(runs) == 1
        else draw_side_by_side(list(zip(*explained, strict=True)), labels, "Given images", _several(runs))
    )
    found.add_picture("explain_images-own.png", drawn, f"{len(names)} images with the saliency of the predicted class")
    columns = ["image", *(column for label in labels for column in (f"{label}: class", "confidence"))]
    cells = [[n, *(c for e in explained for c in (e[i].predicted, e[i].confidence))] for i, n in enumerate(names)]
    found.add_table("Predictions", columns, cells)
    return found


def comparison_analysis(runs: Sequence[ExplainedRun]) -> Analysis:
    """Lay the saliency of several runs side by side: one image of each class, and images on which they disagree."""
    labels, method = [run.run.label for run in runs], runs[0].method
    layers = "; ".join(f"{run.run.label}: {run.layer}" for run in runs) if method == "grad_cam" else ""
    found = Analysis(f"Saliency side by side: {METHODS[method]}", f"{layers or SCALE_NOTE}")
    found.figures = {"method": method, "runs": {run.run.label: run.layer_figures() for run in runs}}
    sets = [("classes", "The first test image of each class", runs[0].first_of_each_class(1, MOST_CLASSES))]
    sets += [("disagreements", "Test images of most confident disagreement", disagreements(runs, DISAGREEMENTS))]
    for file, title, positions in sets:
        if positions:
            explained = [run.explain(positions) for run in runs]
            drawn = draw_side_by_side(list(zip(*explained, strict=True)), labels, title, _several(runs))
            found.add_picture(f"{stem(method)}_compared-{file}.png", drawn, f"{title}, by each run")
            pairs = zip(labels, explained, strict=True)
            found.figures[file] = {label: [item.figures() for item in items] for label, items in pairs}
    return found


def _several(runs: Sequence[ExplainedRun]) -> str:
    return f"{METHODS[runs[0].method]} of the class that each run predicts. {SCALE_NOTE}"


def disagreements(runs: Sequence[ExplainedRun], count: int) -> list[int]:
    """Find test images that not all runs give the same class, by falling confidence of the least confident run."""
    probabilities = np.stack([run.probabilities for run in runs])
    guesses = probabilities.argmax(axis=2)
    apart = np.flatnonzero((guesses != guesses[0]).any(axis=0))
    least = probabilities.max(axis=2).min(axis=0)[apart]
    return [int(p) for p in apart[np.argsort(-least, kind="stable")][:count]]
