"""Files with a flipped bit, cut short or with a block of zeros: what reads them gives the same, or says so."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.children import Ended, call
from tests.soak.compare import differences
from tests.soak.results import HANG, IDENTICAL, REFUSED, SILENT, STATUS, TOLD, TRACEBACK, Case, Result
from tests.soak.settings import COMMON, TRANSFER, make_images

DAMAGES = ("flip", "flip", "cut", "zeros")
RUN = (
    *COMMON,
    *TRANSFER,
    "--data.source=ImageFolder",
    "--data.source.root=.",
    "--data.source.folder=images",
    "--model.train=head",
    "--checkpoint_steps=1",
)
DONE, CUT = ("--name=done", "--trainer.max_epochs=2"), ("--name=cut", "--trainer.max_epochs=3", "--cache=off")
CONFIG = "lightning_logs/done/version_0/config.yaml"
BEST = "checkpoints/done/version_0/best.ckpt"
IDX = ("fit", "--name=idx", "--data.source=FashionMNIST", "--data.source.root=.", "--model=ScratchClassifier")
IDX_RUN = (
    *IDX,
    "--model.network=plain",
    "--model.network_args={widths: [4]}",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.accelerator=cpu",
)


@dataclass(frozen=True)
class Reader:
    """A command that reads a file.

    Attributes:
        args: Its command line.
        run: The name of the run that it trains, whose files are compared; else all that it writes is.
    """

    args: tuple[str, ...]
    run: str = ""


READERS = {
    "test": Reader(("test", "-c", CONFIG, "--ckpt_path", BEST)),
    "validate": Reader(("validate", "-c", CONFIG, "--ckpt_path", BEST)),
    "predict": Reader(("predict", BEST, "images", "--output", "predicted.csv")),
    "predict --calibrated": Reader(("predict", BEST, "images", "--output", "predicted.csv", "--calibrated")),
    "export": Reader(("export", BEST, "exported")),
    "diagnose": Reader(("diagnose", "done")),
    "explain": Reader(("explain", "done", "--images", "images/across/00.png")),
    "compare": Reader(("compare",)),
    "runs": Reader(("runs",)),
    "fit": Reader((*RUN, *DONE, "--name=again"), "again"),
    "fit from a run": Reader((*RUN, *CUT, "--name=next", "--model.init_from=done"), "next"),
    "fit from a checkpoint": Reader((*RUN, *CUT, "--name=next", f"--model.init_from={BEST}"), "next"),
    "resume": Reader((*RUN, *CUT, "--resume=true"), "cut"),
    "resume by path": Reader(("fit", "-c", "lightning_logs/cut/version_0/config.yaml", "--ckpt_path=last"), "cut"),
    "fit on FashionMNIST": Reader(IDX_RUN, "idx"),
}
TARGETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "best.ckpt": (
        BEST,
        ("test", "validate", "predict", "export", "diagnose", "explain", "fit from a run", "fit from a checkpoint"),
    ),
    "last.ckpt": ("checkpoints/cut/version_0/last.ckpt", ("resume", "resume by path")),
    "run.json": ("lightning_logs/done/version_0/run.json", ("runs", "compare", "diagnose", "fit from a run")),
    "run.json, unfinished": ("lightning_logs/cut/version_0/run.json", ("runs", "compare", "resume", "resume by path")),
    "metrics.csv": ("lightning_logs/*/version_0/metrics.csv", ("runs", "compare", "resume", "diagnose")),
    "config.yaml": (CONFIG, ("diagnose", "compare", "explain")),
    "config.yaml, unfinished": ("lightning_logs/cut/version_0/config.yaml", ("resume", "compare")),
    "test_predictions.npz": ("lightning_logs/done/version_0/test_predictions.npz", ("compare", "diagnose", "runs")),
    "analyses": ("lightning_logs/done/version_0/analysis/*", ("compare", "diagnose")),
    "calibration": ("checkpoints/done/version_0/*calibration*", ("predict --calibrated", "compare")),
    "pictures of the record": ("lightning_logs/test_sets/*.npz", ("compare",)),
    "filters.npz": ("lightning_logs/done/version_0/filters.npz", ("compare",)),
    "cache, arrays": ("cache/*/*.npy", ("fit",)),
    "cache, meta.json": ("cache/*/meta.json", ("fit",)),
    "pictures of a folder": ("images/*/*.png", ("test", "fit", "resume", "predict")),
    "IDX, packed": ("FashionMNIST/raw/*.gz", ("fit on FashionMNIST",)),
    "IDX, unpacked": ("FashionMNIST/raw/*-ubyte", ("fit on FashionMNIST",)),
}
IGNORED = re.compile(r"\.tfevents\.|^output\.txt$|\.lock$")


def prepare(root: Path) -> Path:
    """Make the working directory that is damaged: a finished run, its analyses, one that was killed, a cache."""
    base = root / "base"
    make_images(base / "images")
    _must(call([*RUN, *DONE], base))
    for args in (("diagnose", "done"), ("compare",)):
        _must(call(args, base))
    shutil.rmtree(base / "reports")
    ended = call([*RUN, *CUT], base, tweaks=["dies in its second epoch"])
    if ended.status != -signal.SIGKILL:
        raise RuntimeError(f"status {ended.status}: {ended.output}")
    return base


def _must(ended: Ended) -> None:
    if ended.status:
        raise RuntimeError(f"status {ended.status}: {ended.output}")


def cases(seed: int, lane: int, lanes: int, base: Path, data: Path | None) -> Iterator[Case]:
    """Yield damaged files without an end: every kind of file with every reader, at random places.

    Args:
        seed: Of the random places.
        lane: Number of this lane.
        lanes: Number of lanes.
        base: What ``prepare`` has made.
        data: Folder that holds ``FashionMNIST/raw``, if there is one.
    """
    pairs = [(target, reader) for target, (_, readers) in TARGETS.items() for reader in readers]
    known: dict[str, tuple[Path, Ended, dict[str, str]]] = {}
    for number in range(lane, 10**9, lanes):
        target, reader = pairs[number % len(pairs)]
        if target.startswith("IDX") and (data is None or (number // len(pairs)) % 4):
            continue  # they are large: one turn in four, and where they are at hand
        damage = DAMAGES[number // len(pairs) % len(DAMAGES)]
        label = f"damage {seed}.{number}"
        yield functools.partial(_case, label, target, reader, damage, base, data, known)


def _case(
    label: str,
    target: str,
    reader: str,
    damage: str,
    base: Path,
    data: Path | None,
    known: dict[str, tuple[Path, Ended, dict[str, str]]],
    folder: Path,
) -> Result:
    packed = target == "IDX, packed"
    key = f"{reader} {target}" if target.startswith("IDX") else reader
    if key not in known:
        known[key] = _reference(READERS[reader], base, folder.parent, key, data, packed)
    whole, expected, files = known[key]
    rng = random.Random(label)
    _copy(base, folder, READERS[reader], data, packed)
    pattern = TARGETS[target][0]
    path = rng.choice(sorted(folder.glob(pattern)) or [folder / "nothing"])
    if not path.is_file():
        raise RuntimeError(f"{pattern} is not there to be damaged")
    place = harm(path, damage, rng)
    before = _digests(folder)
    ended = call(READERS[reader].args, folder)
    name = path.relative_to(folder).as_posix()
    case = f"{label}: {damage} in {name} {place}, then {reader}"
    outcome, detail = _judge(READERS[reader], ended, expected, folder, whole, before, files, path)
    return Result(f"damage, {target}", case, outcome, detail, [shlex.join(["fashion-tl", *READERS[reader].args])])


def _copy(base: Path, folder: Path, reader: Reader, data: Path | None, packed: bool) -> None:
    if reader.run != "idx":
        shutil.copytree(base, folder)
        return
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in sorted((data or folder).glob("FashionMNIST/raw/*.gz")):
        if packed:
            shutil.copyfile(path, raw / path.name)
        else:
            import gzip

            (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))


def harm(path: Path, damage: str, rng: random.Random) -> str:
    """Damage a file; returns where."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    path.chmod(0o644)
    if damage == "cut":
        os.truncate(path, place)
        return f"after {place} of {len(content)} bytes"
    if damage == "zeros":
        end = min(len(content), place + 512)
        content[place:end] = bytes(end - place)
        path.write_bytes(content)
        return f"at {place} to {end} of {len(content)} bytes"
    bit = rng.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return f"at {place} of {len(content)} bytes, bit {bit}"


