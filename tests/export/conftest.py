"""A small run to export, and classifiers that nobody trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fashion_tl.cli import main
from fashion_tl.files import write_bytes
from fashion_tl.records.record import RunPaths, paths_of
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.loading import finished_checkpoint
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

Save = Callable[[ImageClassifier], Path]
SIZES: dict[str, Any] = {"channels": 1, "storage_size": 28, "image_size": 32}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    """One epoch of a network of a few filters, whose images are of 28 px and seen at 32 px."""
    folder = tmp_path_factory.mktemp("small")
    logs, checkpoints = folder / "lightning_logs", folder / "checkpoints"
    args = [
        *("--name", "small", "--log_dir", str(logs), "--checkpoint_dir", str(checkpoints)),
        *("--data.source", "SyntheticGarments", "--data.source.num_train", "120", "--data.image_size", "32"),
        *("--model", "ScratchClassifier", "--model.network", "plain", "--model.network_args", "{widths: [3, 4]}"),
        *("--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"),
    ]
    assert main(["fit", *args]) == 0
    return paths_of(logs, checkpoints, "small", 0)


@pytest.fixture
def beside(small: RunPaths, workdir: Path) -> RunPaths:
    """The small run below the working directory, where its name finds it."""
    for name, folder in (("lightning_logs", small.logs), ("checkpoints", small.checkpoints)):
        (workdir / name).symlink_to(folder.parents[1])
    return paths_of(Path("lightning_logs"), Path("checkpoints"), "small", 0)


@pytest.fixture
def save(workdir: Path) -> Save:
    """Write the checkpoint of a classifier."""

    def write(module: ImageClassifier) -> Path:
        path = workdir / "own.ckpt"
        write_bytes(path, finished_checkpoint(module))
        return path

    return write


@pytest.fixture
def scratch() -> ScratchClassifier:
    torch.manual_seed(0)
    return ScratchClassifier(["a", "b, c", "d|e"], "plain", {"widths": [3, 4]}, input_spec=SIZES).eval()


@pytest.fixture
def adapted() -> TransferClassifier:
    """A backbone with adapters that change what it computes."""
    torch.manual_seed(0)
    module = TransferClassifier(
        ["a", "b"], "test_resnet", pretrained=False, lora={"rank": 2}, train="lora", input_spec=SIZES
    ).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.1)
    return module
