"""Configurations: files that extend files, and plain values for tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fashion_tl.errors import UserError


def expand_extends(args: list[str]) -> list[str]:
    """Put the files that configurations extend in front of them.

    Args:
        args: Command-line arguments, in which ``-c FILE`` or ``--config FILE`` names configurations.

    Returns:
        The same arguments, with ``-c BASE`` before each file that says ``extends: BASE``, a path beside it.

    Raises:
        UserError: If a file is missing, is not a YAML mapping, or extends itself.
    """
    expanded: list[str] = []
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag not in ("-c", "--config"):
            expanded.append(arg)
            continue
        named = value if equals else next(rest, "")
        if "\n" in named:  # the content of a file
            expanded += ["-c", named]
            continue
        for path in _chain(Path(named)):
            expanded += ["-c", str(path)]
    return expanded


def _chain(path: Path) -> list[Path]:
    chain = [path]
    while True:
        try:
            content = yaml.safe_load(chain[0].read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the configuration {chain[0]} cannot be read: {getattr(error, 'strerror', error)}."
            ) from error
        except yaml.YAMLError as error:
            raise UserError(f"the configuration {chain[0]} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise UserError(f"the configuration {chain[0]} is not a mapping of settings.")
        if not content.get("extends"):
            return chain
        base = chain[0].parent / str(content["extends"])
        if base in chain:
            raise UserError(f"the configuration {base} extends itself.")
        chain.insert(0, base)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - jsonargparse's namespace
    """Flatten a configuration to plain values, for TensorBoard's table."""
    values: dict[str, Any] = {}
    for key, value in dict(config.as_dict() if hasattr(config, "as_dict") else config).items():
        if key == "augment":
            parts = value if isinstance(value, dict) else {}
            used = [
                f"{name} {strength}" for name, strength in parts.items() if strength and name != "random_erasing_area"
            ]
            values[key] = ", ".join(used) or "none"
        elif isinstance(value, dict) and key != "train":
            values.update(flat(value, f"{prefix}{key}." if key != "init_args" else prefix))
        else:
            values[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return values
