"""Checkpoint files: whole or not there, and no changed bit goes unnoticed."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fashion_tl.errors import UserError
from fashion_tl.runs.parser import make_trainer
from fashion_tl.training.checkpoints import VerifiedCheckpointIO, load_checkpoint, packed, verify
from fashion_tl.training.loading import load_classifier
from fashion_tl.training.scratch import ScratchClassifier

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


def saved(path: Path, plain: bool = False) -> Path:
    """Save a classifier as runs do, or as any Trainer does."""
    trainer = Trainer(**QUIET) if plain else make_trainer(QUIET)
    spec = {"channels": 1, "storage_size": 28, "image_size": 28}
    trainer.strategy.connect(ScratchClassifier(["cat", "dog"], input_spec=spec))
    trainer.save_checkpoint(path)
    return path


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


@pytest.mark.thorough(keep=1)
@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_noticed(tmp_path: Path, bit: int) -> None:
    path = tmp_path / "a.ckpt"
    content = bytes(packed({"state_dict": {"w": torch.arange(5.0)}, "epoch": 1}))
    for place in range(bit, 8 * len(content), 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            verify(path)
        except UserError:
            continue
        # The mark itself: the file then counts as one of something else, and its members are verified.
        assert content.rindex(b"fashion_tl") <= place // 8 < len(content)
        assert torch.load(io.BytesIO(flipped), weights_only=True)["state_dict"]["w"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keep", [0, 1, 21, 0.5, -28])
def test_a_cut_is_noticed(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path / "a.ckpt")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match=r"a\.ckpt cannot be read as a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("plain", [False, True])
def test_a_flipped_bit_of_the_weights_is_refused_by_all_that_load(tmp_path: Path, plain: bool) -> None:
    path = saved(tmp_path / "a.ckpt", plain)
    assert torch.load(path, weights_only=True)["epoch"] == 0
    load_classifier(path)
    with zipfile.ZipFile(path) as archive:
        weights = max(archive.infolist(), key=lambda member: member.file_size)
    flip(path, 8 * (weights.header_offset + weights.file_size // 2) + 6)
    torch.load(path, weights_only=True)  # torch does not notice
    for load in (
        load_checkpoint,
        load_classifier,
        ScratchClassifier.load_from_checkpoint,
        VerifiedCheckpointIO().load_checkpoint,
    ):
        with pytest.raises(UserError, match=r"a\.ckpt cannot be read as a checkpoint: it is damaged, .* is wrong"):
            load(path)


def test_a_missing_checkpoint_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScratchClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_classifier(tmp_path / "a.ckpt")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = saved(tmp_path / "last.ckpt")
    before = path.read_bytes()
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=r"No space left on device: .*last\.ckpt"):
        saved(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_needs_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    load_checkpoint(saved(tmp_path / "a.ckpt"))


def test_another_way_of_writing_that_was_asked_for_is_kept() -> None:
    class Mine(TorchCheckpointIO):
        pass

    mine = Mine()
    assert make_trainer({**QUIET, "plugins": mine}).strategy.checkpoint_io is mine
    assert type(make_trainer({**QUIET, "strategy": "ddp"}).strategy.checkpoint_io) is VerifiedCheckpointIO


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_dict": None}, "it has no state_dict"),
        ({"state_dict": [1]}, r"state_dict has '\[1\]', it must be of type dict"),
        ({"state_dict": {"network.a": 3}}, "network.a is no tensor"),
        ({"hyper_parameters": None}, "it has no hyper_parameters"),
        ({"epoch": "one", "callbacks": 3}, "callbacks has '3', it must be of type dict; epoch has 'one'"),
        ({"fashion_tl_module": 3}, "fashion_tl_module has '3'"),
    ],
)
def test_a_checkpoint_made_by_hand_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = saved(tmp_path / "a.ckpt")
    torch.save({**load_checkpoint(path), **change}, path)
    with pytest.raises(UserError, match=rf"a\.ckpt is not as fashion_tl writes checkpoints: {message}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"hyper_parameters": {}},
        {"hyper_parameters": {"class_names": 3}},
        {"hyper_parameters": {"class_names": ["a", "b"], "mistaken": 1}},
        {"hyper_parameters": {"class_names": ["a", "b"], "input_spec": {"wrong": 1}}},
        {"state_dict": {}},
        {"fashion_tl_module": "nothing"},
        {"fashion_tl_module": "os.path"},
    ],
)
def test_a_checkpoint_that_does_not_build_its_classifier_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = saved(tmp_path / "a.ckpt")
    torch.save({**load_checkpoint(path), **change}, path)
    with pytest.raises(UserError, match=r"a\.ckpt"):
        load_classifier(path)


def test_objects_that_are_not_loaded_are_told_without_advice_of_torch(tmp_path: Path) -> None:
    torch.save({"fashion_tl_module": Path()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"as a checkpoint: it holds more than tensors and plain values\. A run"):
        load_checkpoint(tmp_path / "a.ckpt")
