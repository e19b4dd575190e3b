"""What is checked of the feature cache's settings before a run leaves anything behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fashion_tl.cache.eviction import size_text, why_no_room
from fashion_tl.cache.store import CacheWriteError, limit_bytes
from fashion_tl.data.batches import declared
from fashion_tl.errors import UserError, check_ranges, unknown_name
from fashion_tl.features.extraction import DTYPES, Extraction
from fashion_tl.features.validity import why_not
from fashion_tl.features.views import DrawnEpoch
from fashion_tl.models.split import SplitError
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.plan import Plan


def check_storage(views: int | None, dtype: str | None) -> None:
    """Refuse a number of views, or a type to store features in, that cannot be.

    Raises:
        UserError: If it cannot.
    """
    check_ranges({"cache_views": (views, 1, 1_000_000)}, "--")
    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("cache dtype", dtype, DTYPES, "Set it with --cache_dtype.")


def needed_views(plan: Plan, index: int, count: int) -> set[int]:
    """Return which of a number of drawn views the epochs of a phase see.

    >>> from fashion_tl.training.plan import parse_phases
    >>> needed_views(Plan(parse_phases({0: "head", 3: 1}), length=8), 1, 4)
    {0, 1, 2, 3}
    """
    start = plan.phases[index].start
    end = plan.phases[index + 1].start if index + 1 < len(plan.phases) else plan.length
    return {epoch % count for epoch in range(start, math.ceil(min(end, start + count)))}


def check_room(
    count: int,
    folder: Path,
    extract: Callable[[], Extraction],
    module: ImageClassifier,
    data: Any,  # noqa: ANN401 - with splits and views
    plan: Plan,
) -> list[str]:
    """Find out how much the drawn views of each phase take.

    Args:
        count: Views of each image.
        folder: The cache's folder.
        extract: Makes what computes features of the module.
        module: The classifier.
        data: The data module, after ``setup``.
        plan: The plan with its end.

    Returns:
        What is to be said, a line for each phase that keeps drawn views.

    Raises:
        UserError: If they fit neither the limit of the cache nor the disk.
    """
    lines: list[str] = []
    for index, phase in enumerate(plan.phases if declared(data, "views") is None else ()):
        boundary, seen = module.network.resolve(phase.train), len(needed_views(plan, index, count))
        if why_not(module, data, boundary, count) is not None:
            continue
        module.enter_phase(index)
        try:
            each = extract().required_bytes(data.splits["train"], DrawnEpoch(data.drawn_views, 0), boundary)
        except (SplitError, CacheWriteError):
            continue  # training says why
        finally:
            module.enter_phase(0)
        what = f"{seen} view{'s' if seen > 1 else ''} of {len(data.splits['train']):,} images"
        what += f" below {module.network.describe(boundary)}"
        reason = why_no_room(folder, seen * each, limit_bytes())
        if reason is not None:
            raise UserError(
                f"--cache_views {count}: {what} cannot be kept: {reason}. Give fewer views, --cache_dtype bfloat16, a "
                "higher limit, or another disk (FASHION_TL_CACHE_DIR)."
            )
        lines.append(f"cache: {what} take {size_text(seen * each)}")
    return lines
