"""The results of a study, computed from the records of its runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt

from fashion_tl import __version__
from fashion_tl.errors import UserError
from fashion_tl.metrics.pareto import pareto_front
from fashion_tl.metrics.repeated import mean_interval, paired_differences
from fashion_tl.metrics.significance import holm
from fashion_tl.metrics.uncertainty import mean_and_deviation
from fashion_tl.records.predictions import read_predictions
from fashion_tl.runs.fit import Run
from fashion_tl.runs.resume import HASHES
from fashion_tl.tournament.conclusion import conclude
from fashion_tl.tournament.engine import Played
from fashion_tl.tournament.plan import Study

LEVEL = 0.95


def results_of(study: Study, played: Sequence[Played]) -> dict[str, Any]:
    """Compute what the page and ``results.json`` hold, as plain values.

    Args:
        study: The study.
        played: Its cells, all of them.

    Raises:
        UserError: If the runs were tested on different images, or predictions cannot be read.
    """
    setting = _setting(played)
    correct = {each.cell.name: _correct(each) for each in played}
    cells = [_cell(each, correct[each.cell.name]) for each in played]
    results: dict[str, Any] = {
        "kind": study.kind,
        "name": study.name,
        "fashion_tl": __version__,
        "seeds": list(study.seeds),
        "split_seeds": list(study.split_seeds),
        "trials": study.trials,
        "level": LEVEL,
        **setting,
        "budgets": [budget.name if budget else "" for budget in study.budgets],
        "strategies": [
            {"name": each.name, "changes": each.changes, "candidates": list(study.candidates(each))}
            for each in study.strategies
        ],
        "cells": cells,
        "pairs": _pairs(study, cells, correct),
    }
    results["fronts"] = {name: _front(results, name) for name in results["budgets"]}
    results["crossings"] = crossings(results)
    results["conclusion"] = conclude(results)
    return results


def _setting(played: Sequence[Played]) -> dict[str, Any]:
    """Return what all runs have in common; refuse runs that cannot be compared."""
    records = [run.record for each in played for run in each.runs if run is not None]
    if not records:
        raise UserError("every run has diverged: try lower learning rates.")
    tests = {record["data"]["test_set"] for record in records}
    if len(tests) > 1:
        raise UserError("the runs were tested on different images: the data have changed. Give another --name.")
    starts: dict[object, set[str]] = {}
    for record, what in product(records, HASHES):
        model = record["model"]
        if model["weights"] != "random" and (digest := model.get(what)):
            # Weights of one name are fitted to the size of images and to the arguments of a network.
            fitted = model["weights"], record["data"]["image_size"], model["parameters"]
            starts.setdefault((what, *fitted), set()).add(digest)
    if any(len(digests) > 1 for digests in starts.values()):
        raise UserError("the runs have started from different weights of the same name. Give another --name.")
    first = records[0]
    return {
        "data": {
            "source": first["data"]["source"],
            "classes": len(first["data"]["class_names"]),
            "image_size": first["data"]["image_size"],
            "test_set": first["data"]["test_set"],
            "test_images": first["data"]["sizes"]["test"],
        },
        "backbone": Counter(record["model"]["architecture"] for record in records).most_common(1)[0][0],
        "device": first["environment"]["device"],
    }


def _correct(played: Played) -> npt.NDArray[np.bool_] | None:
    """Return whether each test image was classified correctly (seeds, images); None if a seed has diverged."""
    rows = []
    for run in played.runs:
        if run is None or run.paths is None:
            return None
        try:
            found = read_predictions(run.paths.logs, run.record, len(run.record["data"]["class_names"]))
        except UserError as error:
            raise UserError(f"{run.paths.logs}: {error}. Move that folder away to have it run again.") from error
        rows.append(found.logits.argmax(axis=1) == found.labels)
    return np.stack(rows)


def _cell(played: Played, correct: npt.NDArray[np.bool_] | None) -> dict[str, Any]:
    cell, records = played.cell, [run.record for run in played.runs if run is not None]
    seconds = [_spent(record) for record in records]
    accuracies = [] if correct is None else correct.mean(axis=1).tolist()
    mean, deviation = mean_and_deviation(accuracies) if accuracies else (None, None)
    interval = mean_interval(accuracies, LEVEL) if accuracies else None
    phases = records[0]["model"]["phases"] if records else []
    return {
        "budget": cell.budget.name if cell.budget else "",
        "strategy": cell.strategy.name,
        "labels": sum(records[0]["data"]["sizes"][part] for part in ("train", "val")) if records else None,
        "from_scratch": bool(records) and records[0]["model"]["weights"] == "random",
        "chosen": played.chosen,
        "trials": [
            {"version": _version(run), "best": run.record.get("best"), "seconds": _spent(run.record)}
            for run in played.trials
        ],
        "runs": [_version(run) if run else None for run in played.runs],
        "diverged": sum(run is None for run in played.runs),
        "accuracies": accuracies,
        "mean": mean,
        "deviation": deviation,
        "interval": list(interval) if interval else None,
        "seconds": sum(seconds) / len(seconds) if seconds else None,
        "search_seconds": sum(_spent(run.record) for run in played.trials),
        "trained_parameters": max((phase["trained_parameters"] for phase in phases), default=None),
    }


def _spent(record: Mapping[str, Any]) -> float:
    """Return the seconds of training, validation and computing cached features."""
    spent = record.get("time") or {}
    return float(spent.get("fit_seconds") or 0.0)


def _version(run: Run) -> str | None:
    return None if run.paths is None else f"{run.paths.name}/version_{run.paths.version}"


def _pairs(study: Study, cells: Sequence[Mapping[str, Any]], correct: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare the strategies of each budget: all pairs in a tournament, each with the first in an ablation.

    p-values are adjusted for all comparisons of a budget (Holm 1979).
    """
    found = []
    for budget in study.budgets:
        here = [cell for cell in cells if cell["budget"] == (budget.name if budget else "") and cell["accuracies"]]
        arrays = [correct[f"{budget.name}.{cell['strategy']}" if budget else cell["strategy"]] for cell in here]
        pairs = list(combinations(range(len(here)), 2))
        if study.kind == "ablation":
            base = study.strategies[0].name
            pairs = [(a, b) for a, b in pairs if here[a]["strategy"] == base]
        if not pairs:
            continue
        differences = paired_differences(arrays, pairs, LEVEL)
        adjusted = holm(each.p for each in differences)
        for (a, b), each, p in zip(pairs, differences, adjusted, strict=True):
            found.append(
                {
                    "budget": here[a]["budget"],
                    "a": here[a]["strategy"],
                    "b": here[b]["strategy"],
                    "difference": each.value,
                    "interval": [each.low, each.high],
                    "p": each.p,
                    "p_adjusted": p,
                }
            )
    return found


