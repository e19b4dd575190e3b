"""Files that a user writes for a diagnosis: what mistakes cost, and which classes belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.errors import UserError, check_known
from fashion_tl.metrics.decisions import check_costs
from fashion_tl.metrics.errors import FASHION_MNIST_GROUPS, accuracy_by_group
from fashion_tl.metrics.metrics import Floats
from fashion_tl.runs.configs import read_yaml

DEFAULT = "default"


def read_costs(path: Path, class_names: Sequence[str]) -> Floats:
    """Read what mistakes cost from a YAML file.

    The file holds a list of K rows (true classes) of K costs, or a mapping from true to predicted class to cost. In a
    mapping the diagonal is 0 unless given; every other cost must be given, unless there is one under "default".

    Args:
        path: The file.
        class_names: Names of the K classes.

    Returns:
        Costs (K, K), true classes in rows.

    Raises:
        UserError: If the file is missing or damaged, names an unknown class, lacks a cost, or a cost is unusable.
    """
    content = _read(path, "--costs")
    try:
        return check_costs(
            _from_mapping(content, class_names) if isinstance(content, dict) else content, len(class_names)
        )
    except UserError as error:
        raise UserError(f"--costs {path}: {error}") from error


def _from_mapping(content: dict[Any, Any], class_names: Sequence[str]) -> list[list[Any]]:
    rest = content.get(DEFAULT) if DEFAULT not in class_names else None
    costs: list[list[Any]] = [[0 if i == j else rest for j in range(len(class_names))] for i in range(len(class_names))]
    for true, row in content.items():
        if true == DEFAULT and true not in class_names:
            continue
        if not isinstance(row, dict):
            raise UserError(f"under {true!r} there must be a mapping from predicted class to cost, not {row!r}.")
        for predicted, cost in row.items():
            costs[_index(true, class_names)][_index(predicted, class_names)] = cost
    missing = [
        f"{class_names[i]!r} taken for {class_names[j]!r}"
        for i, row in enumerate(costs)
        for j, cost in enumerate(row)
        if cost is None
    ]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(f"no cost is given for {shown}: give it, or one for all others under 'default'.")
    return costs


def _index(name: Any, class_names: Sequence[str]) -> int:  # noqa: ANN401 - any YAML value
    check_known("class", str(name), class_names)
    return list(class_names).index(str(name))


def read_groups(path: Path | None, class_names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    """Read groups of classes from a YAML mapping of lists.

    Args:
        path: The file; if not given, the groups of Fashion-MNIST where the classes are its own, else None.
        class_names: Names of the K classes.

    Raises:
        UserError: If the file is missing or damaged, or its groups do not hold every class once.
    """
    if path is None:
        known = {name for names in FASHION_MNIST_GROUPS.values() for name in names}
        return dict(FASHION_MNIST_GROUPS) if set(class_names) == known else None
    content = _read(path, "--groups")
    if not isinstance(content, dict) or not all(isinstance(names, list) for names in content.values()):
        raise UserError(
            f"--groups {path} must map the name of each group to a list of classes, such as shoes: [Sneaker]."
        )
    groups = {str(group): tuple(str(name) for name in names) for group, names in content.items()}
    try:
        accuracy_by_group(np.zeros((len(class_names),) * 2, dtype=np.int64), class_names, groups)
    except UserError as error:
        raise UserError(f"--groups {path}: {error}") from error
    return groups


def _read(path: Path, option: str) -> Any:  # noqa: ANN401 - any YAML value
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option} {path} cannot be read: {reason}. Give a YAML file.") from error
    return read_yaml(text, f"{option} {path}")
