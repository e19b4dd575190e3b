"""``ensemble`` and ``interpolate`` on small finished runs: figures, files, checkpoints, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fashion_tl.cli import main
from fashion_tl.files import read_json, sha256
from fashion_tl.inspection.inference import infer
from fashion_tl.inspection.layers import choose_target, find_targets
from fashion_tl.inspection.run import open_run
from fashion_tl.metrics.metrics import softmax
from fashion_tl.training.checkpoints import load_checkpoint

from .conftest import SCRATCH, TRANSFER, fit, found

pytestmark = pytest.mark.slow

Command = Callable[..., int]
INTERNALS = ("Traceback", "KeyError", "RuntimeError")


def record_of(folder: Path, name: str) -> dict[str, Any]:
    newest = sorted((folder / "lightning_logs" / name).glob("version_*"))[-1]
    content: dict[str, Any] = json.loads((newest / "run.json").read_text(encoding="utf-8"))
    return content


def logits_of(folder: Path, name: str, file: str = "test_predictions.npz") -> tuple[np.ndarray, np.ndarray]:
    newest = sorted((folder / "lightning_logs" / name).glob("version_*"))[-1]
    with np.load(newest / file) as arrays:
        return arrays["logits"], arrays["label"]


def checkpoint_of(folder: Path, name: str) -> dict[str, Any]:
    newest = sorted((folder / "checkpoints" / name).glob("version_*"))[-1]
    return load_checkpoint(newest / "best.ckpt")


def computed(folder: Path, name: str, part: str = "test") -> np.ndarray:
    """Compute the probabilities of a result from its checkpoint."""
    run = open_run(name, folder / "lightning_logs", folder / "checkpoints")
    return softmax(infer(run.module, run.data.in_order(part, 64))[0])


def test_the_mean_is_that_of_the_recorded_members(folder: Path, command: Command) -> None:
    before = found(folder)
    assert command("ensemble", "one", "two", "other", "--name", "mean") == 0
    new = {"run.json", "test_predictions.npz", "config.yaml"}
    expected = {f"lightning_logs/mean/version_0/{name}" for name in new} | {"checkpoints/mean/version_0/best.ckpt"}
    assert found(folder).keys() - before.keys() == expected
    logits, labels = logits_of(folder, "mean")
    members = [softmax(logits_of(folder, name)[0]) for name in ("one", "two", "other")]
    assert softmax(logits) == pytest.approx(np.mean(members, axis=0), abs=1e-12)
    record = record_of(folder, "mean")
    assert record["kind"] == "ensemble"
    assert record["command"] == "fashion-tl ensemble one two other --method mean --name mean"
    assert record["test"]["accuracy"] == pytest.approx((np.mean(members, axis=0).argmax(1) == labels).mean())
    assert [(one["name"], one["version"]) for one in record["members"]] == [("one", 0), ("two", 0), ("other", 0)]
    assert record["members"][1]["checkpoint"] == sha256(folder / "checkpoints" / "two" / "version_0" / "best.ckpt")
    assert record["data"]["test_set"] == record_of(folder, "one")["data"]["test_set"]
    assert record["model"]["parameters"] == sum(
        record_of(folder, name)["model"]["parameters"] for name in ("one", "two", "other")
    )


@pytest.mark.parametrize("method", ["mean", "greedy", "stack"])
@pytest.mark.thorough(keep=1)
def test_the_checkpoint_computes_what_the_record_holds(
    folder: Path, command: Command, calibrated: tuple[str, str], method: str
) -> None:
    args = [*calibrated, "--tta", "hflip", "shift:1", "--calibrated", "--method", method]
    assert command("ensemble", *args, "--name", f"all_{method}") == 0
    logits, _ = logits_of(folder, f"all_{method}")
    assert computed(folder, f"all_{method}") == pytest.approx(softmax(logits), abs=1e-5)
    views = record_of(folder, f"all_{method}")["chosen"]["views"]
    assert views.keys() == {"one version 0", "other version 0"}
    assert all(one["identity"] >= 1 for one in views.values())


def test_verify_knows_that_a_member_recorded_logits_in_half_precision(folder: Path, command: Command) -> None:
    fit("half", *TRANSFER, "--trainer.precision", "bf16-mixed")
    assert command("ensemble", "half", "other", "--name", "halves") == 0
    assert record_of(folder, "halves")["environment"]["precision"] == "bf16-mixed"
    assert command("verify", "halves") == 0


def test_views_are_chosen_where_they_lower_the_validation_loss(folder: Path, command: Command) -> None:
    assert command("ensemble", "two", "--tta", "shift:1", "--name", "views") == 0
    record = record_of(folder, "views")
    (views,) = record["chosen"]["views"].values()
    assert record["kind"] == "tta"
    run = open_run("two", folder / "lightning_logs", folder / "checkpoints")
    labels = run.data.splits["val"].labels.numpy()
    own, with_views = (
        -np.log(chances[np.arange(len(labels)), labels]).mean()
        for chances in (computed(folder, "two", "val"), computed(folder, "views", "val"))
    )
    assert with_views <= own + 1e-6
    if sum(views.values()) > 1:
        assert with_views < own


@pytest.mark.thorough
def test_predict_and_diagnose_take_an_ensemble(folder: Path, command: Command, capsys: Any) -> None:
    from PIL import Image

    assert command("ensemble", "one", "other", "--name", "whole") == 0
    Image.new("L", (28, 28), 90).save(folder / "grey.png")
    capsys.readouterr()
    chances = []
    for name in ("one", "other", "whole"):
        assert command("predict", f"checkpoints/{name}/version_0/best.ckpt", "grey.png") == 0
        row = list(csv.reader(capsys.readouterr().out.splitlines()))[1]
        chances.append(np.array(row[2:], dtype=float))
    assert chances[2] == pytest.approx((chances[0] + chances[1]) / 2, abs=2e-6)
    assert command("diagnose", "whole") == 0
    module = open_run("whole", folder / "lightning_logs", folder / "checkpoints").module
    target = choose_target(find_targets(module.network, 1, module.input_spec.image_size), module.network, None)
    assert target.name.startswith("members.1.network")  # heat maps are those of the last member
    assert command("ensemble", "whole", "two", "--name", "nested") == 0


def test_a_soup_is_never_worse_on_validation_and_is_a_checkpoint(folder: Path, command: Command) -> None:
    for bn in ("reestimate", "average"):
        assert command("ensemble", "one", "two", "start", "--method", "soup", "--bn", bn, "--name", "soup") == 0
        record = record_of(folder, "soup")
        best = 0.0
        for name in ("one", "two", "start"):
            logits, labels = logits_of(folder, name, "val_predictions.npz")
            best = max(best, float((logits.argmax(1) == labels).mean()))
        assert record["best"]["value"] >= best == record["chosen"]["best_member"]["accuracy"]
        run = open_run("soup", folder / "lightning_logs", folder / "checkpoints")
        labels = run.data.splits["val"].labels.numpy()
        assert record["best"]["value"] == pytest.approx((computed(folder, "soup", "val").argmax(1) == labels).mean())
        assert computed(folder, "soup") == pytest.approx(softmax(logits_of(folder, "soup")[0]), abs=1e-6)
        assert record["model"]["parameters"] == record_of(folder, "one")["model"]["parameters"]
        assert sum(one["weight"] for one in record["members"]) == pytest.approx(1)


def test_a_member_that_lowers_the_accuracy_is_left_out(folder: Path, command: Command, monkeypatch: Any) -> None:
    from fashion_tl.combine import averaging, soup

    monkeypatch.setattr(averaging.Averager, "score", lambda self, labels: averaging.Score(0.0, 9.0))
    assert command("ensemble", "one", "two", "--method", "soup", "--name", "lone") == 0
    kept = [one["name"] for one in record_of(folder, "lone")["members"] if one["weight"]]
    assert len(kept) == 1
    assert np.array_equal(logits_of(folder, "lone")[0], logits_of(folder, kept[0])[0])
    assert soup.greedy_soup.__doc__


@pytest.mark.parametrize(
    "verb", [("ensemble", "--method", "soup"), ("interpolate", "--steps", "3")], ids=lambda v: v[0]
)
def test_what_is_one_member_alone_has_its_hyperparameters(
    folder: Path, command: Command, monkeypatch: Any, verb: tuple[str, ...]
) -> None:
    from fashion_tl.combine import averaging

    monkeypatch.setattr(averaging.Averager, "score", lambda self, labels: averaging.Score(0.0, 9.0))
    for runs in (("start", "one"), ("one", "start")):
        assert command(verb[0], *runs, *verb[1:], "--name", "alone") == 0
        (kept,) = (one["name"] for one in record_of(folder, "alone")["members"] if one["weight"])
        expected, made = checkpoint_of(folder, kept), checkpoint_of(folder, "alone")
        assert made["hyper_parameters"] == expected["hyper_parameters"]
        assert made["state_dict"].keys() == expected["state_dict"].keys()
        assert all(torch.equal(value, expected["state_dict"][name]) for name, value in made["state_dict"].items())


@pytest.mark.parametrize("runs", [("one", "pulled"), ("pulled", "one")])
def test_a_penalty_of_training_is_no_part_of_a_soup(
    folder: Path, command: Command, monkeypatch: Any, runs: tuple[str, str]
) -> None:
    from fashion_tl.combine import averaging

    monkeypatch.setattr(averaging.Averager, "score", lambda self, labels: averaging.Score(1.0, 0.0))
    assert command("ensemble", *runs, "--method", "soup", "--name", "mixed") == 0
    assert computed(folder, "mixed") == pytest.approx(softmax(logits_of(folder, "mixed")[0]), abs=1e-6)
    made, first = checkpoint_of(folder, "mixed")["state_dict"], checkpoint_of(folder, runs[0])["state_dict"]
    assert made.keys() == first.keys()
    assert all(torch.equal(value, first[name]) for name, value in made.items() if name.startswith("objective."))


def test_a_soup_keeps_no_weights_of_training(folder: Path, command: Command) -> None:
    assert "fashion_tl_averaging" in checkpoint_of(folder, "moving")
    assert command("ensemble", "moving", "one", "--method", "soup", "--name", "moved") == 0
    training = {"fashion_tl_averaging", "fashion_tl_figures", "optimizer_states", "lr_schedulers", "callbacks", "loops"}
    assert checkpoint_of(folder, "moved").keys() & training == set()


def test_a_class_with_a_forward_of_its_own_is_combined_without_a_checkpoint(
    folder: Path, command: Command, monkeypatch: Any, capsys: Any
) -> None:
    (folder / "mirrored.py").write_text(
        "from fashion_tl import ScratchClassifier\n\n\n"
        "class Mirrored(ScratchClassifier):\n"
        "    def forward(self, images):\n"
        "        return super().forward(images.flip(3))\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    fit("mirrored", "--model", "mirrored.Mirrored", *SCRATCH[2:])
    capsys.readouterr()
    assert command("ensemble", "mirrored", "other", "--name", "looked") == 0
    said = capsys.readouterr()
    assert "it has no checkpoint: Mirrored computes its logits in a way of its own" in said.err
    assert not (folder / "checkpoints" / "looked").exists()
    for verb in (("diagnose", "looked"), ("export", "looked", "out", "--format", "torch"), ("robustness", "looked")):
        assert main([*verb]) == 2
        assert "looked version 0 combines mirrored, other, which are no single network" in capsys.readouterr().err
    members = [softmax(logits_of(folder, name)[0]) for name in ("mirrored", "other")]
    assert softmax(logits_of(folder, "looked")[0]) == pytest.approx(np.mean(members, axis=0), abs=1e-12)


def test_a_soup_starts_where_its_members_did(folder: Path, command: Command, capsys: Any) -> None:
    assert command("ensemble", "one", "two", "--method", "soup", "--name", "first") == 0
    capsys.readouterr()
    assert command("ensemble", "first", "two", "--method", "soup", "--name", "second") == 0
    assert "did not start from the same weights" not in capsys.readouterr().err
    assert command("ensemble", "other", "other2", "--method", "soup", "--name", "random") == 0
    capsys.readouterr()
    assert command("ensemble", "random", "other", "--method", "soup", "--name", "third") == 0
    said = capsys.readouterr().err
    assert "random version 0 from random version 0, other version 0 from random ones of seed 0" in said


def test_the_soup_of_all_is_their_mean(folder: Path, command: Command, monkeypatch: Any) -> None:
    from fashion_tl.combine import averaging

    monkeypatch.setattr(averaging.Averager, "score", lambda self, labels: averaging.Score(1.0, 0.0))
    assert command("ensemble", "one", "two", "--method", "soup", "--bn", "average", "--name", "both") == 0
    states = [
        torch.load(folder / "checkpoints" / name / "version_0" / "best.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two", "both")
    ]
    for name, value in states[2].items():
        if value.is_floating_point():
            mean = (states[0][name].double() + states[1][name].double()) / 2
            assert torch.allclose(value.double(), mean, atol=1e-6)


def test_init_from_takes_a_soup_by_name(folder: Path, command: Command) -> None:
    assert command("ensemble", "one", "two", "--method", "soup", "--name", "base") == 0
    trainer = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
    data = ["--data.source", "SyntheticGarments", "--data.source.num_train", "300", "--data.image_size", "32"]
    model = ["--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.init_from", "base"]
    assert command("fit", "--name", "after", *data, *trainer, *model) == 0


@pytest.mark.parametrize("bn", ["reestimate", "interpolate"])
def test_an_interpolation_ends_at_the_two_runs(folder: Path, command: Command, bn: str) -> None:
    name = f"wise_{bn}"
    assert command("interpolate", "start", "one", "--steps", "5", "--bn", bn, "--name", name) == 0
    logs = folder / "lightning_logs" / name / "version_0"
    figures = json.loads((logs / "analysis" / "interpolation.json").read_text(encoding="utf-8"))["figures"]["curve"]
    assert figures["share"] == [0, 0.25, 0.5, 0.75, 1]
    for end, run in ((0, "start"), (-1, "one")):
        logits, labels = logits_of(folder, run, "val_predictions.npz")
        assert figures["accuracy"][end] == (logits.argmax(1) == labels).mean()
    record = record_of(folder, name)
    assert record["best"]["value"] == max(figures["accuracy"])
    assert record["chosen"]["share"] == figures["chosen"]
    assert (record["chosen"]["estimated_norms"] > 0) == (bn == "reestimate")
    assert computed(folder, name) == pytest.approx(softmax(logits_of(folder, name)[0]), abs=1e-6)
    assert (logs / "analysis" / "interpolation-curve.png").is_file()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_chosen_end_has_the_logits_of_its_run(folder: Path, command: Command, monkeypatch: Any, share: float) -> None:
    from fashion_tl.combine import averaging, path

    scores = iter([averaging.Score(1 - share, 0.0), averaging.Score(share, 0.0)])
    monkeypatch.setattr(path, "score", lambda logits, labels: next(scores))
    monkeypatch.setattr(averaging.Averager, "score", lambda self, labels: averaging.Score(0.5, 0.0))
    assert command("interpolate", "start", "one", "--steps", "3", "--name", "end") == 0
    run = "one" if share else "start"
    assert np.array_equal(logits_of(folder, "end")[0], logits_of(folder, run)[0])
    states = [
        torch.load(sorted((folder / "checkpoints" / name).glob("version_*"))[-1] / "best.ckpt", weights_only=True)
        for name in (run, "end")
    ]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name])
    assert "optimizer_states" not in states[1]


REFUSED = {
    "one run": (["ensemble", "one"], "at least 2"),
    "no run": (["ensemble"], "at least 2"),
    "twice": (["ensemble", "one", "one"], "given twice"),
    "unknown": (["ensemble", "one", "twoo"], "did you mean"),
    "own name": (["ensemble", "one", "two", "--name", "two"], "name of one of the runs"),
    "a bad name": (["ensemble", "one", "two", "--name", "../x"], "a run's name is made of"),
    "other test images": (["ensemble", "one", "tested"], "tested on other images"),
    "other classes": (["ensemble", "one", "objects"], "tells other classes apart"),
    "other validation images": (["ensemble", "other", "split", "--method", "greedy"], "other validation images"),
    "other validation, soup": (["ensemble", "other", "split", "--method", "soup"], "other validation images"),
    "other layers": (["ensemble", "one", "other", "--method", "soup"], "not networks of the same layers"),
    "other layers, line": (["interpolate", "one", "other"], "not networks of the same layers"),
    "other alpha": (["ensemble", "adapted", "scaled", "--method", "soup"], "their lora differ"),
    "other alpha, line": (["interpolate", "adapted", "scaled"], "their lora differ"),
    "not calibrated": (["ensemble", "two", "start", "--calibrated"], "fashion-tl diagnose"),
    "soup of views": (["ensemble", "one", "two", "--method", "soup", "--tta", "hflip"], "takes no --tta"),
    "unknown method": (["ensemble", "one", "two", "--method", "meen"], "did you mean 'mean'"),
    "unknown view": (["ensemble", "one", "--tta", "turn"], "allowed are hflip and shift:N"),
    "too few steps": (["interpolate", "one", "two", "--steps", "2"], "--steps is 2"),
    "one end": (["interpolate", "one"], "required: END"),
    "too few images": (["interpolate", "one", "two", "--bn_images", "1"], "--bn_images is 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(folder: Path, command: Command, capsys: Any, case: str) -> None:
    args, told = REFUSED[case]
    before = found(folder)
    assert command(*args) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert err.startswith("fashion-tl: error: ")
    assert len(err.splitlines()) == 1
    assert not any(word in err for word in INTERNALS)
    assert out == ""
    assert found(folder) == before


def test_an_unfinished_run_is_refused(folder: Path, command: Command, capsys: Any) -> None:
    logs = folder / "lightning_logs" / "stopped" / "version_0"
    logs.mkdir(parents=True)
    (logs / "run.json").write_text('{"status": "interrupted"}', encoding="utf-8")
    before = found(folder)
    assert command("ensemble", "one", "stopped") == 2
    assert command("ensemble", "one", str(logs)) == 2
    assert "is not a completed run" in capsys.readouterr().err
    assert found(folder) == before


@pytest.mark.thorough
def test_nothing_is_chosen_on_images_that_a_stack_was_fitted_to(folder: Path, command: Command, capsys: Any) -> None:
    assert command("ensemble", "one", "two", "--method", "stack", "--name", "fitted") == 0
    assert command("ensemble", "fitted", "other", "--method", "greedy", "--name", "never") == 2
    assert "fitted to the validation images" in capsys.readouterr().err
    assert command("ensemble", "fitted", "other", "--name", "more") == 0
    assert "best" not in record_of(folder, "more")
    assert command("ensemble", "more", "start", "--method", "greedy", "--name", "never") == 2
    for name in ("fitted", "more"):
        assert command("diagnose", name) == 0
        sidecar = read_json(folder / "checkpoints" / name / "version_0" / "calibration.json")
        assert (sidecar["method"], sidecar["temperature"]) == ("unscaled", 1)
        assert "was fitted to the validation images" in sidecar["reason"]
        figures = read_json(folder / "lightning_logs" / name / "version_0" / "analysis" / "diagnose.json")["figures"]
        assert "thresholds" not in figures["errors"]
        assert figures["calibration"]["test"]["temperature"] == figures["calibration"]["test"]["as trained"]


def test_images_are_read_as_the_networks_take_them_also_where_the_first_run_has_no_weight(
    folder: Path, command: Command, monkeypatch: Any
) -> None:
    rng = np.random.default_rng(0)
    for place in range(60):
        path = folder / "photos" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 128 + 127 * (place % 2), (40, 40, 3), np.uint8)).save(path)
    photos = ("--data.source", "ImageFolder", "--data.source.root", "photos")
    for name, size in (("small", 24), ("large", 40)):
        fit(name, *SCRATCH, "--data.source.storage_size", str(size), source=photos)
    monkeypatch.setattr("fashion_tl.combine.mixing.greedy_weights", lambda *_, **__: [0, 1])
    assert command("ensemble", "small", "large", "--method", "greedy", "--name", "sizes") == 0
    record = record_of(folder, "sizes")
    assert [one["weight"] for one in record["members"]] == [0, 1]
    assert record["data"]["storage_size"] == 40
    assert computed(folder, "sizes") == pytest.approx(softmax(logits_of(folder, "sizes")[0]), abs=1e-5)
    assert command("verify", "sizes") == 0


def test_each_training_is_counted_once_and_said_where_it_weighs_twice(
    folder: Path, command: Command, capsys: Any
) -> None:
    assert command("ensemble", "one", "two", "--name", "pair") == 0
    assert "in more than one" not in capsys.readouterr().err
    assert command("ensemble", "pair", "two", "other", "--name", "nested") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "more than one" in line]
    assert told == ["note: two version 0 is in more than one of the members and counts in each"]
    each = {name: record_of(folder, name)["time"]["fit_seconds"] for name in ("one", "two", "other")}
    time = record_of(folder, "nested")["time"]
    assert time["trainings"] == {f"{name} version 0": seconds for name, seconds in each.items()}
    assert time["fit_seconds"] == pytest.approx(sum(each.values()))


def test_other_validation_images_do_not_keep_from_a_mean(folder: Path, command: Command) -> None:
    assert command("ensemble", "other", "split", "--name", "apart") == 0
    assert "best" not in record_of(folder, "apart")


@pytest.mark.thorough
def test_the_report_compares_combinations_with_runs(folder: Path, command: Command, capsys: Any) -> None:
    assert command("ensemble", "one", "two", "--name", "shown") == 0
    assert command("interpolate", "start", "one", "--steps", "3", "--name", "line") == 0
    capsys.readouterr()
    assert command("compare", "one", "two", "shown", "line") == 0
    page = (folder / "reports" / "index.html").read_text(encoding="utf-8")
    assert "mean of probabilities of one version 0, two version 0" in page
    assert "Interpolation between two runs" in page
    assert "WARNING" not in capsys.readouterr().err
    with (folder / "reports" / "comparison.csv").open(encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert float(rows["shown"]["accuracy"]) == pytest.approx(record_of(folder, "shown")["test"]["accuracy"])
    seconds = [record_of(folder, name)["time"]["fit_seconds"] for name in ("one", "two")]
    assert float(rows["shown"]["fit_seconds"]) == pytest.approx(sum(seconds))
    assert rows["shown"]["epochs"] == ""
