"""Configurations: files that extend files, and plain values for tables."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import yaml

from fashion_tl.data.augment import HOW
from fashion_tl.errors import UserError, shown

MOST_VALUES = 20_000  # that a file may stand for, its aliases written out
SECTIONS: dict[str, tuple[type, ...]] = {"data": (dict,), "trainer": (dict,), "model": (dict, str)}


def expand_extends(args: list[str]) -> list[str]:
    """Put the files that configurations extend in front of them.

    Args:
        args: Command-line arguments, in which ``-c FILE`` or ``--config FILE`` names configurations.

    Returns:
        The same arguments, with ``-c BASE`` before each file that says ``extends: BASE``, a path beside it.

    Raises:
        UserError: If a file is missing, is not a YAML mapping, or extends itself; or a value has no end.
    """
    expanded: list[str] = []
    rest = iter(args)
    for arg in rest:
        flag, equals, value = arg.partition("=")
        if flag == "--extends":
            raise UserError(
                "--extends is no flag: a file says `extends: BASE.yaml`. Name both with -c, the base first."
            )
        if flag not in ("-c", "--config"):
            if "&" in arg or arg.count("[") + arg.count("{") > 100:
                read_yaml(value if equals else arg, "the value " + shown(arg))
            expanded.append(arg)
            continue
        named = value if equals else next(rest, None)
        if named is None:
            raise UserError(f"{flag} needs a value: the path of a YAML file.")
        if "\n" in named:  # the content of a file
            if _settings(named, "the configuration").get("extends") is not None:
                raise UserError("extends: only a file extends another one, which lies beside it.")
            expanded += ["-c", named]
            continue
        for path in _chain(Path(named)):
            expanded += ["-c", str(path)]
    return expanded


def read_yaml(text: str, what: str) -> Any:  # noqa: ANN401 - whatever it holds
    """Read YAML of plain values, whose anchors and aliases do not stand for more than anybody would write.

    Args:
        text: The YAML.
        what: What it is, for messages.

    Raises:
        UserError: If it is none, names objects of Python, or is too large or too deep.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if _size(node, {}) > MOST_VALUES:
            raise UserError(f"{what} holds more than {MOST_VALUES:,} values, its aliases (*) written out.")
        return None if node is None else loader.construct_document(node)
    except RecursionError as error:
        raise UserError(f"{what} is nested too deeply.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{what} is not YAML of plain values: {' '.join(str(error).split())}") from error


def _size(node: yaml.Node | None, sizes: dict[int, float]) -> float:
    """Count the values that a node stands for; without end where it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # until it is known
        pairs = isinstance(node, yaml.MappingNode)
        inner = [each for pair in node.value for each in pair] if pairs else node.value
        sizes[id(node)] = 1 + sum(_size(each, sizes) for each in inner)
    return sizes[id(node)]


def read_config(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises:
        UserError: If it cannot be read, or is no mapping of settings.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"the configuration {path} cannot be read: it is not a file.")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"the configuration {shown(str(path))[1:-1]} cannot be read: {reason}.") from error
    return _settings(text, f"the configuration {path}")


def _settings(text: str, what: str) -> dict[str, Any]:
    content = read_yaml(text, what)
    if not isinstance(content, dict):
        raise UserError(f"{what} is not a mapping of settings.")
    for key in content:
        if not isinstance(key, str):
            raise UserError(f"{what} has the setting {shown(key)}: the name of a setting is text.")
    for name, kinds in SECTIONS.items():
        if not isinstance(content.get(name, {}), kinds):
            raise UserError(f"{what}: {name} is {shown(content[name])}, it must be a mapping of settings.")
    return content


def _chain(path: Path) -> list[Path]:
    chain = [path]
    while (base := read_config(chain[0]).get("extends")) is not None:
        if not isinstance(base, str):
            raise UserError(f"the configuration {chain[0]} extends {shown(base)}: give the path of a file beside it.")
        beside = chain[0].parent / base
        if os.path.realpath(beside) in map(os.path.realpath, chain):
            raise UserError(f"the configuration {beside} extends itself.")
        chain.insert(0, beside)
    return chain


def flat(config: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - jsonargparse's namespace
    """Flatten a configuration to plain values, for TensorBoard's table."""
    values: dict[str, Any] = {}
    for key, value in dict(config.as_dict() if hasattr(config, "as_dict") else config).items():
        if key == "augment":
            parts = value if isinstance(value, dict) else {}
            used = [f"{name} {strength}" for name, strength in parts.items() if strength and name not in HOW]
            values[key] = ", ".join(used) or "none"
        elif isinstance(value, dict) and key != "train":
            values.update(flat(value, f"{prefix}{key}." if key != "init_args" else prefix))
        else:
            values[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return values
