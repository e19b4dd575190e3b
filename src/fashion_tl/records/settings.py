"""What differs between two configurations, each as a ``config.yaml`` holds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fashion_tl.plain_text import flatten

Changes = dict[str, list[str | None]]


def setting_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Return each setting that differs, by its dotted name, as text before and now; None where there is none.

    >>> setting_changes({"data": {"size": 64}, "ema": 0.9}, {"data": {"size": 32}, "ema": 0.9})
    {'data.size': ['64', '32']}
    """
    one, two = flatten(before), flatten(now)
    names = sorted(one.keys() | two.keys())
    return {name: [one.get(name), two.get(name)] for name in names if one.get(name) != two.get(name)}


def untold(changes: Changes, parts: Iterable[Mapping[str, Any]]) -> Changes:
    """Leave out the changes that a run has recorded when it went on.

    Args:
        changes: Settings of a configuration that are not as a checkpoint keeps them.
        parts: The entries "resumed" of the run's record.
    """
    last: dict[str, Any] = {}
    for part in parts:
        last |= {name: value[1] for name, value in (part.get("settings") or {}).items()}
    return {name: values for name, values in changes.items() if name not in last or last[name] != values[1]}
