"""The learning-rate finder: what it finds trains, however short an epoch is, and it leaves nothing else behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import Fit

from fashion_tl.records.record import read_record
from fashion_tl.runs.find_rate import STEPS, suggested

FIND = ("--find_lr", "true")


def rates(steps: int = STEPS) -> list[float]:
    return [1e-6 * 10 ** (7 * step / (steps - 1)) for step in range(steps)]


def test_the_rate_lies_on_the_descent_well_below_where_the_loss_explodes() -> None:
    def loss(rate: float) -> float:
        return 2.4 if rate < 1e-4 else 0.5 if 1e-2 <= rate < 0.3 else 50.0 if rate >= 0.3 else 1.4

    found = suggested(rates(), [loss(rate) for rate in rates()])
    assert found is not None
    assert 1e-3 < found < 0.1


def test_a_loss_that_begins_low_is_not_where_it_falls() -> None:
    losses = [0.4 if step == 0 else 2.4 if step < 60 else 0.3 for step in range(STEPS)]
    found = suggested(rates(), losses)
    assert found is not None
    assert found >= rates()[60]


@pytest.mark.parametrize(
    "losses",
    [[2.3] * STEPS, [2.3 + 0.01 * step for step in range(STEPS)], [float("nan")] * STEPS, []],
    ids=["flat", "rising", "not finite", "none"],
)
def test_no_rate_is_found_where_the_loss_does_not_fall(losses: list[float]) -> None:
    assert suggested(rates(), losses) is None


def state(version: int) -> dict[str, torch.Tensor]:
    kept: dict[str, Any] = torch.load(f"checkpoints/run/version_{version}/last.ckpt", weights_only=True)
    found: dict[str, torch.Tensor] = kept["state_dict"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "optimizer", "share"), [(32, "adamw", 1.0), (8, "adamw", 0.1), (32, "sgd", 1.0)])
@pytest.mark.thorough(keep=1)
def test_what_is_found_trains_and_the_search_leaves_nothing_else(
    fit: Fit, workdir: Path, capsys: pytest.CaptureFixture[str], batch: int, optimizer: str, share: float
) -> None:
    flags: tuple[str, ...] = (
        "--data.batch_size",
        str(batch),
        "--model.optimizer",
        optimizer,
        "--data.source.num_train",
        "300",
    )
    flags += ("--model.backbone_lr", str(share * 1e-3))  # model.lr is 1e-3
    assert fit(*flags, *FIND, classifier="ScratchClassifier", epochs=8) == 0
    (told,) = re.findall(r"learning-rate finder: lr (\S+), backbone_lr (\S+)", capsys.readouterr().out)
    lr, backbone_lr = map(float, told)
    assert 3e-4 < lr < 0.3
    assert backbone_lr == pytest.approx(lr * share, rel=0.01)
    assert read_record(Path("lightning_logs/run/version_0"))["test"]["accuracy"] > 0.3  # of ten classes
    config = Path("lightning_logs/run/version_0/config.yaml")
    assert yaml.safe_load(config.read_text())["find_lr"] is False
    assert fit("-c", str(config), classifier="ScratchClassifier", epochs=8) == 0
    for key, value in state(0).items():
        assert torch.equal(value, state(1)[key]), key


@pytest.mark.slow
def test_it_finds_the_rate_of_the_first_phase_and_refuses_what_sets_its_own(
    fit: Fit, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*FIND, "--model.train", "{0: 1, 1: 2}", epochs=2) == 0  # phases begin within the steps of the search
    assert len(read_record(Path("lightning_logs/run/version_0"))["certificate"]) == 2
    capsys.readouterr()
    assert fit(*FIND, "--model.train", "{0: {train: head, lr: 0.1}, 1: 1}", epochs=2, name="own") == 2
    assert "phases of model.train have rates of their own" in capsys.readouterr().err
    Path("own_optimizer.py").write_text(
        "import torch\n\nfrom fashion_tl import ScratchClassifier\n\n\n"
        "class Own(ScratchClassifier):\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.SGD(self.parameters(), lr=0.1)\n"
    )
    assert fit(*FIND, classifier="own_optimizer.Own", name="own") == 2
    assert "Own brings optimizers of its own" in capsys.readouterr().err
    assert not Path("lightning_logs/own").exists()
