"""Whether a record holds, as far as its own files tell: checksums, best epoch, times, freeze certificate, members."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fashion_tl.errors import UserError
from fashion_tl.files import SHA256, sha256
from fashion_tl.records.record import CHECKED, METRICS, RECORD, RunPaths, measured, paths_of, smaller_is_better
from fashion_tl.records.record import verify as verify_file

HOLDS, DIFFERS, UNKNOWN = "holds", "does not hold", "cannot be checked"
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UserError)
MOST_TOLD = 4  # differences of one check
ROUNDING = 1e-9  # between a figure and the same computed again, relative where it is above 1


@dataclass(frozen=True)
class Check:
    """One thing that was checked of a record.

    Attributes:
        what: What, in a noun.
        result: "holds", "does not hold" or "cannot be checked".
        told: What was compared, what differs, or why nothing can be said.
    """

    what: str
    result: str
    told: str = ""


def compared(what: str, recorded: Any, recomputed: Any, told: str = "", tolerance: float = ROUNDING) -> Check:  # noqa: ANN401
    """Compare plain values of a record with the same ones computed again; see ``value_differences``.

    Args:
        what: What is checked.
        recorded: The values of the record.
        recomputed: The same, computed again.
        told: What the check says where it holds.
        tolerance: How far numbers may differ, relative where they are above 1.
    """
    found = list(value_differences(recorded, recomputed, tolerance))
    return concluded(what, found, told)


def concluded(what: str, differences: list[str], told: str = "") -> Check:
    """Return the check that holds if there are no differences; at most a few are told."""
    if not differences:
        return Check(what, HOLDS, told)
    more = f"; {len(differences) - MOST_TOLD} more" if len(differences) > MOST_TOLD else ""
    return Check(what, DIFFERS, "; ".join(differences[:MOST_TOLD]) + more)


def value_differences(recorded: Any, recomputed: Any, tolerance: float = ROUNDING, name: str = "") -> Iterator[str]:  # noqa: ANN401
    """Yield where plain values differ, as "name: recorded A, found B"; what either side lacks is passed over."""
    if isinstance(recorded, Mapping) and isinstance(recomputed, Mapping):
        for key in recorded:
            if key in recomputed:
                yield from value_differences(
                    recorded[key], recomputed[key], tolerance, f"{name}.{key}" if name else str(key)
                )
    elif isinstance(recorded, list) and isinstance(recomputed, list) and len(recorded) == len(recomputed):
        for i, (one, two) in enumerate(zip(recorded, recomputed, strict=True)):
            yield from value_differences(one, two, tolerance, f"{name}[{i}]")
    elif not _same(recorded, recomputed, tolerance):
        yield f"{name}: recorded {_short(recorded)}, found {_short(recomputed)}"


def well_formed(what: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield checks; where what they read of a record is malformed, say so in one that does not hold."""
    try:
        yield from checks
    except _MALFORMED as error:
        yield Check(what, DIFFERS, f"{RECORD} holds it malformed ({type(error).__name__}: {error})")


def check_files(folder: Path, record: Mapping[str, Any]) -> Iterator[Check]:
    """Compare the files beside a record with their checksums, and say whether the record has one of its own.

    Args:
        folder: The log folder of the run.
        record: Its record, as ``read_record`` has read it, which compares its own checksum.
    """
    own = json.loads((folder / RECORD).read_text(encoding="utf-8")).get(SHA256)
    if own is None:
        yield Check(RECORD, UNKNOWN, "it has no checksum of its own")
    else:
        yield Check(RECORD, HOLDS, "its values have their checksum")
    expected = record.get("files") or {}
    for name in CHECKED:
        if name not in expected:
            if (folder / name).exists():
                yield Check(name, UNKNOWN, f"{RECORD} holds no checksum of it")
        elif not (folder / name).is_file():
            yield Check(name, DIFFERS, "it is missing")
        else:
            try:
                verify_file(folder, name, dict(record))
                yield Check(name, HOLDS, "its checksum")
            except UserError as error:
                yield Check(name, DIFFERS, str(error))


def check_checkpoint_file(paths: RunPaths, record: Mapping[str, Any]) -> Check:
    """Compare ``best.ckpt`` with the hash that the record holds of it."""
    what, expected = paths.best.name, record.get("checkpoint")
    if not paths.best.is_file():
        return Check(what, UNKNOWN, f"{paths.best} is not there")
    if not isinstance(expected, str):
        return Check(what, UNKNOWN, f"{RECORD} holds no hash of it")
    if sha256(paths.best) != expected:
        return Check(what, DIFFERS, "it is not the file that was tested: its SHA-256 is another")
    return Check(what, HOLDS, "it is the file that was tested")


def check_history(folder: Path, record: Mapping[str, Any]) -> Iterator[Check]:
    """Find the best epoch again in ``metrics.csv``, and add the times up."""
    trained = record.get("best") and not record.get("kind")  # what was combined or solved has no epochs
    if not trained and not (folder / METRICS).exists():
        return
    try:
        rows = read_history(folder / METRICS)
    except (OSError, ValueError, csv.Error) as error:
        yield Check("best epoch", UNKNOWN, f"{METRICS} cannot be read: {error}")
        return
    yield _best(record, rows)
    yield _times(record, rows)


