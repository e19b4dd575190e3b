"""Runs killed at random moments and gone on with, as a user would, end as runs that were left alone."""

from __future__ import annotations

import functools
import json
import random
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.soak.children import Ended, Stop, call
from tests.soak.compare import differences, leftovers
from tests.soak.results import (
    DIFFERENT,
    HANG,
    IDENTICAL,
    IN_TIME,
    LEFTOVERS,
    REFUSED,
    SKIPPED,
    SLOW,
    STATUS,
    TRACEBACK,
    Case,
    Result,
)
from tests.soak.settings import Setting, draw

SECONDS = 5.0  # within which a run ends after Ctrl-C or SIGTERM
PER_SETTING = 4
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STATUSES = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130, -2)}


@dataclass
class Story:
    """What happens to one run: its commands, its stops, and what is wrong."""

    setting: Setting
    folder: Path
    commands: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def call(self, args: list[str], stop: Stop | None = None) -> Ended:
        """Run a command, and judge how it ended."""
        self.commands.append(shlex.join(["fashion-tl", *args]))
        setting = self.setting
        ended = call(args, self.folder, stop, processes=setting.processes, tweaks=setting.tweaks)
        where = f"after {self.stops[-1]}" if self.stops else "at once"
        if ended.hung:
            self.wrong.append((HANG, f"{where}: {ended.output[-3000:]}"))
        elif stop is not None and ended.signalled is not None:
            self.judge_stopped(ended, stop, where)
        elif ended.status not in (0, 2) or ended.traceback or (ended.status == 2 and not ended.message):
            self.wrong.append((TRACEBACK, f"{where}: status {ended.status}: {ended.output[-1500:]}"))
        return ended

    def judge_stopped(self, ended: Ended, stop: Stop, where: str) -> None:
        """Judge how a run that got a signal has ended."""
        number = signal.Signals(stop.signal)
        took = ended.signalled or 0.0
        if ended.stuck:
            self.figures["stuck"] = 1.0
        elif number != signal.SIGKILL:
            self.figures[number.name] = max(took, self.figures.get(number.name, 0.0))
            if took > SECONDS:
                self.wrong.append((SLOW, f"{where}: {took:.1f} s from {number.name} to the end"))
        alone = self.setting.processes == 1  # the other process of two says that its peer is gone
        if alone and ended.traceback:
            self.wrong.append((TRACEBACK, f"{where}: {ended.output[-1500:]}"))
        elif alone and ended.status not in (0, *STATUSES[number]):
            self.wrong.append((STATUS, f"{where}: status {ended.status}: {ended.output[-500:]}"))
        elif ended.status == 130 and len(self.commands) == 1 and _newest_status(self.folder) == "running":
            self.wrong.append((STATUS, f"{where}: the record says running"))


def _newest_status(folder: Path) -> str:
    found = list(folder.glob("lightning_logs/*/version_*/run.json"))
    if not found:
        return ""
    record = json.loads(max(found, key=lambda path: path.stat().st_mtime_ns).read_text(encoding="utf-8"))
    return str(record["status"])


@functools.cache
def can_resume() -> bool:
    """Say whether ``fit`` has ``--resume``."""
    from fashion_tl.runs.parser import parser_of

    return "--resume" in parser_of("fit").format_help()


def go_on(setting: Setting, folder: Path, ended: Ended, rng: random.Random) -> list[str]:
    """Return the command with which a user goes on: the one that was printed, or ``--resume``."""
    printed = re.findall(r"To go on[^:]*: fashion-tl (.*)", ended.output)
    if printed and rng.random() < 0.5:
        return shlex.split(printed[-1])
    if can_resume():
        return [*setting.args, "--resume=true"]
    versions = sorted((folder / "checkpoints" / "run").glob("version_*"), key=lambda path: path.name)
    kept = versions and (versions[-1] / "last.ckpt").is_file()
    return [*setting.args, *(["--ckpt_path=last"] if kept and not setting.several else [])]


def _draw_stop(rng: random.Random, setting: Setting, seconds: float) -> Stop:
    whom = "group" if rng.random() < 0.5 else ("second" if setting.processes == 2 else "process")
    number = rng.choices(SIGNALS, (4, 3, 3))[0]
    if whom == "second" and number != signal.SIGKILL:
        whom = "process"
    return Stop(number, rng.uniform(0.03, 0.95) * seconds, whom)


