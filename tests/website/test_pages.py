"""What the pages say of records and figures holds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from website.check import ROOT, pages

from fashion_tl.cli import main

from ..conftest import Fit

RECORD = ROOT / "docs" / "record.md"
FREE = {"test.per_class": "CLASS", "environment.libraries": "LIBRARY"}  # whose keys are names of any kind
_COMMAND = re.compile(r"(fashion-tl |make |python -m )\w")
_HARDWARE = re.compile(r"\b(cores?|threads?|EPYC|CPU|GPU|H200)\b")

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),  # frozen
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # between torch and Lightning
    pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers"),  # tiny data
]


def documented(heading: str) -> set[str]:
    """Return the names in the first column of the tables below a heading."""
    part = RECORD.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def fields(value: object, path: str = "") -> Iterator[str]:
    """Yield the paths of all values, as the page writes them."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            name = FREE.get(path, str(key))
            yield from fields(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from fields(inner, f"{path}[]")
    else:
        yield path


def covers(told: str, path: str) -> bool:
    return path == told or path.startswith((f"{told}.", f"{told}["))


@pytest.mark.slow
def test_the_page_of_the_record_names_every_field_and_no_other(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    phases = "{0: {train: head, until: plateau, patience: 1}, 2: layer4}"
    flags = ("--model.train", phases, "--ema", "0.9", "--data.val_fraction", "0.3")
    assert fit(*flags, name="one", epochs=3) == 0
    assert fit(*flags, "--ckpt_path", "last", name="one", epochs=4) == 0
    assert fit("--model.lr", "1e18", "--model.optimizer", "sgd", name="lost") == 2
    source = ("--data.source", "SyntheticGarments", "--data.source.num_train", "120")
    data = (*source, "--data.image_size", "32", "--data.val_fraction", "0.3")
    backbone = ("--model.backbone", "test_resnet", "--model.pretrained", "false")
    assert main(["probe", *data, *backbone, "--strengths=[0.1]"]) == 0
    assert main(["ensemble", "one", "probe", "--method", "stack", "--name", "both"]) == 0
    capsys.readouterr()
    records = [json.loads(path.read_text()) for path in sorted(Path("lightning_logs").glob("*/version_*/run.json"))]
    assert len(records) == 5
    found, told = {path for record in records for path in fields(record)}, documented("run.json")
    empty = {path for path in found if any(name.startswith(f"{path}[]") for name in told)}  # lists with no entry
    assert not [path for path in sorted(found - empty) if not any(covers(name, path) for name in told)]
    assert not [name for name in sorted(told) if not any(covers(name, path) for path in found)]

    run = Path("lightning_logs/one/version_1")
    with (run / "metrics.csv").open() as file:
        assert set(csv.DictReader(file).fieldnames or ()) == documented("metrics.csv")
    with np.load(run / "test_predictions.npz") as arrays:
        assert set(arrays.files) == documented("test_predictions.npz")


def sections(text: str) -> Iterator[str]:
    """Yield each section of a page, what stands before the first heading of the second order with each."""
    before, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    yield from (before + part for part in rest or [""])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_of_figures_have_their_command_and_hardware_near(page: Path) -> None:
    for section in sections(page.read_text(encoding="utf-8")):
        for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
            rows = table.splitlines()[2:]
            if sum(bool(re.search(r"\d\.\d", row)) for row in rows) > len(rows) / 2:
                assert _COMMAND.search(section), f"no command near the table that begins with {rows[0]}"
                assert _HARDWARE.search(section), f"no hardware near the table that begins with {rows[0]}"


def test_figures_of_the_tutorial_are_those_of_the_readme() -> None:
    tutorial, readme = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("docs/tutorial_fashion_mnist.md", "README.md")
    )
    rows = re.findall(r"^\| `\w+` \|.*$", tutorial, re.MULTILINE)
    figures = [figure for row in rows for figure in re.findall(r"\d+\.\d+|\d+,\d+", row)]
    assert len(figures) > 8
    assert not [figure for figure in figures if figure not in readme]


def test_every_page_is_in_the_navigation_and_every_name_in_the_reference() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w]+\.md", yaml.safe_dump(yaml.safe_load(text)["nav"])))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= named
    import fashion_tl

    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert not [name for name in fashion_tl.__all__ if f"::: fashion_tl.{name}\n" not in reference]
