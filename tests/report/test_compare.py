"""The verb: the exact files, whole or not at all, in time, without torch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fashion_tl.errors import UserError
from fashion_tl.report import compare as module
from fashion_tl.report.compare import compare, write_report

PLOTS = (
    *("loss_by_epoch", "loss_by_seconds", "accuracy_by_epoch", "accuracy_by_seconds", "accuracy", "macro_f1"),
    *("accuracy_against_seconds", "accuracy_against_parameters", "reliability", "confusion", "filters"),
)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
def test_the_exact_files_of_a_report(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for draw, name in enumerate(("a", "b")):
        make.run(name, draw=draw, classes=["$x^2$", "<&>", "c", "d"])
    make.run("bad", change={"status": "failed", "reason": "because"})
    make.pictures()
    out = tmp_path / "deep" / "reports"
    compare(log_dir=make.logs, output=out)
    plots = [f"plots/fashion_mnist_{name}.{kind}" for name in PLOTS for kind in ("png", "svg")]
    assert files(out) == sorted(["comparison.csv", "comparison.md", "index.html", "manifest.json", *plots])
    printed = capsys.readouterr()
    assert printed.out == f"2 runs compared: {out / 'index.html'}\n"
    assert printed.err == "left out bad/version_0: failed: because\n"
    for name in plots:
        if name.endswith("png"):
            with Image.open(out / name) as image:
                assert min(image.size) > 100
        else:
            text = (out / name).read_text(encoding="utf-8")
            assert "<svg" in text
            assert "<title>" in text
    page = (out / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{name}"' in page for name in plots)
    assert page.count('<svg class="plot"') == 8 + 2  # curves, bars and costs, and a reliability diagram of each run
    assert "currentColor" in page
    assert all(f">{label}</text>" in page for label in ("validation", "training", "Pareto front"))  # legends
    # The same records give the same bytes.
    before = {name: (out / name).read_bytes() for name in files(out)}
    compare(log_dir=make.logs, output=out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before


@pytest.mark.slow
def test_an_old_report_is_replaced_and_other_files_stay(make: Any, tmp_path: Path) -> None:
    make.run("a")
    compare(log_dir=make.logs, output=tmp_path / "out")
    for name in ("mine.txt", "plots/mine.png", "plots/fashion_mnist_old.svg"):
        (tmp_path / "out" / name).write_text("mine", encoding="utf-8")
    make.change(make.logs / "a" / "version_0", data__source="folder")
    (make.logs / "a" / "version_0" / "filters.npz").unlink()
    compare(log_dir=make.logs, output=tmp_path / "out")
    plots = [f"plots/folder_{name}.{kind}" for name in PLOTS if name != "filters" for kind in ("png", "svg")]
    own = ["comparison.csv", "comparison.md", "index.html", "manifest.json", *plots]
    assert files(tmp_path / "out") == sorted([*own, "mine.txt", "plots/mine.png", "plots/fashion_mnist_old.svg"])


def test_stale_files_are_plots_of_the_manifest_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x", encoding="utf-8")
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    names = '["../secret", "plots/../../secret", "plots/a.png", 7]'
    (out / "manifest.json").write_text(f'{{"files": {names}}}', encoding="utf-8")
    (out / "plots" / "a.png").write_text("old", encoding="utf-8")
    write_report(out, {"index.html": "new"})
    assert (tmp_path / "secret").is_file()
    assert files(out) == ["index.html", "manifest.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_failed_write_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, which: int
) -> None:
    out = tmp_path / "out"
    write_report(out, {"index.html": "old", "plots/a.png": b"old"})
    original, calls = getattr(os, step), []

    def fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == which:
            raise OSError(28, "No space left on device")
        return original(*args)

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(out, {"plots/a.png": b"new", "index.html": "new"})
    monkeypatch.undo()
    assert files(out) == ["index.html", "manifest.json", "plots/a.png"]
    assert (out / "index.html").read_text(encoding="utf-8") == "old"
    assert (out / "plots" / "a.png").read_bytes() == b"old"


def test_a_failure_leaves_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        write_report(tmp_path / "out", {"index.html": "x"})
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match=r"--output .* cannot be written"):
            write_report(output, {"index.html": "x"})
    (tmp_path / "out" / "index.html").mkdir(parents=True)
    with pytest.raises(UserError, match=r"index\.html is a folder"):
        write_report(tmp_path / "out", {"index.html": "x", "a": "x"})
    assert files(tmp_path / "out") == []
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "plots").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"plots is not a folder"):
        write_report(tmp_path / "flat", {"index.html": "x", "plots/a.png": b"x"})
    assert files(tmp_path / "flat") == ["plots"]


def test_an_output_in_whose_place_a_file_lies_is_told_before_any_record_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"--output .*file/report cannot be written: .*file is not a folder"):
        compare(output=tmp_path / "file" / "report", log_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["index.html", "manifest.json", "plots/a.png"])
def test_files_of_others_are_not_replaced(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"name": "my page"}', encoding="utf-8")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{name} is there, and no report wrote it. Remove it"):
            write_report(out, {"index.html": "new", "plots/a.png": b"new"})
        assert files(out) == [name]
    (out / name).unlink()
    write_report(out, {"index.html": "new", "plots/a.png": b"new"})
    write_report(out, {"index.html": "newer", "plots/a.png": b"newer"})


def test_a_report_that_was_cut_short_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, original = tmp_path / "out", Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target == out / "index.html":
            raise OSError(28, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(OSError, match="No space left"):
        write_report(out, {"plots/a.png": b"old", "index.html": "old"})
    monkeypatch.undo()
    assert files(out) == ["manifest.json", "plots/a.png"]
    write_report(out, {"plots/b.png": b"new", "index.html": "new"})
    assert files(out) == ["index.html", "manifest.json", "plots/b.png"]


def test_disagreement_is_printed(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make.change(make.run("a"), test__accuracy=0.5)
    monkeypatch.setattr(module, "charts", lambda *_: iter(()))
    compare(log_dir=make.logs, output=tmp_path / "out")
    assert "WARNING a: run.json disagrees with test_predictions.npz" in capsys.readouterr().err


def test_text_that_cannot_be_encoded(make: Any, tmp_path: Path) -> None:
    make.run("a", classes=["\ud800", "\x00", "b", "😀"], change={"model.architecture": "\ud800x"})
    make.run("b", draw=1, classes=["\ud800", "\x00", "b", "😀"])
    compare(log_dir=make.logs, output=tmp_path / "out")
    assert "😀" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.thorough
def test_many_classes(make: Any, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(60)]
    for draw, name in enumerate("ab"):
        make.run(name, draw=draw, images=600, classes=names)
    compare(log_dir=make.logs, output=tmp_path / "out")
    assert (tmp_path / "out" / "index.html").stat().st_size < 2_000_000


@pytest.mark.slow
@pytest.mark.thorough
def test_the_time_grows_with_the_runs_and_no_faster(make: Any, tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(10)]
    for draw in range(6):
        make.run(f"run{draw}", draw=draw, skill=1 + draw / 4, images=10_000, classes=names, epochs=20)
    make.pictures(images=10_000, shape=(28, 28), classes=10)

    def seconds(runs: list[str]) -> float:
        began = time.process_time()
        compare(*runs, log_dir=make.logs, output=tmp_path / str(len(runs)))
        return time.process_time() - began

    two, six = seconds(["run0", "run1"]), seconds([])
    assert six < 4 * two  # 3 if each run took the same; the speed of the machine is in both
    assert (tmp_path / "0" / "index.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_neither_torch_nor_lightning_is_imported(make: Any, tmp_path: Path) -> None:
    make.run("a")
    program = (
        "import sys; from pathlib import Path; from fashion_tl.report.compare import compare; "
        f"compare(log_dir=Path({str(make.logs)!r}), output=Path({str(tmp_path / 'out')!r})); "
        "print([m for m in ('torch', 'torchvision', 'lightning', 'sklearn', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_curves_have_gaps_where_values_are_missing(make: Any) -> None:
    from fashion_tl.report.charts import clock
    from fashion_tl.report.figures import Entry
    from fashion_tl.report.run_files import open_run, read_results

    folder = make.run()
    path = folder / "metrics.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].rpartition(",")[0] + ",", lines[3]]), encoding="utf-8")
    run = open_run(folder)
    read_results(run)
    seconds = clock(Entry(run, 0, None))
    assert seconds is not None
    assert seconds[0] == 10.5 + 0.5
    assert np.isnan(seconds[1:]).all()
