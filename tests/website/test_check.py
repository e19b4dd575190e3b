"""The check of the pages' commands: what it finds, runs, leaves out and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from website.check import Block, Mark, blocks, shortened

from website import check

SMALL = {"make": "ARGS=1", "fashion-tl fit": "--fast"}
PAGE = """# Title

<!-- commands of this page: {skip: takes hours} -->

Text of `fashion-tl fit`.

    fashion-tl fit -c FILE \\
        --seeds 2        # a comment

- a list

    whose text is indented: make it

<!-- commands: {run: 5, small: {make: ARGS=1, fashion-tl fit: --fast}} -->

```bash
# a comment
make phase1  # now
fashion-tl runs
```

    run.json                # no command

```yaml
make: no command
```

```bash
pip install it
```

```python
import this
```

<!-- commands: {run: 9} -->

```python
print("$HOME  # this")
make = 1
```
"""


def test_commands_are_found_with_their_marks() -> None:
    found = list(blocks(PAGE))
    assert found == [
        Block(7, ("fashion-tl fit -c FILE --seeds 2        # a comment",), Mark(skip="takes hours")),
        Block(
            17, ("make phase1  # now", "fashion-tl runs"), Mark(5, small={"make": "ARGS=1", "fashion-tl fit": "--fast"})
        ),
        Block(29, ("pip install it",), Mark(skip="takes hours")),
        Block(39, ("python - <<'PYTHON'\nprint(\"$HOME  # this\")\nmake = 1\nPYTHON",), Mark(9)),
    ]
    assert [shortened(command, found[1].mark.small) for command in found[1].commands] == [  # type: ignore[union-attr]
        "make phase1 ARGS=1",
        "fashion-tl runs",
    ]
    assert "commands" not in check.without_marks(PAGE)
    assert [block.mark for block in blocks("    make demo\n")] == [None]


def test_a_mark_says_one_of_two_things() -> None:
    for settings in ({}, {"run": 5, "skip": "why"}):
        with pytest.raises(ValueError, match="either"):
            Mark(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("page", check.pages(), ids=lambda page: page.name)
def test_every_block_of_commands_says_whether_it_can_be_run(page: Path) -> None:
    bare = [block.line for block in blocks(page.read_text(encoding="utf-8")) if block.mark is None]
    assert not bare, f"{page.name}: lines {bare} need a comment `<!-- commands: ... -->` (website/check.py)"


def test_commands_run_in_the_clone_within_their_time(tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    status, printed = check.run("ls; echo $FASHION_TL_CACHE_DIR", tmp_path, Path("cache"), 20)
    assert (status, printed) == (0, "mark\ncache\n")
    assert check.run("false | true", tmp_path, Path("cache"), 20)[0] == 1
    status, printed = check.run("echo begun; sleep 60", tmp_path, Path("cache"), 2)
    assert status is None
    assert printed in ("begun\n", "")


def folder_with_environment(folder: Path) -> None:
    folder.mkdir()
    check.link_environment(folder)


def test_what_fails_is_told_and_what_is_not_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    texts = ("<!-- commands: {run: 60} -->\n\n    python -c 'import yaml; raise SystemExit(3)'\n", "    make it\n")
    needs = "<!-- commands: {run: 20, data: Nowhere} -->\n\n    make data\n"
    files = [tmp_path / name for name in ("README.md", "CONTRIBUTING.md", "docs/page.md")]
    for path, text in zip(files, (*texts, needs), strict=True):
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "pages", lambda: files)
    monkeypatch.setattr(check, "clone", folder_with_environment)
    assert check.check() == ["README.md:3: python -c 'import yaml; raise SystemExit(3)'", "CONTRIBUTING.md:1"]
    told = capsys.readouterr().out
    assert "exit status 3" in told
    assert "not run  docs/page.md:3: needs Nowhere in FASHION_TL_DATA_DIR" in told
    assert check.check("page*") == []
