"""Words: significant differences alone, and crossings by the formula."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fashion_tl.tournament.conclusion import conclude
from fashion_tl.tournament.page import crossing_texts, markdown
from fashion_tl.tournament.results import crossings


def results(means: dict[str, list[float]], p: dict[tuple[str, str], float], kind: str = "tournament") -> dict[str, Any]:
    """Make results of strategies with means at 10 and 100 labels, significant where a p-value says so."""
    budgets = ["10", "100", "1000"][: len(next(iter(means.values())))]
    cells: list[dict[str, Any]] = [
        {
            "budget": budget, "strategy": name, "labels": int(budget) * 10, "mean": values[place], "seconds": 1.0 + i,
            "from_scratch": name == "scratch", "interval": None, "search_seconds": 0.0, "chosen": {},
        }
        for place, budget in enumerate(budgets)
        for i, (name, values) in enumerate(means.items())
    ]  # fmt: skip
    names = list(means)
    pairs = [
        {
            "budget": budget, "a": a, "b": b, "difference": means[a][place] - means[b][place], "interval": [-1.0, 1.0],
            "p": 0.5, "p_adjusted": p.get((a, b), 1.0),
        }
        for place, budget in enumerate(budgets)
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if kind == "tournament" or a == "base"
    ]  # fmt: skip
    found: dict[str, Any] = {"kind": kind, "budgets": budgets, "cells": cells, "pairs": pairs}
    found["crossings"] = crossings(found)
    return found


def test_without_a_significant_difference_nothing_is_claimed() -> None:
    first, second = conclude(results({"probe": [0.7], "all": [0.8], "scratch": [0.2]}, {}))
    assert first == "With 10 labels a class, no difference between strategies is significant."
    assert second == "Nothing can be said of the price: no difference is significant."


def test_only_significant_differences_are_told() -> None:
    found = results(
        {"probe": [0.7], "all": [0.8], "scratch": [0.2]}, {("all", "scratch"): 0.04, ("probe", "all"): 0.05}
    )
    first, second = conclude(found)
    assert first == (
        "With 10 labels a class, all (0.800) is significantly more accurate than scratch (by 0.600); its "
        "differences to probe are not significant."
    )
    assert second == (
        "With 10 labels a class, probe is the cheapest without a significant loss against all: 1.0 s against 2.0 s. "
        "With 10 labels a class, all is significantly more accurate than scratch."
    )


def test_a_leader_without_proof_leaves_the_word_to_the_others() -> None:
    first, _ = conclude(results({"a": [0.71], "b": [0.7], "c": [0.2]}, {("b", "c"): 0.001}))
    assert first == "With 10 labels a class, b is significantly more accurate than c."


def test_scratch_is_told_on_both_sides_of_the_crossing() -> None:
    found = results({"all": [0.8, 0.85], "scratch": [0.6, 0.9]}, {("all", "scratch"): 0.001})
    assert (
        "With 10 labels a class, every strategy with pretrained weights is significantly more accurate than scratch."
        in (told := conclude(found)[1])
    )
    assert "With 100 labels a class, scratch is significantly more accurate than all." in told
    labels = math.exp(math.log(100) + 0.8 * (math.log(1000) - math.log(100)))
    assert found["crossings"] == [
        {
            "scratch": "scratch",
            "strategy": "all",
            "ahead": False,
            "changes": [{"labels": pytest.approx(labels), "ahead": True}],
            "level": [],
        }
    ]
    assert f"cross at about {labels:,.0f} labels" in told


def test_sentences_begin_with_a_capital_letter_or_a_name() -> None:
    significant = {("all", "scratch"): 0.001, ("probe", "scratch"): 0.001, ("probe", "all"): 0.001}
    found = results({"probe": [0.7], "all": [0.8], "scratch": [0.2]}, significant)
    alone = {**found, "budgets": [""], "crossings": []}
    alone |= {part: [{**each, "budget": ""} for each in found[part]] for part in ("cells", "pairs")}
    told = " ".join(conclude(alone))
    assert "Nothing cheaper than all (2.0 s) keeps up with it. Every strategy with pretrained weights is" in told
    level = {**alone, "pairs": [{**each, "p_adjusted": 1.0} for each in alone["pairs"]]}
    assert conclude(level)[0].startswith("No difference between strategies is significant.")
    assert all(sentence[0].isupper() or sentence.startswith(("all ", "probe ")) for sentence in told.split(". "))


@pytest.mark.parametrize(("scratch", "told"), [([0.6, 0.7], "does not reach all"), ([0.9, 0.95], "is ahead of all")])
def test_no_crossing_is_said_so(scratch: list[float], told: str) -> None:
    found = results({"all": [0.8, 0.85], "scratch": scratch}, {})
    assert found["crossings"][0]["changes"] == []
    assert told in crossing_texts(found)[0]
    assert "cross at" not in " ".join(conclude(found))


@pytest.mark.parametrize(
    ("gaps", "told"),
    [
        ([-0.1, 0.1], "is ahead of all from about 316 labelled images."),
        ([0.1, -0.1], "is ahead of all up to about 316 labelled images."),
        ([0.1, -0.1, 0.1], "is ahead of all up to about 316 and from about 3,162 labelled images."),
        ([-0.1, 0.1, -0.1], "is ahead of all from about 316 to about 3,162 labelled images."),
        ([0.1, 0.0, -0.1], "is ahead of all up to about 1,000 labelled images."),
        ([-0.1, 0.1, 0.0], "is ahead of all from about 316 labelled images."),
        ([0.1, 0.0, 0.1], "is ahead of all, but as accurate at 1,000 labelled images."),
        ([0.0, -0.1, 0.0], "is behind all, but as accurate at 100 and 10,000 labelled images."),
        ([0.0, 0.0], "is as accurate as all at every budget."),
        ([0.1, 0.1, 0.1], "is ahead of all at every budget."),
        ([-0.1, -0.1, -0.1], "does not reach all within these budgets."),
    ],
)
def test_every_change_of_the_lead_is_told_with_its_direction(gaps: list[float], told: str) -> None:
    found = results({"all": [0.5] * len(gaps), "scratch": [0.5 + gap for gap in gaps]}, {})
    assert crossing_texts(found) == [f"scratch {told}"]


def test_the_conclusion_tells_all_crossings() -> None:
    found = results({"all": [0.5] * 3, "scratch": [0.6, 0.4, 0.6]}, {("all", "scratch"): 0.001})
    assert "The means of scratch and all cross at about 316 and 3,162 labels." in conclude(found)[1]


def test_an_ablation_tells_gains_losses_and_the_rest() -> None:
    means = {"base": [0.8], "without_a": [0.7], "without_b": [0.85], "without_c": [0.81]}
    p = {("base", "without_a"): 0.01, ("base", "without_b"): 0.02}
    (told,) = conclude(results(means, p, "ablation"))
    assert told == (
        "Significantly less accurate than the base: without_a (\u22120.1000). Significantly more accurate than "
        "the base: without_b (+0.0500). No significant difference to the base: without_c."
    )


def test_the_markdown_table_holds_every_figure() -> None:
    found = results({"probe": [0.7], "all": [0.8]}, {})
    found |= {"name": "x", "conclusion": conclude(found), "seeds": [0], "trials": 1, "backbone": "b", "device": "cpu"}
    found["data"] = {"source": "S", "image_size": 8, "classes": 10, "test_images": 60}
    text = markdown(found)
    assert "| all | 0.8000 |" in text
    assert text.index("| all |") < text.index("| probe |")
    assert "\u22120.1000" in text
