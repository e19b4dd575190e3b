"""Tables of predictions: forms, row groups, what is refused."""

from __future__ import annotations

import csv
import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.inspection import prediction_files
from fashion_tl.inspection.prediction_files import check_class_names, check_output, opened_table

NAMES = ("a", "b, c", "größe")
ROWS = np.random.default_rng(0).dirichlet((0.1, 0.2, 0.3), 7)


def write(output: Path, rows: int = 7, batch: int = 2) -> None:
    with opened_table(output, NAMES) as add:
        for start in range(0, rows, batch):
            part = ROWS[start : min(start + batch, rows)]
            add([f"{start + place}.png" for place in range(len(part))], part)


@pytest.mark.parametrize("batch", [2, 3, 7])  # with 3 a row is left for the end
def test_row_groups_hold_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(prediction_files, "ROW_GROUP", 3)
    write(tmp_path / "a.parquet", batch=batch)
    with parquet.ParquetFile(tmp_path / "a.parquet") as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        found = file.read()
    assert max(sizes) == 3
    assert sum(sizes) == 7
    assert found.column_names == ["path", "class", *NAMES]
    assert found["path"].to_pylist() == [f"{row}.png" for row in range(7)]
    assert found["class"].to_pylist() == [NAMES[row.argmax()] for row in ROWS]
    values = np.stack([found[name].to_numpy() for name in NAMES], 1)
    np.testing.assert_array_equal(values, ROWS.round(6))


def test_a_table_may_have_no_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "a.parquet", rows=0)
    assert parquet.read_table(tmp_path / "a.parquet").shape == (0, 5)
    write(tmp_path / "a.csv", rows=0)
    assert (tmp_path / "a.csv").read_text("utf-8") == 'path,class,a,"b, c",größe\n'


def test_a_line_break_in_a_name_breaks_no_row(tmp_path: Path) -> None:
    names, paths = ("a\rb", "c\nd"), ["e\rf.png", 'g\r\n"h".png']
    with opened_table(tmp_path / "a.csv", names) as add:
        add(paths, ROWS[:2, :2])
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "class", *names]
    assert [row[0] for row in rows] == paths
    assert all(len(row) == 4 for row in rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_table_that_cannot_be_finished_leaves_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(prediction_files, "ROW_GROUP", 2)
    output = tmp_path / f"a.{suffix}"
    write(output, rows=1)
    former = output.read_bytes()
    sync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as raised:
        write(output)
    monkeypatch.setattr(os, "fsync", sync)
    assert raised.value.filename == str(output)
    with pytest.raises(ZeroDivisionError), opened_table(output, NAMES) as add:
        add([str(1 // len(output.name[:0]))], ROWS[:1])
    assert output.read_bytes() == former
    assert list(tmp_path.iterdir()) == [output]


def test_only_a_table_of_predictions_is_replaced(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    checkpoint, output = tmp_path / "best.ckpt", tmp_path / "a.parquet"
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        write(tmp_path / name, rows=1)
        check_output(tmp_path / name, checkpoint, [])
    parquet.write_table(pyarrow.table({"path": ["a.png"], "class": ["a"]}), output)  # labels of someone's own
    with pytest.raises(UserError, match="exists and is no table of predictions"):
        check_output(output, checkpoint, [])
    for name, text in {
        "labels.csv": "path,class,split\na.png,a,train\n",
        "numbers.csv": "path,class,size\na.png,a,0.5\n",
        "labels.jsonl": '{"path": "a.png", "class": "a"}\n',
        "list.jsonl": '{"path": "a.png", "class": "a", "probabilities": ["a"]}\n{',
        "quotes.csv": 'path,class,"a\n',
        "odd.csv": "path,class,a\n\x00",
        "truth.csv": "path,class,cat,dog\na.png,cat,1,0\n",
        "truths.csv": "path,class,cat,dog\na.png,cat,1.000000,1.000000\n",
        "other.csv": "path,class,cat,dog\na.png,cat,0.300000,0.700000\n",
        "remark.csv": "path,class,cat,dog\na.png,cat,0.700000,0.300000\nb.png,cat,0.700000,0.300000,look again\n",
        "truth.jsonl": '{"path": "a.png", "class": "a", "probabilities": {"a": 1, "b": 0}}\n',
        "second.jsonl": '{"path": "a.png", "class": "a", "probabilities": {"a": 1.0}}\n{"path": "b.png"}\n',
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="exists and is no table of predictions"):
            check_output(tmp_path / name, checkpoint, [])
    output.write_bytes(b"PAR1, or so")
    with pytest.raises(UserError, match="exists and is no table of predictions"):
        check_output(output, checkpoint, [])


def test_a_heading_alone_is_replaced_if_it_is_of_these_classes(tmp_path: Path) -> None:
    output = tmp_path / "a.csv"
    write(output, rows=0)
    check_output(output, tmp_path / "best.ckpt", [])
    check_class_names(output, NAMES)
    with pytest.raises(UserError, match="exists and is no table of predictions"):
        check_class_names(output, ["split"])
    write(output, rows=1)
    check_class_names(output, ["split"])  # its rows say that it is one


def test_a_folder_is_refused_before_any_work_and_a_link_stays_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder\. Name a file, such as .*predictions\.csv"):
        check_output(tmp_path, tmp_path / "best.ckpt", [])
    for name in ("a.csv", "a.jsonl"):
        write(tmp_path / name, rows=1)
        link = tmp_path / f"link.{name}"
        link.symlink_to(name)
        check_output(link, tmp_path / "best.ckpt", [])
        write(link, rows=3)
        assert link.is_symlink()
        assert len((tmp_path / name).read_text().splitlines()) == 3 + name.endswith("csv")


def test_what_parquet_cannot_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    output = tmp_path / "a.parquet"
    odd = Path(os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(UserError, match=r"UTF-8, 'caf\\udce9.png' is not"):
        check_output(output, tmp_path / "best.ckpt", [odd])
    check_output(tmp_path / "a.csv", tmp_path / "best.ckpt", [odd])


@pytest.mark.parametrize("name", ["a.csv", "a", "a.parquet", None])
def test_names_of_classes_that_are_columns_already_are_refused(tmp_path: Path, name: str | None) -> None:
    output = None if name is None else tmp_path / name
    with pytest.raises(UserError, match=r"two columns would be named 'class'.* --output \S*\.jsonl\.$"):
        check_class_names(output, ["class", "b"])
    check_class_names(output, NAMES)
    check_class_names(tmp_path / "a.jsonl", ["class", "b"])


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the library `pyarrow`: pip install 'fashion-tl\[hub\]'"):
        check_output(tmp_path / "a.PARQUET", tmp_path / "best.ckpt", [])
    check_output(tmp_path / "a.csv", tmp_path / "best.ckpt", [])
