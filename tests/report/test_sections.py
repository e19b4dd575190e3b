"""Sections and seeds: what may be compared with what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fashion_tl.report.sections import Section, collect

OTHER = "fedcba9876543210"


def layout(logs: Path, *wanted: str) -> list[list[str]]:
    return [[run.label for run in section.runs] for section in collect(list(wanted), logs)[0]]


def seeds(section: Section, label: str) -> list[str]:
    return [f"{run.name}/{run.version}" for run in section.seeds[label]]


@pytest.mark.parametrize(
    ("change", "classes"),
    [
        ({"data.test_set": OTHER}, None),
        ({"environment.libraries.fashion_tl": "0.2.0"}, None),
        ({"environment.libraries.fashion_tl": "absent"}, None),
        ({"data.test_set": "absent"}, None),
        ({}, ["Été|*x*", "T-shirt/top", "<b>Bag</b> & 'co'", 'a$b$ "c"']),
    ],
)
def test_what_cannot_be_compared_has_a_section_of_its_own(
    make: Any, change: dict[str, Any], classes: list[str] | None
) -> None:
    for name in ("a", "c"):
        make.run(name)
    make.run("b", change=change | ({"data.fingerprint": "other"} if "data.test_set" in change else {}), classes=classes)
    assert layout(make.logs) == [["a", "c"], ["b"]]


def test_sections_have_names_of_their_own(make: Any) -> None:
    make.run("a")
    make.run("b", change={"data.test_set": OTHER})
    make.run("c", change={"data.test_set": "1" * 16, "data.source": "../<Folder>"})
    make.run("d", change={"data.test_set": "2" * 16, "data.source": None})
    sections, _ = collect([], make.logs)
    assert [section.slug for section in sections] == ["fashion_mnist", "fashion_mnist-2", "folder", "data-not-recorded"]


def test_an_older_record_joins_where_data_and_labels_are_the_same(make: Any) -> None:
    make.run("new")
    make.run("old", draw=1, change={"data.test_set": "absent"})
    make.run("older", draw=2, change={"data.test_set": "absent"}, images=50)
    make.run("oldest", draw=2, change={"data.test_set": "absent"}, without=("test_predictions.npz",))
    sections, _ = collect([], make.logs)
    assert [[run.label for run in section.runs] for section in sections] == [["new", "old"], ["older"], ["oldest"]]
    assert "names no test set" in sections[0].runs[1].notes[0]
    assert sections[0].runs[0].notes == []


def test_an_older_record_without_predictions_joins_nothing(make: Any) -> None:
    make.run("new", without=("test_predictions.npz",))
    make.run("old", change={"data.test_set": "absent"}, without=("test_predictions.npz",))
    assert layout(make.logs) == [["new"], ["old"]]


def test_older_records_are_compared_with_each_other(make: Any) -> None:
    for draw, name in enumerate("ab"):
        make.run(name, draw=draw, change={"data.test_set": "absent"})
    assert layout(make.logs) == [["a", "b"]]


def test_other_labels_on_the_same_test_set_are_left_out(make: Any) -> None:
    for draw, name in enumerate("abc"):
        make.run(name, draw=draw)
    folder = make.logs / "b" / "version_0"
    labels, logits = make.logits(folder)
    np.savez(folder / "test_predictions.npz", index=np.arange(60), label=labels[::-1], logits=logits)
    sections, left_out = collect([], make.logs)
    assert [[run.label for run in section.runs] for section in sections] == [["a", "c"]]
    assert [(item.run, "labels differ" in item.why) for item in left_out] == [("b", True)]


@pytest.mark.parametrize("part", ["a", "b"])
def test_a_run_that_was_tested_in_part_is_left_out(make: Any, part: str) -> None:
    for name in "ab":
        make.run(name, images=40 if name == part else 60, change={"data.sizes.test": 60})
    sections, left_out = collect([], make.logs)
    assert [[run.label for run in section.runs] for section in sections] == [["b" if part == "a" else "a"]]
    told = [(item.run, item.why) for item in left_out]
    assert told == [(part, "it was tested on 40 of 60 images (trainer.limit_test_batches)")]


def test_labels_of_runs(make: Any) -> None:
    make.run("a", 0)
    make.run("a", 3)
    make.run("b", 1)
    assert layout(make.logs, "a/version_0", "a/version_3", "b") == [["a v0", "a v3", "b"]]


def test_seeds_form_a_group_and_the_newest_represents_it(make: Any) -> None:
    for version in (0, 1, 2, 10):
        make.run("a", version, draw=version)
    make.run("b", 0)
    (section,), left_out = collect([], make.logs)
    assert [f"{run.name}/{run.version}" for run in section.runs] == ["a/10", "b/0"]
    assert seeds(section, "a") == ["a/10", "a/2", "a/1", "a/0"]
    assert seeds(section, "b") == ["b/0"]
    assert left_out == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"config": {"model.init_args.lr": 0.004}}, "the configuration differs (model.init_args.lr)"),
        ({"config": {"data.crop": 0.9}}, "the configuration differs (data.crop)"),
        ({"change": {"environment.libraries.fashion_tl": "0.0.9"}}, "the version of fashion_tl is another"),
        ({"change": {"data.test_set": OTHER}}, "the test set is another"),
        ({"change": {"data.class_names": ["a", "b", "c", "d"]}}, "the class names are others"),
        ({"change": {"data.fingerprint": "another"}}, "the data are others"),
        ({"change": {"model.weights_hash": "another"}}, "it started from other weights of the same name"),
        (
            {"config": {"model.init_args.init_from": "checkpoints/gone/version_0/best.ckpt"}},
            "it started from another run",
        ),
        (
            {"config": {"model.init_args.terms.distillation.teachers": ["checkpoints/gone/version_0/best.ckpt"]}},
            "it was taught by another run, which cannot be compared",
        ),
        ({"config": {"data.mix.pairs": [["shirt", "coat"]]}}, "the configuration differs (data.mix.pairs)"),
        ({"change": {"seed": 1}}, "its seed, 1, is that of a newer version"),
        ({"without": ("config.yaml",)}, "the configuration cannot be compared"),
        ({"without": ("test_predictions.npz",)}, "test_predictions.npz is missing"),
    ],
)
def test_what_is_no_seed_of_the_same_experiment(make: Any, options: dict[str, Any], reason: str) -> None:
    make.run("a", 0, draw=3)
    make.run("a", 1, draw=7, **options)
    make.run("a", 2, draw=1)
    (section,), left_out = collect([], make.logs)
    assert seeds(section, "a") == ["a/2", "a/0"]
    assert [item.run for item in left_out] == ["a, version 1"]
    assert left_out[0].why.startswith(f"version 2 is shown; here {reason}")


def test_incomplete_seeds_are_not_counted(make: Any) -> None:
    make.run("a", 0, draw=0)
    make.run("a", 1, draw=1, change={"status": "failed", "reason": "x"})
    make.run("a", 2, draw=2)
    (section,), left_out = collect([], make.logs)
    assert seeds(section, "a") == ["a/2", "a/0"]
    assert [item.run for item in left_out] == ["a/version_1"]


def test_versions_that_are_shown_themselves_are_not_told_of(make: Any) -> None:
    make.run("a", 0, config={"model.init_args.lr": 0.004})
    make.run("a", 1, draw=1)
    _, left_out = collect(["a/version_0", "a/version_1"], make.logs)
    assert left_out == []


def test_seeds_may_start_from_seeds_of_one_experiment(make: Any) -> None:
    for version, lr in enumerate((0.001, 0.001, 0.004)):
        make.run("first", version, draw=version, config={"model.init_args.lr": lr})
        start = {"model.init_args.init_from": f"checkpoints/first/version_{version}/best.ckpt"}
        make.run("second", version, draw=version + 3, config=start)
    (section,), left_out = collect(["second", "first/version_1"], make.logs)
    assert seeds(section, "second") == ["second/2"]
    assert "it started from another run: there the configuration differs (model.init_args.lr)" in left_out[0].why
    make.run("second", 3, draw=9, config={"model.init_args.init_from": "checkpoints/first/version_1/best.ckpt"})
    make.run("second", 4, draw=8, config={"model.init_args.init_from": "checkpoints/first/version_0/best.ckpt"})
    (section,), _ = collect(["second"], make.logs)
    assert seeds(section, "second") == ["second/4", "second/3", "second/1", "second/0"]


def test_seeds_may_be_taught_by_seeds_of_one_experiment(make: Any) -> None:
    teachers = "model.init_args.terms.distillation.teachers"
    for version, lr in enumerate((0.004, 0.001, 0.001)):
        make.run("first", version, draw=version, config={"model.init_args.lr": lr})
        named = [f"checkpoints/first/version_{number}/best.ckpt" for number in (2, version)]
        make.run("second", version, draw=version + 3, config={teachers: named})
    make.run("second", 3, draw=9, config={teachers: named[:1]})
    make.run("second", 4, draw=8, config={teachers: named})
    (section,), left_out = collect(["second"], make.logs)
    assert seeds(section, "second") == ["second/4", "second/2", "second/1"]
    assert [item.why.partition("; here ")[2] for item in left_out] == [
        "it was taught by another run, which cannot be compared",
        "it was taught by another run: there the configuration differs (model.init_args.lr)",
    ]
