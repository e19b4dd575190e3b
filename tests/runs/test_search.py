"""Searching settings by validation, several seeds, and what is chosen how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.records.record import COMPLETED, read_record, versions
from fashion_tl.runs.fit import Run
from fashion_tl.runs.search import search

from ..conftest import Fit

LOGS = Path("lightning_logs")
BY_LOSS = ("--monitor", "val/loss", "--trainer.max_epochs", "2")


class Runs:
    """Stands in for ``fit``: returns the records of candidates of given figures."""

    def __init__(self, monitor: str, figures: list[float | None]) -> None:
        self.monitor, self.figures = monitor, figures
        self.asked: list[dict[str, Any]] = []

    def __call__(self, config: list[str], changes: dict[str, Any], tested: bool = True) -> Run:
        assert not tested
        figure = self.figures[len(self.asked)]
        self.asked.append(changes)
        return Run(None, {"best": {} if figure is None else {"monitor": self.monitor, "value": figure, "epoch": 0}})


@pytest.mark.parametrize(("monitor", "chosen"), [("val/accuracy", 2), ("val/loss", 1)])
def test_the_best_by_the_monitored_figure_wins(monitor: str, chosen: int) -> None:
    runs = Runs(monitor, [0.5, 0.25, 0.75, None])
    values: dict[str, list[Any]] = {"model.lr": [0.1, 0.2], "model.schedule": ["cosine", "step"]}
    found = search(["--name", "phase1"], values, runner=runs)
    tried = [{"model.lr": lr, "model.schedule": s} for lr in (0.1, 0.2) for s in ("cosine", "step")]
    assert runs.asked == [{"seeds": 1, "search": None, **each, "name": "phase1.search"} for each in tried]
    assert found == tried[chosen]


@pytest.mark.parametrize(("values", "figures"), [({"model.lr": []}, []), ({"model.lr": [1]}, [None])])
def test_a_search_without_values_or_without_a_finite_figure_is_an_error(values, figures) -> None:
    with pytest.raises(UserError):
        search([], values, runner=Runs("val/loss", figures))


@pytest.mark.slow
def test_a_search_then_two_seeds_with_what_it_found(fit: Fit, capsys) -> None:
    assert fit("--model.train", "head", "--search", "{model.lr: [0.0000001, 0.01]}", "--seeds", "2", *BY_LOSS) == 0
    shown = capsys.readouterr().out
    assert "search: best is model.lr=0.01" in shown
    assert versions(LOGS, "run.search") == [0, 1]
    for version, lr in enumerate((1e-7, 0.01)):
        folder = LOGS / "run.search" / f"version_{version}"
        record = read_record(folder)
        assert (record["status"], record["model"]["lr"], "test" in record) == (COMPLETED, lr, False)
        assert {p.name for p in folder.iterdir()} == {"config.yaml", "metrics.csv", "run.json"}
    assert not Path("checkpoints/run.search").exists()
    records = [read_record(LOGS / "run" / f"version_{v}") for v in versions(LOGS, "run")]
    assert [r["seed"] for r in records] == [0, 1]
    assert all(r["model"]["lr"] == 0.01 and r["status"] == COMPLETED for r in records)


@pytest.mark.slow
def test_a_repeated_run_equals_the_same_run_alone(fit: Fit) -> None:
    assert fit("--model.train", "head", "--seeds", "2", name="both") == 0
    assert fit("--model.train", "head", "--seed_everything", "1", name="alone") == 0
    logits = [
        np.load(f"lightning_logs/{name}/test_predictions.npz")["logits"]
        for name in ("both/version_1", "alone/version_0", "both/version_0")
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 1e-3


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(("--seeds", "0"), "1 to 10000"), (("--search", "{model.lr: []}"), "no values"), (("--seeds", "x"), "seeds")],
)
def test_mistakes_leave_nothing(fit: Fit, capsys, flags, reason) -> None:
    assert fit(*flags) == 2
    assert reason in capsys.readouterr().err
    assert not LOGS.exists()


@pytest.mark.slow
def test_other_verbs_and_one_run_only_flags(fit: Fit, capsys) -> None:
    from fashion_tl.cli import main

    assert fit(name="run") == 0
    best = "checkpoints/run/version_0/best.ckpt"
    config = ("-c", "lightning_logs/run/version_0/config.yaml", "--search", "{model.lr: [0.1]}", "--seeds", "2")
    assert main(["test", *config, "--ckpt_path", best]) == 0
    for flags in (("--ckpt_path", best), ("--trainer.fast_dev_run", "true")):
        assert main(["fit", *config, *flags]) == 2
        assert "is for one run" in capsys.readouterr().err
    assert versions(LOGS, "run") == [0]
