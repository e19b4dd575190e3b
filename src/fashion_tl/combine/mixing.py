"""Ensembles: the predictions of several runs, each of one or several views, combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from fashion_tl.combine.averaging import score
from fashion_tl.combine.classifier import Part, ensemble_of
from fashion_tl.combine.members import check_validation, seen_by, validation_logits, validation_serves
from fashion_tl.combine.predictions import Stack, fit_stack, greedy_weights, mean_of_probabilities
from fashion_tl.combine.result import Combination
from fashion_tl.combine.views import IDENTITY, parse_views, view
from fashion_tl.errors import UserError
from fashion_tl.inspection.calibration import TEMPERATURE, UNSCALED, Calibration, read_calibration
from fashion_tl.inspection.inference import infer, tracked
from fashion_tl.inspection.run import OpenedRun
from fashion_tl.metrics.metrics import Floats, Ints
from fashion_tl.records.predictions import Predictions
from fashion_tl.training.loading import finished_checkpoint

Scaling = Callable[[npt.ArrayLike], Floats]


def mix(
    members: Sequence[OpenedRun],
    test: Sequence[Predictions],
    method: str,
    calibrated: bool,
    tta: Sequence[str],
    batch_size: int,
) -> Combination:
    """Combine the predictions of runs.

    Args:
        members: The runs.
        test: Their recorded test predictions.
        method: "mean", "greedy" or "stack".
        calibrated: Whether each member's logits are calibrated first.
        tta: Views, as ``parse_views`` takes them.
        batch_size: Images in a batch.

    Raises:
        UserError: If a member has no calibration, or members to choose from have different validation images.
    """
    views = [parse_views(tta, member.module.input_spec.stored) for member in members]
    calibrations = [_calibration(member) if calibrated else None for member in members]
    scalings = [None if one is None else one.apply for one in calibrations]
    if method != "mean":
        check_validation(members)
    elif tta:
        for member in members:
            check_validation([member])
    comparable = validation_serves(members)
    counted = comparable or bool(tta)  # else nothing is chosen or told of validation images
    weights: list[list[int]] = []
    validated: list[Floats] = []
    labels: Ints | None = None
    for member, names, scaling in zip(members, views, scalings, strict=True) if counted else ():
        labels, (plain,) = validation_logits([member], batch_size)
        seen = [plain, *(_of_view(member, "val", name, batch_size) for name in names[1:])]
        seen = [logits if scaling is None else scaling(logits) for logits in seen]
        weights.append(greedy_weights(seen, labels, first=0) if len(seen) > 1 else [1])
        validated.append(mean_of_probabilities(seen, weights[-1]))

    weights = weights or [[1]] * len(members)
    shares, stack, value = [1] * len(members), None, None
    if method == "greedy" and labels is not None:
        shares = greedy_weights(validated, labels)
    elif method == "stack" and labels is not None:
        stack = fit_stack(validated, labels)
    if comparable and labels is not None:
        value = stack.accuracy if stack else score(mean_of_probabilities(validated, shares), labels).accuracy
    tested = [
        _tested(member, one, names, counts, scaling, batch_size) if share else one.logits
        for member, one, names, counts, scaling, share in zip(
            members, test, views, weights, scalings, shares, strict=True
        )
    ]
    found = stack.apply(tested) if stack else mean_of_probabilities(tested, shares)
    taken = [dict(zip(names, counts, strict=True)) for names, counts in zip(views, weights, strict=True)]
    used: list[dict[str, Any]] = [
        {"weight": None if stack else share, **({"views": chosen} if tta else {})}
        for share, chosen in zip(shares, taken, strict=True)
    ]
    parts = [
        Part(member.module, chosen, *_factors(calibration), share=share)
        for member, chosen, calibration, share in zip(members, taken, calibrations, shares, strict=True)
        if share
    ]
    made = ensemble_of(parts, None if stack is None else (stack.weight, stack.bias))
    images_seen = seen_by(members, fitted=stack is not None)
    chosen = _chosen(members, method, shares, stack, taken if tta else [], calibrated, tta)
    return Combination(
        kind="stack" if stack else "ensemble" if len(members) > 1 else "tta",
        members=members,
        used=used,
        strategy=_words(members, method, shares, taken if tta else [], calibrated),
        networks=[member for member, share in zip(members, shares, strict=True) if share],
        chosen=chosen,
        validation=value,
        test=found,
        classifier=None if isinstance(made, str) else made,
        checkpoint=None if isinstance(made, str) else finished_checkpoint(made, fashion_tl_seen=images_seen),
        notes=[f"it has no checkpoint: {made}"] if isinstance(made, str) else [],
    )


def _calibration(member: OpenedRun) -> Calibration:
    found = read_calibration(member.paths.best)
    if found is None:
        raise UserError(
            f"--calibrated: {member.paths.best} has none: run `fashion-tl diagnose {member.paths.logs}` first."
        )
    return found


def _factors(calibration: Calibration | None) -> tuple[Sequence[float] | float, Sequence[float] | float]:
    """Return the factor and the summand of the logits."""
    if calibration is None or calibration.method == UNSCALED:
        return 1.0, 0.0
    if calibration.method == TEMPERATURE:
        return 1 / calibration.temperature, 0.0
    return calibration.scale, calibration.bias


def _of_view(member: OpenedRun, part: str, name: str, batch_size: int) -> Floats:
    """Compute the logits (N, K) of one view of all images of a split, float64."""
    batches = member.data.in_order(part, batch_size)
    images = (view(one, name) for one in tracked(batches, f"{part} images, {name}", len(member.data.splits[part])))
    logits: Floats = infer(member.module, images)[0].astype("float64")
    return logits


def _tested(
    member: OpenedRun,
    recorded: Predictions,
    names: Sequence[str],
    counts: Sequence[int],
    scaling: Scaling | None,
    batch_size: int,
) -> Floats:
    """Return the test logits of a member over the views that were chosen; of the image as it is the recorded ones."""
    logits = [
        recorded.logits if name == IDENTITY else _of_view(member, "test", name, batch_size)[recorded.index]
        for name, count in zip(names, counts, strict=True)
        if count
    ]
    scaled = [one if scaling is None else scaling(one) for one in logits]
    return mean_of_probabilities(scaled, [count for count in counts if count])


def _words(
    members: Sequence[OpenedRun],
    method: str,
    shares: Sequence[int],
    taken: Sequence[dict[str, int]],
    calibrated: bool,
) -> str:
    views = "; ".join(", ".join(f"{count} x {name}" for name, count in chosen.items() if count) for chosen in taken)
    if len(members) == 1:
        return f"views of {members[0].label}: {views}"
    weighed = method == "greedy"
    listed = ", ".join(
        f"{share} x {member.label}" if weighed else member.label
        for member, share in zip(members, shares, strict=True)
        if share
    )
    what = "logistic regression on log-probabilities" if method == "stack" else "mean of probabilities"
    return f"{what} of {listed}" + (", calibrated" if calibrated else "") + (f"; views {views}" if views else "")


def _chosen(
    members: Sequence[OpenedRun],
    method: str,
    shares: Sequence[int],
    stack: Stack | None,
    taken: Sequence[dict[str, int]],
    calibrated: bool,
    tta: Sequence[str],
) -> dict[str, Any]:
    chosen: dict[str, Any] = {"settings": {"method": method, "calibrated": calibrated, "tta": list(tta)}}
    labels = [member.label for member in members]
    if stack is not None:
        chosen["stack"] = {
            "strength": stack.strength,
            "losses": stack.losses,
            "loss": stack.loss,
            "weight": stack.weight,
            "bias": stack.bias,
        }
    elif method == "greedy":
        chosen["weights"] = dict(zip(labels, shares, strict=True))
    if taken:
        chosen["views"] = dict(zip(labels, taken, strict=True))
    return chosen
