"""What a built site would load from other servers: nothing, so that it works offline and tells nobody who reads it."""

from __future__ import annotations

import re
from pathlib import Path

_PATTERNS = {
    ".html": re.compile(
        r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'\s>]+"""
        r"""|<link\b(?![^>]*rel=["']?canonical)[^>]*\shref=["']?(?:https?:)?//[^"'\s>]+"""
    ),
    ".css": re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^"')]+"""),
}


def loaded_from_elsewhere(site: Path) -> list[str]:
    """List what the pages and styles below a folder load from other servers; links to follow are none of it."""
    return [
        f"{path.relative_to(site).as_posix()}: {found}"
        for path in sorted(site.rglob("*"))
        if (pattern := _PATTERNS.get(path.suffix))
        for found in pattern.findall(path.read_text(encoding="utf-8"))
    ]
