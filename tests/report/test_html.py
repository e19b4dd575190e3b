"""Elements: what is escaped, and JSON inside a page."""

from __future__ import annotations

import json

import pytest

from fashion_tl.report.html import Html, join, script_data, tag

NASTY = "<script>alert('x')</script> & \"y\""


def test_text_and_attributes_are_escaped() -> None:
    made = tag("td", NASTY, title=NASTY)
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 2
    assert '"y"' not in made


def test_html_is_not_escaped_twice() -> None:
    assert tag("p", tag("b", "<"), None, ["a", 1, [Html("<br>")]]) == "<p><b>&lt;</b>a1<br></p>"


def test_attributes() -> None:
    assert tag("input", class_="a b", data_x_y=0.5, checked=True, hidden=False, id=None) == (
        '<input class="a b" data-x-y="0.5" checked>'
    )


def test_plain_text_joins_as_html() -> None:
    assert isinstance(join(["<"]), Html)
    assert join(["<", Html("<")]) == "&lt;<"


@pytest.mark.parametrize("text", [NASTY, "<!--", "</SCRIPT>", "\u2028\u2029", "é & <"])
def test_json_in_a_page_reads_back_and_holds_no_markup(text: str) -> None:
    made = script_data("x", {"name": text})
    inner = made.removeprefix('<script type="application/json" id="x">').removesuffix("</script>")
    assert json.loads(inner) == {"name": text}
    assert not set("<>&\u2028\u2029") & set(inner)
