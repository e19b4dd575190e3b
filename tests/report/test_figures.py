"""Numbers of pairs and fronts, and records that disagree with their predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fashion_tl.records.predictions import Predictions
from fashion_tl.report.figures import figures_of, front_of

EXACT = 1e-9


def naive_holm(p_values: list[float]) -> list[float]:
    """Adjust step by step: the smallest of m by m, the next by m - 1, never below the one before, at most 1."""
    adjusted, before = [0.0] * len(p_values), 0.0
    for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        before = max(before, min(1.0, p_values[place] * (len(p_values) - step)))
        adjusted[place] = before
    return adjusted


def test_every_pair_against_scipy(make: Any, report: Callable[..., Any]) -> None:
    import scipy.stats as scipy

    folders = {
        name: make.run(name, draw=i, skill=skill)
        for i, (name, skill) in enumerate(zip("abcd", (3, 2, 1, 0), strict=True))
    }
    right = {name: (lambda y, z: z.argmax(1) == y)(*make.logits(folder)) for name, folder in folders.items()}
    pairs = report().sections[0].pairs
    assert len(pairs) == 6
    p_values = []
    for pair in pairs:
        a, b = right[pair.a.label], right[pair.b.label]
        counts = int((a & ~b).sum()), int((b & ~a).sum())
        assert (pair.test.only_a, pair.test.only_b) == counts
        p_values.append(float(scipy.binomtest(counts[0], sum(counts)).pvalue) if sum(counts) else 1.0)
        assert pair.test.p == pytest.approx(p_values[-1], abs=EXACT)
    assert [pair.p for pair in pairs] == pytest.approx(naive_holm(p_values), abs=EXACT)
    assert any(pair.p > pair.test.p for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("error", [0, 0.02])
def test_the_calibration_interval_covers_the_true_error(error: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(30):
        confidence = rng.uniform(0.55, 0.95, 500)
        right = rng.random(500) < confidence - error
        logits = np.stack([np.log(confidence / (1 - confidence)), np.zeros(500)], axis=1)
        made = figures_of(Predictions(np.arange(500), np.where(right, 0, 1), logits))
        low, high = made.intervals["calibration_error"]
        covered.append(low <= error <= high)
    assert np.mean(covered) >= 0.93


def test_runs_without_predictions_have_no_tests(make: Any, report: Callable[..., Any]) -> None:
    make.run("a")
    make.run("b", draw=1)
    make.run("c", without=("test_predictions.npz",))
    assert [(p.a.label, p.b.label) for p in report().sections[0].pairs] in ([("a", "b")], [("b", "a")])


def test_the_front_is_that_of_recorded_costs(make: Any, report: Callable[..., Any]) -> None:
    costs = {"cheap": (5, 1.0), "worse": (6, 0.0), "dear": (50, 3.0), "unknown": (None, 4.0)}
    for draw, (name, (seconds, skill)) in enumerate(costs.items()):
        make.run(name, draw=draw, skill=skill, images=200, change={"time.fit_seconds": seconds})
    entries = report().sections[0].entries
    known, cost, accuracy, front = front_of(entries, ("time", "fit_seconds"))
    assert sorted(e.label for e in known) == ["cheap", "dear", "worse"]
    assert cost == [costs[e.label][0] for e in known]
    assert accuracy == [e.figures.values["accuracy"] for e in known if e.figures]
    assert {known[place].label for place in front} == {"cheap", "dear"}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("accuracy", 0.99, "accuracy 0.99, the predictions give"),
        ("macro_f1", 0.5, "macro f1 0.5, the predictions give"),
        ("images", 61, "images 61, the predictions give 60"),
        ("confusion_matrix", [[1]], "another confusion matrix"),
    ],
)
def test_disagreement_is_loud(make: Any, report: Callable[..., Any], key: str, value: Any, told: str) -> None:
    folder = make.run("liar")
    make.run("honest", draw=1)
    make.change(folder, **{f"test__{key}": value})
    built = report()
    alarm = built.root.one("div", role="alert")
    assert "liar: run.json disagrees with test_predictions.npz" in alarm.text
    assert told in alarm.text
    assert "honest" not in alarm.text
    cell = next(c for c in built.table("Test figures").all("td", data_key="accuracy"))
    labels, logits = make.logits(folder)
    shown = {r.get("data-run"): r for r in built.table("Test figures").all("tr") if "data-run" in r.attributes}
    accuracy = shown["liar"].one("td", data_key="accuracy")
    assert float(accuracy.get("data-sort")) == pytest.approx(float(np.mean(logits.argmax(1) == labels)), abs=EXACT)
    assert cell is not None


def test_agreement_is_quiet(make: Any, report: Callable[..., Any]) -> None:
    folder = make.run("a")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    make.change(folder, test__loss=record["test"]["loss"] * (1 + 1e-8))
    assert list(report().root.all("div", role="alert")) == []


def test_a_completed_record_without_test_figures_is_told(make: Any, report: Callable[..., Any]) -> None:
    make.change(make.run("a"), test=None)
    assert "holds no test figures" in report().root.one("div", role="alert").text


@pytest.mark.parametrize("images", [1, 2])
def test_very_few_images(make: Any, report: Callable[..., Any], images: int) -> None:
    make.run("a", images=images)
    make.run("b", images=images, draw=1, skill=0)
    entries = report().sections[0].entries
    for entry in entries:
        assert len(entry.figures.correct) == images
        assert 0 <= entry.figures.intervals["accuracy"][0] <= entry.figures.values["accuracy"]