def read_history(path: Path) -> list[dict[str, float]]:
    """Read ``metrics.csv``: for each epoch the figures that were measured in it.

    Raises:
        OSError: If it cannot be read.
        ValueError: If a value is no number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def _best(record: Mapping[str, Any], rows: list[dict[str, float]]) -> Check:
    what, best = "best epoch", measured(record, "best")
    monitor, epoch, value = (best.get(name) for name in ("monitor", "epoch", "value"))
    if not isinstance(monitor, str) or epoch is None:
        return Check(what, UNKNOWN, f"{RECORD} names none")
    # A version that went on from another one's checkpoint counts from there.
    starts = [0, *(int(entry.get("epoch", 0)) for entry in record.get("resumed") or [] if isinstance(entry, dict))]
    sign = -1 if smaller_is_better(monitor) else 1
    found: dict[int, dict[str, Any]] = {}
    for start in starts:
        scored = [row for row in rows if row.get("epoch", -1) >= start and math.isfinite(row.get(monitor, math.nan))]
        if scored:
            row = max(scored, key=lambda row: sign * row[monitor])
            found[start] = {"epoch": int(row["epoch"]), "monitor": monitor, "value": row[monitor]}
    if not found:
        return Check(what, DIFFERS, f"{METRICS} has no {monitor}")
    told = f"epoch {epoch}, by {monitor} {'of a value that is not recorded' if value is None else value}"
    checks = [compared(what, best, one, told) for one in found.values()]
    return next((check for check in checks if check.result == HOLDS), checks[0])


def _times(record: Mapping[str, Any], rows: list[dict[str, float]]) -> Check:
    what, time = "times", measured(record, "time")
    recorded = time.get("epoch_seconds")
    if not isinstance(recorded, list):
        return Check(what, UNKNOWN, f"{RECORD} holds no seconds of epochs")
    seconds = [row.get("seconds", math.nan) for row in rows]
    found: dict[str, Any] = {"epoch_seconds": seconds}
    total = math.fsum(seconds)
    if "images_per_second" in time and total:
        found["images_per_second"] = math.fsum(row.get("images", 0) for row in rows) / total
    told = list(value_differences(time, found))
    fit = time.get("fit_seconds")
    if isinstance(fit, int | float) and fit < total * (1 - ROUNDING):
        told.append(f"fit_seconds: recorded {fit:.3f}, less than its epochs together ({total:.3f})")
    started, finished = record.get("started"), record.get("finished")
    if None not in (started, finished) and str(started) > str(finished):  # both ISO 8601 in UTC
        told.append(f"finished: {finished} is before {started}, when it started")
    whole = f" of {fit:.1f} s in fit" if isinstance(fit, int | float) else ""
    return concluded(what, told, f"{len(rows)} epochs, {total:.1f} s{whole}")


def check_certificate(record: Mapping[str, Any]) -> Iterator[Check]:
    """Say whether frozen weights and buffers stayed, and the cache gave the same, by what training wrote down."""
    what, entries = "freeze certificate", record.get("certificate")
    if not isinstance(entries, list) or not entries:
        yield Check(what, UNKNOWN, f"{RECORD} holds none")
        return
    told, largest, ended = [], [], True
    for place, entry in enumerate(entries):
        number = entry.get("phase")
        phase = f"phase {(place if number is None else int(number)) + 1}"
        for part in ("frozen_weights", "frozen_buffers"):
            before, after = ((entry.get(part) or {}).get(when) for when in ("before", "after"))
            if None not in (before, after) and before != after:
                told.append(f"{phase}: {part.replace('_', ' ')} were {before}, then {after}")
        if entry.get("same") is False and not told:
            told.append(f"{phase}: what is frozen did not stay the same")
        ended = ended and entry.get("same") is not None
        difference = (entry.get("cache") or {}).get("largest_difference")
        largest += [] if difference is None else [difference]
    if not told and not ended:
        yield Check(what, UNKNOWN, "a phase has begun in it and not ended")
        return
    cache = f"; with and without the cache logits differ by at most {max(largest):.1e}" if largest else ""
    yield concluded(what, told, f"what is frozen stayed in {len(entries)} phase(s){cache}")


def check_members(record: Mapping[str, Any], log_dir: Path, checkpoint_dir: Path) -> Iterator[Check]:
    """Compare the checkpoints that a result was made of with the hashes that its record holds of them."""
    for entry in record.get("members") or []:
        paths = paths_of(log_dir, checkpoint_dir, str(entry.get("name")), int(entry.get("version") or 0))
        what = f"member {paths.name} version {paths.version}"
        if not paths.best.is_file():
            yield Check(what, UNKNOWN, f"{paths.best} is not there")
        elif entry.get("checkpoint") is None:
            yield Check(what, UNKNOWN, f"{RECORD} holds no hash of it")
        elif sha256(paths.best) != entry.get("checkpoint"):
            yield Check(what, DIFFERS, f"{paths.best} is not the checkpoint that was used: its SHA-256 is another")
        else:
            yield Check(what, HOLDS, "its checkpoint")


def _same(one: Any, two: Any, tolerance: float) -> bool:  # noqa: ANN401 - any plain values
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, two)):
        return one == two or bool(abs(one - two) <= tolerance * max(1, abs(one), abs(two)))
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(_same(a, b, tolerance) for a, b in zip(one, two, strict=True))
    return bool(one == two)


def _short(value: Any) -> str:  # noqa: ANN401 - any plain value
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
