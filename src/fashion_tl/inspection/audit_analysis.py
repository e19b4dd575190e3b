"""What an audit finds in a data set and what it means for runs: tables, pictures, figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.inspection.duplicates import NEIGHBOURS, Pairs, Views, alterations, near_pairs, views_of
from fashion_tl.inspection.inference import recorded_predictions, tracked
from fashion_tl.inspection.run import OpenedRun, picture
from fashion_tl.metrics.duplicates import exact_groups
from fashion_tl.metrics.metrics import Ints
from fashion_tl.metrics.uncertainty import wilson_interval
from fashion_tl.plots.style import GREY, INK
from fashion_tl.plots.tiles import Tile, draw_tiles, in_rows
from fashion_tl.records.analysis import Analysis
from fashion_tl.training.classifier import ImageClassifier

THRESHOLDS = (0.999, 0.998, 0.995, 0.99, 0.98)
COPIES = 300  # altered copies of each kind
PARTS = ("train", "val", "test")
LISTED = 1000  # pairs in the document


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Duplicates among the images of a data module, numbered through train, validation and test.

    Attributes:
        part: Split of each image (N,), an index into ``PARTS``.
        position: Position of each image in its split (N,).
        labels: Classes (N,).
        exact: Groups of images with the same pixels.
        near: Candidates of near duplicates, by the splits that they lie in: (2, 0), (2, 1) and (1, 0).
        copies: For each kind of altered copy of training images, the similarity to its original where it was found
            among the candidates, else -1.
        features: Whether a network's features were used.
    """

    part: Ints
    position: Ints
    labels: Ints
    exact: list[list[int]]
    near: dict[tuple[int, int], Pairs]
    copies: dict[str, np.ndarray]
    features: bool


