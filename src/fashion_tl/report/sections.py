"""Which runs are compared with which: runs are found, read, and kept apart where a comparison would not be fair."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fashion_tl.errors import UserError
from fashion_tl.records.record import NAMED, PREDICTIONS, as_given
from fashion_tl.report.run_files import Run, read_results
from fashion_tl.report.selection import LeftOut, find, open_completed

FOLD = "data.fold"


@dataclass(eq=False)
class Section:
    """Runs that may be compared: same test images, same classes, same version of fashion_tl.

    Attributes:
        library: Version of fashion_tl that made the runs; None if not recorded.
        class_names: Names of the K classes.
        test_set: What identifies the test images and classes; None if not recorded.
        runs: The runs, one of each group of seeds.
        seeds: For the label of a run, the runs that differ from it in nothing but the seed, itself first.
        folds: For the label of a run that is one of several folds, those that differ from it in fold and seed alone,
            itself first: the newest of each.
        title: What it is called: the source of its data, and more where that does not tell sections apart.
        slug: What its files are called by.
    """

    library: str | None
    class_names: list[str]
    test_set: str | None
    runs: list[Run] = field(default_factory=list)
    seeds: dict[str, list[Run]] = field(default_factory=dict)
    folds: dict[str, list[Run]] = field(default_factory=dict)
    title: str = ""
    slug: str = ""


def collect(wanted: list[str], log_dir: Path) -> tuple[list[Section], list[LeftOut]]:
    """Find and read runs and sort them into sections, the largest first.

    Args:
        wanted: Names of runs, globs over names, or folders of versions; none means every name. A name stands for its
            newest completed version.
        log_dir: Folder of all records.

    Raises:
        UserError: If a name is unknown, or no run is left.
    """
    found, left_out = find(wanted, log_dir)
    runs, siblings = [], {}
    for folder, others in found:
        run = open_completed(folder, left_out)
        if run is not None:
            read_results(run)
            runs.append(run)
            siblings[run] = others
    _label(runs)
    sections = _sections(runs)
    shown = {run.folder.resolve() for run in runs}
    for section in sections:
        _drop_other_labels(section, left_out)
        for run in section.runs:
            folds = section.folds[run.label] = _folds(run, siblings[run])
            elsewhere = {other.folder for other in folds if other.get("data", "fold") != run.get("data", "fold")}
            others = [folder for folder in siblings[run] if folder not in elsewhere]
            section.seeds[run.label] = [run, *_seeds(run, others, shown, left_out)]
    sections = sorted((s for s in sections if s.runs), key=lambda s: (-len(s.runs), s.runs[0].label))
    if not sections:
        reasons = "".join(f"\n  {item.run}: {item.why}" for item in left_out)
        raise UserError(
            f"no completed run to compare in {log_dir}. Make one first: `make phase1`, or "
            f"`fashion-tl fit -c experiments/phase1.yaml`.{reasons}"
        )
    _name(sections)
    return sections, left_out


def _name(sections: list[Section]) -> None:
    """Give every section a title and a slug of its own."""
    sources = [section.runs[0].text("data", "source") or "data not recorded" for section in sections]
    for section, source in zip(sections, sources, strict=True):
        section.title = source
        if sources.count(source) > 1:
            test_set = (section.test_set or "not recorded")[:12]
            section.title += f", test set {test_set}, fashion_tl {section.library or 'not recorded'}"
        slug = re.sub(r"[^a-z0-9_]+", "-", source.lower()).strip("-") or "runs"
        taken = {other.slug for other in sections}
        section.slug = next(s for s in (slug, *(f"{slug}-{i}" for i in range(2, len(sections) + 2))) if s not in taken)


def _label(runs: list[Run]) -> None:
    """Call runs by their name, and by name and version where a name comes twice."""
    names = Counter(run.name for run in runs)
    taken: Counter[str] = Counter()
    for run in runs:
        label = run.name if names[run.name] == 1 else f"{run.name} v{run.version}"
        taken[label] += 1
        run.label = label if taken[label] == 1 else f"{label} ({taken[label]})"


def _library(run: Run) -> str | None:
    return run.text("environment", "libraries", "fashion_tl")


def _fingerprint(run: Run) -> tuple[str | None, str | None]:
    """Identify the test images of a record that names no test set: by the data's fingerprint and the labels."""
    if run.predictions is None:
        return run.text("data", "fingerprint"), None
    digest = hashlib.sha256(run.predictions.index.tobytes() + run.predictions.labels.tobytes()).hexdigest()
    return run.text("data", "fingerprint"), digest


def _sections(runs: Iterable[Run]) -> list[Section]:
    """Put runs with the same version of fashion_tl, classes and test set together."""
    sections: dict[object, Section] = {}
    nameless = []
    for run in runs:
        test_set = run.text("data", "test_set")
        if test_set is None:
            nameless.append(run)
            continue
        key = (_library(run), tuple(run.class_names), test_set)
        sections.setdefault(key, Section(_library(run), run.class_names, test_set)).runs.append(run)
    named = list(sections.values())
    for run in nameless:
        # An older record: it belongs where data, labels and their order are the same, which the reader is told.
        home = next((s for s in named if _same_images(s, run)), None)
        if home is None:
            unnamed = (_library(run), tuple(run.class_names), _fingerprint(run))
            home = sections.setdefault(unnamed, Section(_library(run), run.class_names, None))
        else:
            run.notes.append("its record names no test set; it is here because data, classes and labels are the same")
        home.runs.append(run)
    return list(sections.values())


def _same_images(section: Section, run: Run) -> bool:
    data = _fingerprint(run)
    same = (section.library, section.class_names) == (_library(run), run.class_names)
    return same and None not in data and data in map(_fingerprint, section.runs)


