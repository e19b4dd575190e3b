"""Trials in their storage, without a run: who makes them, what they draw, and what becomes of those that were left."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from tests.report.conftest import read_page

from fashion_tl.errors import UserError
from fashion_tl.tuning import study as study_module
from fashion_tl.tuning import worker
from fashion_tl.tuning.page import page
from fashion_tl.tuning.plan import Tuning
from fashion_tl.tuning.progress import Progress
from fashion_tl.tuning.space import Setting, grid
from fashion_tl.tuning.study import storage_errors
from fashion_tl.tuning.trials import Trials

SPACE = (
    Setting("model.lr", "float", 1e-4, 1.0, log=True),
    Setting("data.batch_size", "int", 8, 64, step=8),
    Setting("model.train", "choices", choices=("head", {0: "head", 1: "all"}, ["stem", "head"])),
)
Make = Callable[..., Trials]

# Which `storage_errors` leaves out, around all that a study does.
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used with Study.optimize")


def tuning_in(logs: Path, **changes: object) -> Tuning:
    """Describe a study."""
    plain = Tuning(
        "study", (), SPACE, 12, "tpe", "none", 0, None, logs, logs / "checkpoints", "val/loss", 9, {"a": 1}, "here"
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Open the trials of a study."""
    opened = ExitStack()

    def trials(name: str = "one", **changes: object) -> Trials:
        logs = tmp_path / name
        logs.mkdir(exist_ok=True)
        tuning = tuning_in(logs, **changes)
        with storage_errors(tuning):
            return opened.enter_context(Trials(tuning, make=True))

    with opened:
        yield trials


def run(trials: Trials, number: int) -> dict[str, object]:
    """Finish a trial with a figure that follows from its values."""
    settings = trials.suggest(number)
    trials.tell(number, abs(settings["model.lr"] - 0.01) + settings["data.batch_size"] / 640, None, {})
    return settings


def run_all(trials: Trials) -> list[dict[str, object]]:
    found = []
    while (number := trials.ask()) is not None:
        found.append(run(trials, number))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_values_follow_from_the_seed_and_do_not_change_where_a_study_goes_on(make: Make, sampler: str) -> None:
    one = run_all(make("one", sampler=sampler))
    assert len(one) == 12
    assert all(settings["model.train"] in SPACE[2].choices for settings in one)
    assert len({str(settings) for settings in one}) == 12
    assert run_all(make("again", sampler=sampler)) == one
    assert run_all(make("other", sampler=sampler, seed=1)) != one
    # In parts, each trial in a process of its own.
    parts = []
    for count in range(1, 13):
        parts += run_all(make("parts", sampler=sampler, trials=count))
    assert parts == one


@pytest.mark.slow
def test_tpe_learns_and_chance_does_not(make: Make) -> None:
    means = []
    for sampler in ("tpe", "random"):
        trials = make(sampler, sampler=sampler, trials=40)
        run_all(trials)
        late = [trial.value for trial in trials.finished[20:]]
        means.append(sum(value for value in late if value is not None) / 20)
    assert means[0] < means[1] / 2


@pytest.mark.slow
def test_a_grid_is_all_combinations(make: Make) -> None:
    space = (SPACE[1], SPACE[2], Setting("model.dropout", "float", 0.0, 0.3, step=0.1))
    every = grid(space)
    assert len(every) == 8 * 3 * 4
    trials = make(sampler="grid", trials=len(every), space=space)
    asked = []
    while (number := trials.ask()) is not None:
        asked.append(trials.suggest(number))
    assert [settings["data.batch_size"] for settings in asked[::12]] == [8, 16, 24, 32, 40, 48, 56, 64]
    assert [settings["model.dropout"] for settings in asked[:4]] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [settings["model.train"] for settings in asked[:12:4]] == list(SPACE[2].choices)


@pytest.mark.slow
def test_a_trial_that_was_left_keeps_its_values(make: Make) -> None:
    whole = run_all(make("whole"))
    trials = make("left")
    for _ in range(4):
        run(trials, trials.ask() or 0)
    number = trials.ask()
    assert number == 4
    before = trials.suggest(number)
    assert trials.suggest(number) == before  # what it has stays
    later = make("left")
    assert [trial.number for trial in later.counted if later.is_left(trial)] == [4]
    run(later, 4)
    assert [later.settings(trial) for trial in later.finished] == whole[:5]
    assert [*whole[:5], *run_all(later)] == whole


def test_diverged_trials_count_and_pruned_ones_are_never_best(make: Make) -> None:
    trials = make(trials=3)
    for value, why in ((0.5, None), (float("nan"), "diverged"), (None, "pruned after epoch 1")):
        number = trials.ask()
        assert number is not None
        trials.suggest(number)
        trials.report(number, 0, 0.1)
        trials.tell(number, value, why, {"epochs": 1})
    assert trials.ask() is None
    assert [trial.state for trial in trials.finished] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert trials.best is not None
    assert trials.best.number == 0


