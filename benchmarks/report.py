"""Turns measurements into ratios and into ``results.md``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.groups import Group, Ratio, Side

Row = dict[str, Any]
Rows = dict[int, Row]
TABLE = (
    "| | ours | against | ratio: min / median / max | target | reached (median) |",
    "| --- | --- | --- | --- | --- | --- |",
)
Measure = Callable[[Row], float | None]

HEAD = """# Benchmarks

Written by `make bench`. A ratio is the seconds of the other side over those of `fashion-tl fit`: above 1, `fit` wins.
Each side is a process of its own; the sides of a group take turns (A B A B ...), so that a ratio compares runs of the
same minutes. Given are the smallest, the median and the largest ratio of the repeats.

The clock runs from after the imports to the end of the last validated epoch: reading images, building the network, the
pass that fills the cache, training, validation after each epoch, checkpoints, the record. The test of the best
checkpoint, which every side does at its end, is in the second ratio only; the third compares whole processes,
imports included. The sides of a group have the same images, split, epochs, batch size, initial backbone and
threads. Peak memory is the largest resident memory of the process, without its workers.
"""


def newest(
    rows: Iterable[Row], group: Group, side: Side, machine: dict[str, Any], source: str | None, threads: int
) -> Rows:
    """Return the newest measurement of each repeat of a side on a machine; of any source if None."""
    found = {}
    for row in rows:
        same = (row.get("group"), row.get("side"), row["machine"]) == (group.name, side.name, machine)
        same = same and row["threads"] == threads and source in (None, row["source"])
        if same and row["arguments"] == list(side.arguments):
            found[row["repeat"]] = row
    return found


def of_result(name: str, factor: int = 1) -> Measure:
    """Return a function that reads a figure of a side's own line, times a factor; None where it is missing."""

    def read(row: Row) -> float | None:
        value = row["result"].get(name)
        return None if value is None else float(value) * factor

    return read


def with_test(factor: int) -> Measure:
    """Return a function that reads the seconds of training and test, times a factor; None where one is missing."""

    def read(row: Row) -> float | None:
        parts = [row["result"].get("seconds"), row["result"].get("test_seconds")]
        return None if None in parts else factor * float(sum(parts))

    return read


def whole_process(factor: int) -> Measure:
    """Return a function that reads the seconds of the process, with its own imports as often as it stands for runs."""
    return lambda row: float(row["process_seconds"]) * factor


def ratios(other: Rows, ours: Rows, read_other: Measure, read_ours: Measure) -> list[float]:
    """Divide the other side's figure by ours, repeat by repeat, where both are there."""
    found = []
    for repeat in sorted(other.keys() & ours.keys()):
        pair = (read_other(other[repeat]), read_ours(ours[repeat]))
        if pair[0] is not None and pair[1] is not None and pair[1] > 0:
            found.append(pair[0] / pair[1])
    return found


def spread(values: list[float]) -> str:
    """Write the smallest, the median and the largest value.

    >>> spread([2.0, 1.0, 4.0])
    '1.00 / 2.00 / 4.00'
    """
    if not values:
        return "not measured"
    return " / ".join(
        f"{value:.1f}" if value >= 10 else f"{value:.2f}" for value in (min(values), median(values), max(values))
    )


def middle(rows: Rows, read: Measure, form: str) -> str:
    """Write the median of a figure over all repeats."""
    values = [value for value in map(read, rows.values()) if value is not None]
    return format(median(values), form) if values else "not measured"


def write_results(
    path: Path,
    groups: list[Group],
    rows: list[Row],
    machine: dict[str, Any],
    problems: dict[str, list[str]],
    source: str | None,
    threads: int,
) -> dict[str, list[str]]:
    """Write the page of all groups from the newest measurements of this machine.

    Args:
        path: The page to write.
        groups: All groups.
        rows: All measurements.
        machine: The machine whose measurements count.
        problems: By group, why sides could not be measured.
        source: Hash of the code whose measurements count; any if None.
        threads: Threads of every side.

    Returns:
        The lines of the table of ratios, by group.
    """
    found = {g.name: {s.name: newest(rows, g, s, machine, source, threads) for s in g.sides} for g in groups}
    used = [row for sides in found.values() for by_repeat in sides.values() for row in by_repeat.values()]
    table = {g.name: [_line(g, ratio, found[g.name]) for ratio in g.ratios] for g in groups}
    text = [HEAD, _machine(machine, used), "## Ratios\n", *TABLE, *(line for g in groups for line in table[g.name]), ""]
    for group in groups:
        text += _group(group, found[group.name], problems.get(group.name, []))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")
    return table


