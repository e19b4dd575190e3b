"""A checkpoint is enough: to predict, and to start the next run from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

from fashion_tl.errors import UserError
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

CLASSES = ["cat", "dog", "eel"]

pytestmark = [
    # Lightning advises more worker processes; these data lie in memory.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    # Frozen modules are meant to be in eval mode.
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training:UserWarning"),
    # Lightning 2.6 itself calls what torch has renamed.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    # One epoch is enough for a checkpoint.
    pytest.mark.filterwarnings("ignore:the phase .* begins after the end of the run:UserWarning"),
]


def spec(channels: int = 3) -> dict[str, Any]:
    return {"channels": channels, "storage_size": 32, "image_size": 32}


def saved(module: ImageClassifier, path: Path) -> Path:
    """Train a step and save a checkpoint."""
    images = torch.randn(6, module.preprocess.channels, 32, 32)
    loader: DataLoader[Any] = DataLoader(TensorDataset(images, torch.arange(6) % 3), batch_size=6)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=path.parent,
    )
    trainer.fit(module, loader, loader)
    trainer.save_checkpoint(path)
    return path


def transfer(backbone: str = "test_resnet", **arguments: Any) -> TransferClassifier:
    given: dict[str, Any] = {"pretrained": False, "input_spec": spec(), "class_names": CLASSES, **arguments}
    return TransferClassifier(backbone=backbone, **given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backbone in a folder, with arguments and statistics of its own."""
    path = tmp_path / "backbone"
    path.mkdir()
    module = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    save_file(module.state_dict(), path / "model.safetensors")
    pretrained = {"input_size": [1, 160, 160], "mean": [0.3], "std": [0.2], "first_conv": "conv1.0", "classifier": "fc"}
    config = {
        "architecture": "test_resnet",
        "num_classes": 0,
        "model_args": {"in_chans": 1},
        "pretrained_cfg": pretrained,
    }
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def check_round_trip(module: ImageClassifier, path: Path) -> ImageClassifier:
    images = torch.randn(2, module.preprocess.channels, 32, 32)
    torch.load(path, weights_only=True)
    loaded = type(module).load_from_checkpoint(path)
    assert torch.equal(loaded.eval()(images), module.eval()(images))
    assert (loaded.class_names, loaded.input_spec) == (module.class_names, module.input_spec)
    assert torch.equal(loaded.preprocess.mean, module.preprocess.mean)
    assert torch.equal(loaded.preprocess.std, module.preprocess.std)
    assert (loaded.plan, loaded.network.stage_names) == (module.plan, module.network.stage_names)
    return loaded


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("test_resnet", {"train": {0: "head", 5: {"train": "layer4", "lr": 0.1}}, "dropout": 0.5}),
        ("test_resnet", {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "batch_norm": "eval"}),
        ("test_vit", {"backbone_args": {"depth": 2}}),
    ],
)
def test_a_transfer_checkpoint_is_enough(backbone: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    module = transfer(backbone, **arguments)
    check_round_trip(module, saved(module, tmp_path / "a.ckpt"))


def test_a_checkpoint_outlives_the_folder_of_its_backbone(folder: Path, tmp_path: Path) -> None:
    module = transfer(f"local-dir:{folder}", pretrained=True, input_spec=spec(channels=1))
    path = saved(module, tmp_path / "a.ckpt")
    shutil.rmtree(folder)
    loaded = check_round_trip(module, path)
    check_round_trip(loaded, saved(loaded.train(), tmp_path / "again.ckpt"))
    assert str(folder) not in str(load_checkpoint(path)["hyper_parameters"])


@pytest.mark.parametrize(
    "arguments", [{}, {"network": "plain", "network_args": {"widths": [4, 8], "hidden": 6, "dropout": 0.5}}]
)
def test_a_scratch_checkpoint_is_enough(arguments: dict[str, Any], tmp_path: Path) -> None:
    module = ScratchClassifier(CLASSES, input_spec=spec(channels=1), **arguments)
    check_round_trip(module, saved(module, tmp_path / "a.ckpt"))


def test_a_run_starts_from_weights_and_statistics_of_another(folder: Path, tmp_path: Path) -> None:
    first = transfer(f"local-dir:{folder}", pretrained=True, input_spec=spec(channels=1), train="head")
    path = str(saved(first, tmp_path / "first.ckpt"))
    for name in (f"local-dir:{folder}", "test_resnet"):
        arguments = {"in_chans": 1}
        second = transfer(name, pretrained=True, init_from=path, backbone_args=arguments, dropout=0.5, train="layer4")
        state = second.network.state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in first.network.state_dict().items())
        assert second.preprocess.mean.item() == pytest.approx(0.3)
        assert second.preprocess.std.item() == pytest.approx(0.2)
        assert second.weights == f"local-dir:{folder}, then {path}"
        assert second.weights_hash == transfer(name, init_from=path, backbone_args=arguments).weights_hash

    second_path = saved(second, tmp_path / "second.ckpt")
    Path(path).unlink()  # the second run's checkpoint is enough, too
    check_round_trip(second, second_path)