@pytest.mark.slow
def test_machines_that_share_a_database_make_as_many_trials_as_were_asked_for(make: Make, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    here, there = make("here", storage=url, trials=2), make("there", storage=url, trials=2, folder="there")
    first, second = here.ask(), there.ask()
    assert (first, second) == (0, 1)
    assert here.is_left(here.read(0))
    assert not there.is_left(there.read(0))  # whose claim the other folder does not have
    here.tuning = replace(here.tuning, trials=3)
    there.tuning = replace(there.tuning, trials=3)
    # Both see that one is missing; the one that is slower gives its trial back.
    ask = here.study.ask

    def slower(**arguments: object) -> object:
        assert there.ask() == 2
        return ask()

    here.study.ask = slower  # type: ignore[method-assign, assignment]
    assert here.ask() is None
    assert [trial.number for trial in here.counted] == [0, 1, 2]


@pytest.mark.slow
def test_a_trial_of_a_lost_machine_is_run_again_with_its_values(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "BEAT", 1)
    monkeypatch.setattr(study_module, "GRACE", 1)
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    lost, here = make("lost", storage=url, trials=2), make("here", storage=url, trials=2, folder="there")
    number = lost.ask()
    assert number == 0
    values = lost.suggest(0)
    lost.report(0, 0, 0.5)
    assert here.ask() == 1
    run(here, 1)
    assert here.ask() is None
    time.sleep(2.2)  # seconds of the database's clock
    with storage_errors(here.tuning):
        here.give_up_dead()
    again = here.ask()
    assert again == 2
    assert here.place(here.read(2)) == 0
    assert here.suggest(2) == values
    # The lost one comes back: it is told to stop, and what it says does not count.
    assert lost.report(0, 1, 0.4)
    lost.tell(0, 0.4, None, {})
    run(here, 2)
    assert [here.place(trial) for trial in here.finished] == [1, 0]
    assert here.ask() is None


@pytest.mark.slow
def test_hyperband_ends_most_trials_early_and_the_same_ones_each_time(make: Make) -> None:
    def simulated(name: str) -> list[int]:
        trials, epochs = make(name, pruner="hyperband", trials=20), list[int]()
        while (number := trials.ask()) is not None:
            lr = trials.suggest(number)["model.lr"]
            done = 0
            while done < 9 and not trials.report(number, done, abs(lr - 0.01) + 1 / (done + 1)):
                done += 1
            epochs.append(done)
            trials.tell(number, abs(lr - 0.01) + 0.1 if done == 9 else None, f"pruned after epoch {done + 1}", {})
        return epochs

    epochs = simulated("one")
    assert 0 < epochs.count(9) < 15
    assert simulated("again") == epochs


def test_a_terminal_has_a_bar_and_a_line_for_each_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with Progress(tuning_in(tmp_path), 2) as progress:
        monkeypatch.setattr(sys, "stdout", io.StringIO())  # as while a trial runs
        progress.add(worker.News(2, {"model.lr": 0.123456}, "val/loss 0.5000", 3.0, 3, (0.4, 1)))
    shown = " ".join(terminal.getvalue().split())  # a line may be too long for it
    assert "[ 3/12] trial 2 model.lr=0.1235: val/loss 0.5000 (3.0 s, best 0.4000 of trial 1, about" in shown
    assert "study, best 0.4000" in shown
    assert "25%" in shown


def test_a_line_that_was_torn_is_cut_off_by_whoever_writes_next(make: Make) -> None:
    trials = make(trials=3)
    run(trials, trials.ask() or 0)
    journal = trials.tuning.logs / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":8,"worker')  # of a process that was killed meanwhile
    run(trials, trials.ask() or 0)
    assert journal.read_bytes().startswith(whole + b"{")
    journal.write_bytes(journal.read_bytes() + b'{"op_code":8,"worker')
    again = make(trials=3)
    assert again.ask() == 2
    assert [trial.state for trial in again.counted] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]
    journal.write_bytes(journal.read_bytes() + b"nothing\n")
    with pytest.raises(UserError, match=r"journal\.log is damaged: .*study\.json: trials"):
        again.suggest(2)


def test_whole_numbers_are_shown_with_all_their_digits() -> None:
    row = {"why": None, "value": 0.5, "state": "done", "epochs": 1, "seconds": 1.0, "last": None}
    about = {"name": "n", "data": None, "sampler": "tpe", "sampler_seed": 0, "pruner": "none", "no_importance": ""}
    results: dict[str, Any] = {
        **{**about, "best": None, "monitor": "val/loss", "minimises": True, "fashion_tl": "1", "optuna": "5"},
        "space": {"trainer.max_steps": {"int": [1, 99999]}, "model.lr": {"float": [0.1, 0.2]}},
        "trials": [{**row, "trial": 0, "settings": {"trainer.max_steps": 12345, "model.lr": 0.123456}}],
    }
    table = read_page(page(results, [])).one("section", aria_labelledby="trials").one("table")
    cells = [cell.text for cell in table.one("tbody").all("td")]
    assert cells[1:3] == ["12345", "0.1235"]


def test_a_study_that_is_not_ours_is_refused(make: Make, tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path / 'trials.db'}"
    optuna.create_study(storage=url, study_name="study")
    with pytest.raises(UserError, match="was not made by"):
        make(storage=url)
    make("first")
    with pytest.raises(UserError, match="a: 1, now 2"):
        make("first", about={"a": 2})


def test_a_claimed_trial_is_not_run(make: Make) -> None:
    trials = make()
    number = trials.ask()
    assert number == 0
    runs = worker._Runs(trials)
    script = (
        "import sys; from pathlib import Path; from fashion_tl.files import claimed\n"
        "with claimed(Path(sys.argv[1])) as mine:\n    print(mine, flush=True); sys.stdin.read()"
    )
    claim = trials.tuning.records / ".0.claim"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(claim)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with runs.claim(0) as mine:
            assert not mine
        other.kill()
    with runs.claim(0) as mine:
        assert mine
        assert runs.is_left(0)
    assert not claim.exists()
