"""One flipped bit in a file of a run, a record made by hand, a full disk of logs: told by every command that reads."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fashion_tl.cli import main
from fashion_tl.records.record import read_record

from .conftest import Fit
from .faults import faults

pytestmark = pytest.mark.slow
LOGS, CHECKPOINTS = Path("lightning_logs/run/version_0"), Path("checkpoints/run/version_0")
SMALL = (
    *("--data.source", "SyntheticGarments", "--data.source.num_train", "120", "--model", "ScratchClassifier"),
    *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a completed run."""
    folder = tmp_path_factory.mktemp("whole")
    flags = ("--log_dir", str(folder / "lightning_logs"), "--checkpoint_dir", str(folder / "checkpoints"))
    assert main(["fit", *SMALL, *flags]) == 0
    return folder


@pytest.fixture
def damaged(whole: Path, workdir: Path, capsys: Any) -> Callable[[Path], None]:
    """Flip a bit in the middle of a file of a copy of the run, which lies in the working directory."""
    shutil.copytree(whole, workdir, dirs_exist_ok=True)
    capsys.readouterr()

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    return flip


@pytest.mark.parametrize("file", ["config.yaml", "metrics.csv", "test_predictions.npz"])
@pytest.mark.thorough(keep=1)
def test_a_report_names_the_damaged_file_and_goes_on(damaged: Callable[[Path], None], capsys: Any, file: str) -> None:
    damaged(LOGS / file)
    assert main(["compare"]) == 0
    page = Path("reports/index.html").read_text(encoding="utf-8")
    assert f"{file} is damaged: it is not the file whose checksum run.json holds" in page


def test_a_damaged_record_is_left_out_of_what_lists_runs(damaged: Callable[[Path], None], capsys: Any) -> None:
    shutil.copytree("lightning_logs/run", "lightning_logs/other")
    damaged(LOGS / "run.json")
    for verb in ("runs", "compare"):
        assert main([verb]) == 0
        said = capsys.readouterr()
        assert f"{LOGS}/run.json is damaged" in said.err
        assert ("other" in said.out) or ("1 run compared" in said.out)


@pytest.mark.parametrize("file", [LOGS / "config.yaml", LOGS / "run.json", LOGS / "test_predictions.npz"])
def test_an_analysis_refuses_a_run_with_a_damaged_file(
    damaged: Callable[[Path], None], capsys: Any, file: Path
) -> None:
    damaged(file)
    assert main(["diagnose", str(LOGS)]) == 2
    error = capsys.readouterr().err
    assert f"{file.name} is damaged" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "{}", "a.png"),
        ("diagnose", str(LOGS)),
        ("export", "{}", "exported"),
        ("test", "-c", str(LOGS / "config.yaml"), "--ckpt_path", "{}"),
        ("fit", *SMALL, "--name", "next", "--ckpt_path", "{}"),
    ],
    ids=lambda command: command[0],
)
def test_a_damaged_checkpoint_is_refused_by_every_verb(
    damaged: Callable[[Path], None], capsys: Any, command: tuple[str, ...]
) -> None:
    damaged(CHECKPOINTS / "best.ckpt")
    before = sorted(Path().rglob("*"))
    from PIL import Image

    Image.new("L", (28, 28)).save("a.png")
    assert main([part.format(CHECKPOINTS / "best.ckpt") for part in command]) == 2
    error = capsys.readouterr().err
    assert "best.ckpt cannot be read as a checkpoint: it is damaged, its checksum is wrong" in error
    assert len(error.splitlines()) == 1
    assert sorted(set(Path().rglob("*")) - {Path("a.png")}) == before


@pytest.mark.parametrize(
    "change",
    [
        {"status": 3},
        {"test": 5},
        {"test": {"accuracy": "much"}},
        {"time": []},
        {"time": {"epoch_seconds": 3}},
        {"model": {"phases": [1]}},
        {"model": {"phases": None, "parameters": 1.5}},
        {"time": {"epoch_seconds": None, "fit_seconds": True}},
        {"model": {"phases": [{"trained_parameters": None}], "parameters": "all"}},
        {"data": [1]},
        {"files": "none"},
        {"status": None},
    ],
    ids=str,
)
def test_a_record_with_wrong_types_is_damaged(
    damaged: Callable[[Path], None], capsys: Any, change: dict[str, Any]
) -> None:
    record = json.loads((LOGS / "run.json").read_text())
    del record["sha256"]
    (LOGS / "run.json").write_text(json.dumps({**record, **change}))
    for command in (("runs",), ("compare",), ("diagnose", str(LOGS)), ("fit", *SMALL, "--model.init_from", "run")):
        status = main(list(command))
        error = capsys.readouterr().err
        assert status in (0, 2)
        assert "Traceback" not in error
        if command[0] in ("runs", "diagnose"):
            assert "run.json is damaged" in error


@pytest.mark.parametrize("n", [3, 14, 24])
@pytest.mark.thorough(keep=1)
def test_a_full_disk_of_logs_ends_a_run_with_one_message_and_the_command_to_go_on(
    fit: Fit, workdir: Path, capsys: Any, n: int
) -> None:
    with faults(workdir / "lightning_logs", "write", n):
        assert fit("--cache", "off", classifier="ScratchClassifier", epochs=3) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "lightning_logs/run/version_0" in errors[0]
    assert "the disk is full" in errors[0]
    assert len(said.err.splitlines()) <= 3
    assert "Traceback" not in said.err
    if not (CHECKPOINTS / "last.ckpt").exists():
        assert n == 3
        return
    command = shlex.split(said.out.partition("To go on: fashion-tl ")[2].splitlines()[0])
    assert main(command) == 0
    assert read_record(LOGS)["status"] == "completed"


def test_an_export_to_a_full_disk_leaves_nothing(fit: Fit, workdir: Path, capsys: Any) -> None:
    assert fit() == 0
    capsys.readouterr()
    for kind in ("write", "fsync", "rename"):
        with faults(workdir, kind, 1):
            assert main(["export", str(CHECKPOINTS / "best.ckpt"), "exported"]) == 2
        error = capsys.readouterr().err
        assert "exported" in error
        assert len(error.splitlines()) == 1
        assert sorted(p.name for p in workdir.iterdir()) == ["checkpoints", "lightning_logs"]
    assert main(["export", str(CHECKPOINTS / "best.ckpt"), "exported"]) == 0
