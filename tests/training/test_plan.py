"""Phases as a user writes them."""

from __future__ import annotations

from typing import Any

import pytest

from fashion_tl.errors import UserError
from fashion_tl.training.plan import Phase, parse_phases, phase_at


@pytest.mark.parametrize(
    ("spec", "phases"),
    [
        ("head", (Phase(0, "head"),)),
        (2, (Phase(0, 2),)),
        ({0: "head", 5: "layer4"}, (Phase(0, "head"), Phase(5, "layer4"))),
        ({"5": 3, "0": "1"}, (Phase(0, "1"), Phase(5, 3))),
        (
            {0: "head", 5: {"train": "layer4", "lr": 0.001, "backbone_lr": "1e-4"}},
            (Phase(0, "head"), Phase(5, "layer4", 0.001, 0.0001)),
        ),
    ],
)
def test_every_way_to_write_phases(spec: Any, phases: tuple[Phase, ...]) -> None:
    assert parse_phases(spec) == phases


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "must start at epoch 0.*got {}"),
        ({3: "head"}, "must start at epoch 0"),
        ({-1: "head", 0: "all"}, "must start at epoch 0"),
        ({"first": "head"}, "cannot read the phase 'first': 'head'"),
        ({0: None}, "cannot read the phase 0: None .a boundary is a name or a number"),
        ({0: 2.5}, "cannot read the phase 0: 2.5"),
        ({0: ["head"]}, "cannot read the phase 0: .'head'."),
        ({0: {"lr": 0.1}}, r"missing .* 'train'.*backbone_lr: 0\.0001"),
        ({0: {"train": "head", "rate": 0.1}}, "unexpected keyword argument 'rate'"),
        ({0: {"train": "head", "lr": "fast"}}, "could not convert string to float: 'fast'"),
        ({0: {"train": "head", "backbone_lr": -0.1}}, "a learning rate is not below 0"),
    ],
)
def test_phases_that_cannot_be_read_show_how_to_write_them(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.train: .*{message}") as error:
        parse_phases(spec)
    assert "{0: head, 5: layer4}" in str(error.value)


@pytest.mark.parametrize(("epoch", "index"), [(0, 0), (2, 0), (2.99, 0), (3, 1), (4, 2), (100, 2)])
def test_an_epoch_belongs_to_the_phase_begun_last(epoch: float, index: int) -> None:
    assert phase_at(parse_phases({0: "head", 3: 1, 4: "all"}), epoch) == index
