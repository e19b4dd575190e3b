"""``fit --folds``: five runs that each hold out another part, what they say together, and what does not go with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.cli import main
from fashion_tl.errors import UserError
from fashion_tl.metrics.cross_validation import cross_validation
from fashion_tl.records.record import COMPLETED, read_record, versions
from fashion_tl.runs.fit import fit as make

from ..conftest import Fit
from ..launch import two_processes

LOGS = Path("lightning_logs")
SOURCE = ("--data.source", "tests.long_tail.Untested", "--data.source.num_train", "200")
THREE = (*SOURCE, "--folds", "3")
HEAD = ("--model.train", "head")


def records(name: str = "run") -> list[dict[str, Any]]:
    return [read_record(LOGS / name / f"version_{version}") for version in versions(LOGS, name)]


def folds_of(name: str = "run") -> list[tuple[int, int]]:
    return [(record["data"]["fold"], record["seed"]) for record in records(name)]


@pytest.mark.slow
def test_every_image_is_tested_once_and_the_figures_come_together(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(*HEAD, *THREE) == 0
    shown = capsys.readouterr().out
    made = records()
    assert folds_of() == [(1, 0), (2, 0), (3, 0)]
    assert {record["status"] for record in made} == {COMPLETED}
    assert len({record["data"]["test_set"] for record in made}) == 3
    assert shown.count("imbalanced: training images of a class are ") == 3
    expected = cross_validation([r["test"] for r in made], [r["data"]["sizes"]["train"] for r in made])
    for line in expected.lines():
        assert line in shown
    assert "not independent" in shown
    with np.load(LOGS / "run" / "out_of_fold_version_2.npz") as pooled:
        count = sum(record["test"]["images"] for record in made)
        assert pooled["image"].tolist() == list(range(count))
        assert (pooled["logits"].argmax(1) == pooled["label"]).mean() == expected.pooled[0]
        for version, record in enumerate(made):
            with np.load(LOGS / "run" / f"version_{version}" / "test_predictions.npz") as own:
                mine = pooled["version"] == version
                assert (pooled["fold"][mine] == record["data"]["fold"]).all()
                assert np.array_equal(pooled["image"][mine], own["image"])
                assert np.array_equal(pooled["logits"][mine], own["logits"])
    assert {p.name for p in (LOGS / "run").iterdir() if p.is_file()} == {"out_of_fold_version_2.npz"}
    # One fold alone is the same run; a record's configuration runs that fold again.
    assert fit(*HEAD, *SOURCE, "--data.folds", "3", "--data.fold", "2", name="alone") == 0
    assert main(["fit", "-c", "lightning_logs/run/version_1/config.yaml", "--name", "again"]) == 0
    for name in ("alone", "again"):
        assert records(name)[0]["test"] == made[1]["test"]
        assert records(name)[0]["data"]["fold"] == 2


@pytest.mark.slow
@pytest.mark.thorough
def test_seeds_and_processes_and_resume_make_the_same_folds(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    several = (*HEAD, *THREE, "--seeds", "2", "--seed_everything", "4")
    assert fit(*several, name="one") == 0
    shown = capsys.readouterr().out
    assert folds_of("one") == [(1, 4), (2, 4), (3, 4), (1, 5), (2, 5), (3, 5)]
    assert [shown.count(f"seed {seed}, mean of 3 folds") for seed in (4, 5)] == [1, 1]
    assert fit(*several, "--processes", "2", name="two") == 0
    assert "fold 3 of 3, seed 5: test accuracy" in capsys.readouterr().out
    assert sorted(folds_of("two")) == sorted(folds_of("one"))
    figures = [{(r["data"]["fold"], r["seed"]): r["test"] for r in records(name)} for name in ("one", "two")]
    assert figures[0] == figures[1]
    said = [line for line in shown.splitlines() if "mean of" in line]
    assert fit(*several, "--resume", "true", name="two") == 0
    again = capsys.readouterr().out
    assert again.count("is done already") == 6
    assert [line for line in again.splitlines() if "mean of" in line] == said
    assert len(versions(LOGS, "two")) == 6


@pytest.mark.slow
@pytest.mark.thorough
def test_folds_that_were_stopped_go_on_with_what_is_left(
    fit: Fit, stop_at: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from fashion_tl.runs import fit as module

    assert fit(*HEAD, *THREE, name="whole", epochs=2) == 0
    original, begun = module._run, []

    def second_stops(*args: Any) -> Any:
        begun.append(args)
        stop_at(1 if len(begun) == 2 else -1, 0, KeyboardInterrupt())
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_run", second_stops)
        assert fit(*HEAD, *THREE, name="stopped", epochs=2) == 130
    stop_at(-1, -1, KeyboardInterrupt())
    assert "To go on with what is not done yet: fashion-tl fit" in capsys.readouterr().out
    assert [record["status"] for record in records("stopped")] == [COMPLETED, "interrupted"]
    assert fit(*HEAD, *THREE, "--resume", "true", name="stopped", epochs=2) == 0
    assert [r["test"] for r in records("stopped")] == [r["test"] for r in records("whole")]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_second_phase_starts_from_the_network_that_has_not_seen_its_fold(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*HEAD, *THREE, name="first") == 0
    second = ("--model.train", "layer4", "--model.init_from", "first")
    assert fit(*second, *THREE, name="second") == 0
    for fold in range(3):
        text = (LOGS / "second" / f"version_{fold}" / "config.yaml").read_text()
        assert f"init_from: checkpoints/first/version_{fold}/best.ckpt" in text
    capsys.readouterr()
    for flags, told in (
        (SOURCE, "held out no fold"),
        ((*SOURCE, "--folds", "4"), "held out fold 1 of 4"),
        ((*THREE, "--data.split_seed", "1"), "fold 1 of 3 (split seed 1)"),
    ):
        assert fit(*second, *flags, name="third") == 2
        error = capsys.readouterr().err
        assert told in error
        assert "the newest held out fold 3 of 3 (split seed 0)" in error
        assert not (LOGS / "third").exists()
    assert fit(*HEAD, *SOURCE, name="first") == 0  # a newer version without folds is passed over
    assert fit(*second, *SOURCE, "--data.folds", "3", "--data.fold", "2", name="fourth") == 0
    assert "checkpoints/first/version_1/best.ckpt" in (LOGS / "fourth" / "version_0" / "config.yaml").read_text()
    assert main(["compare", "second"]) == 0
    assert "mean of" not in capsys.readouterr().err
    page = Path("reports/comparison.md").read_text()
    assert re.search(r"\| second \| 3 \| 0 \| 0\.\d{4} \(", page)


@pytest.mark.slow
@pytest.mark.thorough
def test_the_report_verify_and_ensemble_know_folds(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("slow", "0.0001"), ("fast", "0.01")):
        assert fit(*HEAD, *THREE, "--seeds", "2", "--model.lr", rate, name=name) == 0
    assert fit(*HEAD, *SOURCE, "--data.folds", "3", "--data.fold", "2", "--model.lr", "0.5", name="lone") == 0
    capsys.readouterr()
    assert main(["compare"]) == 0
    assert "left out" not in capsys.readouterr().err
    page, text = Path("reports/index.html").read_text(), Path("reports/comparison.md").read_text()
    assert "its row shows fold 3 of 3 alone" in text
    for name in ("slow", "fast"):
        for seed in (0, 1):
            own = [r for r in records(name) if r["seed"] == seed]
            found = cross_validation([r["test"] for r in own], [r["data"]["sizes"]["train"] for r in own])
            (row,) = re.findall(rf"\| {name} \| 3 \| {seed} \|.*", text)
            for value, interval in (*found.means.values(), found.pooled):
                assert interval is not None
                assert f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})" in row
            assert f'title="{found.pooled[0]!r}"' in page
    assert re.search(r"\| lone \| 3 \| 0 \| no readable test of fold 1, 3 of 3 \|", text)
    assert "Bengio and Grandvalet 2004" in page
    for version in ("version_1", "version_4"):
        assert main(["verify", f"lightning_logs/fast/{version}"]) == 0
    assert "does not hold" not in capsys.readouterr().out
    assert main(["ensemble", "lightning_logs/fast/version_0", "lightning_logs/fast/version_1"]) == 2
    assert "was tested on other images" in capsys.readouterr().err
    assert main(["ensemble", "lightning_logs/fast/version_0", "lightning_logs/fast/version_3"]) == 0


@pytest.mark.slow
def test_the_test_set_of_a_source_is_left_alone(fit: Fit) -> None:
    own: tuple[str, ...] = ("--data.source", "tests.long_tail.LongTail", "--data.source.num_train", "200")
    own += ("--data.source.num_test", "50", "--folds", "2")
    assert fit(*HEAD, *own) == 0
    assert fit(*HEAD, *own[:-2], name="plain") == 0
    sizes = [record["data"]["sizes"] for record in (*records(), *records("plain"))]
    assert sizes[2]["test"] == 50
    assert sum(each["test"] for each in sizes[:2]) == sum(sizes[0].values()) == sizes[2]["train"] + sizes[2]["val"]


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_make_each_fold_together(workdir: Path) -> None:
    small: tuple[str, ...] = (
        "--data.image_size",
        "32",
        "--data.batch_size",
        "16",
        "--trainer.max_epochs",
        "1",
        "--name",
        "run",
    )
    small += ("--model.backbone", "test_resnet", "--model.pretrained", "false")
    two = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    out = two_processes("fit", *small, *two, *HEAD, *SOURCE, "--folds", "2")
    assert out.count("mean of 2 folds") == out.count("pooled: accuracy") == 1
    assert folds_of() == [(1, 0), (2, 0)]
    with np.load(LOGS / "run" / "out_of_fold_version_1.npz") as pooled:
        assert pooled["image"].tolist() == list(range(sum(record["test"]["images"] for record in records())))


def test_two_folds_are_versions_that_are_not_in_each_others_way(fit: Fit) -> None:
    assert fit(*HEAD, *SOURCE, "--data.folds", "3", "--data.fold", "1") == 0
    config = LOGS / "run" / "version_0" / "config.yaml"
    changes = {"resume": True, "log_dir": str(LOGS)}
    assert make(config, changes).found
    with pytest.raises(UserError, match="held out no fold, the newest held out fold 1 of 3"):
        make(config, {**changes, "data.folds": None, "data.fold": None, "model.init_from": "run"})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--folds", "1"), "folds is 1, allowed is 2"),
        (("--folds", "0"), "folds is 0, allowed is 2"),
        (("--folds", "many"), "folds"),
        (("--folds", "3", "--search", "{model.lr: [0.1]}"), "Search within each fold"),
        (("--folds", "3", "--data.fold", "2"), "data.fold is 2: leave that out"),
        (("--folds", "3", "--data.folds", "3"), "data.folds is 3: leave that out"),
        (("--folds", "3", "--ckpt_path", "last"), "is for one run"),
        (("--folds", "3", "--trainer.fast_dev_run", "true"), "is for one run"),
        (("--folds", "3", "--processes", "2", "--trainer.devices", "2"), "Leave one of the two out"),
        (("--folds", "3", "--seed_everything", "true"), "number of the first seed"),
        (("--folds", "90"), "has too few images"),
        (("--data.folds", "3"), "data.folds is 3 and data.fold None"),
        (("--search", "{data.fold: [1, 2]}"), "data.fold cannot be searched"),
        (("--search", "{folds: [3, 5]}"), "folds cannot be searched"),
    ],
)
def test_mistakes_leave_nothing(fit: Fit, capsys: pytest.CaptureFixture[str], flags: Any, told: str) -> None:
    assert fit(*SOURCE, *flags) == 2
    assert told in capsys.readouterr().err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("verb", ["tune", "tournament", "ablate", "probe"])
def test_other_verbs_make_no_folds(workdir: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    Path("base.yaml").write_text("data: {source: {class_path: SyntheticGarments}, image_size: 32}\nfolds: 3\n")
    Path("space.yaml").write_text("{model.lr: {float: [0.001, 0.1]}}\n")
    Path("strategies.yaml").write_text(
        "strategies: {low: {changes: {model.lr: 0.01}}, high: {changes: {model.lr: 0.1}}}\n"
    )
    flags = {
        "tune": ["-c", "base.yaml", "--space", "space.yaml"],
        "tournament": ["-c", "base.yaml", "--strategies", "strategies.yaml"],
        "ablate": ["-c", "base.yaml", "--add", "{high: {model.lr: 0.1}}"],
        "probe": ["-c", "base.yaml"],
    }[verb]
    before = sorted(Path().rglob("*"))
    assert main([verb, *flags]) == 2
    assert "folds" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before
