"""Several runs side by side on the same images, and images of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fashion_tl.inspection import panels
from fashion_tl.inspection.explain_parts import MOST_CLASSES
from fashion_tl.inspection.explain_text import item_figures, method_words, place_words, stem, target_figures
from fashion_tl.inspection.explained_run import Advance, Subject
from fashion_tl.inspection.heatmaps import METHODS, method_of
from fashion_tl.records.findings import Findings

DISAGREEMENTS = 6


def images_of(
    subjects: Sequence[Subject], given: Sequence[Tensor], names: Sequence[str], method: str, advance: Advance
) -> Findings:
    """Explain images of one's own, by one run or by several side by side.

    Args:
        subjects: The runs.
        given: For each run the images (B, C, H, W) as it holds them.
        names: Names of the images.
        method: One of ``METHODS``.
        advance: Called with the number of maps done.
    """
    explained = [
        s.explain_images(method_of(method, s.opened.module, advance), images, names)
        for s, images in zip(subjects, given, strict=True)
    ]
    found = Findings("Images of one's own", "".join(method_words(s, method) for s in subjects[:1]))
    note = f"Maps of the predicted class, {METHODS[method]}. {panels.SCALE_NOTE}"
    title = "Images of one's own"
    if len(subjects) == 1:
        drawn = panels.draw_triples(explained[0], f"{subjects[0].label}: {title.lower()}", note)
    else:
        rows = list(zip(*explained, strict=True))
        drawn = panels.draw_columns(rows, [s.label for s in subjects], title, note)
    found.add_picture("explain_images-own.png", drawn, f"{len(names)} images with maps of the predicted class")
    columns = ["image", *(c for s in subjects for c in (f"{s.label}: class", "confidence"))]
    cells = [[n, *(c for e in explained for c in (e[i].predicted, e[i].confidence))] for i, n in enumerate(names)]
    found.add_table("Predictions", columns, cells)
    return found


def compared(subjects: Sequence[Subject], method: str, advance: Advance) -> Findings:
    """Lay the maps of several runs side by side: one image of each class, and images on which they disagree."""
    heats = [method_of(method, s.opened.module, advance) for s in subjects]
    title = f"Maps side by side: {METHODS[method]}"
    found = Findings(title, "; ".join(f"{s.label}: {place_words(s, method)}" for s in subjects) + ".")
    found.figures = {"method": method, "runs": {s.label: target_figures(s) for s in subjects}}
    heads = [s.label for s in subjects]
    note = f"Maps of the class that each run predicts. {panels.SCALE_NOTE}"

    def draw(positions: list[int], what: str, file: str, alt: str) -> None:
        explained = [s.explain(heat, positions) for s, heat in zip(subjects, heats, strict=True)]
        rows = list(zip(*explained, strict=True))
        found.add_picture(f"{stem(method)}_compared-{file}.png", panels.draw_columns(rows, heads, what, note), alt)
        found.figures[file] = {
            s.label: [item_figures(item) for item in e] for s, e in zip(subjects, explained, strict=True)
        }

    first = subjects[0].first_of_each_class(1, MOST_CLASSES)
    draw(first, "The first test image of each class", "classes", "The first test image of each class, by each run")
    apart = disagreements(subjects, DISAGREEMENTS)
    if apart:
        what = "Where the runs disagree most confidently"
        draw(apart, what, "disagreements", f"{len(apart)} images on which the runs disagree")
    return found


def count_compared(subjects: Sequence[Subject]) -> int:
    """Count the maps that ``compared`` computes, for a progress bar."""
    shown = len(subjects[0].first_of_each_class(1, MOST_CLASSES)) + len(disagreements(subjects, DISAGREEMENTS))
    return shown * len(subjects)


def disagreements(subjects: Sequence[Subject], count: int) -> list[int]:
    """Find test images that not all runs give the same class, by falling confidence of the least confident run."""
    probabilities = np.stack([s.probabilities for s in subjects])
    guesses = probabilities.argmax(axis=2)
    apart = np.flatnonzero((guesses != guesses[0]).any(axis=0))
    least = probabilities.max(axis=2).min(axis=0)[apart]
    return [int(p) for p in apart[np.argsort(-least, kind="stable")][:count]]
