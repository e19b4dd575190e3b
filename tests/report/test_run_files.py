"""Files of a run: what is damaged is a gap with its reason, and the rest is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.errors import UserError
from fashion_tl.plain_text import flatten
from fashion_tl.records.record import CONFIG, METRICS, PREDICTIONS
from fashion_tl.report.run_files import FILTERS, Run, open_run, read_results


def read(folder: Path) -> Run:
    run = open_run(folder)
    read_results(run)
    return run


def test_a_whole_record(make: Any) -> None:
    folder = make.run("phase1", 3, images=20)
    run = read(folder)
    assert run.gaps == {}
    assert (run.name, run.version, run.label) == ("phase1", "3", "phase1")
    labels, logits = make.logits(folder)
    assert run.predictions is not None
    assert run.filters is not None
    assert run.predictions.labels.tolist() == labels.tolist()
    assert run.predictions.logits.tolist() == logits.tolist()
    assert run.history["epoch"].tolist() == [0, 1, 2]
    assert run.history["val/loss"].tolist() == [2 / 1.5, 2 / 2.5, 2 / 3.5]
    assert run.filters.shape == (5, 3, 3, 3)
    assert run.config is not None
    assert run.config["model.init_args.lr"] == "0.003"


@pytest.mark.parametrize("name", [CONFIG, METRICS, PREDICTIONS, FILTERS])
def test_a_missing_file(make: Any, name: str) -> None:
    run = read(make.run(without=(name,)))
    assert run.gaps == {name: f"{name} is missing"}


@pytest.mark.parametrize("name", [CONFIG, METRICS, PREDICTIONS, FILTERS])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00 not this", b"PK\x03\x04 cut", b"[1, 2"])
def test_a_damaged_file(make: Any, name: str, content: bytes) -> None:
    folder = make.run()
    (folder / name).write_bytes(content)
    run = read(folder)
    assert list(run.gaps) == [name]
    assert run.gaps[name].startswith(f"{name} is damaged: ")
    assert (run.predictions is None) == (name == PREDICTIONS)
    assert (run.filters is None) == (name == FILTERS)
    assert (run.config is None) == (name == CONFIG)
    assert (not run.history) == (name == METRICS)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9, 0.99])
def test_predictions_that_were_cut_short(make: Any, share: float) -> None:
    folder = make.run()
    content = (folder / PREDICTIONS).read_bytes()
    (folder / PREDICTIONS).write_bytes(content[: int(share * len(content))])
    assert read(folder).gaps[PREDICTIONS].startswith("test_predictions.npz is damaged")


def test_predictions_with_a_changed_byte(make: Any) -> None:
    folder = make.run()
    content = bytearray((folder / PREDICTIONS).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / PREDICTIONS).write_bytes(content)
    assert "is damaged" in read(folder).gaps[PREDICTIONS]


def _logits(value: float) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays["logits"].__setitem__((3, 1), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_logits(np.nan), "logits of 1 of 60 images are not finite"),
        (_logits(-np.inf), "logits of 1 of 60 images are not finite"),
        (lambda a: a.update(logits=a["logits"][:, :3]), "logits of 3 classes where run.json names 4"),
        (lambda a: a.update(logits=a["logits"][:50]), "do not go together"),
        (lambda a: a.update(label=a["label"] + 1), "a label is no class"),
        (lambda a: a.update(label=a["label"] - 1), "a label is no class"),
        (lambda a: a.update(label=a["label"].astype(float)), "whole numbers"),
        (lambda a: a.update(index=np.zeros(60, dtype=int)), "an image comes twice"),
        (lambda a: a.update({k: v[:0] for k, v in a.items()}), "do not go together"),
        (lambda a: a.pop("label"), "holds no label"),
    ],
)
def test_predictions_that_make_no_sense(make: Any, change: Callable[[dict[str, Any]], None], message: str) -> None:
    folder = make.run()
    with np.load(folder / PREDICTIONS) as file:
        arrays = {name: file[name].copy() for name in file}
    change(arrays)
    np.savez(folder / PREDICTIONS, **arrays)
    run = read(folder)
    assert run.predictions is None
    assert message in run.gaps[PREDICTIONS]


def test_pickled_predictions_are_not_loaded(make: Any) -> None:
    folder = make.run()
    np.savez(folder / PREDICTIONS, index=np.array([{}], dtype=object), label=np.zeros(1, int), logits=np.zeros((1, 4)))
    assert "is damaged" in read(folder).gaps[PREDICTIONS]


def test_predictions_are_ordered_by_index(make: Any) -> None:
    folder = make.run()
    labels, logits = make.logits(folder)
    order = np.random.default_rng(0).permutation(60)
    np.savez(folder / PREDICTIONS, index=order, label=labels[order], logits=logits[order])
    run = read(folder)
    assert run.predictions is not None
    assert run.predictions.index.tolist() == list(range(60))
    assert run.predictions.labels.tolist() == labels.tolist()
    assert run.predictions.logits.tolist() == logits.tolist()


@pytest.mark.parametrize(
    ("row", "lost"), [("2,20,0.5", 4), ("2,20,nan,inf,,x,12.5", 4), ("2,20,0.5,0.7,0.57142857,0.6,12.5", 0)]
)
def test_missing_metrics_are_gaps_and_never_numbers(make: Any, row: str, lost: int) -> None:
    folder = make.run()
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    (folder / METRICS).write_text("\n".join([*lines[:3], row]), encoding="utf-8")
    run = read(folder)
    assert sum(int(np.isnan(values).sum()) for values in run.history.values()) == lost
    assert (METRICS in run.gaps) == bool(lost)
    if lost:
        assert f"{lost} of its values" in run.gaps[METRICS]


def test_metrics_with_fewer_epochs_than_the_record(make: Any) -> None:
    folder = make.run()
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    (folder / METRICS).write_text("\n".join(lines[:-1]), encoding="utf-8")
    assert read(folder).gaps[METRICS] == "it holds 2 epochs where run.json counts 3"


def test_filters_of_another_shape(make: Any) -> None:
    folder = make.run(filters=(5, 7))
    assert "holds no filters" in read(folder).gaps[FILTERS]


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\x00"])
def test_a_damaged_record_is_an_error(make: Any, content: str) -> None:
    folder = make.run()
    (folder / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        open_run(folder)


def test_entries_of_the_wrong_kind_are_missing(make: Any) -> None:
    folder = make.run()
    make.change(folder, model__lr="many", data__image_size=True, peak_memory_bytes=None)
    run = open_run(folder)
    assert run.number("model", "lr") is None
    assert run.number("data", "image_size") is None
    assert run.number("peak_memory_bytes") is None
    assert run.text("model", "lr") == "many"
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**record, "peak_memory_bytes": float("nan")}), encoding="utf-8")
    assert open_run(folder).number("peak_memory_bytes") is None


def test_flatten() -> None:
    nested = {"a": {"b": [1, None], "c": {}, 3: {"d": "x\ny"}}, "e": None, "f": True}
    assert flatten(nested) == {"a.b": "[1, null]", "a.c": "{}", "a.3.d": "x y", "e": "null", "f": "true"}
