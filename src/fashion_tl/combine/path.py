"""The straight line between the weights of two runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fashion_tl.combine.averaging import (
    Averager,
    Score,
    differing_norms,
    interpolated,
    score,
    states_of,
)
from fashion_tl.combine.members import seen_by, told_of_starts, validation_logits
from fashion_tl.combine.result import Combination
from fashion_tl.inspection.inference import progress
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.plots.interpolation import interpolation_figure
from fashion_tl.plots.style import png, style
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.predictions import Predictions
from fashion_tl.training.loading import finished_checkpoint


def best_between(
    members: Sequence[OpenedRun], test: Sequence[Predictions], steps: int, reestimate: bool, averager: Averager
) -> Combination:
    """Choose the point between two runs that is best on the validation images.

    The ends are the runs as they are. Of equally accurate points the one with the least loss is taken.

    Args:
        members: Two runs of one architecture.
        test: Their recorded test predictions.
        steps: Number of points, ends included.
        reestimate: Whether BatchNorm statistics that differ between the runs are estimated again at each point.
        averager: What scores the points.

    Raises:
        UserError: If the runs are not networks of the same layers, or have different validation images.
    """
    start, end = states_of(members)
    labels, logits = validation_logits(members, averager.batch_size)
    averager.norms = differing_norms(averager.run.module, [start, end]) if reestimate else ()
    shares = np.linspace(0, 1, steps).tolist()
    scores: list[Score] = [score(logits[0], labels)]
    with progress("points between the runs", steps - 2) as advance:
        for share in shares[1:-1]:
            averager.load(interpolated(start, end, share))
            scores.append(averager.score(labels))
            advance(1)
    scores.append(score(logits[1], labels))
    best = max(range(steps), key=lambda i: scores[i].rank)
    share = shares[best]
    at_end = best in (0, steps - 1)
    if at_end:
        side = 0 if best == 0 else 1
        run, state, tested = members[side], (start, end)[side], test[side].logits.astype("float64")
    else:
        averager.load(interpolated(start, end, share))
        run, state, tested = averager.run, averager.state(), averager.test(test[0])
    names = [member.label for member in members]
    strategy = f"{1 - share:.3g} of the weights of {names[0]}, {share:.3g} of {names[1]}"
    return Combination(
        kind="interpolation",
        members=members,
        used=[{"weight": 1 - share}, {"weight": share}],
        strategy=strategy,
        networks=members[:1],
        chosen={
            "settings": {"steps": steps, "batch_norm": "reestimate" if reestimate else "interpolate"},
            "estimated_norms": len(averager.norms),
            "share": share,
        },
        validation=scores[best].accuracy,
        test=tested,
        checkpoint=finished_checkpoint(
            run.module, state, fashion_tl_weights=strategy, fashion_tl_seen=seen_by(members)
        ),
        analysis=_analysis(names, shares, scores, best, len(labels)),
        weights=strategy,
        notes=told_of_starts(members)
        + ([f"no point between them is better on validation: the result is {names[best > 0]}"] if at_end else []),
    )


def _analysis(names: list[str], shares: list[float], scores: list[Score], best: int, images: int) -> Analysis:
    analysis = Analysis(
        "Interpolation between two runs",
        f"Weights (1 - a) {names[0]} + a {names[1]} on {images:,} validation images (WiSE-FT, Wortsman et al. 2022). "
        f"The point a = {shares[best]:.3g} was chosen there, so that its accuracy is an optimistic one.",
    )
    rows = [[share, one.accuracy, one.loss] for share, one in zip(shares, scores, strict=True)]
    analysis.add_table("Accuracy and loss on the validation images", ["a", "accuracy", "loss"], rows)
    analysis.figures["curve"] = {
        "share": shares,
        "accuracy": [one.accuracy for one in scores],
        "loss": [one.loss for one in scores],
        "chosen": shares[best],
    }
    with style():
        picture = png(interpolation_figure(shares, [one.accuracy for one in scores], best, names, images))
    analysis.add_picture("interpolation-curve.png", picture, "Validation accuracy between the two runs")
    return analysis
