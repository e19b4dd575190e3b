"""What a finished run shows in TensorBoard, read back from its events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fashion_tl.callbacks.tensorboard import confusion_picture, first_filters, grid
from fashion_tl.cli import main
from fashion_tl.models.scratch import LightCNN
from fashion_tl.records.record import read_record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder of a finished run in two phases."""
    root = tmp_path_factory.mktemp("tensorboard")
    flags = [
        *("--data.source", "garments", "--data.drawn", "120", "--data.batch_size", "32", "--data.image_size", "32"),
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


def test_first_filters_are_scaled_one_by_one():
    filters = first_filters(LightCNN(3))
    assert filters is not None
    assert filters.shape == (32, 3, 3, 3)
    assert torch.all(filters.amin((1, 2, 3)) == 0)
    assert torch.allclose(filters.amax((1, 2, 3)), torch.ones(32))
    assert first_filters(torch.nn.Linear(2, 2)) is None


def test_grid_repeats_pixels():
    laid = grid(torch.ones(2, 1, 3, 3), columns=2, scale=4)
    assert laid.shape == (3, 16, 30)
    assert laid.max() == 1


def test_confusion_picture_is_darker_on_the_diagonal():
    picture = confusion_picture(np.diag([5, 5, 5]), ["a", "b", "c"]).float()
    assert picture.shape[0] == 3
    assert picture.min() < 100
    assert picture.max() == 255