def _reference(
    reader: Reader, base: Path, root: Path, key: str, data: Path | None, packed: bool
) -> tuple[Path, Ended, dict[str, str]]:
    """Run a reader twice on undamaged files; what differs between the two is no result."""
    written = []
    for turn in range(2):
        folder = root / f"reference-{re.sub(r'[^a-zA-Z]+', '-', key)}-{turn}"
        _copy(base, folder, reader, data, packed)
        before = _digests(folder)
        ended = call(reader.args, folder)
        _must(ended)
        written.append(_written(folder, before))
    same = {name: digest for name, digest in written[0].items() if written[1].get(name) == digest}
    return folder, ended, same


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not IGNORED.search(path.relative_to(folder).as_posix())
    }


def _written(folder: Path, before: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in _digests(folder).items() if before.get(name) != digest}


def _judge(
    reader: Reader,
    ended: Ended,
    expected: Ended,
    folder: Path,
    whole: Path,
    before: dict[str, str],
    files: dict[str, str],
    path: Path,
) -> tuple[str, str]:
    if ended.hung:
        return HANG, ended.output[-3000:]
    if ended.traceback:
        return TRACEBACK, ended.output[-1500:]
    if ended.status == 2:
        return (REFUSED, ended.message) if ended.message else (STATUS, ended.output[-500:])
    if ended.status:
        return STATUS, f"status {ended.status}: {ended.output[-500:]}"
    if reader.run:
        changed = differences(whole, folder, names=(reader.run,))
    else:
        found = _written(folder, before)
        changed = [name for name in files if found.get(name, before.get(name)) != files[name]]
        if figures(ended.output) != figures(expected.output):
            changed.append(f"what is printed: {ended.output[-300:]}")
    if not changed:
        return IDENTICAL, ""
    named = (path.name, path.parent.name, path.parent.parent.name + " version 0")
    new = "\n".join(line for line in _text(folder, ended) if line not in set(_text(whole, expected)))
    if any(name in new for name in named):
        return TOLD, _sentence(new, named)
    return SILENT, "; ".join(changed[:5])[:1000]


def _sentence(text: str, named: tuple[str, ...]) -> str:
    found = [line for line in re.split(r"[<>\n]", text) if any(name in line for name in named)]
    return found[0][:300] if found else ""


def _text(folder: Path, ended: Ended) -> list[str]:
    """Return the lines that a verb has printed, and those of the report's pages."""
    pages = [path for path in (folder / "reports" / name for name in ("index.html", "comparison.md")) if path.is_file()]
    return [line for text in (ended.output, *(page.read_text("utf-8") for page in pages)) for line in text.splitlines()]


def figures(output: str) -> list[str]:
    """Return all numbers and words that a verb has printed, without seconds."""
    return [word for word in re.sub(r"\d+(\.\d+)? ?s\b", "", output).split() if word]
