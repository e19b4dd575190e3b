"""Runs the sides of each group in turn, keeps every measurement, writes the results as ratios.

An interrupted benchmark goes on where it stopped: each finished run is a line of ``raw.jsonl``, and is not run again
while the code, the machine and its arguments are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.groups import Group, Settings, Side
from benchmarks.pairs import PRETRAINED, plan
from benchmarks.report import write_results

HERE = Path(__file__).parent
ROOT = HERE.parent
WORKERS = (0, 1, 2, 4)
PYTHONS = {"fastai": HERE / ".venv-fastai/bin/python", "fts": HERE / ".venv-fts/bin/python"}
# What `fashion-tl fit` sets for itself (`fashion_tl.process`): without it the other sides spend most of their time on
# page faults on some machines, and the ratios would be those of the C library's settings.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
Row = dict[str, Any]


class SideError(Exception):
    """A side could not be measured; the message says why."""


class Bench:
    """Runs sides and remembers what was measured.

    Args:
        settings: What the benchmarks are about.
        raw: File of all measurements, one JSON object a line.
        threads: Threads of every side.
        any_source: Whether to go on with measurements of other versions of the code.
    """

    def __init__(self, settings: Settings, raw: Path, threads: int, any_source: bool) -> None:
        self.settings, self.raw, self.threads, self.any_source = settings, raw, threads, any_source
        self.machine = machine()
        self.stamp: Row = {"machine": self.machine, "commit": commit(), "source": source(), "threads": threads}
        self.rows: list[Row] = []
        if raw.is_file():
            self.rows = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines() if line]

    def group(self, group: Group, repeats: int) -> list[str]:
        """Measure the sides of a group in turn; a side that fails is left out from then on.

        Returns:
            What went wrong, one message for each side that failed.
        """
        failed: dict[str, str] = {}
        for repeat in range(repeats):
            for side in group.sides:
                if side.name in failed or self.find(group, side, repeat) is not None:
                    continue
                print(f"{group.name}, {repeat + 1} of {repeats}: {side.name}", flush=True)
                try:
                    self._measure(group, side, repeat)
                except SideError as error:
                    failed[side.name] = str(error).splitlines()[0]
                    print(error, file=sys.stderr, flush=True)
        return list(failed.values())

    def find(self, group: Group, side: Side, repeat: int) -> Row | None:
        """Return the newest measurement of a side in this state of the code and on this machine."""
        wanted = {"group": group.name, "side": side.name, "repeat": repeat, "arguments": list(side.arguments)}
        wanted |= {key: self.stamp[key] for key in ("machine", "threads")}
        wanted |= {} if self.any_source else {"source": self.stamp["source"]}
        fitting = (row for row in reversed(self.rows) if all(row.get(key) == wanted[key] for key in wanted))
        return next(fitting, None)

    def write(self, path: Path, groups: list[Group], problems: dict[str, list[str]]) -> dict[str, list[str]]:
        """Write the results and return the lines of the table of ratios, by group."""
        source = None if self.any_source else self.stamp["source"]
        return write_results(path, groups, self.rows, self.machine, problems, source, self.threads)

    def _measure(self, group: Group, side: Side, repeat: int) -> None:
        more = ("--workers", str(self._workers(side))) if side.tuned else ()
        if side.before:
            self._call(side, side.before)
        row = self._call(side, (*side.arguments, *more))
        if side.warm and row["result"]["new_entries"]:
            row = self._call(side, (*side.arguments, *more))
        self._keep({"group": group.name, "side": side.name, "repeat": repeat, "arguments": list(side.arguments), **row})

    def _workers(self, side: Side) -> int:
        """Return the number of DataLoader workers with which a short epoch takes least, tried once."""
        key = ["workers", side.module, *side.arguments]
        for row in reversed(self.rows):
            if row.get("workers_of") == key and row["machine"] == self.machine:
                return int(row["best"])
        probe = "256" if self.settings.quick else "4096"
        tried = {}
        for count in WORKERS[::2] if self.settings.quick else WORKERS:
            row = self._call(side, (*side.arguments, "--probe", probe, "--workers", str(count)))
            tried[count] = row["result"]["seconds"] / row["result"].get("runs", 1)
        best = min(tried, key=tried.__getitem__)
        self._keep({"workers_of": key, "best": best, "tried": tried})
        return best

    def _call(self, side: Side, arguments: Iterable[str]) -> Row:
        python = Path(sys.executable) if side.environment == "main" else PYTHONS[side.environment]
        if not python.is_file():
            raise SideError(f"{side.name} has no environment; `make bench-peers` makes it")
        command = [str(python), "-m", f"benchmarks.sides.{side.module}", *arguments]
        threads = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        environment |= KEPT_MEMORY
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        seconds = time.perf_counter() - began
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            tail = "\n".join((done.stderr + done.stdout).strip().splitlines()[-25:])
            raise SideError(f"{side.name} ended with status {done.returncode}:\n{tail}")
        return {"process_seconds": seconds, "result": json.loads(lines[-1])}

    def _keep(self, row: Row) -> None:
        row |= {**self.stamp, "date": datetime.now(UTC).isoformat(timespec="seconds")}
        self.rows.append(row)
        self.raw.parent.mkdir(parents=True, exist_ok=True)
        with self.raw.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, memory, operating system."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    release = Path("/etc/os-release")
    system = platform.platform(terse=True)
    if release.is_file():
        fields = dict(line.split("=", 1) for line in release.read_text(encoding="utf-8").splitlines() if "=" in line)
        system = fields.get("PRETTY_NAME", system).strip('"') + f", Linux {platform.release()}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": name, "cores": os.cpu_count(), "memory_gib": round(memory / 2**30, 1), "system": system}


def commit() -> str:
    """Return the commit of the working tree, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or "no commit"


