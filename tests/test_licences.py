"""The page of licences is that of what is installed."""

from __future__ import annotations

import re

from .licences import PAGE, ROOT, needed, rows


def test_every_dependency_is_listed_with_its_licence() -> None:
    written = rows(PAGE.read_text(encoding="utf-8"))
    package, development = needed()
    installed = {**package, **development}
    assert installed.keys() <= written.keys(), "run `make licences`"
    pins = re.findall(r"^([\w.-]+)==\S+(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for name, _ in pins]
    elsewhere = {name for name, marker in pins if marker}  # on some systems or versions of Python alone
    assert written.keys() - installed.keys() <= elsewhere, "run `make licences`"
    same = {name for name in installed if names.count(name) == 1}
    assert {name: written[name] for name in same} == {name: installed[name] for name in same}, "run `make licences`"
    assert len(package) > 50
