"""Imports point one way, and what must stay light imports nothing heavy."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "fashion_tl"
# From the top to the bottom; a room imports from those below it (CONTRIBUTING.md).
ROOMS = (
    *("cli.py", "tuning", "tournament", "report", "combine", "probe", "export", "inspection", "runs", "callbacks"),
    *("training", "features", "models", "data"),
    *("plots", "metrics", "records", "cache"),
)
LIGHT = ("plots", "metrics", "records", "cache", "report", "cli.py", "commands.py", "errors.py")
HEAVY = {"torch", "torchvision", "lightning", "timm", "torchmetrics", "captum"}


def imports(path: Path, at_once: bool = False) -> list[str]:
    """List the modules that a file imports: all of them, or those that it imports itself as soon as it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_once else list(ast.walk(tree))
    found = [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module]
    return found + [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]


def test_all_rooms_are_listed() -> None:
    assert {path.name for path in SRC.iterdir() if (path / "__init__.py").is_file()} == set(ROOMS) - {"cli.py"}


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room: str) -> None:
    above = ROOMS[: ROOMS.index(room)]
    for path in [SRC / room] if room.endswith(".py") else sorted((SRC / room).glob("*.py")):
        wrong = [name for name in imports(path) if name.startswith("fashion_tl.") and name.split(".")[1] in above]
        assert wrong == [], path


@pytest.mark.parametrize("room", LIGHT)
def test_what_reads_records_imports_neither_torch_nor_lightning(room: str) -> None:
    for path in [SRC / room] if room.endswith(".py") else sorted((SRC / room).glob("*.py")):
        assert not {name.split(".")[0] for name in imports(path, at_once=True)} & HEAVY, path


def test_files_are_written_in_one_place() -> None:
    writing = re.compile(
        r"""\.write_(text|bytes)\(|open\([^)\n]*["'][wax]b?\+?["']|np\.save|torch\.save\(|SummaryWriter\("""
    )
    found = {path for path in SRC.rglob("*.py") if writing.search(path.read_text(encoding="utf-8"))}
    places = {"files.py", "events.py", "cache/store.py", "data/download.py"}
    # archives, which files.py then writes
    memory = {"records/analysis.py", "records/thumbnails.py", "training/checkpoints.py"}
    kernel = {"process.py"}  # a switch of Linux
    assert {path.relative_to(SRC).as_posix() for path in found} == places | memory | kernel


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.j2")), ids=lambda path: path.name)
def test_no_macro_of_a_template_is_hidden_by_another(path: Path) -> None:
    names = re.findall(r"{%-? *macro +(\w+)", path.read_text(encoding="utf-8"))
    assert len(names) == len(set(names))
