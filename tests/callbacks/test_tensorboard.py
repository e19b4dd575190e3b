"""What a finished run shows in TensorBoard, read back from its events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fashion_tl.callbacks.tensorboard import confusion_picture, grid
from fashion_tl.cli import main
from fashion_tl.models.filters import first_convolution
from fashion_tl.models.scratch import LightCNN
from fashion_tl.records.record import read_record

from ..conftest import Fit


@pytest.fixture(scope="module", autouse=True)
def drawn() -> Iterator[None]:
    """Draw the confusion matrix, which other tests leave out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fashion_tl.callbacks.tensorboard.confusion_picture", confusion_picture)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder of a finished run in two phases."""
    root = tmp_path_factory.mktemp("tensorboard")
    flags = [
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
        *("--model.backbone", "test_resnet", "--model.pretrained", "false", "--model.train", "{0: head, 1: layer4}"),
        *("--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
        *("--log_dir", str(root / "logs"), "--checkpoint_dir", str(root / "checkpoints")),
    ]
    assert main(["fit", *flags]) == 0
    return root / "logs" / "run" / "version_0"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def test_curves_of_losses_accuracies_and_every_groups_rate(events: EventAccumulator):
    scalars = events.Tags()["scalars"]
    for tag in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert tag in scalars
    groups = {tag.split("/")[1] for tag in scalars if tag.startswith("lr-AdamW/") and "momentum" not in tag}
    names = ("00-stem", "01-layer1", "02-layer2", "03-layer3", "04-layer4", "05-head")
    assert groups == {f"{name}{suffix}" for name in names for suffix in ("", "-no_decay")}
    frozen = [event.value for event in events.Scalars("lr-AdamW/04-layer4")]
    assert frozen[0] == 0
    assert max(frozen) > 0


def test_phase_changes_are_drawn(events: EventAccumulator):
    trained = events.Scalars("phase/trained_parameters")
    assert [event.step for event in trained] == [0, 3]
    assert trained[0].value < trained[1].value
    words = [bytes(event.tensor_proto.string_val[0]).decode() for event in events.Tensors("phase/text_summary")]
    assert "trains head" in words[0]
    assert "layer4 and head" in words[1]


def test_pictures_and_hyperparameters_with_the_final_figures(events: EventAccumulator, run: Path):
    images = set(events.Tags()["images"])
    assert images >= {"images/training_as_the_network_sees_them", "filters/first_layer", "test/confusion_matrix"}
    assert len(events.Images("filters/first_layer")) == 2
    test = read_record(run)["test"]
    session = events.summary_metadata
    assert any("hparams" in tag for tag in session)
    assert events.Scalars("final/test_accuracy")[0].value == pytest.approx(test["accuracy"])


def test_the_first_convolution():
    network = LightCNN(3)
    found = first_convolution(network)
    assert found is not None
    assert found.weight.shape == (32, 3, 3, 3)
    assert np.array_equal(found.weight, dict(network.named_modules())[found.name].weight.detach().numpy())
    assert first_convolution(torch.nn.Linear(2, 2)) is None
    half = first_convolution(torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3)).to(torch.bfloat16))
    assert half is not None
    assert half.name == "0"
    assert half.weight.dtype == np.float32


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_number_of_channels_are_shown(channels: int):
    laid = grid(torch.rand(10, channels, 5, 5))
    assert laid.shape == (2 * 7 + 2, 8 * 7 + 2, 3)
    assert np.isfinite(laid).all()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10, 25, 26, 100, 101, 1000])
@pytest.mark.thorough(keep=2)
def test_confusion_picture_is_bounded_in_pixels_and_labels(classes: int, monkeypatch: pytest.MonkeyPatch):
    labels: list[list[str]] = []
    set_ticks = Axes.set_xticks

    def noted(axes: Axes, places, names, **style):
        labels.append(names)
        return set_ticks(axes, places, names, **style)

    monkeypatch.setattr(Axes, "set_xticks", noted)
    matrix = np.random.default_rng(0).integers(0, 2, (classes, classes)) + 9 * classes * np.eye(classes, dtype=int)
    picture = confusion_picture(matrix, [f"class number {k} with a name of some length" for k in range(classes)])
    assert min(picture.shape[:2]) >= 400
    assert max(picture.shape[:2]) <= 2000
    assert min(classes, 50) <= len(labels[0]) <= min(classes, 100)
    # The diagonal is seen from top left to bottom right: blue is brighter than red there.
    dark = np.argwhere(picture[..., 2].astype(int) - picture[..., 0] > 60)
    assert np.asarray(np.corrcoef(dark.T))[0, 1] > 0.7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "tag"), [("confusion_picture", "test/confusion_matrix"), ("filter_grid", "filters/first_layer")]
)
@pytest.mark.parametrize("error", [RuntimeError("no font"), MemoryError(), OSError("disk full")], ids=lambda e: str(e))
@pytest.mark.thorough(keep=2)
def test_a_picture_that_cannot_be_drawn_stops_no_run(
    fit: Fit, capsys, monkeypatch: pytest.MonkeyPatch, broken: str, tag: str, error: Exception
):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(f"fashion_tl.callbacks.tensorboard.{broken}", refuse)
    assert fit() == 0
    assert read_record(Path("lightning_logs/run/version_0"))["status"] == "completed"
    told = capsys.readouterr().err
    assert f"tensorboard: {tag} is not shown" in told
    assert type(error).__name__ in told


@pytest.mark.slow
def test_classes_may_have_names_that_look_like_formulas(fit: Fit, workdir: Path):
    for name in (r"$\frac{$", "5$ to 10$"):
        (workdir / "data" / name).mkdir(parents=True)
        for k in range(12):
            Image.new("RGB", (8, 8), (20 * k, 0, 0)).save(workdir / "data" / name / f"{k}.png")
    flags = ("--data.source", "ImageFolder", "--data.source.root", "data", "--data.batch_size", "4")
    assert fit(*flags) == 0
    accumulator = EventAccumulator("lightning_logs/run/version_0", size_guidance={"images": 0})
    accumulator.Reload()
    assert "test/confusion_matrix" in accumulator.Tags()["images"]


@pytest.mark.slow
def test_ctrl_c_while_a_picture_is_drawn_stops(fit: Fit, monkeypatch: pytest.MonkeyPatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fashion_tl.callbacks.tensorboard.grid", stop)
    assert fit() == 130


def test_confusion_picture_is_darker_on_the_diagonal():
    picture = confusion_picture(np.diag([5, 5, 5]), ["a", "b", "c"])
    assert picture.shape[2] == 3
    assert picture.min() < 100
    assert picture.max() == 255
