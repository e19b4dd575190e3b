"""Schedules against torch's own, and how they begin anew with each phase."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR

from fashion_tl.errors import UserError
from fashion_tl.training.plan import parse_phases
from fashion_tl.training.schedules import SCHEDULES, PhasePlateau, PhaseSchedule, check_schedule, factor

STEPS_PER_EPOCH, EPOCHS = 7, 10
TOTAL = STEPS_PER_EPOCH * EPOCHS


def optimizer(groups: int = 1, lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)], lr=lr)


def walk(schedule: LRScheduler, steps: int) -> list[float]:
    """Return the first group's rate at each of the first steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.optimizer.param_groups[0]["lr"]))
        schedule.optimizer.step()
        schedule.step()
    return rates


def ours(name: str, warmup: float = 0.0, step_size: int = 1, gamma: float = 0.1) -> list[float]:
    return [factor(name, i / STEPS_PER_EPOCH, EPOCHS, warmup, step_size, gamma) for i in range(TOTAL + 1)]


@pytest.mark.parametrize("rising", [0, 14, 35])
def test_cosine_is_torchs_after_a_linear_rise(rising: int) -> None:
    rates = ours("cosine", warmup=rising / TOTAL)
    assert rates[:rising] == pytest.approx([i / rising for i in range(rising)])
    expected = walk(CosineAnnealingLR(optimizer(), T_max=TOTAL - rising), TOTAL + 1 - rising)
    assert rates[rising:] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rising", [7, 21])
def test_one_cycle_is_torchs(rising: int) -> None:
    # torch peaks one step before pct_start * total_steps, and ends one step before total_steps.
    schedule = OneCycleLR(optimizer(), max_lr=1.0, total_steps=TOTAL + 1, pct_start=(rising + 1) / (TOTAL + 1))
    expected = [*walk(schedule, TOTAL), schedule.get_last_lr()[0]]
    assert ours("one_cycle", warmup=rising / TOTAL) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("step_size", [1, 3])
def test_steps_are_torchs(step_size: int) -> None:
    expected = walk(StepLR(optimizer(), step_size * STEPS_PER_EPOCH, gamma=0.3), TOTAL + 1)
    assert ours("step", step_size=step_size, gamma=0.3) == pytest.approx(expected, abs=1e-12)


def test_constant_stays_and_extreme_warmups_are_defined() -> None:
    assert set(ours("constant")) == {1.0}
    for name in ("cosine", "one_cycle"):
        assert factor(name, 0, 10, 0.0, 1, 0.1) == 1
        assert factor(name, 10, 10, 1.0, 1, 0.1) == 1
        assert factor(name, 99, 10, 0.1, 1, 0.1) == factor(name, 10, 10, 0.1, 1, 0.1) < 1e-4


def test_an_unknown_schedule_tells_the_allowed_ones() -> None:
    for name in SCHEDULES:
        check_schedule(name)
    with pytest.raises(UserError, match=r"unknown schedule 'cosin'; did you mean 'cosine'.*--model\.schedule"):
        check_schedule("cosin")


PHASES = parse_phases({0: "head", 4: "all"})
RATES = [[0.0, 1.0], [0.2, 0.5]]
COSINE = partial(factor, "cosine", warmup=0.25, step_size=1, gamma=0.1)


def phased() -> PhaseSchedule:
    return PhaseSchedule(optimizer(groups=2), PHASES, RATES, STEPS_PER_EPOCH, EPOCHS, COSINE)


def test_each_phase_begins_its_schedule_anew() -> None:
    schedule, seen = phased(), []
    for _ in range(TOTAL):
        seen.append(list(schedule.get_last_lr()))
        assert seen[-1] == [group["lr"] for group in schedule.optimizer.param_groups]
        schedule.optimizer.step()
        schedule.step()
    first = [COSINE(i / STEPS_PER_EPOCH, 4) for i in range(4 * STEPS_PER_EPOCH)]
    second = [COSINE(i / STEPS_PER_EPOCH, 6) for i in range(6 * STEPS_PER_EPOCH)]
    assert [low for low, _ in seen] == pytest.approx([0.0] * len(first) + [0.2 * f for f in second], abs=1e-12)
    assert [high for _, high in seen] == pytest.approx(first + [0.5 * f for f in second], abs=1e-12)
    assert max(first) == 1
    assert max(second) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("stop", [0, 5, 4 * STEPS_PER_EPOCH - 1, 4 * STEPS_PER_EPOCH, 50])
def test_a_resumed_schedule_goes_on_exactly(stop: int) -> None:
    uninterrupted = walk(phased(), TOTAL)
    first = phased()
    seen = walk(first, stop)
    resumed = phased()
    resumed.load_state_dict(first.state_dict())
    assert resumed.get_last_lr() == first.get_last_lr()
    assert seen + walk(resumed, TOTAL - stop) == uninterrupted


def plateau() -> PhasePlateau:
    return PhasePlateau(optimizer(groups=2), RATES, gamma=0.1, patience=1)


def test_a_plateau_cuts_the_rates_and_each_phase_begins_anew() -> None:
    schedule = plateau()

    def after(*losses: float) -> list[float]:
        for loss in losses:
            schedule.step(loss)
        return [float(group["lr"]) for group in schedule.optimizer.param_groups]

    assert after() == [0.0, 1.0]
    assert after(0.1, 0.5) == [0.0, 1.0]
    assert after(0.5) == pytest.approx([0.0, 0.1])
    schedule.start_phase(1)
    assert after(0.9, 0.8, 0.85) == [0.2, 0.5]  # the best loss of the first phase, 0.1, is forgotten
    assert after(0.85) == pytest.approx([0.02, 0.05])


def test_a_resumed_plateau_goes_on_exactly() -> None:
    losses = [0.5, 0.6, 0.6, 0.6, 0.4, 0.6, 0.6]
    once, first = plateau(), plateau()
    for loss in losses:
        once.step(loss)
    for loss in losses[:2]:
        first.step(loss)
    second = plateau()
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for loss in losses[2:]:
        second.step(loss)
    rates = [[group["lr"] for group in schedule.optimizer.param_groups] for schedule in (once, second)]
    assert rates[0] == rates[1]
    assert rates[0][1] == pytest.approx(0.01)
