"""``verify``: what was changed by hand in a run is named, however well its checksums were written again."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.data import file_index, image_folder
from fashion_tl.errors import UserError
from fashion_tl.files import sha256, write_bytes
from fashion_tl.inspection.verify import verify
from fashion_tl.metrics.metrics import summarise
from fashion_tl.records.record import RunPaths, paths_of, read_record, write_record
from fashion_tl.records.verify import DIFFERS, HOLDS, UNKNOWN, Check
from fashion_tl.training.checkpoints import load_checkpoint, packed

from ..conftest import Fit

pytestmark = pytest.mark.slow
Output = pytest.CaptureFixture[str]
MODEL = ("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two phases, of which the first stages are frozen throughout, and one that starts from it."""
    folder = tmp_path_factory.mktemp("verify")
    shared = [
        *("--log_dir", str(folder / "lightning_logs"), "--checkpoint_dir", str(folder / "checkpoints")),
        *("--data.source", "SyntheticGarments", "--data.source.num_train", "240", "--data.batch_size", "32"),
        *("--data.image_size", "32", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        *MODEL,
    ]
    two = ("--model.train", "{0: head, 1: 1}", "--trainer.max_epochs", "2", "--model.lr", "0.01")
    start = ("--model.init_from", "run", "--model.train", "head", "--trainer.max_epochs", "1")
    assert main(["fit", "--name", "run", *shared, *two]) == 0
    assert main(["fit", "--name", "next", *shared, *start]) == 0
    return folder


@pytest.fixture
def run(whole: Path, workdir: Path) -> RunPaths:
    """A copy of the first run, in the working directory."""
    for name in ("lightning_logs", "checkpoints"):
        shutil.copytree(whole / name, workdir / name)
    return paths_of(workdir / "lightning_logs", workdir / "checkpoints", "run", 0)


def checks(paths: RunPaths, **options: Any) -> dict[str, Check]:
    """Verify a run, whether it holds or not, and return its checks by what was checked."""
    from fashion_tl.inspection import verify as verb

    places = (paths.logs.parent.parent, paths.checkpoints.parent.parent)
    quick = bool(options.get("quick"))
    return {check.what: check for check in verb._checks(paths, quick, *places, options.get("root"), 500)}


def wrong(found: dict[str, Check]) -> set[str]:
    return {what for what, check in found.items() if check.result == DIFFERS}


def change_predictions(paths: RunPaths, change: Callable[[dict[str, Any]], None], told: bool = False) -> None:
    """Change the recorded predictions by hand, and write all checksums again; figures too, if they are told."""
    path, record = paths.logs / "test_predictions.npz", read_record(paths.logs)
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez_compressed(path, **arrays)
    if told:
        record["test"] = summarise(arrays["logits"], arrays["label"], record["data"]["class_names"])
    write_record(paths.logs, record)


def change_checkpoint(paths: RunPaths, change: Callable[[dict[str, Any]], None], told: bool = True) -> None:
    """Change the checkpoint by hand, with a checksum that is right, and have the record name the new file."""
    checkpoint = load_checkpoint(paths.best)
    change(checkpoint)
    write_bytes(paths.best, packed(checkpoint))
    if told:
        write_record(paths.logs, {**read_record(paths.logs), "checkpoint": sha256(paths.best)})


# What holds


def test_a_run_as_it_was_left_holds(run: RunPaths, capsys: Output) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "run version 0\n" in out
    assert "next version 0\n" in out
    assert DIFFERS not in out
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    for name in ("run", "next"):
        found = checks(paths_of(run.logs.parent.parent, run.checkpoints.parent.parent, name, 0))
        assert {what for what, check in found.items() if check.result == UNKNOWN} <= {"freeze certificate"}
        assert {"test figures", "best epoch", "times", "checkpoint", "configuration"} <= found.keys()
        assert {"starting weights", "frozen weights", "data", "split", "labels", "predictions"} <= found.keys()
    told = found["frozen weights"].told
    assert told.startswith(f"{int(told.split()[0])} of "), told  # the head alone trains: all of the backbone stayed
    assert int(told.split()[0]) > 20


def test_runs_of_the_same_images_load_them_once(run: RunPaths, loads: list[object]) -> None:
    assert main(["verify", "run", "next"]) == 0
    assert len(loads) == 1


def test_the_files_alone(run: RunPaths, capsys: Output) -> None:
    assert main(["verify", "run", "next", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "predictions:" not in out
    assert f"{HOLDS:17} test figures" in out


def test_what_is_not_at_hand_is_told_and_no_fault(run: RunPaths, capsys: Output) -> None:
    run.best.unlink()
    assert main(["verify", str(run.logs)]) == 0
    out = capsys.readouterr().out
    assert f"{UNKNOWN} best.ckpt: {run.best.relative_to(Path.cwd())} is not there" in out
    assert f"{UNKNOWN} predictions: there is no checkpoint" in out


# What was changed by hand


def test_a_frozen_weight(run: RunPaths, capsys: Output) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["network.backbone.conv1.0.weight"][0, 0, 0, 0] += 1e-6

    change_checkpoint(run, change)
    found = checks(run)
    assert wrong(found) == {"frozen weights"}  # too little for the predictions to tell
    assert "stage stem: backbone.conv1.0.weight is not what the run started from" in found["frozen weights"].told
    assert main(["verify", "run"]) == 2
    said = capsys.readouterr()
    assert "1 of " in said.err
    assert "run version 0: frozen weights" in said.err


def test_a_frozen_buffer(run: RunPaths) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        name = next(name for name in checkpoint["state_dict"] if name.endswith("bn1.running_mean"))
        checkpoint["state_dict"][name] += 1e-6

    change_checkpoint(run, change)
    assert "running_mean is not what the run started from" in checks(run)["frozen weights"].told


def test_a_trained_weight(run: RunPaths) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["network.head.linear.bias"][0] += 0.5

    change_checkpoint(run, change)
    found = checks(run)
    assert wrong(found) == {"predictions"}
    assert "logits differ by 0.5" in found["predictions"].told


def test_a_checkpoint_whose_logits_are_no_numbers(run: RunPaths) -> None:
    def change(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["network.head.linear.bias"][0] = float("nan")

    change_checkpoint(run, change)
    found = checks(run)
    assert "predictions" in wrong(found)
    assert "logits differ by nan" in found["predictions"].told


def test_a_checkpoint_that_is_not_the_one_tested(run: RunPaths) -> None:
    change_checkpoint(run, lambda checkpoint: checkpoint.update(global_step=3), told=False)
    assert wrong(checks(run, quick=True)) == {"best.ckpt"}


def test_a_damaged_checkpoint(run: RunPaths) -> None:
    content = bytearray(run.best.read_bytes())
    content[len(content) // 2] ^= 4
    run.best.write_bytes(content)
    found = checks(run)
    assert wrong(found) == {"best.ckpt", "checkpoint"}
    assert "its checksum is wrong" in found["checkpoint"].told


def test_a_prediction(run: RunPaths) -> None:
    change_predictions(run, lambda arrays: arrays["logits"].__setitem__((5, 2), arrays["logits"][5, 2] + 3))
    found = checks(run)
    assert {"test figures", "predictions"} == wrong(found)
    assert "loss: recorded" in found["test figures"].told
    assert found["predictions"].told.startswith("test image 5: logits differ by 3")


def test_a_prediction_and_its_figures(run: RunPaths) -> None:
    change_predictions(run, lambda arrays: arrays["logits"].__setitem__((5, 2), 30.0), told=True)
    assert wrong(checks(run, quick=True)) == set()
    assert wrong(checks(run)) == {"predictions"}


def test_a_label(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other labels are of other images: there are no logits to compare, so none are computed.
    monkeypatch.setattr("fashion_tl.inspection.verify_run.infer", lambda *_: pytest.fail("logits were computed"))

    def change(arrays: dict[str, Any]) -> None:
        arrays["label"][7] = (arrays["label"][7] + 1) % 10

    change_predictions(run, change, told=True)
    found = checks(run)
    assert wrong(found) == {"labels"}
    assert found["labels"].told.startswith("test image 7: recorded ")


def test_predictions_without_a_checksum_of_their_own_written_again(run: RunPaths) -> None:
    record = (run.logs / "run.json").read_bytes()
    change_predictions(run, lambda arrays: arrays["logits"].__setitem__((5, 2), 30.0))
    (run.logs / "run.json").write_bytes(record)
    assert wrong(checks(run, quick=True)) == {"test_predictions.npz"}


@pytest.mark.parametrize(
    ("way", "value", "named"),
    [
        (("test", "accuracy"), 0.99, "test figures"),
        (("test", "per_class", "Bag", "recall"), 0.123, "test figures"),
        (("test", "calibration_error"), 0.0, "test figures"),
        (("best", "epoch"), 7, "best epoch"),
        (("best", "value"), 0.5, "best epoch"),
        (("time", "fit_seconds"), 0.001, "times"),
        (("time", "epoch_seconds"), [1.0, 2.0], "times"),
        (("time", "images_per_second"), 1e6, "times"),
        (("data", "fingerprint"), "0123", "data"),
        (("data", "sizes", "train"), 7, "data"),
        (("data", "split_seed"), 3, "data"),
        (("model", "parameters"), 7, "checkpoint"),
        (("model", "lr"), 3.0, "configuration"),
        (("model", "weights_hash"), "0123", "checkpoint"),
        (("seed",), 5, "configuration"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
@pytest.mark.thorough(keep=5)
def test_a_figure_of_the_record(run: RunPaths, way: tuple[str, ...], value: Any, named: str) -> None:
    record = read_record(run.logs)
    place = record
    for key in way[:-1]:
        place = place[key]
    assert way[-1] in place
    place[way[-1]] = value
    write_record(run.logs, record)
    found = checks(run)
    assert named in wrong(found)
    assert way[-1] in found[named].told


def ways(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the ways to all entries of plain values that have names, sections too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(key, str):
            yield (*way, key)
        yield from ways(item, (*way, key))


def test_a_null_was_not_measured(run: RunPaths, capsys: Output) -> None:
    record = read_record(run.logs)
    record["certificate"] = [
        {
            "phase": 0,
            **{key: {"before": "aa", "after": "aa"} for key in ("frozen_weights", "frozen_buffers")},
            "same": True,
            "cache": {"used": True, "largest_difference": 1e-6},
        }
    ]
    record["test"]["per_class"] = {"Bag": record["test"]["per_class"]["Bag"]}  # one class is like another
    record["environment"]["libraries"] = {}
    tried = [way for way in ways(record) if way not in (("status",), ("sha256",))]
    assert ("test", "accuracy") in tried
    assert ("model", "phases", 0, "trained_parameters") in tried
    for way in tried:
        changed = json.loads(json.dumps(record))
        *path, last = way
        place = changed
        for key in path:
            place = place[key]
        place[last] = None
        write_record(run.logs, changed)
        assert wrong(checks(run, quick=True)) == set(), way
    capsys.readouterr()


def test_nulls_of_all_that_is_measured_keep_no_verb_from_its_work(run: RunPaths, capsys: Output) -> None:
    record = read_record(run.logs)
    settings = {"fold", "folds", "label_budget", "per_class", "averaging"}  # whose null says none
    for name in ("test", "time", "best", "model", "data"):
        for *path, last in ways(record[name]):
            place = record[name]
            for key in path:
                place = (place or {})[key]
            if last not in settings and not isinstance(place[last], dict | list):
                place[last] = None
    write_record(run.logs, record)
    assert wrong(checks(run)) == set()
    for verb in (["runs"], ["export", "run", "out", "--format", "safetensors"]):
        assert main(verb) == 0
    assert "not recorded" in Path("out/README.md").read_text()
    assert "run" in capsys.readouterr().out


def test_a_record_whose_checksum_is_not_written_again(run: RunPaths) -> None:
    path = run.logs / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    found = checks(run)
    assert wrong(found) == {"record"}
    with pytest.raises(UserError, match="run version 0: record"):
        verify("run", log_dir=Path("lightning_logs"), checkpoint_dir=Path("checkpoints"))


@pytest.mark.parametrize(
    ("old", "new", "named", "says"),
    [
        ("lr: 0.01", "lr: 0.02", "configuration", "lr"),
        ("seed_everything: 0", "seed_everything: 1", "configuration", "seed: recorded 0, found 1"),
        ("split_seed: 0", "split_seed: 1", "split", "train_images"),
        ("batch_norm: train", "batch_norm: eval", "configuration", "batch_norm"),
        ("num_train: 240", "num_train: 250", "data", "fingerprint"),
        ("max_epochs: 2", "max_epochs: two", "configuration", "does not run again"),
        ("monitor: val/accuracy", "monitor: val/loss", "configuration", "monitor: recorded val/accuracy"),
        ("precision: 32-true", "precision: bf16-mixed", "configuration", "precision: recorded 32-true"),
        ("batch_size: 32", "batch_size: 16", "settings", "data.batch_size: recorded 32, found 16"),
        ("limit_train_batches: null", "limit_train_batches: 1", "settings", "limit_train_batches: recorded null"),
        ("overfit_batches: 0.0", "overfit_batches: 1", "settings", "overfit_batches: recorded 0.0, found 1"),
        ("accumulate_grad_batches: 1", "accumulate_grad_batches: 2", "settings", "recorded 1, found 2"),
        ("gradient_clip_val: null", "gradient_clip_val: 1.0", "settings", "gradient_clip_val: recorded null"),
        ("eval_batch_size: 512", "eval_batch_size: 7", "settings", "eval_batch_size: recorded 512, found 7"),
        ("deterministic: null", "deterministic: true", "settings", "deterministic: recorded null, found true"),
        ("max_steps: -1", "max_steps: 3", "configuration", "max_steps: recorded None, found 3"),
        ("mix: null", "mix: {mixup: 0.2}", "settings", "mix: recorded null"),
        ("ema: null", "ema: 0.9", "configuration", "averaging: recorded None, found ema 0.9"),
        ("swa: null", "swa: 0.5", "configuration", "averaging: recorded None, found swa 0.5"),
        ("\npatience: null", "\npatience: 2", "settings", "patience: recorded null, found 2"),
    ],
)
@pytest.mark.thorough(keep=6)
def test_a_setting(run: RunPaths, old: str, new: str, named: str, says: str) -> None:
    path = run.logs / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert "config.yaml" in wrong(checks(run, quick=True))
    write_record(run.logs, read_record(run.logs))
    found = checks(run)
    assert named in wrong(found)
    assert says in found[named].told


def test_the_certificate(run: RunPaths) -> None:
    entry = {
        "phase": 0,
        "frozen_weights": {"before": "aa", "after": "aa"},
        "frozen_buffers": {"before": "bb", "after": "bb"},
        "same": True,
        "cache": {"used": True, "largest_difference": 1e-6},
    }
    record = read_record(run.logs)
    write_record(run.logs, {**record, "certificate": [entry]})
    found = checks(run, quick=True)["freeze certificate"]
    assert found.result == HOLDS
    assert "at most 1.0e-06" in found.told
    changed = {**entry, "phase": 1, "frozen_buffers": {"before": "bb", "after": "cc"}, "same": False}
    write_record(run.logs, {**record, "certificate": [entry, changed]})
    found = checks(run, quick=True)["freeze certificate"]
    assert found.result == DIFFERS
    assert found.told == "phase 2: frozen buffers were bb, then cc"


def test_members_of_a_result(run: RunPaths) -> None:
    members = [
        {"name": "run", "version": 0, "checkpoint": sha256(run.best)},
        {"name": "next", "version": 0, "checkpoint": "0123"},
        {"name": "gone", "version": 0, "checkpoint": "0123"},
    ]
    write_record(run.logs, {**read_record(run.logs), "kind": "ensemble", "members": members})
    found = checks(run, quick=True)
    results = [found[f"member {name} version 0"].result for name in ("run", "next", "gone")]
    assert results == [HOLDS, DIFFERS, UNKNOWN]


# What a user can get wrong


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("rum",), "unknown run 'rum'; did you mean 'run'?"),
        (("run", "--batch_size", "0"), "--batch_size is 0, allowed is 1 or more"),
        (("elsewhere/run/version_0",), "lies neither in"),
        (("--log_dir", "nowhere"), "no completed run in nowhere"),
        (("lightning_logs/run/version_7",), "run.json does not exist"),
    ],
)
def test_wrong_input(run: RunPaths, capsys: Output, args: tuple[str, ...], message: str) -> None:
    assert main(["verify", *args]) == 2
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert len(said.err.splitlines()) == 1


def test_a_run_that_is_not_completed(run: RunPaths, capsys: Output) -> None:
    record = read_record(run.logs)
    write_record(run.logs, {**record, "status": "interrupted"})
    assert main(["verify", str(run.logs)]) == 0
    assert "the run is not completed (its status is interrupted)" in capsys.readouterr().out
    json.loads((run.logs / "run.json").read_text())


def test_predictions_of_a_torn_archive(run: RunPaths) -> None:
    buffer = io.BytesIO()
    torch.save({}, buffer)
    (run.logs / "test_predictions.npz").write_bytes(buffer.getvalue()[:100])
    found = checks(run)
    assert "test_predictions.npz" in wrong(found)
    assert found["test figures"].result == UNKNOWN


def test_settings_that_are_not_at_their_defaults_hold_and_are_missed(fit: Fit, capsys: Output) -> None:
    given = ("--ema", "0.9", "--patience", "3", "--monitor", "val/loss", "--trainer.accumulate_grad_batches", "2")
    batches = ("--trainer.limit_train_batches", "0.5", "--data.mix", "{mixup: 0.2}", "--trainer.max_steps", "3")
    assert fit(*given, *batches, epochs=2) == 0
    assert main(["verify", "run"]) == 0, capsys.readouterr()
    paths = paths_of(Path("lightning_logs"), Path("checkpoints"), "run", 0)
    path, record = paths.logs / "config.yaml", read_record(paths.logs)
    text = path.read_text()
    for old, new, says in (
        ("ema: 0.9", "ema: null", "averaging: recorded ema 0.9, found None"),
        ("\npatience: 3", "\npatience: null", "patience: recorded 3, found null"),
        ("mixup: 0.2", "mixup: 0.3", "data.mix.mixup: recorded 0.2, found 0.3"),
        ("max_steps: 3", "max_steps: -1", "max_steps: recorded 3, found None"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        write_record(paths.logs, record)
        found = checks(paths)
        assert says in found["configuration"].told + found["settings"].told


# Runs that were stopped, and what went on from them


@pytest.mark.slow
def test_whatever_objective_and_however_combined_what_was_left_holds(fit: Fit, capsys: Output) -> None:
    split = ("--data.val_fraction", "0.3")
    taught = ("--model.terms", "{distillation: {teachers: a}, l2_sp: {}}", "--model.init_from", "a")
    assert fit(*split, "--model.objective", "focal", name="a") == 0
    assert fit(*split, *taught, name="b") == 0
    assert fit(*split, "--model.terms", "{auxiliary: {groups: {top: [Shirt, Coat]}}}", name="c") == 0
    made = {
        "mean": ("ensemble", "a", "b"),
        "stack": ("ensemble", "a", "b", "--method", "stack"),
        "greedy": ("ensemble", "a", "c", "--method", "greedy"),
        "views": ("ensemble", "a", "--tta", "hflip"),
        "soup": ("ensemble", "a", "b", "--method", "soup"),
        "path": ("interpolate", "a", "b"),
    }
    for name, arguments in made.items():
        assert main([*arguments, "--name", name]) == 0
    capsys.readouterr()
    for name in ("a", "b", "c", *made):
        assert main(["verify", name]) == 0, capsys.readouterr()


@pytest.mark.thorough
def test_runs_that_went_on_hold(fit: Fit, stop_at: Callable[..., None], capsys: Output) -> None:
    settings = ("--model.train", "{0: head, 1: 1}", "--model.batch_norm", "affine")
    stop_at(1, 1, KeyboardInterrupt())
    assert fit(*settings, epochs=3) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit(*settings, "--ckpt_path", "last", epochs=3) == 0
    assert fit(*settings, "--ckpt_path", "last", epochs=4) == 0  # a version of its own
    assert fit("--search", "{model.lr: [0.01, 0.001]}", name="searched") == 0
    capsys.readouterr()
    assert main(["verify"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("run ")] == ["run version 0", "run version 1"]
    assert DIFFERS not in out
    assert out.count(f"{HOLDS:17} frozen weights") == 3


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "a: &a [1, 1, 1]\n" + "".join(f"{i}: &b{i} [*a, *a, *a]\n" for i in range(9000)), "- 1", "\x00"],
)
@pytest.mark.thorough(keep=1)
def test_a_configuration_that_cannot_be_read_differs(run: RunPaths, text: str) -> None:
    (run.logs / "config.yaml").write_text(text)
    write_record(run.logs, read_record(run.logs))
    assert {"settings", "configuration"} <= wrong(checks(run))


def test_settings_that_were_changed_on_going_on_are_recorded_and_no_others_are_taken(
    fit: Fit, stop_at: Callable[..., None]
) -> None:
    stop_at(1, 0, KeyboardInterrupt())
    assert fit("--trainer.gradient_clip_val", "1.0", epochs=2) == 130
    stop_at(99, 0, KeyboardInterrupt())
    assert fit("--ckpt_path", "last", "--data.batch_size", "20", "--trainer.gradient_clip_val", "2.0", epochs=2) == 0
    paths = paths_of(Path("lightning_logs"), Path("checkpoints"), "run", 0)
    record = read_record(paths.logs)
    told = record["resumed"][0]["settings"]
    assert told["trainer.gradient_clip_val"] == ["1.0", "2.0"]
    assert told["data.batch_size"][1] == "20"
    assert not wrong(checks(paths))
    path = paths.logs / "config.yaml"
    path.write_text(path.read_text().replace("gradient_clip_val: 2.0", "gradient_clip_val: 3.0"))
    write_record(paths.logs, record)
    assert "gradient_clip_val: recorded " in checks(paths)["settings"].told


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("members", ["start"]),
        ("members", [{"name": "start", "version": "newest"}]),
        ("members", [{"name": "../start"}, 3]),
        ("certificate", ["same"]),
        ("certificate", [{"phase": "first"}]),
        ("best", {"monitor": "val/loss", "epoch": 0, "value": "low"}),
        ("resumed", [{"epoch": "last"}]),
        ("time", {"epoch_seconds": [1.0, 1.0], "fit_seconds": "long"}),
        ("data", {"class_names": 3}),
    ],
)
def test_an_entry_that_is_malformed_keeps_no_other_run_from_its_checks(
    run: RunPaths, capsys: Output, entry: str, value: Any
) -> None:
    write_record(run.logs, {**read_record(run.logs), entry: value})
    assert main(["verify", "next", "run", "next", "--quick"]) == 2
    assert main(["verify", "--quick"]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert said.out.count("next version 0\n") == 2
    assert said.out.count(DIFFERS) == 2


def test_files_that_an_index_knows_are_read_anew(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "INDEXED_FROM", 1)
    monkeypatch.setattr(image_folder, "memory_limit", lambda: 0)
    long_ago = 10**18
    for number in range(24):
        path = workdir / f"photos/{'cat' if number % 2 else 'dog'}/{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
        os.utime(path, ns=(long_ago, long_ago))
    source = ("--data.source", "ImageFolder", "--data.source.root", ".", "--data.source.folder", "photos")
    short = ("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0")
    assert (
        main(["fit", "--name", "run", *source, "--data.image_size", "8", "--model", "ScratchClassifier", *short]) == 0
    )
    paths = paths_of(workdir / "lightning_logs", workdir / "checkpoints", "run", 0)
    assert wrong(checks(paths)) == set()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(long_ago, long_ago))  # neither size nor time tells of it
    assert "data" in wrong(checks(paths))
