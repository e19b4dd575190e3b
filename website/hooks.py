"""Hooks of MkDocs: pages written from the code and from files elsewhere; what a built site must not hold."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from website import verbs  # noqa: E402 - after the path to it
from website.check import without_marks  # noqa: E402
from website.offline import loaded_from_elsewhere  # noqa: E402

ELSEWHERE = {
    "changes.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "benchmarks.md": "benchmarks/results.md",
}


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - MkDocs' configuration
    """Add the pages that are written here."""
    written = {name: (ROOT / source).read_text(encoding="utf-8") for name, source in ELSEWHERE.items()}
    written = {name: re.sub(r"\]\((?:\.\./)?docs/", "](", text) for name, text in written.items()}
    written["contributing.md"] = written["contributing.md"].replace("](CHANGELOG.md)", "](changes.md)")
    written["verbs.md"] = verbs.page()
    written["notebook.md"] = notebook(ROOT / "examples" / "notebook.ipynb")
    for name, text in written.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401 - what MkDocs gives beside
    """Take out the marks of `make docs-check`."""
    return without_marks(markdown)


def on_post_build(config: Any) -> None:  # noqa: ANN401 - MkDocs' configuration
    """Refuse a site that loads anything from another server."""
    if found := loaded_from_elsewhere(Path(config.site_dir)):
        raise PluginError("the site would load from other servers: " + "; ".join(found[:5]))


def notebook(path: Path) -> str:
    """Write a notebook as Markdown: its texts, and its code in blocks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells)
    return "\n\n".join(
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell, text in zip(cells, texts, strict=True)
    )
