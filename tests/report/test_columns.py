"""What the report says of a run in a word or two."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fashion_tl.report.columns import strategy


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([{"start": 0, "trains": "head"}], "head only"),
        ([{"start": 0, "trains": "norms and head"}], "norms and head"),
        (
            [{"start": 0, "trains": "head"}, {"start": 5, "trains": "layer4 and head"}],
            "first head only, from epoch 6 layer4 and head",
        ),
        (  # the first phase ended by plateau
            [{"start": 0, "began": 0, "trains": "head"}, {"start": 5, "began": 3, "trains": "all"}],
            "first head only, from epoch 4 all",
        ),
    ],
)
def test_a_strategy_says_where_phases_began(phases: list[dict[str, Any]], words: str) -> None:
    run: Any = SimpleNamespace(derived=False, get=lambda *_: phases)
    assert strategy(run) == words
