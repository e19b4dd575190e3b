"""A greedy soup: the mean of the weights of those runs that do not lower the validation accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fashion_tl.combine.averaging import Averager, averaged, differing_norms, score, states_of
from fashion_tl.combine.members import seen_by, told_of_starts, validation_logits
from fashion_tl.combine.result import Combination
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.records.analysis import Analysis
from fashion_tl.records.predictions import Predictions
from fashion_tl.training.loading import finished_checkpoint


def greedy_soup(
    members: Sequence[OpenedRun], test: Sequence[Predictions], reestimate: bool, averager: Averager
) -> Combination:
    """Make a greedy soup (Wortsman et al. 2022, "Model soups", recipe 1).

    Members are tried from the best on validation to the worst; each joins the mean unless the validation accuracy
    falls. It is never below that of the best member, of which the soup consists if no other one helps.

    Args:
        members: Runs of one architecture.
        test: Their recorded test predictions.
        reestimate: Whether BatchNorm statistics that differ between members are estimated again for each mean.
        averager: What scores the means.

    Raises:
        UserError: If the members are not networks of the same layers, or have different validation images.
    """
    states = states_of(members)
    labels, logits = validation_logits(members, averager.batch_size)
    averager.norms = differing_norms(averager.run.module, states) if reestimate else ()
    scores = [score(one, labels) for one in logits]
    order = sorted(range(len(members)), key=lambda i: scores[i].rank, reverse=True)
    kept, best = [order[0]], scores[order[0]]
    rows: list[list[Any]] = [[members[order[0]].label, best.accuracy, best.accuracy, best.loss, "kept"]]
    for candidate in order[1:]:
        averager.load(averaged([states[i] for i in (*kept, candidate)]))
        found = averager.score(labels)
        joins = found.accuracy >= best.accuracy
        if joins:
            kept, best = [*kept, candidate], found
        own = scores[candidate].accuracy
        rows.append([members[candidate].label, own, found.accuracy, found.loss, "kept" if joins else "left out"])

    lone = len(kept) == 1
    if lone:
        run, state = members[kept[0]], states[kept[0]]
        logits_of_test = test[kept[0]].logits.astype("float64")
    else:
        averager.load(averaged([states[i] for i in kept]))
        run, state, logits_of_test = averager.run, averager.state(), averager.test(test[0])
    names = [members[i].label for i in kept]
    strategy = f"mean of the weights of {', '.join(names)}" if not lone else f"soup of {names[0]} alone"
    analysis = Analysis("Greedy soup", "Each run joins the mean of weights unless the validation accuracy falls.")
    columns = ["run", "its validation accuracy", "accuracy with it", "loss with it", ""]
    analysis.add_table("Members in the order in which they were tried, on the validation images", columns, rows)
    best_member = members[order[0]]
    return Combination(
        kind="soup",
        members=members,
        used=[{"weight": 1 / len(kept) if i in kept else 0.0} for i in range(len(members))],
        strategy=strategy,
        networks=[run],
        chosen={
            "settings": {"method": "soup", "batch_norm": "reestimate" if reestimate else "average"},
            "estimated_norms": len(averager.norms),
            "best_member": {"run": best_member.label, "accuracy": scores[order[0]].accuracy},
        },
        validation=best.accuracy,
        test=logits_of_test,
        checkpoint=finished_checkpoint(
            run.module, state, fashion_tl_weights=strategy, fashion_tl_seen=seen_by(members)
        ),
        analysis=analysis,
        weights=strategy,
        notes=told_of_starts(members)
        + ([f"no other run raised the validation accuracy: the soup is {names[0]}"] if lone else []),
    )
