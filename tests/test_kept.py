"""The tables of README, of the recipes and of the studies are those of the records that are kept, and those hold."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from experiments import kept, tables
from scipy.special import softmax
from tests.tournament.conftest import BASE

from fashion_tl.cli import main
from fashion_tl.files import read_json
from fashion_tl.records.record import read_record, write_record

from .conftest import Fit

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs" / "records"


def test_the_table_of_the_page_is_that_of_the_records() -> None:
    found = tables.records_of(RECORDS)
    table = tables.table(found)
    assert table in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), f"put into docs/recipes.md:\n{table}"
    for path in (ROOT / "experiments" / "best").glob("*.yaml"):
        assert table.count(f"\n| `{path.stem}` |") == 1


def test_the_table_of_the_readme_is_that_of_the_records() -> None:
    table = tables.own_table(tables.records_of(RECORDS))
    assert "not measured" not in table
    assert table in (ROOT / "README.md").read_text(encoding="utf-8"), f"put into README.md:\n{table}"


def test_the_tables_of_the_studies_are_those_of_the_records() -> None:
    found = tables.records_of(RECORDS)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for backbone in tables.backbones(found):
        table = tables.study_table(found, backbone)
        assert table.count("\n| ") > 1
        assert table in page, f"put into docs/results.md:\n{table}"
    assert tables.backbones(found)


def test_the_results_that_experiments_tell_are_those_of_the_records() -> None:
    found = tables.records_of(RECORDS)
    for path in tables.STUDIES.glob("*.yaml"):
        (record,) = found.get(path.stem) or found[f"{path.stem}.mobilenetv2_035"]
        told = f"\n# Result:   test accuracy {record['test']['accuracy']:.4f} "
        assert told in path.read_text(encoding="utf-8"), path


def test_the_tables_of_ablations_are_those_of_the_records() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for path in tables.ablations(RECORDS):
        results = read_json(path)
        assert tables.ablation_table(path) in page, f"put into docs/recipes.md:\n{tables.ablation_table(path)}"
        base = results["cells"][0]["accuracies"]
        for cell, pair in zip(results["cells"], [None, *results["pairs"]], strict=True):
            records = [read_record(path.parent / tables.RUNS / run) for run in cell["runs"]]
            assert [record["test"]["accuracy"] for record in records] == pytest.approx(cell["accuracies"], abs=1e-6)
            if pair is not None:
                lost = np.mean(base) - np.mean(cell["accuracies"])
                assert pair["difference"] == pytest.approx(lost)
                assert pair["interval"][0] < lost < pair["interval"][1]
        assert main(["verify", "--quick", "--log_dir", str(path.parent / tables.RUNS)]) == 0


def test_the_tables_of_the_methods_are_those_of_the_records() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    found = tables.method_tables(RECORDS / tables.METHODS)
    assert len(found) >= 6
    for table in found:
        assert table in page, f"put into docs/methods.md:\n{table}"


def test_the_table_of_the_look_inside_is_that_of_the_records() -> None:
    page = (ROOT / "docs" / "looking_inside.md").read_text(encoding="utf-8")
    table = tables.inside_table(RECORDS / tables.INSIDE)
    assert table in page, f"put into docs/looking_inside.md:\n{table}"


def test_what_bounds_the_ensembles_is_computed_from_the_records() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8").replace("\n", " ")
    singles = ("scratch", "taught_lite0", "lite0", "mobilenetv2", "taught_mobilenetv2", "tiny")
    for names, told, count in ((singles[:2], "all six runs", 6), (singles, "all 14 runs", 14)):
        paths = [path for name in names for path in sorted(RECORDS.glob(f"best_{name}/*/test_predictions.npz"))]
        assert len(paths) == count
        accuracy = accuracy_of_mean(paths)
        assert re.search(rf"{told}[^.]+ in {accuracy:.4f}", page), (told, accuracy)
    members = ("scratch", "mobilenetv2", "lite0")
    for left_out in members:
        rest = [RECORDS / f"best_{name}" / "version_0" / "test_predictions.npz" for name in members if name != left_out]
        assert f"`{left_out}` in {accuracy_of_mean(rest):.4f}" in page


def accuracy_of_mean(paths: Sequence[Path]) -> float:
    parts = [np.load(path) for path in paths]
    mean = sum(softmax(part["logits"].astype(np.float64), axis=1) for part in parts)
    return float((mean.argmax(1) == parts[0]["label"]).mean())


def test_the_records_hold_and_name_no_folder_of_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (RECORDS, RECORDS / tables.METHODS, RECORDS / tables.INSIDE):
        assert main(["verify", "--quick", "--log_dir", str(folder)]) == 0
        assert "checks hold" in capsys.readouterr().out
    for path in RECORDS.rglob("*"):
        if path.suffix in (".json", ".yaml"):
            text = path.read_text(encoding="utf-8")
            assert not any(place in text for place in ("/home/", "/root/", "/work/", "/tmp/")), path  # noqa: S108


def test_an_ensemble_is_kept_with_its_members(tmp_path: Path, capsys) -> None:
    shutil.copytree(RECORDS / "best_ensemble", tmp_path / "best_ensemble")
    assert kept.main(["--kept", str(tmp_path)]) == 2
    assert "best_ensemble is made of best_scratch version 0, best_mobilenetv2 version 0" in capsys.readouterr().err


def test_a_seed_counts_once_and_a_version_without_a_record_is_passed_over(tmp_path: Path, capsys) -> None:
    logs, target = tmp_path / "logs", tmp_path / "kept"
    shutil.copytree(RECORDS / "best_tiny", logs / "best_tiny")
    (logs / "best_tiny" / "version_3").mkdir()  # killed before it had a record
    for _ in range(2):  # once more changes nothing
        assert kept.main(["best_tiny", "--log_dir", str(logs), "--kept", str(target)]) == 0
    row = next(line for line in tables.table(tables.records_of(RECORDS)).splitlines() if line.startswith("| `tiny`"))
    assert row in capsys.readouterr().out
    again = logs / "best_tiny" / "version_4"
    shutil.copytree(logs / "best_tiny" / "version_2", again)
    record = read_json(again / "run.json")
    write_record(again, {**record, "version": 4})
    assert kept.main(["best_tiny", "--log_dir", str(logs), "--kept", str(target)]) == 0
    assert row in capsys.readouterr().out
    assert [each["version"] for each in tables.repeats(tables.records_of(target)["best_tiny"])] == [0, 1, 4]


@pytest.mark.slow
def test_an_ablation_is_kept_with_its_runs(workdir: Path, capsys) -> None:
    assert main(["ablate", *BASE, "--data.augment.hflip", "0.5", "--name", "worth", "--seeds", "2"]) == 0
    capsys.readouterr()
    for _ in range(2):  # once more changes nothing
        assert kept.main(["worth", "--kept", "kept"]) == 0
    (path,) = tables.ablations(Path("kept"))
    table = tables.ablation_table(path)
    assert table in capsys.readouterr().out
    assert [row.split(" | ")[0] for row in table.splitlines()[2:]] == ["| base", "| without hflip"]
    assert main(["verify", "--quick", "--log_dir", str(path.parent / "runs")]) == 0


@pytest.mark.slow
def test_what_is_kept_is_whole_and_replaces_nothing(fit: Fit, workdir: Path, capsys) -> None:
    target = workdir / "kept"
    assert kept.main(["run", "--kept", str(target)]) == 2
    assert "no version of the run 'run' in lightning_logs is completed" in capsys.readouterr().err
    assert fit(name="best_tiny") == 0
    for _ in range(2):  # once more changes nothing
        assert kept.main(["best_tiny", "--kept", str(target)]) == 0
    assert {p.name for p in (target / "best_tiny" / "version_0").iterdir()} == {
        *("run.json", "config.yaml", "metrics.csv", "test_predictions.npz")
    }
    assert "| `tiny` | test_resnet" in capsys.readouterr().out
    shutil.rmtree("lightning_logs/best_tiny")
    shutil.rmtree("checkpoints")
    shutil.copytree(target, "lightning_logs", dirs_exist_ok=True)  # another machine goes on with more seeds
    assert fit("--seeds", "2", "--resume", "true", name="best_tiny") == 0
    assert "lightning_logs/best_tiny/version_0 is done already" in capsys.readouterr().out
    assert read_record(Path("lightning_logs/best_tiny/version_1"))["seed"] == 1
    shutil.rmtree("lightning_logs/best_tiny")
    shutil.rmtree("checkpoints")
    assert fit("--seed_everything", "7", name="best_tiny") == 0
    assert kept.main(["best_tiny", "--kept", str(target)]) == 2
    assert "is another run than" in capsys.readouterr().err