def find_duplicates(data: ImageDataModule, module: ImageClassifier | None, batch_size: int, seed: int) -> Duplicates:
    """Find exact duplicates among all images, and candidates of near ones across the splits.

    Args:
        data: The data module, after ``setup``.
        module: The classifier whose backbone gives features; None for none.
        batch_size: Images in a batch.
        seed: Seed of the sample of altered copies.
    """
    splits = [data.splits[name] for name in PARTS]
    views = []
    for name, split in zip(PARTS, splits, strict=True):
        batches = tracked(data.in_order(name, batch_size), f"{name} images", len(split))
        views.append(views_of(batches, module))
    sizes = [len(split) for split in splits]
    start = np.cumsum([0, *sizes])
    near = {}
    for queries, references in ((2, 0), (2, 1), (1, 0)):
        found = near_pairs(views[queries], views[references])
        near[queries, references] = replace(
            found, query=found.query + start[queries], reference=found.reference + start[references]
        )
    return Duplicates(
        np.repeat(np.arange(len(PARTS)), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        np.concatenate([split.labels.numpy() for split in splits]),
        exact_groups([each for view in views for each in view.hashes]),
        near,
        _copies(data, views[0], module, batch_size, seed),
        module is not None,
    )


def _copies(
    data: ImageDataModule, train: Views, module: ImageClassifier | None, batch_size: int, seed: int
) -> dict[str, np.ndarray]:
    """Look for altered copies of training images among the training images, as for any other image.

    One that is found by an image of the same pixels as its original is found by its original too.
    """
    split = data.splits["train"]
    chosen = np.random.default_rng(seed).permutation(len(split))[:COPIES]
    originals = split.reading.read(torch.from_numpy(chosen))
    found = {}
    for name, alter in alterations().items():
        if originals.shape[1] not in (1, 3):
            continue
        pairs = near_pairs(views_of(torch.split(alter(originals), batch_size), module), train)
        own = pairs.where(pairs.reference == chosen[pairs.query])
        similarity = np.full(len(chosen), -1.0)
        similarity[own.query] = own.similarity
        found[name] = similarity
    return found


def analysed(found: Duplicates, data: ImageDataModule, runs: list[OpenedRun], threshold: float, top: int) -> Analysis:
    """Make the document of an audit.

    Args:
        found: The duplicates.
        data: The data module that they are of.
        runs: Runs to score without the test images that have a duplicate in train or validation.
        threshold: Least similarity of near duplicates.
        top: Pairs to draw of each kind.
    """
    how = "thumbnails and the features of a network" if found.features else "thumbnails"
    analysis = Analysis(
        "Duplicates across splits",
        f"{data.source_name}: exact duplicates have the same pixels as stored. Near ones are looked for among the "
        f"{NEIGHBOURS} nearest images by {how}, and have pixels that correlate by at least {threshold:g} under a shift "
        "of at most 2 of 32 pixels; of images with the same pixels one is looked for, and all are told.",
    )
    analysis.figures |= {"data": data.describe(), "threshold": threshold, "features": found.features}
    _add_exact(analysis, found)
    _add_near(analysis, found, threshold)
    _add_copies(analysis, found)
    affected = affected_positions(found, threshold)
    analysis.figures["affected_test_images"] = affected.tolist()
    _add_runs(analysis, runs, affected)
    for splits, pairs in found.near.items():
        _add_pictures(analysis, found, data, splits, pairs.first(top), threshold)
    _add_pairs(analysis, found, data, threshold)
    return analysis


def of_run(whole: Analysis, run: OpenedRun) -> Analysis:
    """Return the document of an audit for the folder of one run."""
    tables = [table for table in whole.tables if not table["caption"].startswith(_SCORED)]
    scored = [table for table in whole.tables if table["caption"].startswith(_SCORED)]
    own = [{**table, "rows": [row for row in table["rows"] if row[0] == run.label]} for table in scored]
    return replace(whole, tables=[*tables, *own])


def affected_positions(found: Duplicates, threshold: float) -> Ints:
    """Return the positions of the test images that have a duplicate in train or validation, ascending."""
    test = PARTS.index("test")
    images = [pairs.above(threshold).query for (query, _), pairs in found.near.items() if query == test]
    groups = [group for group in found.exact if len({found.part[i] == test for i in group}) == 2]
    exact = np.array([i for group in groups for i in group if found.part[i] == test], dtype=np.int64)
    positions: Ints = np.unique(found.position[np.concatenate([*images, exact])])
    return positions


_SCORED = "Accuracy without"


def _between(splits: tuple[int, int]) -> str:
    return " and ".join(PARTS[i] for i in splits)


def _add_exact(analysis: Analysis, found: Duplicates) -> None:
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for group in found.exact:
        for one, two in combinations(group, 2):
            first, second = sorted((int(found.part[one]), int(found.part[two])), reverse=True)
            name = f"within {PARTS[first]}" if first == second else _between((first, second))
            counts[name] += 1
            labels[name] += int(found.labels[one] != found.labels[two])
    kinds = [*map(_between, found.near), *(f"within {name}" for name in PARTS)]
    rows = [[kind, counts[kind], labels[kind]] for kind in kinds]
    analysis.add_table("Exact duplicates", ["pairs between", "pairs", "other label"], rows)
    analysis.figures["exact"] = {kind: {"pairs": counts[kind], "other_label": labels[kind]} for kind in kinds}


def _add_near(analysis: Analysis, found: Duplicates, threshold: float) -> None:
    rows, figures = [], []
    for level in sorted({*THRESHOLDS, threshold}, reverse=True):
        for splits, pairs in found.near.items():
            close = pairs.above(level)
            other = int((found.labels[close.query] != found.labels[close.reference]).sum())
            images = len(np.unique(close.query))
            rows.append([f"{level:g}, {_between(splits)}", len(close), images, other, int(close.mirrored.sum())])
            figures.append({"threshold": level, "between": _between(splits), "pairs": len(close), "images": images})
    columns = ["correlation of at least, between", "pairs", "images", "other label", "mirrored"]
    analysis.add_table("Near duplicates (exact ones included)", columns, rows)
    analysis.figures["near"] = figures


def _add_copies(analysis: Analysis, found: Duplicates) -> None:
    rows = [
        [name, *(float((similarity >= level).mean()) for level in THRESHOLDS)]
        for name, similarity in found.copies.items()
    ]
    columns = ["altered", *(f"at {level:g}" for level in THRESHOLDS)]
    if rows:
        count = len(next(iter(found.copies.values())))
        caption = f"Share of {count} altered copies of training images that are found, by the least correlation"
        analysis.add_table(caption, columns, rows)
    analysis.figures["copies"] = {row[0]: dict(zip(map(str, THRESHOLDS), row[1:], strict=True)) for row in rows}


def _add_runs(analysis: Analysis, runs: list[OpenedRun], affected: Ints) -> None:
    rows, figures = [], {}
    for run in runs:
        predictions = recorded_predictions(run)
        correct = predictions.logits.argmax(axis=1) == predictions.labels
        inside = np.isin(predictions.index, affected)
        scores = {"all": _score(correct), "without": _score(correct[~inside]), "affected": _score(correct[inside])}
        figures[run.label] = scores
        rows.append(
            [
                run.label,
                *(scores["all"][key] for key in ("accuracy", "images")),
                *(scores["without"][key] for key in ("accuracy", "low", "high", "images")),
                *(scores["affected"][key] for key in ("accuracy", "images")),
            ]
        )
    columns = ["run", "accuracy", "images", "without", "from", "to", "images", "on them alone", "images"]
    if rows:
        analysis.add_table(f"{_SCORED} the affected test images, with its 95 % interval", columns, rows)
    analysis.figures["runs"] = figures


def _score(correct: np.ndarray) -> dict[str, Any]:
    if not len(correct):
        return {"images": 0, "accuracy": None, "low": None, "high": None}
    low, high = wilson_interval(int(correct.sum()), len(correct))
    return {"images": len(correct), "accuracy": float(correct.mean()), "low": low, "high": high}


def _add_pictures(
    analysis: Analysis,
    found: Duplicates,
    data: ImageDataModule,
    splits: tuple[int, int],
    pairs: Pairs,
    threshold: float,
) -> None:
    """Add the most similar pairs, two pairs in a row, those below the threshold in grey."""
    if not len(pairs):
        return
    tiles = []
    for i in range(len(pairs)):
        similarity = f"{pairs.similarity[i]:.4f}{' mirrored' if pairs.mirrored[i] else ''}"
        for image, below in ((pairs.query[i], similarity), (pairs.reference[i], "")):
            name = data.class_names[found.labels[image]]
            above = f"{PARTS[found.part[image]]} {found.position[image]}\n{name}"
            ink = INK if pairs.similarity[i] >= threshold else GREY
            tiles.append(Tile(picture(_image(data, found, int(image))), above, below, ink))
    title = f"{data.source_name}: the most similar pairs between {_between(splits)}"
    note = f"Correlation of the pixels below each pair; grey below {threshold:g}."
    drawn = draw_tiles(in_rows(tiles, 8), title=title, note=note)
    name = f"audit-{'-'.join(PARTS[i] for i in splits)}.png"
    analysis.add_picture(name, drawn, f"The most similar pairs between {_between(splits)}, with their correlation")


def _image(data: ImageDataModule, found: Duplicates, number: int) -> Tensor:
    return data.splits[PARTS[found.part[number]]][int(found.position[number])][0]


def _add_pairs(analysis: Analysis, found: Duplicates, data: ImageDataModule, threshold: float) -> None:
    """List the near duplicates, the most similar first, with what finds them again."""

    def named(number: int) -> dict[str, Any]:
        part, position = PARTS[found.part[number]], int(found.position[number])
        index = int(data.splits[part].indices[position])
        label = data.class_names[found.labels[number]]
        return {"split": part, "position": position, "index": index, "label": label}

    listed = []
    for pairs in found.near.values():
        close = pairs.above(threshold)
        for i in range(min(len(close), LISTED)):
            one, two = int(close.query[i]), int(close.reference[i])
            similarity, mirrored = float(close.similarity[i]), bool(close.mirrored[i])
            listed.append({"one": named(one), "two": named(two), "similarity": similarity, "mirrored": mirrored})
    analysis.figures["pairs"] = sorted(listed, key=lambda pair: -pair["similarity"])
