"""Runs the commands of README and pages in a fresh clone: `make docs-check`, with `--only PATTERN` those of some pages.

A comment before a block of commands says what becomes of them, one in a page's first lines what becomes of all that
have none of their own:

    <!-- commands: {run: 60} -->                                       each within 60 seconds
    <!-- commands: {run: 60, small: {make: ARGS='--seeds 1'}} -->      with that behind each that begins with `make`
    <!-- commands: {run: 60, data: FashionMNIST} -->                   if that lies in FASHION_TL_DATA_DIR
    <!-- commands: {skip: needs a GPU} -->                             not run, and told
    <!-- commands of this page: {skip: takes hours} -->

A block of Python is run where it has such a comment of its own. The exit status is 1 if a command fails, or if a block
has no mark.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
PROGRAMS = ("fashion-tl", "make", "pip", "python", "torchrun", "srun", "sbatch")
_MARK = re.compile(r"<!-- commands(?P<page> of this page)?: (?P<settings>\{.*?\}) -->\n?", re.DOTALL)
_FENCE = re.compile(r"^(`{3,}|~{3,})\s*(\w*)")


@dataclass(frozen=True)
class Mark:
    """What becomes of a block of commands.

    Attributes:
        run: Seconds that each command may take; None if they are not run.
        skip: Why they are not run.
        small: What is added behind each command that begins with a text, so that it takes little time.
        data: What must lie in ``FASHION_TL_DATA_DIR``.
    """

    run: float | None = None
    skip: str | None = None
    small: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None

    def __post_init__(self) -> None:
        if (self.run is None) == (self.skip is None):
            raise ValueError(f"{self}: a mark says either {{run: SECONDS}} or {{skip: WHY}}")


@dataclass(frozen=True)
class Block:
    """Commands of a page that stand together.

    Attributes:
        line: Number of the first one's line, from 1.
        commands: One a line; those that go on in the next line are joined.
        mark: What becomes of them; None if the page does not say.
    """

    line: int
    commands: tuple[str, ...]
    mark: Mark | None


def without_marks(text: str) -> str:
    """Return a page without the marks."""
    return re.sub(_MARK.pattern + r"\n*", "", text, flags=re.DOTALL)


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of commands of a page."""
    every, own = None, None
    for kind, start, lines in _parts(text):
        if kind == "text":
            own = None
            for mark in _MARK.finditer("\n".join(lines) + "\n"):
                settings = Mark(**yaml.safe_load(mark["settings"]))
                every, own = (settings, own) if mark["page"] else (every, settings)
            continue
        commands = tuple(_commands(lines))
        if kind == "python" and own:
            yield Block(start, ("\n".join(("python - <<'PYTHON'", *lines, "PYTHON")),), own)
        elif kind == "code" and any(command.split()[0] in PROGRAMS for command in commands):
            yield Block(start, commands, own or every)
        own = None


def pages(root: Path = ROOT) -> list[Path]:
    """List the README and the pages."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def shortened(command: str, small: Mapping[str, str]) -> str:
    """Return a command with what is added to make it small, its comment left out."""
    plain = re.sub(r"\s+#\s.*$", "", command)
    more = [text for beginning, text in small.items() if plain.startswith(beginning)]
    return " ".join((plain, *more))


def _parts(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Divide a page into ("text", "code" or another language, number of the first line, lines), in order."""
    kind, start, lines = "text", 1, list[str]()
    fence, in_list = "", False
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if fence:
            if found and found[1].startswith(fence):
                fence = ""
                yield kind, start, lines
                kind, start, lines = "text", number + 1, []
                continue
        elif found:
            yield kind, start, lines
            kind = "code" if found[2] in ("", "bash", "sh") else found[2]
            fence, start, lines = found[1], number + 1, []
            continue
        else:
            in_list = in_list if not line.strip() or line.startswith(" ") else bool(re.match(r"[-*] |\d+\. ", line))
            now = "code" if line.startswith("    ") and not in_list else "text"
            if now != kind and line.strip():
                yield kind, start, lines
                kind, start, lines = now, number, []
        lines.append(line)
    yield kind, start, lines


def _commands(lines: Sequence[str]) -> Iterator[str]:
    joined = re.sub(r"\\\n\s*", "", "\n".join(line.strip() for line in lines))
    yield from (line for line in joined.splitlines() if line.strip() and not line.startswith("#"))


def clone(folder: Path) -> None:
    """Clone the last commit into a folder, with the environment of this process as its own."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)  # noqa: S603, S607
    link_environment(folder)


def link_environment(folder: Path) -> None:
    """Make ``.venv`` of a folder that of this process, so that `make` there need not install anything."""
    environment = folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix, name))
    (environment / ".installed").touch()


def run(command: str, folder: Path, cache: Path, seconds: float) -> tuple[int | None, str]:
    """Run a command in a clone; returns its exit status, None if it took too long, and what it printed."""
    settings = {
        "PATH": f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "FASHION_TL_CACHE_DIR": str(cache),
    }
    known = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(  # noqa: S603 - commands of our own pages
        ["bash", "-euo", "pipefail", "-c", command],  # noqa: S607
        cwd=folder,
        env={**known, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, printed


def check(only: str = "*") -> list[str]:
    """Run what is marked; returns the commands that failed and the blocks without a mark."""
    failed = []
    with tempfile.TemporaryDirectory(prefix="fashion_tl_docs_") as place:
        for page in pages():
            found, name = list(blocks(page.read_text(encoding="utf-8"))), str(page.relative_to(ROOT))
            if not found or not fnmatch.fnmatch(page.name, only):
                continue
            folder = Path(place, page.stem)
            for block in found:
                where = f"{name}:{block.line}"
                reason = _reason(block)
                if block.mark is None:
                    failed.append(where)
                if reason:
                    print(f"not run  {where}: {reason}", *(f"         {each}" for each in block.commands), sep="\n")
                    continue
                if not folder.exists():
                    clone(folder)
                failed += _run_block(block, where, folder, Path(place, "cache"))
            shutil.rmtree(folder, ignore_errors=True)
    return failed


def _reason(block: Block) -> str | None:
    """Say why a block is not run; None if it is."""
    if block.mark is None:
        return "no mark says whether it can be run"
    data = block.mark.data
    if data and not Path(os.environ.get("FASHION_TL_DATA_DIR", "data"), data).exists():
        return f"needs {data} in FASHION_TL_DATA_DIR"
    return block.mark.skip


def _run_block(block: Block, where: str, folder: Path, cache: Path) -> Iterator[str]:
    mark: Any = block.mark
    for command in block.commands:
        plain = shortened(command, mark.small)
        began = time.perf_counter()
        status, printed = run(plain, folder, cache, mark.run)
        seconds = time.perf_counter() - began
        ended = {0: "passed", None: f"stopped after {mark.run:g} s"}.get(status, f"exit status {status}")
        plain = plain.partition("\n")[0]
        print(f"{'ok' if status == 0 else 'FAILED':8} {where}: {plain} ({ended}, {seconds:.0f} s)", flush=True)
        if status != 0:
            print("\n".join(f"         {line}" for line in printed.splitlines()[-15:]))
            yield f"{where}: {plain}"


def main() -> int:
    """Run the check by the command line."""
    parser = argparse.ArgumentParser(prog="make docs-check", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="pages to check: README.md, or a pattern such as 'tutorial*'")
    given = parser.parse_args()
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    if changed.stdout:
        print("changes that are not committed are in the pages, not in the clone that commands run in")
    failed = check(given.only)
    print(f"\n{len(failed)} failed" + "".join(f"\n  {each}" for each in failed) if failed else "\nall passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
