"""``fashion-tl export`` through the command line: formats, the model card, mistakes."""

from __future__ import annotations

import html
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fashion_tl.cli import main
from fashion_tl.inspection.inference import classify
from fashion_tl.metrics.metrics import summarise
from fashion_tl.records.record import RunPaths, read_record, write_record
from fashion_tl.training.loading import load_classifier
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

from .conftest import Save
from .test_network import ensemble, images

Output = pytest.CaptureFixture[str]


def fails(capsys: Output, *args: object) -> str:
    """Run a verb that must end with status 2, one message and nothing new; return the message."""
    capsys.readouterr()
    before = sorted(Path().rglob("*"))
    assert main(["export", *map(str, args)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fashion-tl: error: ")
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return err


def card(folder: str = "out") -> str:
    return Path(folder, "README.md").read_text(encoding="utf-8")


def check_nothing_is_of_this_machine(folder: str = "out") -> None:
    """Look for paths in files that go to others."""
    from fashion_tl.export.local_paths import paths_of_this_machine

    places = (Path.cwd(), Path(tempfile.gettempdir()), Path.home(), Path(sys.prefix), Path(__file__).parents[2])
    for path in Path(folder).iterdir():
        content = path.read_bytes()
        assert not [place for place in places if f"{place}/".encode() in content], path
        assert path.name.startswith("model.") or paths_of_this_machine(content.decode()) == []


def test_weights_with_metadata(beside: RunPaths, capsys: Output) -> None:
    from safetensors import safe_open

    assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    assert capsys.readouterr().out == "out\n"
    assert {path.name for path in Path("out").iterdir()} == {"model.safetensors", "labels.txt", "README.md"}
    module = load_classifier(beside.best)
    with safe_open("out/model.safetensors", "pt") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert all(torch.equal(state[name], value) for name, value in module.network.state_dict().items())
    assert state.keys() == module.network.state_dict().keys()
    assert json.loads(metadata["class_names"]) == list(module.class_names)
    assert Path("out/labels.txt").read_text().splitlines() == list(module.class_names)
    check_nothing_is_of_this_machine()


def test_a_run_may_be_named_by_its_folder_or_its_checkpoint(beside: RunPaths) -> None:
    for i, run in enumerate((beside.logs, beside.checkpoints, beside.best, "small")):
        assert main(["export", str(run), f"out{i}", "--format", "safetensors"]) == 0
        assert card(f"out{i}") == card("out0")


@pytest.mark.slow
def test_a_program_runs_with_torch_alone(scratch: ScratchClassifier, save: Save) -> None:
    path, expected = save(scratch), classify(scratch, images())
    assert main(["export", str(path), "out", "--format", "torch"]) == 0
    assert {path.name for path in Path("out").iterdir()} == {"model.pt2", "labels.txt", "README.md"}
    torch.save(images(), "images.pt")
    script = """
import sys
sys.modules["fashion_tl"] = sys.modules["timm"] = sys.modules["lightning"] = None
import torch
network = torch.export.load("out/model.pt2").module()
images = torch.load("images.pt")
torch.save([network(images), network(images[:3])], "logits.pt")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = torch.load("logits.pt")
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1], expected[:3], atol=1e-5, rtol=0)
    check_nothing_is_of_this_machine()


def test_the_card_holds_what_the_record_says(beside: RunPaths) -> None:
    assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    record, text = read_record(beside.logs), card()
    test = record["test"]
    assert text.startswith("---\npipeline_tag: image-classification\ntags: [fashion_tl]\n---\n\n# small version 0\n")
    for told in (
        "| images | SyntheticGarments |",
        *(f"| {name} images | {count} |" for name, count in record["data"]["sizes"].items()),
        f"| fingerprint of images and labels | {record['data']['fingerprint']} |",
        f"| accuracy | {test['accuracy']:.4f} | ",
        f"| balanced accuracy | {test['balanced_accuracy']:.4f} | ",
        f"| macro F1 | {test['macro_f1']:.4f} | ",
        f"| Trouser | {test['per_class']['Trouser']['precision']:.4f} |",
        "fashion-tl fit --name small --log_dir .../lightning_logs --checkpoint_dir .../checkpoints --data.source",
        f"| torch | {record['environment']['libraries']['torch']} |",
        "Not fitted: `fashion-tl diagnose` does it.",
        "The licence of the weights is unknown",
        "To be filled in by whoever passes this model on",
        "28 x 28, 1 channels",
    ):
        assert told in text
    assert text.count(" to 0.") + text.count(" to 1.") + text.count(" to 2.") >= 6  # intervals


def test_the_card_of_a_run_that_is_not_completed_says_so(beside: RunPaths, small: RunPaths) -> None:
    record = read_record(beside.logs)
    write_record(beside.logs, {**record, "status": "interrupted", "reason": "stopped by Ctrl-C"})
    assert main(["export", str(beside.best), "out", "--format", "safetensors"]) == 0
    assert "| the run is not completed | interrupted: stopped by Ctrl-C |" in card()
    write_record(beside.logs, record)


def test_the_card_has_no_figures_of_a_class_that_the_test_set_lacks(beside: RunPaths, small: RunPaths) -> None:
    names = read_record(small.logs)["data"]["class_names"]
    matrix = np.diag([5] * len(names))
    matrix[2, 2], matrix[3, 3], matrix[4, 4], matrix[0, 3] = 0, 0, 0, 1  # 3 is predicted, once; 4 occurs, as 0
    matrix[4, 0] = 5
    logits, labels = [], []
    for truth, row in enumerate(matrix):
        for predicted, count in enumerate(row):
            logits += [np.eye(len(names))[predicted]] * count
            labels += [truth] * count
    record = read_record(small.logs)
    try:
        write_record(small.logs, {**record, "test": summarise(np.array(logits), np.array(labels), names)})
        assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    finally:
        write_record(small.logs, record)
    text, none = card(), "none: no such image"
    assert f"| {names[1]} | 1.0000 | 1.0000 | 1.0000 |" in text
    assert f"| {names[2]} | {none} | {none} | {none} |" in text
    assert f"| {names[3]} | 0.0000 | {none} | 0.0000 |" in text
    assert f"| {names[4]} | 0.0000 | 0.0000 | 0.0000 |" in text


def test_the_card_names_the_epoch_in_which_a_phase_began(beside: RunPaths, small: RunPaths) -> None:
    record = read_record(beside.logs)
    (phase,) = record["model"]["phases"]
    two = [{**phase, "trains": "head"}, {**phase, "start": 8, "began": 2}]  # the first one has ended early
    try:
        write_record(small.logs, record | {"model": record["model"] | {"phases": two}})
        assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    finally:
        write_record(small.logs, record)
    assert "from epoch 1: head" in card()
    assert "from epoch 3: all" in card()


def test_the_card_names_no_folder_of_this_machine(beside: RunPaths, small: RunPaths) -> None:
    record = read_record(beside.logs)
    weights = f"local-dir:{small.best.parent}/weights_of"
    odd = {"command": f"fashion-tl fit --data.source.root '{small.logs}/my photos/pets'", "model": {"weights": weights}}
    try:
        write_record(small.logs, record | odd)
        assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    finally:
        write_record(small.logs, record)
    check_nothing_is_of_this_machine()
    assert "fashion-tl fit --data.source.root .../pets\n" in card()
    assert "| began as | local-dir:.../weights\\_of |" in card()


@pytest.mark.parametrize(
    "folder",
    ["My Clients/Acme Corp", "a,b", "x(1)", "proj (old)", "o'neil, inc", 'say "hi"', "k: v", "[b] {c}", "d;e|f<g>"],
)
def test_the_card_names_no_folder_whatever_its_name_holds(folder: str, beside: RunPaths, small: RunPaths) -> None:
    secret = f"/home/lovelace/{folder}"
    init_args = {"root": f"{secret}/pets", "csv": [f"{secret}/a.csv"]}
    settings = yaml.safe_dump(init_args, default_flow_style=True, default_style='"', width=999)
    command = [
        *("fashion-tl", "fit", f"-c{secret}/x.yaml", "-c", "experiments/own.yaml", f"--data.source.root={secret}/p"),
        *("--model.init_from", f"{secret}/best.ckpt", "--model.backbone", f"local-dir:{secret}/r18"),
        *("--data.source.init_args", settings.strip(), "--file", f"file://{secret}/x", "--up", f"..{secret}/y"),
        *(
            "--home",
            f"~{secret}/z",
            "--windows",
            f"C:\\Users\\lovelace\\{folder}\\w",
            "--url",
            "https://example.org/a/b",
        ),
    ]
    expected = [
        *("fashion-tl", "fit", "-c.../x.yaml", "-c", "experiments/own.yaml", "--data.source.root=.../p"),
        *("--model.init_from", ".../best.ckpt", "--model.backbone", "local-dir:.../r18"),
        *("--data.source.init_args", '{"csv": [".../a.csv"], "root": ".../pets"}', "--file", ".../x", "--up", ".../y"),
        *("--home", ".../z", "--windows", ".../w", "--url", "https://example.org/a/b"),
    ]
    weights = f"local-dir:{secret}/r18, then {secret}/best.ckpt, then checkpoints/own/version_0/last.ckpt"
    odd: dict[str, Any] = {"command": shlex.join(command), "model": {"weights": weights}}
    odd |= {"status": "failed", "reason": f"{secret}/pets/1.png: it is damaged"}
    record = read_record(beside.logs)
    try:
        write_record(small.logs, record | odd)
        assert main(["export", str(beside.best), "out", "--format", "safetensors"]) == 0
    finally:
        write_record(small.logs, record)
    assert shlex.join(expected) in card()
    text = html.unescape(re.sub(r"\\(.)", r"\1", card()))
    assert "| began as | local-dir:.../r18, then .../best.ckpt, then checkpoints/own/version_0/last.ckpt |" in text
    assert "| the run is not completed | failed: .../1.png: it is damaged |" in text
    assert not [part for part in ("home/", "lovelace", "Users", *folder.split("/")) if part in text]


@pytest.mark.parametrize(
    ("epochs", "steps", "planned", "told"),
    [
        (1, -1, 1, "1 epoch"),
        (-1, 3, 1, "3 steps, within 1 epoch"),
        (4, 25, 3, "4 epochs or 25 steps, whichever comes first, within 3 epochs"),
        (-1, -1, None, "no limit of epochs or steps"),
    ],
)
def test_the_card_tells_the_planned_length_in_words(
    epochs: int, steps: int, planned: int | None, told: str, beside: RunPaths, small: RunPaths
) -> None:
    record = read_record(beside.logs)
    model = record["model"] | {"max_epochs": epochs, "max_steps": steps, "planned_epochs": planned}
    try:
        write_record(small.logs, record | {"model": model, "seed": None})
        assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    finally:
        write_record(small.logs, record)
    assert f"| planned length | {told} |" in card()
    assert "| seed, seed of the split | none, 0 |" in card()


def test_the_card_says_why_figures_are_missing(beside: RunPaths, small: RunPaths) -> None:
    record = read_record(beside.logs)
    lacking = {name: value for name, value in record.items() if name not in ("test", "command", "environment", "time")}
    try:
        write_record(small.logs, lacking)
        assert main(["export", "small", "out", "--format", "safetensors"]) == 0
        write_record(small.logs, {**record, "checkpoint": "0" * 64})
        assert main(["export", "small", "other", "--format", "safetensors"]) == 0
    finally:
        write_record(small.logs, record)
    assert "Not known: the record holds none." in card()
    assert "| seconds of training | not recorded |" in card()
    assert "those of the record are of another checkpoint" in card("other")


def test_without_predictions_there_are_no_intervals_but_the_accuracy_s(beside: RunPaths, small: RunPaths) -> None:
    path = small.logs / "test_predictions.npz"
    content = path.read_bytes()
    try:
        path.unlink()
        assert main(["export", "small", "out", "--format", "safetensors"]) == 0
    finally:
        path.write_bytes(content)
    assert "test\\_predictions.npz is missing" in card()
    assert "| macro F1 |" in card()
    assert card().count("| not recorded |") >= 5


def test_a_checkpoint_without_a_run_has_a_card_with_gaps(scratch: ScratchClassifier, save: Save) -> None:
    assert main(["export", str(save(scratch)), "out", "--format", "safetensors"]) == 0
    assert "Not known: there is no record of the run (own.ckpt lies in no folder of a run)." in card()
    assert "(a, b, c, d\\|e)" in card()


def test_timm_is_the_default_where_there_is_a_backbone(adapted: TransferClassifier, save: Save, capsys: Output) -> None:
    assert main(["export", str(save(adapted)), "out"]) == 0
    assert capsys.readouterr().out == "local-dir:out\n"
    assert {path.name for path in Path("out").iterdir()} == {
        "config.json", "model.safetensors", "labels.txt", "README.md",
    }  # fmt: skip
    assert card().startswith("---\npipeline_tag: image-feature-extraction\n")
    check_nothing_is_of_this_machine()


def onnx_needed() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)


@pytest.mark.slow
def test_onnx_is_compared_on_the_test_images_of_the_run(beside: RunPaths, capsys: Output) -> None:
    onnx_needed()
    assert main(["export", "small", "out", "--format", "onnx", "--int8", "true"]) == 0
    out = capsys.readouterr().out
    assert "on 40 test images" in out
    assert f"Accuracy on 40 test images: {read_record(beside.logs)['test']['accuracy']:.4f}, of the int8 model" in out
    assert {path.name for path in Path("out").iterdir()} == {
        "model.onnx", "model.int8.onnx", "labels.txt", "README.md",
    }  # fmt: skip
    check_nothing_is_of_this_machine()
    assert "Largest difference of a logit to the trained network" in card()


@pytest.mark.slow
def test_a_network_that_differs_is_refused(
    scratch: ScratchClassifier, save: Save, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_needed()
    monkeypatch.setattr("fashion_tl.export.onnx_file.TOLERANCE", -1.0)
    assert "nothing was written" in fails(capsys, save(scratch), "out", "--format", "onnx")


@pytest.mark.slow
def test_a_layer_that_cannot_be_converted_is_named(
    scratch: ScratchClassifier, save: Save, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_needed()

    class Branching(torch.nn.Module):
        def forward(self, logits: Any) -> Any:
            return logits if logits.sum() > 0 else -logits

    path = save(scratch)

    def load(_: Path) -> ScratchClassifier:
        scratch.network.head = torch.nn.Sequential(scratch.network.head, Branching())
        return scratch

    monkeypatch.setattr("fashion_tl.training.loading.load_classifier", load)
    assert "the network cannot be converted to ONNX" in fails(capsys, path, "out", "--format", "onnx")
    assert "cannot be exported by torch.export" in fails(capsys, path, "out", "--format", "torch")


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no such run": (("gone", "out"), "unknown run 'gone'"),
    "no such checkpoint": (("gone.ckpt", "out"), "gone.ckpt"),
    "a text file": (("notes.ckpt", "out"), "cannot be read as a checkpoint"),
    "unknown format": (("small", "out", "--format", "onxx"), "unknown format 'onxx'; did you mean 'onnx'?"),
    "empty format": (("small", "out", "--format", ""), "unknown format ''"),
    "int8 alone": (("small", "out", "--int8", "true"), "--int8 with no --format: allowed with --format onnx"),
    "int8 of torch": (("small", "out", "--format", "torch", "--int8"), "--int8 with --format torch"),
    "int8 maybe": (("small", "out", "--format", "onnx", "--int8=maybe"), "unknown int8 'maybe'"),
    "preprocessing of weights": (
        ("small", "out", "--format", "safetensors", "--preprocessing", "false"),
        "--preprocessing false with --format safetensors: allowed with --format onnx or torch",
    ),
    "preprocessing no": (("small", "out", "--format", "torch", "--preprocessing=no"), "unknown preprocessing 'no'"),
    "input of timm": (("small", "out", "--input_type", "float32"), "--input_type float32 with no --format"),
    "input as seen": (
        ("small", "out", "--format", "torch", "--preprocessing", "false", "--input_type", "float32"),
        "--preprocessing true alone",
    ),
    "unknown input": (("small", "out", "--format", "torch", "--input_type", "int8"), "unknown input_type 'int8'"),
    "no backbone": (("small", "out"), "only a TransferClassifier can be exported with --format timm"),
    "a folder with files": (("small", "full", "--format", "torch"), "full exists and is not an empty folder"),
    "a file": (("small", "notes.ckpt", "--format", "torch"), "notes.ckpt exists and is not an empty folder"),
    "no folder": (("small",), "required: FOLDER"),
    "unknown option": (("small", "out", "--formt", "onnx"), "did you mean --format?"),
    "records elsewhere": (("small", "out", "--log_dir", "gone"), "there is no completed run 'small' in gone"),
    "another folder": (("lost/version_0", "out"), "lies neither in lightning_logs nor in checkpoints"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_mistakes(beside: RunPaths, capsys: Output, case: tuple[tuple[str, ...], str]) -> None:
    Path("notes.ckpt").write_text("something else")
    Path("full").mkdir()
    Path("full/a.txt").touch()
    args, message = case
    assert message in fails(capsys, *args)


def test_an_ensemble_has_no_backbone(save: Save, capsys: Output) -> None:
    assert "Choose --format onnx, torch or safetensors" in fails(capsys, save(ensemble()), "out")


def test_a_forward_of_its_own_is_one_message(
    scratch: ScratchClassifier, save: Save, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(scratch)
    doubled: Any = type("Doubled", (ScratchClassifier,), {"forward": lambda self, images: 2 * images})
    scratch.__class__ = doubled
    monkeypatch.setattr("fashion_tl.training.loading.load_classifier", lambda _: scratch)
    for kind in ("torch", "safetensors"):
        assert "Doubled computes its logits in a way of its own" in fails(capsys, path, "out", "--format", kind)


def test_without_the_libraries_it_says_what_to_install(
    beside: RunPaths, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'fashion-tl[onnx]'" in fails(capsys, "small", "out", "--format", "onnx")


def test_data_that_are_not_at_hand_are_not_downloaded(
    beside: RunPaths, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_needed()
    monkeypatch.setattr("fashion_tl.data.garments.SyntheticGarments.is_at_hand", lambda self: False)
    monkeypatch.setattr("fashion_tl.data.garments.SyntheticGarments.load", lambda self: pytest.fail("was loaded"))
    from fashion_tl.export.subject import find_subject, open_subject

    logs, checkpoints = Path("lightning_logs"), Path("checkpoints")
    subject = find_subject("small", logs, checkpoints)
    found = open_subject(subject, logs, checkpoints, None)
    assert found == "the data of the run are not at hand (--root says where they are)"


def test_int8_without_images_to_calibrate_by_is_refused(scratch: ScratchClassifier, save: Save, capsys: Output) -> None:
    onnx_needed()
    message = fails(capsys, save(scratch), "out", "--format", "onnx", "--int8")
    assert (
        "--int8 needs training images of the run to be calibrated by: own.ckpt lies in no folder of a run." in message
    )


def test_logits_are_finite_or_refused() -> None:
    onnx_needed()
    from fashion_tl.errors import UserError
    from fashion_tl.export.onnx_file import largest_difference

    pairs = [(images(count=2), torch.zeros(2, 3))]
    with pytest.raises(UserError, match="differ"):
        largest_difference(lambda _: np.full((2, 3), np.nan, np.float32), pairs)  # type: ignore[arg-type]


def test_large_logits_may_differ_by_more_in_proportion() -> None:
    onnx_needed()
    from fashion_tl.errors import UserError
    from fashion_tl.export.onnx_file import largest_difference

    def compare(largest: float, difference: float) -> None:
        found: Any = lambda _: np.full((2, 3), largest + difference, np.float32)  # noqa: E731
        largest_difference(found, [(images(count=2), torch.full((2, 3), largest))])

    compare(20.0, 1e-3)
    for largest, difference in ((20.0, 3e-3), (0.5, 2e-4)):
        with pytest.raises(UserError, match="differ"):
            compare(largest, difference)