def _drop_other_labels(section: Section, left_out: list[LeftOut]) -> None:
    """Leave out runs whose labels are not those that most runs on the test set have."""
    prints = {run: _fingerprint(run)[1] for run in section.runs if run.predictions is not None}
    if not prints:
        return
    whole = [seen for run, seen in prints.items() if _tested_in_part(run) is None]
    usual = Counter(whole or prints.values()).most_common(1)[0][0]
    for run, seen in prints.items():
        if seen != usual:
            section.runs.remove(run)
            why = _tested_in_part(run) or "its test labels differ from those of the other runs on its test set"
            left_out.append(LeftOut(run.label, why))


def _tested_in_part(run: Run) -> str | None:
    """Say of how many of its test images a run has predictions; None if of all."""
    images = run.number("data", "sizes", "test")
    if run.predictions is None or images is None or len(run.predictions.labels) >= images:
        return None
    return f"it was tested on {len(run.predictions.labels):,} of {images:,.0f} images (trainer.limit_test_batches)"


def _seeds(run: Run, others: list[Path], shown: set[Path], left_out: list[LeftOut]) -> list[Run]:
    """Find the completed versions that differ from a run in nothing but the seed, the newest of each seed."""
    found: list[Run] = []
    seeds = {str(run.get("seed"))}
    older: dict[str, list[str]] = {}
    for folder in others:
        other = open_completed(folder, [])
        if other is None:
            continue
        why = _differs(run, other)
        if why is None and str(other.get("seed")) in seeds:
            why = f"its seed, {other.get('seed')}, is that of a newer version"
        if why is None:
            read_results(other)
            mine, theirs = run.predictions, other.predictions
            if theirs is None:
                why = other.gaps[PREDICTIONS]
            elif mine is not None and not np.array_equal(mine.labels, theirs.labels):
                why = _tested_in_part(other) or "its test labels are others"
        if why is None:
            seeds.add(str(other.get("seed")))
            other.label = f"{run.name} v{other.version}"
            found.append(other)
        elif folder.resolve() not in shown:
            older.setdefault(why, []).append(other.version)
    for why, numbers in older.items():
        which = f"version{'s' * (len(numbers) > 1)} {', '.join(reversed(numbers))}"
        left_out.append(LeftOut(f"{run.name}, {which}", f"version {run.version} is shown; here {why}"))
    return found


def _folds(run: Run, others: list[Path]) -> list[Run]:
    """Find the completed versions that differ from a fold in fold and seed alone, the newest of each; none of no fold.

    The row of such a run shows its own fold.
    """
    if not isinstance(run.get("data", "fold"), int) or not isinstance(run.get("data", "folds"), int):
        return []
    found = {(run.get("data", "fold"), str(run.get("seed"))): run}
    for folder in others:
        other = open_completed(folder, [])
        if other is None or _differs(run, other, folds=True) is not None:
            continue
        key = other.get("data", "fold"), str(other.get("seed"))
        if isinstance(key[0], int) and key not in found:
            read_results(other)
            found[key] = other
    run.notes.append(f"its row shows fold {run.get('data', 'fold')} of {run.get('data', 'folds')} alone")
    return list(found.values())


def _differs(run: Run, other: Run, folds: bool = False) -> str | None:
    """Say why two versions of a name are not two seeds (or folds) of one experiment; None if they are."""
    mine: Any
    theirs: Any
    for what, mine, theirs in (
        ("the version of fashion_tl is another", _library(run), _library(other)),
        ("the class names are others", run.class_names, other.class_names),
        ("the data are others", run.get("data", "fingerprint"), other.get("data", "fingerprint")),
        ("the test set is another", *(None if folds else one.get("data", "test_set") for one in (run, other))),
    ):
        if mine != theirs:
            return f"{what}, or not recorded"
    if run.config is None or other.config is None:
        return "the configuration cannot be compared"
    mine, theirs = as_given(run.config, run.record), as_given(other.config, other.record)
    free = {"seed_everything", "data.source.init_args.root", *NAMED, *((FOLD,) if folds else ())}
    keys = sorted(key for key in (mine.keys() | theirs.keys()) - free if mine.get(key) != theirs.get(key))
    if keys:
        return f"the configuration differs ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
    for key, did in NAMED.items():
        if mine.get(key) != theirs.get(key) and (why := _named_differ(key, did, run, other, folds)) is not None:
            return why
    weights = [one.get("model", "weights_hash") for one in (run, other)]
    random = any(str(one.get("model", "weights")).startswith("random") for one in (run, other))
    return None if random or weights[0] == weights[1] else "it started from other weights of the same name"


def _named_differ(key: str, did: str, run: Run, other: Run, folds: bool) -> str | None:
    """Say why the runs that a setting of two versions names are not seeds of one experiment; None if they are."""
    if not any("version_" in (one.config or {}).get(key, "") for one in (run, other)):
        return f"the configuration differs ({key})"
    named = [_named(one, key) for one in (run, other)]
    if len(named[0]) != len(named[1]) or None in named[0] + named[1]:
        return f"it {did} another run, which cannot be compared"
    for first, second in zip(*named, strict=True):
        if first.folder != second.folder and (why := _differs(first, second, folds)) is not None:
            return f"it {did} another run: there {why}"
    return None


def _named(run: Run, key: str) -> list[Run | None]:
    """Open the runs that a setting of a run names by their checkpoints; None for what is no run, or not to be read."""
    text = (run.config or {}).get(key, "")
    paths = [text]
    with suppress(ValueError):
        paths = json.loads(text)
    versions = [Path(str(path)).parent for path in (paths if isinstance(paths, list) else [paths])]
    return [
        open_completed(run.folder.parent.parent / version.parent.name / version.name, [])
        if version.name.startswith("version_")
        else None
        for version in versions
    ]