def source() -> str:
    """Hash all that the sides run: the package, the experiments, the sides."""
    digest = hashlib.sha256()
    for folder, pattern in (("src", "*.py"), ("experiments", "*.yaml"), ("benchmarks/sides", "*.py")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def prepare(settings: Settings, groups: list[Group]) -> None:
    """Lay out images, splits, weights and activations in a process of its own, as it needs torch."""
    names = {group.name for group in groups}
    command = [sys.executable, "-m", "benchmarks.prepare", "--work", str(settings.work)]
    command += ["--images", str(settings.most()), str(settings.some())]
    command += ["--top", str(settings.some())] if "f-top" in names else []
    command += ["--head", str(settings.most())] if "f-head" in names else []
    if subprocess.run(command, cwd=ROOT, env={**os.environ, **KEPT_MEMORY}, check=False).returncode != 0:  # noqa: S603
        raise SystemExit(1)


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="groups to run, such as a b d-mobilenet; all if none is given")
    parser.add_argument("--repeats", type=int, default=3, help="times that each group is run")
    parser.add_argument("--images", type=int, default=10_000, help="training images of the slow groups; 0 for all")
    parser.add_argument("--quick", action="store_true", help="a few hundred images, to see whether all sides work")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every side")
    parser.add_argument("--any_source", action="store_true", help="go on with measurements of other versions")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the results again")
    options = parser.parse_args()
    work = HERE / ".work" / ("quick" if options.quick else "")
    data = Path(os.environ.get("FASHION_TL_DATA_DIR") or "data").expanduser().absolute()
    pretrained = Path(os.path.relpath(data.parent / "weights" / PRETRAINED, ROOT))
    known = pretrained if (ROOT / pretrained).is_dir() else None
    settings = Settings(work.relative_to(ROOT), options.images, options.quick, known)
    groups = plan(settings)
    unknown = set(options.groups) - {group.name for group in groups}
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(group.name for group in groups)}")
    chosen = [group for group in groups if not options.groups or group.name in options.groups]
    output = work if options.quick else HERE
    results = output / "results.md"
    bench = Bench(settings, output / "raw.jsonl", options.threads, options.any_source)
    problems: dict[str, list[str]] = {}
    if not options.report:
        prepare(settings, chosen)
        for group in chosen:
            problems[group.name] = bench.group(group, options.repeats)
            for used in (work / group.name, *work.glob(f"{group.name}-*")):
                shutil.rmtree(used, ignore_errors=True)
            print("\n".join(bench.write(results, groups, problems)[group.name]))
    bench.write(results, groups, problems)
    print(results)


if __name__ == "__main__":
    main()
