"""What a site loads from other servers is found; links that a reader may follow are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from website.offline import loaded_from_elsewhere


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://unpkg.com/mermaid.js"></script>', 1),
        ("a.html", "<link rel=stylesheet href=//fonts.example/css>", 1),
        ("a.html", '<p><img alt="x" src="http://elsewhere/x.png"></p>', 1),
        ("a.css", "@import 'https://fonts.example/a.css'; a { background: url(//b/c.png) }", 2),
        ("a.html", '<link rel="canonical" href="https://here/"><a href="https://optuna.org">Optuna</a>', 0),
        ("a.html", '<script src="assets/a.js"></script><img src="report.png">', 0),
        ("a.css", "a { background: url(data:image/png;base64,AAAA//) }", 0),
        ("a.txt", '<script src="https://unpkg.com/mermaid.js"></script>', 0),
    ],
)
def test_what_is_loaded_from_elsewhere_is_found(name: str, text: str, found: int, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(loaded_from_elsewhere(tmp_path)) == found
