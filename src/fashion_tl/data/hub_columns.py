"""Which column of a dataset holds the images, and which the labels: told by type, or named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fashion_tl.errors import UserError, unknown_name

_NAMES = ("string", "large_string", "string_view", "bool")
_DOES = {"train": "train", "val": "validate", "test": "test"}


def choose_columns(
    features: Mapping[str, Mapping[str, Any]], told: str, image: str | None, label: str | None, group: str | None
) -> dict[str, str]:
    """Choose the columns "image", "label", and "group" where one is named.

    Args:
        features: The features of `datasets` by column, of each split.
        told: What the dataset is called in messages.
        image: The column of images; the only one of images if None.
        label: The column of labels; the only ClassLabel if None, else the only one of names or whole numbers.
        group: The column of groups, or None.

    Raises:
        UserError: If a named column is not there or of another type, or none or several could be meant.
    """
    columns = next(iter(features.values()))
    listed = f"Its columns: {', '.join(f'{name} ({_kind(feature)})' for name, feature in columns.items())}"[:600] + "."
    for what, name in (("image", image), ("label", label), ("group", group)):
        if name is not None and name not in columns:
            raise unknown_name(f"column of {told}", name, columns, f"Set it with --data.source.{what}_column.")
    images = [name for name, feature in columns.items() if _kind(feature) == "Image"]
    images = images or [name for name, feature in columns.items() if _kind(feature) == "encoded images"]
    if image is None:
        image = _only(images, "images", "image", told, listed)
    elif _kind(columns[image]) not in ("Image", "encoded images"):
        raise UserError(
            f"{told} has no images in its column {image!r}. {listed} Set it with --data.source.image_column."
        )
    others = {name: feature for name, feature in columns.items() if name not in (image, group)}
    labels = [name for name, feature in others.items() if _kind(feature) == "ClassLabel"]
    labels = labels or [name for name, feature in others.items() if _holds_labels(feature)]
    if label is None:
        label = _only(labels, "labels", "label", told, listed)
    elif not _holds_labels(columns[label]):
        raise UserError(
            f"{told} has {_kind(columns[label])} in its column {label!r}: labels are ClassLabel, names or whole "
            f"numbers. {listed} Set another one with --data.source.label_column."
        )
    chosen = {"image": image, "label": label} | ({} if group is None else {"group": group})
    for part, own in features.items():
        if lacking := [name for name in chosen.values() if name not in own or _kind(own[name]) != _kind(columns[name])]:
            raise UserError(
                f"{told} has a column {lacking[0]!r} to train on, but none of that type to {_DOES[part]} on. Leave "
                "that split out with --data.source.splits."
            )
        if getattr(own[label], "names", None) != getattr(columns[label], "names", None):
            raise UserError(f"{told} has other classes to {_DOES[part]} on than to train on: its column {label!r}.")
    return chosen


def _only(found: list[str], what: str, column: str, told: str, listed: str) -> str:
    if len(found) != 1:
        wrong = f"several columns that may hold {what}: {', '.join(found)}" if found else f"no column of {what}"
        raise UserError(f"{told} has {wrong}. {listed} Name it with --data.source.{column}_column.")
    return found[0]


def _kind(feature: Any) -> str:  # noqa: ANN401 - any feature
    """Name the type of a column: of `datasets`, "encoded images" for bytes, else of Arrow."""
    if isinstance(feature, dict):
        return (
            "encoded images" if getattr(feature.get("bytes"), "dtype", "") in ("binary", "large_binary") else "struct"
        )
    kind = type(feature).__name__
    dtype = str(getattr(feature, "dtype", None)) if kind == "Value" else kind
    return "encoded images" if dtype in ("binary", "large_binary") else dtype


def _holds_labels(feature: Any) -> bool:  # noqa: ANN401 - any feature
    kind = _kind(feature)
    return kind == "ClassLabel" or kind in _NAMES or kind.startswith(("int", "uint"))
