"""The progress bar names the phase, and does not look at the whole network for it at every step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fashion_tl.callbacks.progress_bar import PhaseProgressBar
from fashion_tl.models.staged import StagedNetwork

from ..conftest import Fit


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], set[str]]:
    """Fill with what the bar shows as the phase at each step, and with the names of all that it shows."""
    texts, names = list[str](), set[str]()
    plain = PhaseProgressBar.get_metrics

    def get(bar: PhaseProgressBar, *args: Any) -> dict[str, Any]:
        found = plain(bar, *args)
        texts.append(str(found.get("phase")))
        names.update(found)
        return found

    monkeypatch.setattr(PhaseProgressBar, "get_metrics", get)
    return texts, names


@pytest.mark.parametrize("batches", [2, 6])
def test_the_phase_is_named_at_each_step_and_looked_up_once(
    fit: Fit, shown: tuple[list[str], set[str]], batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = shown
    within: Counter[str] = Counter()
    described = StagedNetwork.select

    def select(network: StagedNetwork, spec: Any) -> Any:
        within["after the first" if texts else "before"] += 1
        return described(network, spec)

    monkeypatch.setattr(StagedNetwork, "select", select)
    flags = ("--trainer.enable_progress_bar", "true", "--data.batch_size", "16", "--cache", "off")
    limit = ("--trainer.limit_train_batches", str(batches), "--trainer.limit_val_batches", "1")
    assert fit("--model.train", "{0: head, 1: layer4}", *flags, *limit, epochs=2) == 0
    phases = [text for text in texts if text != "None"]
    names = ("1/2 head", "2/2 layer4 and head")
    assert [name for name in phases if name in names] == sorted(phases)
    assert [phases.count(name) >= batches for name in names] == [True, True]
    assert within["after the first"] <= 4  # the second phase is entered, told and shown: no more with more steps


@pytest.mark.parametrize(
    ("flags", "more"), [((), set[str]()), (("--monitor", "val/macro_f1"), {"val/macro_f1"})], ids=["plain", "monitor"]
)
def test_few_figures_are_shown_the_one_that_chooses_among_them(
    fit: Fit, shown: tuple[list[str], set[str]], flags: tuple[str, ...], more: set[str]
) -> None:
    assert fit("--trainer.enable_progress_bar", "true", *flags, epochs=2) == 0
    assert shown[1] == {"phase", "train/loss", "val/loss", "val/accuracy", *more}
