"""Conclusions in words, made of significant differences alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SIGNIFICANT = 0.05
MINUS = "\u2212"


def conclude(results: Mapping[str, Any]) -> list[str]:
    """Write two paragraphs: which strategies are more accurate, and at which price.

    A difference counts if its p-value, adjusted for all comparisons of its budget, is below 0.05.

    Args:
        results: The results with pairs, fronts and crossings.
    """
    if results["kind"] == "ablation":
        return [_ablation(results)]
    return [_accuracy(results), _price(results)]


def beaten(results: Mapping[str, Any], budget: str, strategy: str) -> dict[str, float]:
    """Return the strategies that one is significantly more accurate than at a budget, with the differences."""
    found = {}
    for pair in results["pairs"]:
        if pair["budget"] != budget or pair["p_adjusted"] >= SIGNIFICANT or strategy not in (pair["a"], pair["b"]):
            continue
        ahead = pair["difference"] if pair["a"] == strategy else -pair["difference"]
        if ahead > 0:
            found[pair["b"] if pair["a"] == strategy else pair["a"]] = ahead
    return found


def cells_at(results: Mapping[str, Any], budget: str) -> list[Mapping[str, Any]]:
    """Return the cells of a budget that have figures, the most accurate first."""
    cells = [cell for cell in results["cells"] if cell["budget"] == budget and cell["mean"] is not None]
    return sorted(cells, key=lambda cell: -cell["mean"])


def _accuracy(results: Mapping[str, Any]) -> str:
    """Say of each budget which strategies are behind the most accurate one, and which of all lead others."""
    told = []
    for budget in results["budgets"]:
        cells = cells_at(results, budget)
        if len(cells) < 2:
            continue
        best, at = cells[0]["strategy"], _at(budget)
        behind = beaten(results, budget, best)
        if behind:
            level = [cell["strategy"] for cell in cells[1:] if cell["strategy"] not in behind]
            ranked = sorted(behind, key=lambda name: behind[name])
            told.append(
                f"{at}{best} ({cells[0]['mean']:.3f}) is significantly more accurate than "
                f"{_list([f'{name} (by {behind[name]:.3f})' for name in ranked])}"
                + (f"; its differences to {_list(level)} are not significant." if level else ".")
            )
            continue
        others = {cell["strategy"]: beaten(results, budget, cell["strategy"]) for cell in cells}
        some = [
            f"{name} is significantly more accurate than {_list(list(under))}"
            for name, under in others.items()
            if under
        ]
        none = _begun(at, "no difference between strategies is significant.")
        told.append(f"{at}{'; '.join(some)}." if some else none)
    return " ".join(told) or "There are not two strategies with figures to compare."


def _price(results: Mapping[str, Any]) -> str:
    """Say which strategy is the cheapest of those not significantly behind, and what pretrained weights bring."""
    told = []
    for budget in results["budgets"]:
        cells = cells_at(results, budget)
        if len(cells) < 2:
            continue
        best = cells[0]
        behind = beaten(results, budget, best["strategy"])
        level = [cell for cell in cells if cell["strategy"] not in behind]
        cheap = min(level, key=lambda cell: cell["seconds"])
        if behind and cheap is not best:
            told.append(
                f"{_at(budget)}{cheap['strategy']} is the cheapest without a significant loss against "
                f"{best['strategy']}: {cheap['seconds']:.1f} s against {best['seconds']:.1f} s."
            )
        elif behind:
            told.append(
                _begun(
                    _at(budget),
                    f"nothing cheaper than {best['strategy']} ({best['seconds']:.1f} s) keeps up with it.",
                )
            )
    return " ".join([*told, *_scratch(results)]) or "Nothing can be said of the price: no difference is significant."


def _scratch(results: Mapping[str, Any]) -> list[str]:
    """Compare training from scratch with the strategies that start from pretrained weights."""
    told = []
    names = dict.fromkeys(cell["strategy"] for cell in results["cells"] if cell["from_scratch"])
    for name in names:
        ahead: dict[str, list[str]] = {}
        behind: dict[str, list[str]] = {}
        for budget in results["budgets"]:
            others = [cell["strategy"] for cell in cells_at(results, budget) if not cell["from_scratch"]]
            over = [other for other in others if name in beaten(results, budget, other)]
            if over:
                every = "every strategy with pretrained weights is" if len(over) == len(others) else ""
                who = every or f"{_list(over)} {'is' if len(over) == 1 else 'are'}"
                behind.setdefault(f"{who} significantly more accurate than {name}.", []).append(budget)
            if under := beaten(results, budget, name):
                text = f"{name} is significantly more accurate than {_list(list(under))}."
                ahead.setdefault(text, []).append(budget)
        told += [
            _begun(_at(*budgets), text) if text.startswith("every ") else f"{_at(*budgets)}{text}"
            for text, budgets in (*behind.items(), *ahead.items())
        ]
        if behind and ahead:
            crossed = [each for each in results["crossings"] if each["scratch"] == name and each["changes"]]
            told += [
                f"The means of {name} and {each['strategy']} cross at about "
                f"{_list([format(change['labels'], ',.0f') for change in each['changes']])} labels."
                for each in crossed
            ]
    return told


def _ablation(results: Mapping[str, Any]) -> str:
    """Say which changes alone make a significant difference to the base."""
    up: list[str] = []
    down: list[str] = []
    level: list[str] = []
    for pair in results["pairs"]:
        change = -pair["difference"]
        text = f"{pair['b']} ({'+' if change > 0 else MINUS}{abs(change):.4f})"
        if pair["p_adjusted"] >= SIGNIFICANT:
            level.append(pair["b"])
        else:
            (up if change > 0 else down).append(text)
    told = []
    if down:
        told.append(f"Significantly less accurate than the base: {_list(down)}.")
    if up:
        told.append(f"Significantly more accurate than the base: {_list(up)}.")
    if level:
        told.append(f"No significant difference to the base: {_list(level)}.")
    return " ".join(told) or "There is nothing to compare with the base."


def _at(*budgets: str) -> str:
    """Begin a sentence about label budgets."""
    if budgets == ("",):
        return ""
    numbers = [budget for budget in budgets if budget != "all"]
    some = [f"{_list(numbers)} labels a class"] if numbers else []
    return f"With {_list([*some, *(['all labels'] if 'all' in budgets else [])])}, "


def _begun(at: str, text: str) -> str:
    """Write a sentence behind the budgets that it is about, or with a capital letter."""
    return f"{at}{text}" if at else f"{text[0].upper()}{text[1:]}"


def _list(names: Sequence[str]) -> str:
    """Join names with commas and "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
