"""Writes docs/licences.md: every distribution that the package needs, and what it is licensed under.

``make licences`` runs it; ``tests/test_licences.py`` compares the page with what is installed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
_HEAD = """# Licences of the dependencies

As the distributions of the set that `constraints.txt` pins state them; written by `make licences`, and compared by
the tests with what is installed. fashion_tl itself is under the MIT licence (`LICENSE`). Weights and data sets are not
listed: their licences are their authors'.
"""


def needed() -> tuple[dict[str, str], dict[str, str]]:
    """Return name and licence of what the package needs, and of what its development needs beside that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = closure(project["dependencies"])
    every = closure([*project["dependencies"], *project["optional-dependencies"]["dev"]])
    return package, {name: licence for name, licence in every.items() if name not in package}


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Return name and licence of the installed distributions that requirements pull in on this machine."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    left = [(Requirement(text), "") for text in requirements]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = licence(installed)
        for each in ("", *requirement.extras):
            if (name, each) not in seen:
                seen.add((name, each))
                left += [(Requirement(text), each) for text in installed.requires or []]
    return dict(sorted(found.items()))


def licence(installed: Distribution) -> str:
    """Return what a distribution says that it is licensed under, in one line."""
    about = {key: installed.metadata.get_all(key) or [] for key in ("License-Expression", "License", "Classifier")}
    classifiers = [text.split(" :: ")[-1] for text in about["Classifier"] if text.startswith("License")]
    stated = str(next(iter(about["License-Expression"] + about["License"]), "")).strip()
    if stated in ("", "UNKNOWN") or "\n" in stated:  # the whole text
        stated = ", ".join(classifiers)
    return stated or "not stated"


def page(package: dict[str, str], development: dict[str, str]) -> str:
    """Lay out the page."""
    text = _HEAD
    for title, licences in (("The package", package), ("Development alone", development)):
        rows = "\n".join(f"| {name} | {licence} |" for name, licence in licences.items())
        text += f"\n## {title}\n\n| distribution | licence |\n| --- | --- |\n{rows}\n"
    return text


def rows(text: str) -> dict[str, str]:
    """Read name and licence of each row of the page."""
    found = dict(re.findall(r"^\| (\S+) \| (.*) \|$", text, re.MULTILINE))
    return {name: licence for name, licence in found.items() if name not in ("distribution", "---")}


if __name__ == "__main__":
    PAGE.write_text(page(*needed()), encoding="utf-8")
    print(f"{len(rows(PAGE.read_text(encoding='utf-8')))} distributions: {PAGE}")
