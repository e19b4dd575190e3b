"""The verbs over checkpoints, backbones and records, through the command line in the process."""

from __future__ import annotations

import csv
import importlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from fashion_tl.cli import FUNCTIONS, main
from fashion_tl.commands import parser_of
from fashion_tl.data.files import decode_image
from fashion_tl.records.record import RunPaths, paths_of, read_record, write_record

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """One run of one epoch on grey images of 28 px, seen at 32 px."""
    folder = tmp_path_factory.mktemp("trained")
    logs, checkpoints = folder / "logs", folder / "checkpoints"
    small = [
        *("--name", "tiny", "--log_dir", str(logs), "--checkpoint_dir", str(checkpoints)),
        *(
            "--data.source",
            "SyntheticGarments",
            "--data.source.num_train",
            "120",
            "--data.batch_size",
            "32",
            "--data.image_size",
            "32",
        ),
        *("--model", "TransferClassifier", "--model.backbone", "test_resnet", "--model.pretrained", "false"),
        *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
    ]
    assert main(["fit", *small]) == 0
    return paths_of(logs, checkpoints, "tiny", 0)


@pytest.fixture(autouse=True)
def _(workdir: Path) -> None:
    """Every test has a working directory of its own."""


def save_checkpoint(module: Any, path: Path) -> Path:
    from lightning.pytorch import Trainer

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def colour(tmp_path: Path) -> Path:
    """A checkpoint of a network for colour images, cropped to 24 px and seen at 32 px."""
    from fashion_tl.training.transfer import TransferClassifier

    torch.manual_seed(0)
    spec = {"channels": 3, "storage_size": 24, "image_size": 32, "resize": "crop", "crop": 0.875}
    module = TransferClassifier(["a", "b, c"], backbone="test_resnet", pretrained=False, input_spec=spec)
    return save_checkpoint(module, tmp_path / "colour.ckpt")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    from fashion_tl.training.scratch import ScratchClassifier

    return save_checkpoint(ScratchClassifier(["a", "b"], input_spec={"image_size": 32}), tmp_path / "scratch.ckpt")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five PNG files of 28 x 28 colour pixels, one of them in a subfolder, and what is not to be found."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "folder.png").mkdir()
    for name in ("a.png", "b.PNG", "c.png", "d.png", "more/e.png", ".hidden/x.png", ".x.png"):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").touch()
    return folder


NAMES = ["a.png", "b.PNG", "c.png", "d.png", "more/e.png"]


def table(text: str) -> tuple[list[str], list[str], list[str], Tensor]:
    """Take a CSV apart: header, paths, classes, probabilities (N, K)."""
    header, *rows = csv.reader(text.splitlines())
    probabilities = torch.tensor([[float(cell) for cell in row[2:]] for row in rows])
    return header, [row[0] for row in rows], [row[1] for row in rows], probabilities


def predict(capsys: Output, *args: object) -> str:
    assert main(["predict", *map(str, args)]) == 0
    return capsys.readouterr().out


