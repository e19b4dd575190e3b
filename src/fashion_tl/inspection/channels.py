"""Filters of the first layer, and test images that excite single channels most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fashion_tl.errors import UserError
from fashion_tl.inspection.explained_images import PEAKS, ExplainedRun
from fashion_tl.inspection.layers import Target
from fashion_tl.models.filters import first_convolution
from fashion_tl.plots.filters import CAPTION, filter_grid
from fashion_tl.plots.tiles import Tile, draw_tiles, outlined
from fashion_tl.records.analysis import Analysis

EXEMPLARS, MOST_CHANNELS, MOST_FILTERS = 8, 12, 128


def filter_analysis(explained: ExplainedRun) -> Analysis:
    """Draw the filters of the first convolution."""
    first = first_convolution(explained.run.module)
    found = Analysis("First-layer filters")
    if first is None:
        found.note = "This network has no convolution, so there are no filters to draw."
        return found
    count, _, height, width = first.weight.shape
    shown = min(count, MOST_FILTERS)
    found.note = f"The first convolution, {first.name}: {CAPTION}."
    grid = filter_grid(first.weight, 16, MOST_FILTERS) / 255
    title = f"{explained.run.label}: {shown} of {count} filters of {height} x {width}"
    found.add_picture(
        "explain_filters-first_layer.png",
        draw_tiles([[Tile(grid)]], title=title, note=found.note, side=5),
        f"{shown} filters of the first convolution",
    )
    return found


def channel_analysis(explained: ExplainedRun, wanted: Sequence[int]) -> Analysis:
    """Find the test images that excite each of some channels most.

    Args:
        explained: The run.
        wanted: Channels of its target; those that tell classes apart if empty.
    """
    run = explained.run
    peaks = explained.activations[1][PEAKS]
    classes = len(run.class_names)
    channels = list(wanted) or telling_channels(peaks, run.labels, classes, MOST_CHANNELS)
    rows, heads, table = [], [], []
    for channel in channels:
        best = strongest(peaks[:, channel], EXEMPLARS)
        maps = explained.activation_maps(best)[:, channel]
        low, high = min(float(maps.min()), 0), max(float(maps.max()), 1e-12)
        shares = (maps - low) / max(high - low, 1e-12)
        rows.append([Tile(outlined(image, share)) for image, share in zip(run.pictures(best), shares, strict=True)])
        labels = run.labels[best]
        common = int(np.bincount(labels, minlength=classes).argmax())
        count = int((labels == common).sum())
        heads.append(f"channel {channel}\n{run.class_names[common][:14]}\n{count} of {len(best)}")
        own = peaks[:, channel]
        table.append([str(channel), run.class_names[common], count, float(own[best[0]]), float(own.mean())])
    note = (
        f"The {EXEMPLARS} test images with the highest peak, of {len(run.labels):,}; bright is where the channel "
        f"exceeds half of its highest activation. {explained.layer}"
    )
    if not wanted:
        note += " Channels: for each class the one whose peak sets it apart from all others most."
    found = Analysis("Test images that excite a channel most", note, figures=explained.layer_figures())
    found.add_picture(
        "explain_channels-exemplars.png",
        draw_tiles(rows, heads, f"{run.label}: test images that excite a channel most", note),
        f"The {EXEMPLARS} test images that excite each of {len(channels)} channels most",
    )
    columns = ["channel", "commonest class", f"of {EXEMPLARS}", "highest peak", "mean peak"]
    found.add_table("Channels and their strongest images", columns, table)
    return found


def strongest(values: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Return the indices of the highest values (N,), highest first, equal ones by index."""
    return np.argsort(-np.asarray(values), kind="stable")[:count].astype(np.int64)


def telling_channels(peaks: npt.ArrayLike, labels: npt.ArrayLike, classes: int, most: int) -> list[int]:
    """Choose for each class the channel that tells it apart best from all others, each channel once.

    A channel tells by how far its mean peak on the class is above that on all other images, in standard deviations.

    Args:
        peaks: Peaks (N, C).
        labels: Classes (N,).
        classes: Number of classes K.
        most: How many channels to return at most.
    """
    values, truth = np.asarray(peaks, dtype=np.float64), np.asarray(labels)
    spread = np.maximum(values.std(axis=0), 1e-12)
    chosen: list[int] = []
    for label in range(classes):
        own = truth == label
        if own.any() and not own.all() and len(chosen) < min(most, values.shape[1]):
            distance = (values[own].mean(axis=0) - values[~own].mean(axis=0)) / spread
            chosen.append(next(int(c) for c in np.argsort(-distance, kind="stable") if int(c) not in chosen))
    return chosen


def check_channels(channels: Iterable[int], target: Target) -> list[int]:
    """Return channels, each once, or raise a UserError if the target does not have them."""
    wanted = list(dict.fromkeys(channels))
    wrong = [str(c) for c in wanted if not 0 <= c < target.channels]
    if wrong:
        raise UserError(
            f"stage {target.stage!r} has no channel {', '.join(wrong)}; it has 0 to {target.channels - 1}. "
            "--stage chooses another stage."
        )
    return wanted