def _machine(machine: dict[str, Any], used: list[Row]) -> str:
    if not used:
        return "Nothing was measured on this machine.\n"
    versions: dict[str, set[str]] = {}
    for row in used:
        for name, value in {"python": row["result"]["python"], **row["result"]["versions"]}.items():
            versions.setdefault(name, set()).add(value)
    days = sorted({row["date"][:10] for row in used})
    commits = sorted({row["commit"] for row in used})
    threads = sorted({row["result"]["threads"] for row in used})
    return (
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, "
        f"{machine['system']}; threads of every side: {' or '.join(map(str, threads))}; "
        + ", ".join(f"{name} {' and '.join(sorted(versions[name]))}" for name in sorted(versions))
        + f". Measured {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}, commit {', '.join(commits)}.\n"
    )


def _line(group: Group, ratio: Ratio, rows: dict[str, Rows]) -> str:
    values = _values(group, ratio, rows, None)
    target = "none" if ratio.target is None else f"{ratio.target:g}"
    cells = (group.name, ratio.ours, ratio.other, spread(values), target, reached(ratio, values, rows))
    return f"| {' | '.join(cells)} |"


def reached(ratio: Ratio, values: list[float], rows: dict[str, Rows]) -> str:
    """Say whether the median of the ratios is at its target, and our accuracy not lower where that counts."""
    if ratio.target is None or not values:
        return ""
    if median(values) < ratio.target:
        return "no"
    ours, other = (
        [row["result"]["test_accuracy"] for row in rows[name].values()] for name in (ratio.ours, ratio.other)
    )
    return "no, accuracy is lower" if ratio.accuracy and median(ours) < median(other) else "yes"


def _values(group: Group, ratio: Ratio, rows: dict[str, Rows], measure: Callable[[int], Measure] | None) -> list[float]:
    """Return the ratios of one pair, by its own measure if none is given."""
    factors = {side.name: side.factor for side in group.sides}
    chosen = measure or (lambda factor: of_result(ratio.measure, factor))
    return ratios(rows[ratio.other], rows[ratio.ours], chosen(factors[ratio.other]), chosen(factors[ratio.ours]))


def _group(group: Group, rows: dict[str, Rows], problems: list[str]) -> list[str]:
    lines = [f"## {group.name}. {group.title}\n", *(f"Not measured to the end: {problem}.\n" for problem in problems)]
    sizes = sorted({row["result"]["images"] for by in rows.values() for row in by.values()})
    if not sizes:
        return [*lines, *([] if problems else ["Not measured.\n"])]
    repeats = max(len(by_repeat) for by_repeat in rows.values())
    count = " or ".join(f"{n:,}" for n in sizes)
    lines.append(f"{count} training images; times measured: {repeats}. {group.notes}\n")
    by_epoch = any(ratio.measure == "epoch_seconds" for ratio in group.ratios)
    lines += [
        f"| ours / against | {'one epoch' if by_epoch else 'training'} | {'' if by_epoch else 'training and test'} | "
        f"{'' if by_epoch else 'whole process'} |",
        "| --- | --- | --- | --- |",
    ]
    for ratio in group.ratios:
        others = (None,) if by_epoch else (None, with_test, whole_process)
        cells = [spread(_values(group, ratio, rows, measure)) for measure in others]
        lines.append(f"| {ratio.ours} / {ratio.other} | {' | '.join([*cells, '', ''][:3])} |")
    lines += ["", *_sides(group, rows, by_epoch)]
    return lines


def _sides(group: Group, rows: dict[str, Rows], by_epoch: bool) -> list[str]:
    lines = [
        f"| side | seconds{' of an epoch' if by_epoch else ''} (median) | of imports | validation accuracy | "
        "test accuracy | peak memory, MiB | workers | cache entries written |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for side in group.sides:
        by_repeat = rows[side.name]
        if not by_repeat:
            lines.append(f"| {side.name} | not measured | | | | | | |")
            continue
        last = by_repeat[max(by_repeat)]["result"]
        cells = [
            middle(by_repeat, of_result("epoch_seconds" if by_epoch else "seconds", side.factor), ",.2f"),
            middle(by_repeat, of_result("import_seconds"), ".1f"),
            middle(by_repeat, of_result("accuracy"), ".4f"),
            middle(by_repeat, of_result("test_accuracy"), ".4f"),
            middle(by_repeat, lambda row: row["result"]["peak_bytes"] / 2**20, ",.0f"),
            str(last.get("workers", "")),
            str(last.get("new_entries", "")),
        ]
        lines.append(f"| {side.name} | {' | '.join(cells)} |")
    lines.append("")
    for side in group.sides:
        more = f" (seconds times {side.factor})" if side.factor > 1 else ""
        lines.append(f"- {side.name}{more}: `python -m benchmarks.sides.{side.module} {_shown(side.arguments)}`")
    return [*lines, ""]


def _shown(arguments: tuple[str, ...]) -> str:
    """Write a command line; of many runs in one process the first and the last."""
    fits = [i for i, part in enumerate(arguments) if part == "--fit"]
    if len(fits) <= 2:
        return shlex.join(arguments)
    ends = (shlex.join(arguments[: fits[1]]), shlex.join(arguments[fits[-1] :]))
    return f" ... {len(fits) - 2} more ... ".join(ends)
