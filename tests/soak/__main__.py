"""``make soak``: kills, Ctrl-C, damaged files, faults and full disks, drawn from a seed, for as long as wanted."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.soak import damage, disks, kills, single_faults, studies
from tests.soak.children import warm_up
from tests.soak.results import Case, Result
from tests.soak.settings import make_images
from tests.soak.table import circumstances, table, write

ROOT = Path(__file__).parent.parent.parent
# Share of the time, and the cases after which a kind has had enough.
SHARES: Mapping[str, tuple[float, int]] = {
    "faults": (0.1, 10_000),
    "kills": (0.4, 500),
    "studies": (0.05, 60),
    "interrupts": (0.1, 120),
    "damage": (0.25, 800),
    "disks": (0.1, 160),
}


def main() -> int:
    """Run the soak; returns 3 if anything was against what is promised."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument("--quick", action="store_true", help="two minutes, and nothing is written to docs")
    parser.add_argument("--only", nargs="*", choices=SHARES, default=list(SHARES), help="kinds of cases")
    parser.add_argument("--cases", type=int, help="most cases of each kind")
    parser.add_argument("--lanes", type=int, default=min(2, os.cpu_count() or 1), help="cases at the same time")
    given = parser.parse_args()
    minutes = 2.0 if given.quick else given.minutes
    began, told = time.monotonic(), circumstances(given.seed, ROOT)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    results = soak(root, given.seed, began + 60 * minutes, given.only, given.lanes, given.cases)
    text = table(results)
    print(text)
    whole = not given.quick and given.cases is None and set(given.only) == set(SHARES)
    if whole:
        took = f"{(time.monotonic() - began) / 60:.0f} minutes."
        write(ROOT / "docs" / "reliability.md", f"{told} {took}\n\n{text}")
    wrong = [result for result in results if not result.good]
    if wrong:
        print(f"{len(wrong)} cases against the promise; their folders, and results.jsonl, are in {root}")
    else:
        shutil.rmtree(root)
    return 3 if wrong else 0


def soak(root: Path, seed: int, until: float, kinds: list[str], lanes: int, most: int | None = None) -> list[Result]:
    """Run cases until a moment of the monotonic clock.

    Args:
        root: Folder for all files.
        seed: Of all that is drawn.
        until: The moment.
        kinds: Names of ``SHARES``.
        lanes: Cases at the same time.
        most: Cases of each kind after which it has had enough.
    """
    warm_up()
    make_images(root / "images")
    base = damage.prepare(root) if {"damage", "disks"} & set(kinds) else root
    problem = disks.can_mount(root) if "disks" in kinds else ""
    if problem:
        print(f"no full disks: they need a mount, and that is refused here ({problem})")
        kinds = [kind for kind in kinds if kind != "disks"]
    fork = multiprocessing.get_context("fork")
    enough = {kind: SHARES[kind][1] if most is None else most for kind in kinds}
    running = [fork.Process(target=_lane, args=(root, base, seed, until, enough, i, lanes)) for i in range(lanes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    broken = [process.exitcode for process in running if process.exitcode]
    lines = [line for i in range(lanes) for line in (root / f"results.{i}.jsonl").read_text().splitlines()]
    (root / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if broken:
        raise RuntimeError(f"the soak itself has failed in {len(broken)} of {lanes} lanes")
    return [Result(**json.loads(line)) for line in lines]


def _lane(root: Path, base: Path, seed: int, until: float, enough: dict[str, int], lane: int, lanes: int) -> None:
    """Run a lane's cases: each kind for its share of the time, then kills and damage until the end."""
    data = Path(os.environ.get("FASHION_TL_DATA_DIR", "data")).absolute()
    known = data if (data / "FashionMNIST" / "raw").is_dir() else None
    folder = root / f"lane-{lane}"
    folder.mkdir()
    (folder / "images").symlink_to(root / "images")
    streams: dict[str, Iterator[Case]] = {
        "faults": single_faults.cases(seed, lane, lanes, folder),
        "kills": kills.cases(seed, lane, lanes, folder),
        "studies": studies.cases(seed, lane, lanes, folder),
        "interrupts": kills.interrupts(seed, lane, lanes, folder),
        "damage": damage.cases(seed, lane, lanes, base, known),
        "disks": disks.cases(seed, lane, lanes, base),
    }
    total = sum(SHARES[kind][0] for kind in enough)
    span, counts = until - time.monotonic(), dict.fromkeys(enough, 0)
    moment = time.monotonic()
    with (root / f"results.{lane}.jsonl").open("w", encoding="utf-8") as file:
        for last in (False, True):
            for kind, most in enough.items():
                moment = until if last else moment + span * SHARES[kind][0] / total
                while time.monotonic() < moment and counts[kind] * lanes < most:
                    case = next(streams[kind], None)
                    if case is None:
                        break
                    counts[kind] += 1
                    _run(case, folder / f"{kind}-{counts[kind]}", file)
        sys.stdout.flush()


def _run(case: Case, folder: Path, file: object) -> None:
    result = case(folder)
    print(result.line(), file=file, flush=True)  # type: ignore[call-overload]
    if result.good:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"{result.outcome}: {result.case}\n  {result.detail[-600:]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
