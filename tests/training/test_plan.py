"""Phases as a user writes them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from fashion_tl.errors import UserError
from fashion_tl.training.plan import Phase, Plan, Progress, Schedule, differences, parse_phases, steps_in


@pytest.mark.parametrize(
    ("spec", "phases"),
    [
        ("head", (Phase(0, "head"),)),
        (2, (Phase(0, 2),)),
        ({0: "head", 5: "layer4"}, (Phase(0, "head"), Phase(5, "layer4"))),
        ({"5": 3, "0": "1"}, (Phase(0, "1"), Phase(5, 3))),
        (["norms", 1, "head"], (Phase(0, ("norms", 1, "head")),)),
        ({0: ["a.*"], 2: {"train": ["head"]}}, (Phase(0, ("a.*",)), Phase(2, ("head",)))),
        (
            {0: {"train": "head", "until": "plateau"}, 5: "all"},
            (Phase(0, "head", until="plateau", patience=2), Phase(5, "all")),
        ),
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
        ({0: []}, "cannot read the phase 0: .*a list holds names, patterns and numbers"),
        ({0: ["head", None]}, "cannot read the phase 0: .'head', None."),
        ({0: ["head", True]}, "cannot read the phase 0: .'head', True."),
        ({0: {"train": "head", "until": "loss"}, 2: "all"}, "until is 'loss'; allowed: plateau"),
        ({0: {"train": "head", "patience": 2}, 2: "all"}, "patience goes with until: plateau"),
        ({0: {"train": "head", "until": "plateau", "patience": 0}, 2: "all"}, "patience is 0; allowed is a whole"),
        ({0: {"train": "head", "until": "plateau", "patience": 1.5}, 2: "all"}, "patience is 1.5; allowed is a whole"),
        ({0: {"lr": 0.1}}, r"missing .* 'train'.*backbone_lr: 0\.0001"),
        ({0: {"train": "head", "rate": 0.1}}, "unexpected keyword argument 'rate'"),
        ({0: {"train": "head", "lr": "fast"}}, "could not convert string to float: 'fast'"),
        ({0: {"train": "head", "backbone_lr": -0.1}}, "a learning rate is finite and not below 0"),
    ],
)
def test_phases_that_cannot_be_read_show_how_to_write_them(spec: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"model\.train: .*{message}") as error:
        parse_phases(spec)
    assert "{0: head, 5: layer4}" in str(error.value)


@pytest.mark.parametrize(("epoch", "index"), [(0, 0), (2, 0), (2.99, 0), (3, 1), (4, 2), (100, 2)])
def test_an_epoch_belongs_to_the_phase_begun_last(epoch: float, index: int) -> None:
    progress = Progress(int(epoch), batch=round(epoch % 1 * 100), batches=100)
    assert Plan(parse_phases({0: "head", 3: 1, 4: "all"})).phase(progress) == index


def bounded(plan: Plan, epochs: int = -1, steps: int = -1, batches: float = 10, accumulate: int = 1) -> Plan:
    return plan.bounded(epochs, steps, batches, accumulate)


@pytest.mark.parametrize(
    ("batch", "batches", "accumulate", "epochs"),
    [(0, 7, 1, 2.0), (3, 8, 1, 2.375), (3, 8, 2, 2.25), (7, 7, 2, 3.0), (6, 7, 2, 2.75), (5, math.inf, 1, 2.0)],
)
def test_progress_grows_by_optimizer_steps(batch: int, batches: float, accumulate: int, epochs: float) -> None:
    assert Progress(2, batch, batches, accumulate).epochs == epochs


def test_phases_beyond_the_end_are_cut_off_and_the_schedule_aims_at_the_end() -> None:
    plan = Plan(parse_phases({0: "head", 2: 1, 6: "all"}), Schedule("cosine", warmup=0))
    assert [phase.start for phase in bounded(plan, epochs=4).phases] == [0, 2]
    assert [phase.start for phase in bounded(plan, epochs=2).phases] == [0]
    assert bounded(plan, epochs=4).factor(Progress(3, 0, 10), {}) == pytest.approx(0.5)
    assert bounded(plan, epochs=9).factor(Progress(4, 0, 10), {}) == pytest.approx(0.5)


def test_steps_and_epochs_bound_a_run_whichever_comes_first() -> None:
    plan = Plan(schedule=Schedule("cosine", warmup=0))
    assert bounded(plan, epochs=4, steps=25).length == 2.5
    assert bounded(plan, epochs=2, steps=25).length == 2
    assert bounded(plan, steps=25, accumulate=2).length == 5
    assert bounded(plan, steps=25).factor(Progress(1, 2, 10, steps=12), {}) == pytest.approx(
        (1 + math.cos(math.pi * 1.2 / 2.5)) / 2
    )
    ended = [bounded(plan, steps=25).ended(Progress(2, steps=n)) for n in (24, 25, 26)]
    assert ended == [False, True, True]


def test_a_loader_without_a_length_needs_steps_or_a_schedule_that_asks_for_none() -> None:
    endless = Plan(schedule=Schedule("cosine", warmup=0))
    plan = bounded(endless, steps=20, batches=math.inf)
    assert [plan.factor(Progress(e, steps=n), {}) for e, n in ((0, 0), (0, 10), (3, 20))] == pytest.approx([1, 0.5, 0])
    for given in (endless, Plan(parse_phases({0: "head", 1: "all"}), Schedule("cosine"))):
        with pytest.raises(UserError, match=r"how many batches an epoch has.*--trainer\.limit_train_batches"):
            bounded(given, epochs=3, steps=20 if given is not endless else -1, batches=math.inf)
    for name in ("constant", "step", "plateau"):
        assert bounded(Plan(schedule=Schedule(name)), batches=math.inf).factor(Progress(1), {}) == 1


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_a_schedule_that_aims_at_an_end_needs_one(name: str) -> None:
    with pytest.raises(UserError, match=f"schedule '{name}' needs an end: set --trainer.max_epochs"):
        bounded(Plan(schedule=Schedule(name)))


def told(saved: Plan, now: Plan, progress: Progress) -> list[str]:
    return differences(json.loads(json.dumps(saved.settings())), now.settings(), progress)


def test_what_has_run_must_be_the_same_and_what_is_to_come_may_change() -> None:
    plan = Plan(parse_phases({0: "head", 2: {"train": 1, "lr": 0.1}, 5: "all"}))
    assert told(plan, plan, Progress(3)) == []
    later = replace(plan, phases=parse_phases({0: "head", 2: {"train": 1, "lr": 0.1}, 4: 2}))
    assert told(plan, later, Progress(3)) == []
    assert told(plan, later, Progress(4)) == []
    assert told(plan, later, Progress(4, 1, 10)) == [
        "train: {0: head, 2: {train: 1, lr: 0.1}}, now {0: head, 2: {train: 1, lr: 0.1}, 4: 2}"
    ]
    assert told(plan, replace(plan, phases=plan.phases[:1]), Progress(2)) == []
    assert told(plan, replace(plan, phases=plan.phases[:1]), Progress(3)) != []
    other = replace(plan, weight_decay=0.5, optimizer="sgd", schedule=Schedule("step"))
    assert told(plan, other, Progress(1)) == [
        "optimizer: adamw, now sgd",
        "schedule name: cosine, now step",
        "weight_decay: 0.01, now 0.5",
    ]


def test_settings_are_plain_and_those_of_plain_phases_do_not_tell_of_plateaus() -> None:
    plan = Plan(parse_phases({0: ["norms", "head"], 2: {"train": "head", "until": "plateau", "patience": 3}, 5: "all"}))
    rates = {"lr": None, "backbone_lr": None}
    assert plan.settings()["phases"] == [
        {"start": 0, "train": ["norms", "head"], **rates},
        {"start": 2, "train": "head", **rates, "until": "plateau", "patience": 3},
        {"start": 5, "train": "all", **rates},
    ]
    again = json.loads(json.dumps(plan.settings()))["phases"]
    assert tuple(Phase(**phase) for phase in again) == plan.phases


def test_a_last_phase_that_ends_by_plateau_is_refused() -> None:
    with pytest.raises(UserError, match=r"the last phase \(2\) says until: plateau.*--patience N"):
        parse_phases({0: "head", 2: {"train": "all", "until": "plateau"}})


# Phases that end by plateau

UNTIL: dict[int, Any] = {
    0: {"train": "head", "until": "plateau", "patience": 2},
    6: {"train": 1, "until": "plateau"},
    9: "all",
}


def starts(losses: list[float], epoch: int | None = None) -> list[int]:
    plan = bounded(Plan(parse_phases(UNTIL)), epochs=12)
    done = len(losses) if epoch is None else epoch
    return [phase.start for phase in plan.placed(dict(enumerate(losses)), Progress(done)).phases]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], [0, 6, 9]),
        ([0.9, 0.8, 0.81], [0, 6, 9]),
        ([0.9, 0.8, 0.81, 0.79, 0.8], [0, 6, 9]),
        ([0.9, 0.8, 0.81, 0.82], [0, 4, 7]),
        ([0.9, 0.8, 0.81, 0.8], [0, 4, 7]),
        ([0.9, 0.8, 0.79999, 0.79998], [0, 4, 7]),  # less than a relative 1e-4
        ([0.9, 0.8, 0.81, 0.82, 0.7, 0.1], [0, 4, 7]),  # what comes later decides nothing
        ([0.9, 0.8, 0.7, 0.6, 0.7, 0.7], [0, 6, 9]),  # no earlier than the last epoch
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.5, 0.6, 0.7], [0, 6, 9]),
        ([0.9, 0.9, 0.9, 2.0, 2.0, 2.0], [0, 3, 6]),  # the next phase has a best loss of its own
        ([0.9, 0.9, 0.9, 1.0, 1.0, 1.0], [0, 3, 6]),
        ([math.nan, math.nan], [0, 2, 5]),
    ],
)
def test_a_phase_ends_behind_a_plateau_and_later_ones_begin_earlier(losses: list[float], expected: list[int]) -> None:
    assert starts(losses) == expected
    assert starts(losses, epoch=0) == [0, 6, 9]


def test_a_second_plateau_moves_what_is_left() -> None:
    plan = bounded(Plan(parse_phases({**UNTIL, 6: {"train": 1, "until": "plateau", "patience": 1}})), epochs=12)
    placed = plan.placed(dict(enumerate([0.9, 0.9, 0.9, 0.5, 0.6])), Progress(5))
    assert [phase.start for phase in placed.phases] == [0, 3, 5]
    assert placed.length == 8  # the last phase is as long as it was
    assert [plan.placed({}, Progress(0)).length, plan.length] == [12, 12]


def test_rates_aim_at_the_longest_length_and_the_end_comes_earlier() -> None:
    plan = bounded(Plan(parse_phases(UNTIL), Schedule("cosine", warmup=0)), epochs=12)
    losses = {0: 0.9, 1: 0.9, 2: 0.9}
    placed = plan.placed(losses, Progress(3))
    for epoch in range(3):  # of the first phase nothing changes when it is known to end
        progress = Progress(epoch, 5, 10)
        assert plan.placed(losses, progress).factor(progress, losses) == plan.factor(progress, losses)
        assert placed.factor(progress, losses) == plan.factor(progress, losses)
    assert placed.factor(Progress(3, 0, 10), losses) == pytest.approx(1)
    assert placed.factor(Progress(6, 0, 10), losses) == pytest.approx(1)
    assert placed.factor(Progress(7, 5, 10), losses) == pytest.approx(0.5)
    assert [placed.ended(Progress(8, 9, 10)), placed.ended(Progress(8, 10, 10))] == [False, True]


@pytest.mark.parametrize("batches", [3, 6, 7, 11])
def test_by_steps_the_end_moves_by_whole_epochs(batches: int) -> None:
    steps = 9 * batches - 2
    plan = bounded(Plan(parse_phases({0: UNTIL[0], 5: "all"})), steps=steps, batches=batches)
    placed = plan.placed(dict.fromkeys(range(3), 1.0), Progress(3))
    ended = [
        epoch * batches + batch
        for epoch in range(9)
        for batch in range(batches)
        if placed.ended(Progress(epoch, batch, batches, steps=epoch * batches + batch))
    ]
    assert ended[0] == steps - 2 * batches


@pytest.mark.parametrize("after", [4, 40])
def test_by_steps_the_end_moves_by_what_was_saved_also_with_other_batches(after: int) -> None:
    plan = Plan(parse_phases(UNTIL), Schedule("cosine", warmup=0))  # head until a plateau, at the latest epoch 6
    losses = dict.fromkeys(range(3), 1.0)
    before = plan.bounded(-1, 100, 10, 1).placed(losses, Progress(4, batches=10, steps=40))
    assert [phase.start for phase in before.phases[:2]] == [0, 3]
    assert before.last_step == 100 - 3 * 10
    now = replace(stopped(before, Progress(4, batches=10, steps=40)), batches=after)
    placed = plan.bounded(-1, 100, after, 1, now).placed(losses, now)
    assert placed.last_step == 70
    assert placed.length == pytest.approx(4 + 30 / after)
    assert [placed.ended(replace(now, epoch=4 + 29 // after, batch=29 % after, steps=69)), placed.ended(now)] == [
        False
    ] * 2
    assert placed.ended(replace(now, epoch=4 + 30 // after, batch=30 % after, steps=70))


def test_a_phase_that_ended_early_is_begun_when_it_has() -> None:
    plan = Plan(parse_phases(UNTIL))
    other = replace(plan, phases=parse_phases({**UNTIL, 6: {"train": 2, "until": "plateau"}}))
    saved, now = json.loads(json.dumps(plan.settings())), other.settings()
    assert differences(saved, now, Progress(3, starts=(0,))) == []
    assert len(differences(saved, now, Progress(4, starts=(0, 3)))) == 1
    assert differences(saved, now, Progress(5, starts=(0,))) == []
    assert differences(saved, saved, Progress(4, starts=(0, 3))) == []
    longer = replace(plan, phases=parse_phases({**UNTIL, 5: {"train": 2}}))
    assert len(differences(saved, longer.settings(), Progress(6, starts=(0,)))) == 1, "it should have begun"


# Runs that stop and go on


def stopped(plan: Plan, now: Progress) -> Progress:
    """Return what a checkpoint keeps of where phases began."""
    told = plan.starts(now), plan.first_steps(now), plan.saved_steps(now)
    return replace(now, starts=told[0], first_steps=told[1], saved_steps=told[2])


def course(plan: Plan, rng: random.Random) -> Iterator[tuple[Plan, Progress]]:
    """Yield where a run stands before each optimizer step and at its end, with the plan that holds there.

    It ends by steps and goes on with more of them, stops within an epoch or between two, and goes on with other batches
    and another accumulation between two epochs.
    """
    batches, accumulate, max_steps = rng.randint(1, 9), rng.randint(1, 4), rng.randint(1, 30)
    losses: dict[int, float] = {}
    now = Progress(0, 0, batches, accumulate)
    for _ in range(rng.randint(1, 5)):
        bounded = plan.bounded(-1, max_steps, now.batches, now.accumulate, now)
        stop = rng.randint(now.steps, 2 * max_steps)
        current = bounded.placed(losses, now) if bounded.may_end_early else bounded
        while not current.ended(now) and now.steps < stop:
            yield current, now
            batch = min(now.batch + now.accumulate, now.batches)
            now = replace(now, batch=int(batch), steps=now.steps + 1)
            if batch == now.batches:
                losses[now.epoch] = rng.choice([0.5, 0.7, 0.9])
                now = replace(now, epoch=now.epoch + 1, batch=0)
            current = bounded.placed(losses, now) if bounded.may_end_early else bounded
        now = stopped(current, now)
        if current.ended(now):
            yield current, now
            max_steps += rng.randint(1, 20)
        if now.batch and current.ended(now):  # an epoch that the end has cut counts as done
            now = replace(now, epoch=now.epoch + 1, batch=0)
        if not now.batch and rng.random() < 0.5:
            now = replace(now, batches=rng.randint(1, 9), accumulate=rng.randint(1, 4))


@pytest.mark.parametrize("spec", ["head", {0: "head", 2: 1, 4: "all"}, UNTIL])
@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_whatever_has_been_the_rate_falls_to_its_end_at_the_last_step_and_not_before(name: str, spec: Any) -> None:
    schedule = Schedule(name, warmup=0.25)
    end = schedule.factor(1, 1)
    for seed in range(200):
        index = 0
        for plan, now in course(Plan(parse_phases(spec), schedule), random.Random(seed)):
            factor = plan.factor(now, {})
            last = plan.phase(now) == len(plan.phases) - 1
            assert (factor == pytest.approx(end, abs=1e-12)) == plan.ended(now), (seed, now)
            assert not plan.ended(now) or last
            assert plan.phase(now) >= index, "what has begun does not end again"
            index = plan.phase(now)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
@pytest.mark.parametrize("spec", ["head", {0: "head", 1: 1, 3: "all"}])
def test_a_run_that_ends_by_steps_has_its_rates_by_steps_whatever_batches_it_goes_on_with(name: str, spec: Any) -> None:
    schedule, seen = Schedule(name, warmup=0.25), 0
    for seed in range(200):
        rng = random.Random(seed)
        max_steps = rng.randint(20, 40)
        now = Progress(0, 0, rng.randint(1, 9))
        first = None
        while True:
            current = Plan(parse_phases(spec), schedule).bounded(-1, max_steps, now.batches, now.accumulate, now)
            if current.phase(now) == len(current.phases) - 1 == len(parse_phases(spec)) - 1:
                first = now.steps if first is None else first
                expected = schedule.factor(now.steps - first, max_steps - first)
                assert current.factor(now, {}) == pytest.approx(expected), seed
                late = current.done(now) > current.last_part(0.25)
                assert late == (now.steps > max_steps - 0.25 * (max_steps - first)), seed
                seen += 1
            if current.ended(now):
                break
            batch = int(min(now.batch + now.accumulate, now.batches))
            now = replace(now, batch=batch, steps=now.steps + 1)
            if batch == now.batches:  # between two epochs it stops, and goes on with others
                now = replace(now, epoch=now.epoch + 1, batch=0)
                now = replace(stopped(current, now), batches=rng.randint(1, 9), accumulate=rng.randint(1, 3))
    assert seen > 1000


@pytest.mark.parametrize("steps", [7, 20, 25])
@pytest.mark.parametrize(("batches", "accumulate"), [(3, 1), (7, 2), (6, 4)])
def test_a_run_that_goes_on_as_it_was_has_the_end_that_it_had(steps: int, batches: int, accumulate: int) -> None:
    plan, inside = Plan(parse_phases(UNTIL)), steps_in(batches, accumulate)
    whole = bounded(plan, steps=steps, batches=batches, accumulate=accumulate)
    losses = dict.fromkeys(range(9), 1.0)
    for done in range(steps + 1):
        began = Progress(done // inside, done % inside * accumulate, batches, accumulate, done)
        placed = whole.placed(losses, began) if whole.may_end_early else whole
        if not placed.ended(began):
            assert plan.bounded(-1, steps, batches, accumulate, replace(began, starts=placed.starts(began))) == whole


def plateau(losses: dict[int, float], began: int, epoch: int, patience: int) -> bool:
    """Say whether the losses from one epoch to before another have not fallen for so long, from the definition."""
    own = [losses[e] for e in range(began, epoch)]
    return len(own) - 1 - own.index(min(own)) >= patience if own else False


@pytest.mark.parametrize("spec", [{0: "head", 2: 1, 4: "all"}, UNTIL, {**UNTIL, 3: {**UNTIL[0], "patience": 1}}])
def test_the_phases_that_trained_are_those_of_the_plan_whatever_lengths_a_run_has_had(spec: Any) -> None:
    """A run that stops anywhere and goes on with another length, in epochs or in steps, shorter or longer."""
    plan, cut = Plan(parse_phases(spec)), 0
    planned = [phase.start for phase in plan.phases]
    for seed in range(400):
        rng = random.Random(seed)
        trained, losses, now, went_on = dict[int, int](), dict[int, float](), Progress(0, 0, 2), {0}
        for _ in range(rng.randint(2, 5)):
            longest = rng.randint(1, 14)
            limits = (longest, -1) if rng.random() < 0.7 else (-1, 2 * longest - rng.randint(0, 1))
            bounded, stop = plan.bounded(*limits, now.batches, 1, now), now.steps + rng.randint(0, 12)
            went_on.add(now.next_epoch)
            while True:
                current = bounded.placed(losses, now) if bounded.may_end_early else bounded
                first = {phase: min(e for e in trained if trained[e] == phase) for phase in sorted(trained.values())}
                assert current.starts(now) == tuple(first.values()) or not trained, (seed, now)
                if now.epochs >= min(current.length, longest) or current.ended(now) or now.steps == stop:
                    break
                phase = current.phase(now)
                assert trained.setdefault(now.epoch, phase) == phase, (seed, now, "a phase changes between epochs")
                now = replace(now, batch=now.batch + 1, steps=now.steps + 1)
                if now.batch == 2:
                    losses[now.epoch] = rng.choice([0.5, 0.7, 0.9])
                    now = replace(now, epoch=now.epoch + 1, batch=0)
            if now.batch and (current.ended(now) or now.epochs >= current.length):  # the end has cut it: it is done
                now = replace(now, epoch=now.epoch + 1, batch=0)
                losses[now.epoch - 1] = rng.choice([0.5, 0.7, 0.9])
            now = replace(now, starts=current.starts(now), first_steps=current.first_steps(now))
        for phase, begins in list(first.items())[1:]:
            before, until = first[phase - 1], plan.phases[phase - 1].until
            on_time = begins - before == planned[phase] - planned[phase - 1]
            patience = plan.phases[phase - 1].patience or 0
            ended = [e for e in range(before + 1, begins + 1) if until and plateau(losses, before, e, patience)]
            assert on_time or ended, (seed, phase, begins)
            if ended and ended[0] != begins:
                cut += 1
                assert begins in went_on, (seed, phase, begins, "the end of the run had cut it off")
    assert bool(cut) == plan.may_end_early
