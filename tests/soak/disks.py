"""Full disks: a small file system at every place that writes, filled at a random moment, then freed again."""

from __future__ import annotations

import functools
import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.soak.children import Ended, call
from tests.soak.compare import differences, leftovers
from tests.soak.damage import BEST, RUN
from tests.soak.kills import can_resume
from tests.soak.results import DIFFERENT, HANG, IDENTICAL, LEFTOVERS, REFUSED, SKIPPED, STATUS, TRACEBACK, Case, Result

SIZE = 64 * 2**20
FIT = ("--name=full", "--trainer.max_epochs=3", "--model.lr=0.02")
# Where the file system lies below the working directory, what writes there, what is written there.
PLACES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "log_dir": ("lightning_logs", (*RUN, *FIT)),
    "checkpoint_dir": ("checkpoints", (*RUN, *FIT)),
    "cache": ("cache", (*RUN, *FIT)),
    "TMPDIR": ("temporary", (*RUN, *FIT)),
    "compare --output": ("reports", ("compare",)),
    "predict --output": ("out", ("predict", BEST, "images", "--output", "out/predicted.csv")),
    "export": ("out", ("export", BEST, "out/exported")),
    "diagnose": ("lightning_logs", ("diagnose", "done")),
}


@contextmanager
def mounted(place: Path, content: Path | None) -> Iterator[None]:
    """Have a small file system at a folder, with a copy of what was there.

    Raises:
        OSError: If this process may not mount.
    """
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError(done.stderr.strip() or "mount failed")
    try:
        if content is not None and content.is_dir():
            shutil.copytree(content, place, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def can_mount(root: Path) -> str:
    """Return why file systems cannot be mounted here; empty if they can."""
    try:
        with mounted(root / "mount", None):
            return ""
    except OSError as error:
        return str(error)


def used(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cases(seed: int, lane: int, lanes: int, base: Path) -> Iterator[Case]:
    """Yield full disks without an end: each place in turn, full from the start or from a random moment on."""
    names = list(PLACES)
    known: dict[str, tuple[Path, Ended, int]] = {}
    for number in range(lane, 10**9, lanes):
        yield functools.partial(_case, f"disk {seed}.{number}", names[number % len(names)], base, known)


def _case(label: str, name: str, base: Path, known: dict[str, tuple[Path, Ended, int]], folder: Path) -> Result:
    where, args = PLACES[name]
    environment = {"TMPDIR": str(folder / "temporary")}
    if name not in known:
        whole = folder.parent / f"whole-{name.replace(' ', '-')}"
        shutil.copytree(base, whole)
        _empty(name, whole)
        before = used(whole / where)
        ended = call(args, whole, environment={"TMPDIR": str(whole / "temporary")})
        if ended.status:
            raise RuntimeError(ended.output)
        known[name] = whole, ended, used(whole / where) - before
    whole, expected, written = known[name]
    rng = random.Random(label)
    free = round(written * rng.uniform(0, 1.2))
    moment = 0.0 if rng.random() < 0.5 else rng.uniform(0, expected.seconds)
    shutil.copytree(base, folder, ignore=lambda path, names: [where] if Path(path) == base else [])
    _empty(name, folder)
    ballast = folder / where / ".ballast"
    case = f"{label}: {name} with {free} of {written} bytes free from {moment:.3f} s on"

    def fill() -> None:
        state = os.statvfs(ballast.parent)
        size = state.f_bavail * state.f_frsize - free
        if size > 0:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)

    try:
        with mounted(folder / where, None if name == "cache" else base / where):
            if not moment:
                fill()
            ended = call(args, folder, environment=environment, during=[(moment, fill)] if moment else [])
            outcome, detail, commands = _judge(name, args, ended, whole, folder, environment, ballast)
    except OSError as error:
        return Result(f"disk, {name}", case, SKIPPED, str(error))
    return Result(f"disk, {name}", case, outcome, detail, [shlex.join(["fashion-tl", *each]) for each in commands])


def _empty(name: str, folder: Path) -> None:
    """Make the folders that are written to; the cache begins empty where it is what fills the disk."""
    if name == "cache":
        shutil.rmtree(folder / "cache", ignore_errors=True)
    for each in (PLACES[name][0], "temporary"):
        (folder / each).mkdir(exist_ok=True)


def _judge(
    name: str,
    args: tuple[str, ...],
    ended: Ended,
    whole: Path,
    folder: Path,
    environment: Mapping[str, str],
    ballast: Path,
) -> tuple[str, str, list[tuple[str, ...]]]:
    where = PLACES[name][0]
    commands = [args]
    told = ended.message
    for again in (False, True):
        if ended.hung:
            return HANG, ended.output[-3000:], commands
        if ended.traceback:
            return TRACEBACK, ended.output[-1500:], commands
        if ended.status and not ended.message:
            return STATUS, f"status {ended.status}: {ended.output[-500:]}", commands
        if not ended.status:
            break
        if again:
            return REFUSED, ended.message, commands
        if wrong := _half_written(whole, folder, where, args[0]):
            return LEFTOVERS, f"half written: {wrong}", commands
        ballast.unlink(missing_ok=True)
        args = (*args, "--resume=true") if args[0] == "fit" and can_resume() else args
        commands.append(args)
        ended = call(args, folder, environment=environment)
    ballast.unlink(missing_ok=True)
    if args[0] == "fit":
        wrong = differences(whole, folder, names=("full",))
        wrong = wrong if name != "cache" else differences(_uncached(whole), folder, names=("full",)) and wrong
    else:
        wrong = _changed(whole, folder, where)
    if wrong:
        return DIFFERENT, "; ".join(wrong[:5]), commands
    if left := leftovers(whole, folder):
        return LEFTOVERS, ", ".join(left[:6]), commands
    return IDENTICAL, told or "it went on", commands


def _uncached(whole: Path) -> Path:
    """Return where the same run was made without a cache: a full disk may have it go on without one."""
    folder = whole.with_name("whole-uncached")
    if not folder.exists():
        shutil.copytree(whole, folder)
        for name in ("lightning_logs", "checkpoints"):
            shutil.rmtree(folder / name / "full")
        call((*RUN, *FIT, "--cache=off"), folder)
    return folder


def _files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".tfevents." not in path.name and path.name != ".ballast"
    }


def _changed(whole: Path, folder: Path, where: str) -> list[str]:
    """Name the files that a verb has written otherwise; a report says when it was made."""
    ours, theirs = _files(whole / where), _files(folder / where)
    names = ours.keys() ^ theirs.keys() | {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    return sorted(name for name in names if not name.endswith(("index.html", "diagnose.json", "output.txt")))


def _half_written(whole: Path, folder: Path, where: str, verb: str) -> list[str]:
    """Name the files of a refused verb that are there, but not as a whole run writes them."""
    if verb == "fit":
        return []
    ours, theirs = _files(whole / where), _files(folder / where)
    return [
        name
        for name, content in theirs.items()
        if not name.endswith(("index.html", "diagnose.json")) and ours.get(name) != content
    ]