def _front(results: Mapping[str, Any], budget: str) -> list[str]:
    here = [cell for cell in results["cells"] if cell["budget"] == budget and cell["mean"] is not None]
    front = pareto_front([cell["seconds"] for cell in here], [cell["mean"] for cell in here])
    return [str(here[place]["strategy"]) for place in front]


def crossings(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Find where training from scratch overtakes each strategy that starts from pretrained weights, or falls behind.

    Between two label budgets the difference of the means is taken as linear in the logarithm of the labels.

    Args:
        results: The results with their cells.

    Returns:
        For each pair of a strategy from scratch and another one: whether scratch is "ahead" at the fewest labels where
        the means differ, None if they never do; the "changes" of that, each with its "labels" in all and whether
        scratch is "ahead" from there on; and the labels of budgets where both are "level". Nothing with a single
        budget.
    """
    means: dict[str, dict[float, float]] = {}
    scratch: dict[str, bool] = {}
    for cell in results["cells"]:
        if cell["mean"] is not None:
            means.setdefault(cell["strategy"], {})[float(cell["labels"])] = cell["mean"]
            scratch[cell["strategy"]] = cell["from_scratch"]
    found = []
    for own in (name for name, is_scratch in scratch.items() if is_scratch):
        for other in (name for name, is_scratch in scratch.items() if not is_scratch):
            labels = sorted(means[own].keys() & means[other].keys())
            if len(labels) < 2:
                continue
            gaps = [means[own][count] - means[other][count] for count in labels]
            known = [(count, gap) for count, gap in zip(labels, gaps, strict=True) if gap]
            changes = [
                {"labels": _zero(one, two, labels), "ahead": two[1] > 0}
                for one, two in pairwise(known)
                if (one[1] > 0) != (two[1] > 0)
            ]
            level = [count for count, gap in zip(labels, gaps, strict=True) if not gap]
            ahead = known[0][1] > 0 if known else None
            found.append({"scratch": own, "strategy": other, "ahead": ahead, "changes": changes, "level": level})
    return found


def _zero(one: tuple[float, float], two: tuple[float, float], labels: Sequence[float]) -> float:
    """Return the labels at which a gap of one sign has become one of the other: (labels, gap) of both."""
    (x0, g0), (x1, g1) = one, two
    between = [count for count in labels if x0 < count < x1]  # where the gap is 0
    return between[0] if between else math.exp(math.log(x0) + g0 / (g0 - g1) * (math.log(x1) - math.log(x0)))
