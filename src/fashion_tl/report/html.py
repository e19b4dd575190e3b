"""Building HTML in which nothing is unescaped by mistake: every text passes through `tag`."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

VOID = ("br", "col", "img", "input", "meta")


class Html(str):
    """Text that is HTML already; any other text is escaped where it enters an element."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]


def join(children: Iterable[Child]) -> Html:
    """Concatenate children: HTML as it is, text and numbers escaped, None left out, iterables one level in."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, str | int):
            parts.append(html.escape(str(child)))
        else:
            parts.append(join(child))
    return Html("".join(parts))


def tag(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """Build one element.

    Args:
        name: Its name, such as "td".
        children: What it holds, as ``join`` takes it.
        attributes: Its attributes; ``class_`` is written "class" and ``data_x`` "data-x". True writes the bare name,
            None and False leave the attribute out.

    Example:
        >>> tag("td", "a < b", class_="number", data_sort=1)
        '<td class="number" data-sort="1">a &lt; b</td>'
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        written.append(f" {label}" if value is True else f' {label}="{html.escape(str(value))}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in VOID else f"{start}{join(children)}</{name}>")


def script_data(element_id: str, value: Any) -> Html:  # noqa: ANN401 - any JSON value
    """Embed a value as JSON that no browser can take for markup."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(element_id)}">{text}</script>')