def test_statistics_that_are_given_come_before_those_of_the_start(tmp_path: Path) -> None:
    path = str(saved(transfer(mean=[0.1, 0.2, 0.3]), tmp_path / "first.ckpt"))
    made = transfer(init_from=path, std=[0.4, 0.5, 0.6]).preprocess
    assert [*made.mean.flatten().tolist(), *made.std.flatten().tolist()] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "test_vit"}, r"trained with backbone 'test_resnet', this run has 'test_vit'.*--model\.backbone"),
        ({"class_names": ["cat", "dog", "fox"]}, r"other classes \(cat, dog, eel\) than .*\(cat, dog, fox\)"),
        ({"class_names": ["dog", "cat", "eel"]}, "other classes"),
        ({"backbone_args": {"in_chans": 1}}, "does not fit this network: size mismatch for backbone.conv1"),
    ],
)
def test_a_start_that_does_not_fit_is_an_error(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(transfer(), tmp_path / "first.ckpt")
    with pytest.raises(UserError, match=message) as error:
        transfer(**arguments, init_from=str(path))
    assert str(path) in str(error.value)


def test_a_start_from_a_scratch_network_is_an_error(tmp_path: Path) -> None:
    path = saved(ScratchClassifier(CLASSES, input_spec=spec()), tmp_path / "scratch.ckpt")
    with pytest.raises(UserError, match=r"holds a ScratchClassifier, which has no backbone of timm.*'test_resnet'"):
        transfer(init_from=str(path))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "there is no checkpoint .*a.ckpt. A run writes its own as checkpoints/NAME/version_N/best.ckpt"),
        (lambda path: path.mkdir(), "a.ckpt cannot be read as a checkpoint: .*directory"),
        (lambda path: path.write_bytes(b""), "a.ckpt cannot be read as a checkpoint"),
        (lambda path: path.write_bytes(b"model: 1\n"), "a.ckpt cannot be read as a checkpoint"),
        (lambda path: torch.save({"state_dict": {}}, path), "a.ckpt was not written by fashion_tl"),
        (lambda path: torch.save([1], path), "a.ckpt was not written by fashion_tl"),
        (lambda path: torch.save({"fashion_tl_module": Path()}, path), "a.ckpt cannot be read as a checkpoint"),
    ],
    ids=["missing", "folder", "empty", "text", "other", "list", "object"],
)
def test_what_is_no_checkpoint_is_an_error(write: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    if write is not None:
        write(path)
    with pytest.raises(UserError, match=message):
        transfer(init_from=str(path))


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_checkpoint_cut_short_is_an_error(keep: float, tmp_path: Path) -> None:
    path = saved(transfer(), tmp_path / "a.ckpt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=r"a\.ckpt cannot be read as a checkpoint"):
        load_checkpoint(path)
