"""The results of a study, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from fashion_tl import __version__
from fashion_tl.errors import one_line
from fashion_tl.metrics.uncertainty import mean_and_deviation
from fashion_tl.runs.fit import Run
from fashion_tl.tuning.plan import Tuning
from fashion_tl.tuning.trials import WHY, Trials

DONE, PRUNED, FAILED = "done", "pruned", "without a figure"


def results_of(tuning: Tuning, trials: Trials, runs: Sequence[Run]) -> dict[str, Any]:
    """Compute what the page and ``results.json`` hold.

    Args:
        tuning: The study.
        trials: Its trials, all of them finished.
        runs: The tested runs of the best one.
    """
    rows = [_row(trials, trial) for trial in sorted(trials.finished, key=trials.place)]
    best, pruned = trials.best, [row for row in rows if row["state"] == PRUNED]
    importance, why = _importance(trials)
    accuracies = [run.test["accuracy"] for run in runs]
    mean, deviation = mean_and_deviation(accuracies) if accuracies else (None, None)
    return {
        "kind": "tuning",
        "name": tuning.name,
        "fashion_tl": __version__,
        "optuna": optuna.__version__,
        "sampler": tuning.sampler,
        "sampler_seed": tuning.seed,
        "pruner": tuning.pruner,
        "monitor": tuning.monitor,
        "minimises": tuning.minimises,
        "space": {setting.key: setting.about for setting in tuning.space},
        "logarithmic": [setting.key for setting in tuning.space if setting.log],
        "trials": rows,
        "best": None if best is None else trials.place(best),
        "epochs": sum(row["epochs"] for row in rows),
        "saved_epochs": sum(row["planned"] - row["epochs"] for row in pruned if row["planned"]),
        "seconds": sum(row["seconds"] or 0.0 for row in rows),
        "importance": importance,
        "no_importance": why,
        "tested": {
            "versions": [f"{run.paths.name}/version_{run.paths.version}" for run in runs if run.paths is not None],
            "seeds": [run.record["seed"] for run in runs],
            "accuracies": accuracies,
            "mean": mean,
            "deviation": deviation,
        },
        "device": runs[0].record["environment"]["device"] if runs else None,
        "data": _data(runs),
    }


def _row(trials: Trials, trial: FrozenTrial) -> dict[str, Any]:
    about, settings = trial.user_attrs, trials.settings(trial)
    pruned = str(about.get(WHY) or "").startswith("pruned")
    return {
        "trial": trials.place(trial),
        "settings": settings,
        "state": DONE if trial.state == TrialState.COMPLETE else PRUNED if pruned else FAILED,
        "why": about.get(WHY),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "last": _last(trial),
        "epochs": int(about.get("epochs") or 0),
        "planned": about.get("planned"),
        "seconds": about.get("seconds"),
        "version": about.get("version"),
    }


def _last(trial: FrozenTrial) -> float | None:
    """Return the figure of the last epoch of a pruned trial."""
    known = trial.intermediate_values
    value = known[max(known)] if known else None
    return None if value is None or not math.isfinite(value) else float(value)


def _importance(trials: Trials) -> tuple[dict[str, float], str | None]:
    """Return the importance of each setting, which add up to 1, or why it is not known."""
    done = [trial for trial in trials.finished if trial.state == TrialState.COMPLETE]
    if len(trials.tuning.space) < 2:
        return {}, "A space of one setting has nothing to compare."
    if len({trial.value for trial in done}) < 2:
        return {}, "It takes two trials with different figures."
    try:
        found = optuna.importance.get_param_importances(trials.study)
    except (ValueError, RuntimeError) as error:
        return {}, f"Optuna: {one_line(error)}"
    return {key: float(value) for key, value in found.items()}, None


def _data(runs: Sequence[Run]) -> Mapping[str, Any] | None:
    if not runs:
        return None
    data = runs[0].record["data"]
    return {
        "source": data["source"],
        "classes": len(data["class_names"]),
        "image_size": data["image_size"],
        "test_images": data["sizes"]["test"],
    }
