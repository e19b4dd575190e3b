"""What a classifier computes in a step, and settings that cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fashion_tl.errors import UserError
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

CLASSES = ["cat", "dog", "eel"]
BATCH = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def scratch(**arguments: Any) -> ScratchClassifier:
    given: dict[str, Any] = {"input_spec": {"channels": 1, "held_size": 16, "image_size": 16}, **arguments}
    return ScratchClassifier(**{"class_names": CLASSES, **given})


def test_labels_are_smoothed_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = scratch(label_smoothing=0.3).eval()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    alone = SimpleNamespace(reduce=lambda sums, reduce_op: sums)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(is_last_batch=True, strategy=alone))
    logits, labels = module(BATCH[0]), BATCH[1]
    smoothed, plain = F.cross_entropy(logits, labels, label_smoothing=0.3), F.cross_entropy(logits, labels)
    assert module.training_step(BATCH, 0) == smoothed
    module.validation_step(BATCH, 0)
    module.on_validation_epoch_end()
    module.test_step(BATCH, 0)
    module.on_test_epoch_end()
    losses = [float(logged[f"{stage}/loss"]) for stage in ("train", "val", "test")]
    assert losses == pytest.approx([smoothed.item(), plain.item(), plain.item()])
    assert smoothed != plain
    accuracy = (logits.argmax(1) == labels).float().mean()
    assert [float(logged[f"{stage}/accuracy"]) for stage in ("train", "val", "test")] == [float(accuracy)] * 3


def test_figures_of_an_epoch_weigh_batches_by_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    module = scratch().eval()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    alone = SimpleNamespace(reduce=lambda sums, reduce_op: sums)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(is_last_batch=False, strategy=alone))
    for part in (slice(0, 5), slice(5, 6)):
        module.validation_step((BATCH[0][part], BATCH[1][part]), 0)
    module.on_validation_epoch_end()
    assert float(logged["val/loss"]) == pytest.approx(F.cross_entropy(module(BATCH[0]), BATCH[1]).item())
    logged.clear()
    module.on_validation_epoch_end()
    assert logged == {}


def test_predictions_are_probabilities() -> None:
    probabilities: Tensor = scratch().eval().predict_step(BATCH, 0)
    assert probabilities.shape == (6, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adamW"}, r"unknown optimizer 'adamW'; did you mean 'adam' or 'adamw'.*--model\.optimizer"),
        ({"schedule": "one-cycle"}, r"unknown schedule 'one-cycle'; did you mean 'one_cycle'.*--model\.schedule"),
        ({"batch_norm": "afine"}, "unknown batch_norm 'afine'; did you mean 'affine'.*Allowed: train, affine, eval"),
        ({"lr": -0.1}, r"model\.lr is -0\.1"),
        ({"class_names": ["cat"]}, r"at least 2 classes; got \['cat'\]"),
        ({"train": "tops"}, "unknown stage 'tops'; did you mean 'top'"),
        ({"train": {0: "head", 3: 9}}, "cannot train the top 9 stages"),
    ],
)
def test_wrong_settings_tell_what_is_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scratch(**arguments)


def test_all_numbers_out_of_range_are_told_together() -> None:
    wrong = {"backbone_lr": -1, "layer_decay": 1.1, "weight_decay": -1, "momentum": 2, "warmup": -0.1}
    wrong |= {"step_size": 0, "gamma": 1.5, "plateau_patience": -1, "label_smoothing": float("nan")}
    with pytest.raises(UserError) as error:
        scratch(**wrong)
    for name, value in wrong.items():
        assert f"model.{name} is {value}, allowed is " in str(error.value)


def test_a_wrong_stage_of_a_backbone_tells_a_near_one() -> None:
    with pytest.raises(UserError, match="unknown stage 'layer5'; did you mean 'layer4'"):
        TransferClassifier(CLASSES, "test_resnet", pretrained=False, train="layer5", input_spec={"image_size": 32})


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")  # advice; these data lie in memory
def test_a_schedule_without_an_end_is_an_error(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    loader: DataLoader[Any] = DataLoader(TensorDataset(*BATCH))
    with pytest.raises(UserError, match=r"schedule 'cosine' needs an end: set --trainer\.max_epochs"):
        trainer.fit(scratch(), loader, loader)