def fails(capsys: Output, *args: object) -> str:
    """Run a verb that must end with status 2, nothing on standard output and one message; return the message."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fashion-tl: error: ")
    assert err.count("\n") == 1
    return err


# predict


def test_predict_equals_a_direct_computation(trained: RunPaths, pictures: Path, capsys: Output) -> None:
    from fashion_tl.training.transfer import TransferClassifier

    header, paths, classes, probabilities = table(predict(capsys, trained.best, pictures))
    assert paths == [str(pictures / name) for name in NAMES]
    module = TransferClassifier.load_from_checkpoint(trained.best, map_location="cpu").eval()
    assert header == ["path", "class", *module.class_names]
    assert (probabilities.sum(1) - 1).abs().max() < 1e-5
    assert [header.index(name) - 2 for name in classes] == probabilities.argmax(1).tolist()
    images = [np.array(Image.open(path)).astype(np.float32) / 255 for path in paths]
    grey = torch.from_numpy(np.stack(images) @ np.array([0.299, 0.587, 0.114], np.float32)).unsqueeze(1)
    mean, std = module.preprocess.mean.flatten().tolist(), module.preprocess.std.flatten().tolist()
    seen = tvf.normalize(tvf.resize(grey, [32, 32], antialias=True).expand(-1, 3, -1, -1), mean, std)
    with torch.inference_mode():
        expected = module(seen).softmax(1)
    torch.testing.assert_close(probabilities, expected, atol=5e-6, rtol=0)
    assert (expected[0] - expected[1:]).abs().amax(1).min() > 1e-4


def test_predict_decodes_as_in_training(colour: Path, tmp_path: Path, capsys: Output) -> None:
    from fashion_tl.training.loading import load_classifier

    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(tmp_path / "wide.jpg")
    header, _, _, probabilities = table(predict(capsys, colour, tmp_path / "wide.jpg"))
    assert header == ["path", "class", "a", "b, c"]
    module = load_classifier(colour)
    held = decode_image(tmp_path / "wide.jpg", 24, "crop", 0.875)
    with torch.inference_mode():
        expected = module(module.preprocess(held.unsqueeze(0))).softmax(1)
    torch.testing.assert_close(probabilities, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_invert(trained: RunPaths, colour: Path, tmp_path: Path, capsys: Output, kind: str) -> None:
    checkpoint = trained.best if kind == "grey" else colour
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    for name, values in (("dark", pixels), ("light", 255 - pixels)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    inverted = table(predict(capsys, checkpoint, "--invert", tmp_path / "dark.png"))[3]
    torch.testing.assert_close(
        inverted, table(predict(capsys, checkpoint, tmp_path / "light.png"))[3], atol=5e-6, rtol=0
    )
    assert (inverted - table(predict(capsys, checkpoint, tmp_path / "dark.png"))[3]).abs().max() > 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_invert_leaves_the_bars_of_a_padded_image_black(tmp_path: Path, capsys: Output, channels: int) -> None:
    from fashion_tl.training.scratch import ScratchClassifier

    spec = {"channels": channels, "storage_size": 24, "image_size": 32, "resize": "pad"}
    checkpoint = save_checkpoint(ScratchClassifier(["a", "b"], input_spec=spec), tmp_path / "padded.ckpt")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 24, 3), dtype=np.uint8)
    for name, values in (("dark", pixels), ("light", 255 - pixels)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    inverted = table(predict(capsys, checkpoint, "--invert", tmp_path / "dark.png"))[3]
    expected = table(predict(capsys, checkpoint, tmp_path / "light.png"))[3]
    torch.testing.assert_close(inverted, expected, atol=5e-6, rtol=0)


def test_predict_tells_of_12_bits_in_16(trained: RunPaths, tmp_path: Path, capsys: Output) -> None:
    for name, level in (("dark", 4095), ("light", 60000)):
        Image.fromarray(np.full((9, 9), level, np.uint16)).save(tmp_path / f"{name}.png")
    told = "levels of 16-bit files are 4095 of 65535 at most: as 8 bits they are almost black (16 of 255)"
    assert main(["predict", str(trained.best), str(tmp_path / "dark.png")]) == 0
    assert capsys.readouterr().err.count(told) == 1
    assert main(["predict", str(trained.best), str(tmp_path / "dark.png"), str(tmp_path / "light.png")]) == 0
    assert "16-bit" not in capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 2])
def test_batch_size_changes_nothing(trained: RunPaths, pictures: Path, capsys: Output, size: int) -> None:
    one = table(predict(capsys, trained.best, pictures))
    other = table(predict(capsys, trained.best, pictures, "--batch_size", size))
    assert other[:3] == one[:3]
    torch.testing.assert_close(other[3], one[3], atol=2e-6, rtol=0)


def test_many_images_run_folded_and_give_the_same(
    trained: RunPaths, tmp_path: Path, capsys: Output, monkeypatch
) -> None:
    from fashion_tl.features.inference import Inference
    from fashion_tl.inspection import inference

    rng = np.random.default_rng(0)
    for number in range(38):
        Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(tmp_path / f"{number:02}.png")
    once = table(predict(capsys, trained.best, tmp_path))
    made: list[Inference] = []

    def noted(parts: Any, images: int, batch_size: int) -> Inference:
        made.append(Inference(parts, images, batch_size))
        return made[-1]

    monkeypatch.setattr(inference, "Inference", noted)
    often = table(predict(capsys, trained.best, tmp_path, "--batch_size", 4))
    assert made[0].folded > 0, made[0].fold_reason
    assert often[:3] == once[:3]
    torch.testing.assert_close(often[3], once[3], atol=2e-6, rtol=0)


def test_output_file(trained: RunPaths, pictures: Path, tmp_path: Path, capsys: Output) -> None:
    printed = predict(capsys, trained.best, pictures / "c.png", pictures / "a.png")
    assert table(printed)[1] == [str(pictures / "c.png"), str(pictures / "a.png")]
    output = tmp_path / "new" / "table.csv"
    said = predict(capsys, trained.best, pictures / "c.png", pictures / "a.png", "--output", output)
    assert output.read_text(encoding="utf-8") == printed
    assert said == f"2 images: {output}\n"
    predict(capsys, trained.best, pictures / "c.png", "--output", output)
    assert output.read_text(encoding="utf-8") == "".join(printed.splitlines(keepends=True)[:2])


def test_json_lines(trained: RunPaths, pictures: Path, capsys: Output) -> None:
    header, paths, classes, probabilities = table(predict(capsys, trained.best, pictures))
    assert predict(capsys, trained.best, pictures, "--output", "table.jsonl") == "5 images: table.jsonl\n"
    rows = [json.loads(line) for line in Path("table.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == paths
    assert [row["class"] for row in rows] == classes
    assert [list(row["probabilities"]) for row in rows] == [header[2:]] * 5
    found = torch.tensor([list(row["probabilities"].values()) for row in rows])
    torch.testing.assert_close(found, probabilities, atol=2e-6, rtol=0)
    predict(capsys, trained.best, pictures / "a.png", "--output", "table.jsonl")
    assert len(Path("table.jsonl").read_text().splitlines()) == 1


def test_parquet_holds_what_the_csv_does(trained: RunPaths, pictures: Path, capsys: Output) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    header, paths, classes, probabilities = table(predict(capsys, trained.best, pictures))
    for _ in range(2):  # the second replaces the first
        assert predict(capsys, trained.best, pictures, "--output", "new/t.parquet") == "5 images: new/t.parquet\n"
    found = parquet.read_table("new/t.parquet")
    assert found.column_names == header
    assert (found["path"].to_pylist(), found["class"].to_pylist()) == (paths, classes)
    values = torch.tensor([found[name].to_pylist() for name in header[2:]], dtype=torch.float64).T
    torch.testing.assert_close(values, probabilities.double(), atol=1e-7, rtol=0)
    (pictures / "d.png").write_bytes(b"not an image")
    kept = Path("new/t.parquet").read_bytes()
    assert "d.png cannot be read" in fails(
        capsys, "predict", trained.best, pictures, "--batch_size", 1, "--output", "new/t.parquet"
    )
    assert Path("new/t.parquet").read_bytes() == kept
    assert [path.name for path in Path("new").iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("name", ["a.json", "a.TSV", "a.xlsx", "a.csv.gz", "a.jsonl.zip", "a.csv~"])
def test_forms_that_are_not_written(trained: RunPaths, pictures: Path, capsys: Output, name: str) -> None:
    message = fails(capsys, "predict", trained.best, pictures, "--output", name)
    assert f"--output {name}: predictions are written as .csv, JSON lines (.jsonl) or Parquet (.parquet)." in message
    assert not Path(name).exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "txt"])
def test_a_table_without_rows_is_replaced(trained: RunPaths, pictures: Path, capsys: Output, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    (pictures / "none").mkdir()
    (pictures / "none/x.png").write_bytes(b"no image")
    for _ in range(2):
        said = predict(capsys, trained.best, pictures / "none", "--skip_unreadable", "--output", f"none.{suffix}")
        assert said == f"0 images: none.{suffix}\n"
    predict(capsys, trained.best, pictures / "a.png", "--output", f"none.{suffix}")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_files_are_decoded_in_order_and_not_far_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    from fashion_tl.data import files
    from fashion_tl.data.transforms import InputSpec

    asked: list[int] = []

    def decode(path: Path, size: int, resize: str, crop: float, invert: bool) -> tuple[Tensor, None]:
        asked.append(int(path.name))
        if path.name == "11":
            raise files.UnreadableImageError("broken", "broken")
        return torch.full((3, size, size), int(path.name), dtype=torch.uint8), None

    monkeypatch.setattr(files, "_decode_file", decode)
    paths = [tmp_path / str(i) for i in range(20)]
    found: list[int] = []
    for names, batch in files.decoded(paths, InputSpec(3, 4, 4), batch_size, skip=True):
        assert [int(path.name) for path in names] == batch[:, 0, 0, 0].tolist()
        found += batch[:, 0, 0, 0].tolist()
        assert max(asked) < found[-1] + 1 + 3 * batch_size + (found[-1] == 10) * batch_size
    assert found == [i for i in range(20) if i != 11]
    with pytest.raises(files.UnreadableImageError):
        list(files.decoded(paths, InputSpec(3, 4, 4), batch_size, skip=False))


def test_output_replaces_nothing_but_an_earlier_table(
    trained: RunPaths, pictures: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "notes.csv").write_text("path, that I took")
    (tmp_path / "linked.csv").symlink_to(pictures / "a.png")
    os.link(pictures / "a.png", tmp_path / "hard.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    before = {path: path.read_bytes() for path in (pictures / "a.png", trained.best, tmp_path / "notes.csv")}
    for output, reason in (
        (pictures / "a.png", "is also given to be read"),
        (tmp_path / "linked.csv", "is also given to be read"),
        (tmp_path / "hard.csv", "is also given to be read"),
        (trained.best, "is also given to be read"),
        (tmp_path / "notes.csv", "exists and is no table of predictions"),
        (tmp_path / "pipe.csv", "exists and is no table of predictions"),
    ):
        message = fails(capsys, "predict", trained.best, pictures, "--output", output)
        assert message.startswith(f"fashion-tl: error: --output {output} {reason}")
    assert {path: path.read_bytes() for path in before} == before


def test_names_that_are_not_utf8(trained: RunPaths, pictures: Path, tmp_path: Path, capsys: Output) -> None:
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy(pictures / "a.png", tmp_path / odd)
    predict(capsys, trained.best, tmp_path / odd, "--output", "table.csv")
    assert b"caf\xe9.png," in Path("table.csv").read_bytes()
    logs = ("--log_dir", trained.logs.parent.parent, "--checkpoint_dir", trained.checkpoints.parent.parent)
    assert main(["explain", "tiny", "--images", odd, *map(str, logs)]) == 0


def test_logits_that_are_not_finite_are_no_prediction(
    trained: RunPaths, pictures: Path, tmp_path: Path, capsys: Output
) -> None:
    checkpoint = torch.load(trained.best, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("bias"))
    checkpoint["state_dict"][name][:] = math.nan
    torch.save(checkpoint, tmp_path / "best.ckpt")
    message = fails(capsys, "predict", tmp_path / "best.ckpt", pictures, "--output", tmp_path / "table.csv")
    assert f"gives no finite logits for {pictures / 'a.png'}: its training has diverged" in message
    assert not (tmp_path / "table.csv").exists()


def test_unreadable_file_stops(trained: RunPaths, pictures: Path, tmp_path: Path, capsys: Output) -> None:
    (pictures / "d.png").write_bytes(b"not an image")
    output = tmp_path / "table.csv"
    message = fails(capsys, "predict", trained.best, pictures, "--batch_size", 1, "--output", output)
    assert f"{pictures / 'd.png'} cannot be read" in message
    assert "--skip_unreadable" in message
    assert not output.exists()
    fails(capsys, "predict", trained.best, pictures, "--batch_size", 1)


def test_unreadable_file_is_skipped(trained: RunPaths, pictures: Path, capsys: Output) -> None:
    whole = table(predict(capsys, trained.best, pictures, "--batch_size", 1))
    (pictures / "d.png").write_bytes(b"not an image")
    assert main(["predict", str(trained.best), str(pictures), "--skip_unreadable", "--batch_size", "1"]) == 0
    out, err = capsys.readouterr()
    assert table(out)[1] == [path for path in whole[1] if not path.endswith("d.png")]
    assert torch.equal(table(out)[3], whole[3][[0, 1, 2, 4]])
    assert f"skipped {pictures / 'd.png'}" in err


def test_files_without_an_ending_of_an_image_are_told(trained: RunPaths, pictures: Path, capsys: Output) -> None:
    (pictures / "e.heic").write_bytes(b"x")
    assert main(["predict", str(trained.best), str(pictures)]) == 0
    assert "passed over: 1 .txt, 1 .heic\n" in capsys.readouterr().err


def test_wrong_paths(trained: RunPaths, pictures: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.ckpt").write_bytes(trained.best.read_bytes()[:5000])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    best, image = trained.best, pictures / "a.png"
    for args, message in (
        ([best, image, "none.png"], "none.png does not exist"),
        ([best, "empty"], "the folder empty holds no images"),
        (["none.ckpt", image], "there is no checkpoint none.ckpt"),
        (["other.ckpt", image], "other.ckpt cannot be read as a checkpoint"),
        (["empty", image], "empty cannot be read as a checkpoint"),
        (["foreign.ckpt", image], "foreign.ckpt was not written by fashion_tl"),
        ([best, image, "--batch_size", 0], "--batch_size is 0"),
        ([best, image, "--output", "empty"], "--output empty cannot be written"),
        ([best, image, "--output", "other.ckpt/table.csv"], "--output other.ckpt/table.csv cannot be written"),
    ):
        assert message in fails(capsys, "predict", *args)


def test_text_is_no_checkpoint(pictures: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "notes.ckpt").write_text("something else")
    assert "notes.ckpt cannot be read as a checkpoint" in fails(capsys, "predict", "notes.ckpt", pictures)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp"])
def test_a_picture_in_place_of_a_checkpoint_is_told(ending: str, tmp_path: Path, capsys: Output) -> None:
    picture = f"photo.{ending}"
    Image.new("RGB", (8, 8)).save(tmp_path / picture)
    assert (
        f"{picture} cannot be read as a checkpoint: it is no archive of torch. A run writes its own as "
        "checkpoints/NAME/version_N/best.ckpt.\n"
    ) in fails(capsys, "predict", picture, picture)


# export


def test_exported_backbone_is_the_trained_one(trained: RunPaths, tmp_path: Path, capsys: Output) -> None:
    from fashion_tl.models.backbones import create_backbone
    from fashion_tl.training.loading import load_classifier

    folder = tmp_path / "new" / "backbone"
    assert main(["export", str(trained.best), str(folder)]) == 0
    assert capsys.readouterr().out == f"local-dir:{folder}\n"
    files = {"config.json", "model.safetensors", "labels.txt", "README.md"}
    assert {path.name for path in folder.iterdir()} == files
    made = create_backbone(f"local-dir:{folder}", True, 32)
    module: Any = load_classifier(trained.best)
    images = torch.rand(3, 3, 32, 32)
    # A run holds its weights so, and another layout is another order of additions.
    exported = made.module.to(memory_format=torch.channels_last).eval()
    with torch.inference_mode():
        ours, expected = exported(images), module.backbone_info.module.eval()(images)
    assert torch.equal(ours, expected)
    assert made.architecture == "test_resnet"
    assert list(made.mean) == pytest.approx(module.preprocess.mean.flatten().tolist())
    assert list(made.std) == pytest.approx(module.preprocess.std.flatten().tolist())


def test_export_refuses(trained: RunPaths, scratch: Path, pictures: Path, tmp_path: Path, capsys: Output) -> None:
    before = sorted(pictures.rglob("*"))
    for target in (pictures, pictures / "a.png"):
        assert f"{target} exists and is not an empty folder" in fails(capsys, "export", trained.best, target)
    assert sorted(pictures.rglob("*")) == before
    assert "only a TransferClassifier can be exported" in fails(capsys, "export", scratch, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# stages


def test_stages(capsys: Output) -> None:
    assert main(["stages", "test_resnet", "--image_size", "32"]) == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    counts = [int(row.split()[1].replace(",", "")) for row in rows]
    import timm

    whole = timm.create_model("test_resnet", num_classes=0)
    assert sum(counts) == sum(parameter.numel() for parameter in whole.parameters())
    assert counts[-1] == sum(parameter.numel() for parameter in whole.get_submodule("layer4").parameters())
    assert last.startswith(f"{whole.num_features} features, images of 3 channels")


def test_stages_of_an_unknown_backbone(capsys: Output) -> None:
    assert "did you mean" in fails(capsys, "stages", "resnet18x")


# runs


@pytest.fixture
def logs(trained: RunPaths, tmp_path: Path) -> Path:
    """Records of two names: tiny 0 and 1 completed, tiny 2 failed, other 0 interrupted, damaged 0."""
    logs = tmp_path / "logs"
    record = read_record(trained.logs)
    for name, version, status in (
        ("tiny", 0, "completed"),
        ("tiny", 1, "completed"),
        ("tiny", 2, "failed"),
        ("other", 0, "interrupted"),
    ):
        changed = {**record, "status": status}
        if status != "completed":
            del changed["test"]
        write_record(logs / name / f"version_{version}", changed)
    return logs


def listed(text: str) -> list[list[str]]:
    """Return name, version and status of each row of a printed table."""
    return [row.replace("│", " ").split()[:3] for row in text.splitlines() if row.startswith("│")]


def test_runs(logs: Path, trained: RunPaths, capsys: Output) -> None:
    assert main(["runs", "--log_dir", str(logs)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert listed(out) == [
        ["other", "0", "interrupted"],
        ["tiny", "0", "completed"],
        ["tiny", "1", "completed"],
        ["tiny", "2", "failed"],
    ]
    record = read_record(trained.logs)
    parameters = record["model"]["parameters"]
    completed = next(row for row in out.splitlines() if "completed" in row)
    test = record["test"]
    for figure in (
        *(f"{test[name]:.4f}" for name in ("accuracy", "balanced_accuracy", "macro_f1")),
        f"{parameters:,}",
    ):
        assert figure in completed
    assert "not recorded" in next(row for row in out.splitlines() if "failed" in row)


def test_runs_of_given_names(logs: Path, capsys: Output) -> None:
    assert main(["runs", "tiny", "--newest", "--log_dir", str(logs)]) == 0
    assert listed(capsys.readouterr().out) == [["tiny", "1", "completed"]]
    assert main(["runs", "--newest", "--log_dir", str(logs)]) == 0
    assert listed(capsys.readouterr().out) == [["tiny", "1", "completed"]]
    assert main(["runs", "other", "--log_dir", str(logs)]) == 0
    assert listed(capsys.readouterr().out) == [["other", "0", "interrupted"]]


def test_no_such_runs(logs: Path, capsys: Output) -> None:
    message = fails(capsys, "runs", "tiny", "othr", "--log_dir", logs)
    assert "unknown run 'othr'; did you mean 'other'?" in message
    assert "tiny" in message
    assert str(logs) in message
    assert f"no completed run of the name other in {logs}" in fails(
        capsys, "runs", "other", "--newest", "--log_dir", logs
    )
    shutil.rmtree(logs)
    assert f"no recorded run at all in {logs}" in fails(capsys, "runs", "--log_dir", logs)
    assert f"no recorded run of the name tiny in {logs}" in fails(capsys, "runs", "tiny", "--log_dir", logs)


def test_damaged_record_is_named_and_skipped(logs: Path, capsys: Output) -> None:
    path = logs / "tiny" / "version_1" / "run.json"
    path.write_text(json.dumps({"name": "tiny"}), encoding="utf-8")
    assert main(["runs", "tiny", "--newest", "--log_dir", str(logs)]) == 0
    out, err = capsys.readouterr()
    assert listed(out) == [["tiny", "0", "completed"]]
    assert f"{path} is damaged" in err


# The parser


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["predict"], "the following arguments are required: CHECKPOINT, IMAGE"),
        (["predict", "a.ckpt"], "the following arguments are required: IMAGE"),
        (["runs", "--newst"], "unrecognized arguments: --newst; did you mean --newest?"),
        (["export", "a.ckpt"], "the following arguments are required: FOLDER"),
        (["cache", "lst"], "unknown action 'lst'; did you mean 'list'?"),
        (["stages", "resnet18", "--image_size", "big"], "argument --image_size: invalid int value: 'big'"),
    ],
)
def test_wrong_arguments(args: list[str], message: str, capsys: Output) -> None:
    assert message in fails(capsys, *args)


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_help_tells_every_argument(verb: str, capsys: Output) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: fashion-tl {verb}" in out
    module, _, name = FUNCTIONS[verb][0].partition(":")
    function = getattr(importlib.import_module(f"fashion_tl.{module}"), name)
    for action in parser_of(function, verb)._actions:
        assert action.help, f"{action.dest} is not in the docstring"