def tell(setting: Setting, whole: tuple[Path, Ended], folder: Path, label: str, stops: int) -> Result:
    """Kill a run, go on with it, and compare.

    Args:
        setting: What is run.
        whole: The working directory of a run of the same setting that was left alone, and how it ended.
        folder: A new working directory.
        label: What the random moments depend on.
        stops: Most kills, one after the other.
    """
    rng = random.Random(label)
    story = Story(setting, folder)
    args, ended, seconds = setting.args, None, whole[1].seconds
    for _ in range(stops):
        stop = _draw_stop(rng, setting, seconds)
        story.stops.append(f"{signal.Signals(stop.signal).name} to the {stop.whom} at {stop.after:.3f} s")
        ended = story.call(args, stop)
        while ended.signalled is None and ended.status == 0 and len(story.commands) < 3 and len(story.stops) == 1:
            # The machine is faster now than when the whole run was timed: once more, and earlier.
            shutil.rmtree(folder)
            seconds = min(seconds, ended.seconds)
            stop = replace(stop, after=rng.uniform(0.03, 0.9) * seconds)
            story.stops = [f"{signal.Signals(stop.signal).name} to the {stop.whom} at {stop.after:.3f} s"]
            ended = story.call(args, stop)
        if ended.status == 0 or story.wrong or ended.message:
            break
        args = go_on(setting, folder, ended, rng)
    stopped = ended is not None and ended.status != 0
    if stopped and not story.wrong and ended is not None and not ended.message:
        ended = story.call(args)
        if ended.message and not list(folder.glob("*/*/version_*")):  # it was killed before it had left anything
            ended = story.call(setting.args)
    return _judge(story, whole[0], ended, stopped, label)


def _judge(story: Story, whole: Path, ended: Ended | None, stopped: bool, label: str) -> Result:
    setting = story.setting
    outcome, detail = IDENTICAL, ""
    if story.wrong:
        outcome, detail = story.wrong[0]
    elif ended is not None and ended.message:
        outcome, detail = REFUSED, ended.message
    elif wrong := differences(whole, story.folder, setting.exact):
        outcome, detail = DIFFERENT, "; ".join(wrong[:6])
    elif left := leftovers(whole, story.folder):
        outcome, detail = LEFTOVERS, ", ".join(left[:6])
    elif ended is not None and ended.signalled is None and len(story.stops) == 1 and not stopped:
        outcome, detail = SKIPPED, "the run had ended before the signal"
    case = f"{label}: {setting}; {', then '.join(story.stops)}"
    kind = "two processes" if setting.processes == 2 else "one process"
    kind = "a search or seeds" if setting.several else kind
    return Result(f"kills, {kind}", case, outcome, detail, story.commands, story.figures)


def cases(seed: int, lane: int, lanes: int, root: Path) -> Iterator[Case]:
    """Yield kills without an end: several of each setting, settings of this lane alone."""
    number = lane
    while True:
        setting = draw(seed, number, root / "images")
        whole: list[tuple[Path, Ended]] = []
        for turn in range(PER_SETTING):
            yield functools.partial(_case, setting, whole, f"kill {seed}.{number}.{turn}", 1 + turn % 3)
        number += lanes


def interrupts(seed: int, lane: int, lanes: int, root: Path) -> Iterator[Case]:
    """Yield Ctrl-C at random moments of runs by one process, without an end."""
    number = lane
    while True:
        setting = draw(seed, number, root / "images")
        setting = replace(setting, values={**setting.values, "processes": "1 0"})
        whole: list[tuple[Path, Ended]] = []
        for turn in range(PER_SETTING):
            yield functools.partial(_interrupt, setting, whole, f"interrupt {seed}.{number}.{turn}")
        number += lanes


def _interrupt(setting: Setting, whole: list[tuple[Path, Ended]], label: str, folder: Path) -> Result:
    if not whole:
        root = folder.parent / f"timed-{setting.number}"
        whole.append((root, Story(setting, root).call(setting.args)))
    rng = random.Random(label)
    seconds = whole[0][1].seconds
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        stop = Stop(signal.SIGINT, rng.uniform(0.01, 0.9) * seconds, "group")
        story = Story(setting, folder, stops=[f"SIGINT at {stop.after:.3f} s"])
        ended = story.call(setting.args, stop)
        if ended.signalled is not None or story.wrong:
            break
        seconds = min(seconds, ended.seconds)
    case = f"{label}: {setting}; {story.stops[0]}"
    if story.wrong:
        return Result("Ctrl-C", case, *story.wrong[0], story.commands, story.figures)
    outcome = IN_TIME if ended.signalled is not None else SKIPPED
    return Result("Ctrl-C", case, outcome, "", story.commands, story.figures)


def _case(setting: Setting, whole: list[tuple[Path, Ended]], label: str, stops: int, folder: Path) -> Result:
    if not whole:
        root = folder.parent / f"whole-{setting.number}"
        story = Story(setting, root)
        whole.append((root, story.call(setting.args)))
        if story.wrong:
            return Result("kills, one process", f"{label}: {setting}", *story.wrong[0], story.commands)
    if whole[0][1].status != 0:
        return Result("kills, one process", f"{label}: {setting}", SKIPPED, whole[0][1].message)
    return tell(setting, whole[0], folder, label, stops)
