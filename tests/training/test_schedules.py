"""Schedules against torch's own, and how they begin anew with each phase."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR

from fashion_tl.errors import UserError
from fashion_tl.training.plan import SCHEDULES, WARMUP_START, Plan, Progress, Schedule, parse_phases
from fashion_tl.training.schedules import PlanSchedule

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
    shape = Schedule(name, warmup, step_size, gamma)
    return [shape.factor(i / STEPS_PER_EPOCH, EPOCHS) for i in range(TOTAL + 1)]


@pytest.mark.parametrize("rising", [0, 14, 35])
def test_cosine_is_torchs_after_a_linear_rise(rising: int) -> None:
    rates = ours("cosine", warmup=rising / TOTAL)
    assert rates[:rising] == pytest.approx([WARMUP_START + (1 - WARMUP_START) * i / rising for i in range(rising)])
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
        assert Schedule(name, warmup=0.0).factor(0, 10) == 1
        assert Schedule(name, warmup=1.0).factor(10, 10) == 1
        assert Schedule(name).factor(99, 10) == Schedule(name).factor(10, 10) < 1e-4


def test_an_unknown_schedule_tells_the_allowed_ones() -> None:
    for name in SCHEDULES:
        Schedule(name)
    with pytest.raises(UserError, match=r"unknown schedule 'cosin'; did you mean 'cosine'.*--model\.schedule"):
        Schedule("cosin")


PLAN = Plan(parse_phases({0: "head", 4: "all"}), Schedule("cosine", warmup=0.25)).bounded(
    EPOCHS, -1, STEPS_PER_EPOCH, 1
)
RATES = [[0.0, 1.0], [0.2, 0.5]]


class Standing:
    """Stands in for training: where it is, and the rates that follow."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.schedule = PlanSchedule(optimizer(groups=2), self.rates)

    def rates(self) -> list[float]:
        progress = Progress(self.step // STEPS_PER_EPOCH, self.step % STEPS_PER_EPOCH, STEPS_PER_EPOCH)
        factor = PLAN.factor(progress, {})
        return [factor * rate for rate in RATES[PLAN.phase(progress)]]

    def walk(self, steps: int) -> list[list[float]]:
        seen = []
        for _ in range(steps):
            seen.append([group["lr"] for group in self.schedule.optimizer.param_groups])
            self.schedule.optimizer.step()
            self.step += 1
            self.schedule.step()
        return seen


def test_each_phase_begins_its_schedule_anew() -> None:
    seen = Standing().walk(TOTAL)
    shape = PLAN.schedule
    first = [shape.factor(i / STEPS_PER_EPOCH, 4) for i in range(4 * STEPS_PER_EPOCH)]
    second = [shape.factor(i / STEPS_PER_EPOCH, 6) for i in range(6 * STEPS_PER_EPOCH)]
    assert [low for low, _ in seen] == pytest.approx([0.0] * len(first) + [0.2 * f for f in second], abs=1e-12)
    assert [high for _, high in seen] == pytest.approx(first + [0.5 * f for f in second], abs=1e-12)
    assert max(first) == 1
    assert max(second) == pytest.approx(1, abs=0.01)
    assert min(first[0], second[0]) == WARMUP_START


@pytest.mark.parametrize("stop", [0, 5, 4 * STEPS_PER_EPOCH - 1, 4 * STEPS_PER_EPOCH, 50])
def test_a_resumed_schedule_goes_on_exactly(stop: int) -> None:
    uninterrupted, first, resumed = Standing().walk(TOTAL), Standing(), Standing()
    seen = first.walk(stop)
    resumed.schedule.load_state_dict(first.schedule.state_dict())
    resumed.step = stop
    resumed.schedule.apply()
    assert seen + resumed.walk(TOTAL - stop) == uninterrupted


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_a_plateau_is_torchs(patience: int) -> None:
    generator = torch.Generator().manual_seed(patience)
    losses = [0.5, 0.6, 0.6, 0.49999, 0.4, 0.6, 0.6, *torch.rand(40, generator=generator).tolist()]
    theirs = ReduceLROnPlateau(optimizer(), factor=0.5, patience=patience, eps=0)
    shape = Schedule("plateau", gamma=0.5, plateau_patience=patience)
    for count, loss in enumerate(losses, 1):
        theirs.step(loss)
        assert shape.factor(0, 1, tuple(losses[:count])) == theirs.optimizer.param_groups[0]["lr"]


def test_a_plateau_begins_anew_with_each_phase() -> None:
    shape = Schedule("plateau", gamma=0.1, plateau_patience=1)
    plan = Plan(parse_phases({0: "head", 3: "all"}), shape).bounded(9, -1, STEPS_PER_EPOCH, 1)
    losses = {0: 0.1, 1: 0.5, 2: 0.5, 3: 0.9, 4: 0.8, 5: 0.85, 6: 0.85}

    def factor(epoch: int) -> float:
        return plan.factor(Progress(epoch, 0, STEPS_PER_EPOCH), {e: loss for e, loss in losses.items() if e < epoch})

    # The best loss of the first phase, 0.1, is forgotten.
    assert [factor(epoch) for epoch in range(8)] == pytest.approx([1, 1, 1, 1, 1, 1, 1, 0.1])
