"""What a classifier computes in a step, and settings that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fashion_tl.errors import UserError
from fashion_tl.training.figures import BalancedAccuracy, EvaluationFigures, TrainingFigures
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

CLASSES = ["cat", "dog", "eel"]
BATCH = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def scratch(**arguments: Any) -> ScratchClassifier:
    given: dict[str, Any] = {"input_spec": {"channels": 1, "storage_size": 16, "image_size": 16}, **arguments}
    return ScratchClassifier(**{"class_names": CLASSES, **given})


def evaluated(module: ScratchClassifier, stage: str) -> dict[str, float]:
    figures: Any = {"train": module.training_figures, "val": module.validation_figures, "test": module.test_figures}
    found: dict[str, Any] = figures[stage].final(stage)
    return {name: float(metric.compute()) for name, metric in found.items()}


def test_labels_are_smoothed_in_training_alone() -> None:
    module = scratch(label_smoothing=0.3).eval()
    logits, labels = module(module.preprocess(BATCH[0])), BATCH[1]
    smoothed, plain = F.cross_entropy(logits, labels, label_smoothing=0.3), F.cross_entropy(logits, labels)
    assert module.training_step(BATCH, 0) == smoothed
    module.validation_step(BATCH, 0)
    module.test_step(BATCH, 0)
    losses = [evaluated(module, stage)[f"{stage}/loss"] for stage in ("train", "val", "test")]
    assert losses == pytest.approx([smoothed.item(), plain.item(), plain.item()])
    assert smoothed != plain
    accuracy = (logits.argmax(1) == labels).float().mean()
    assert [evaluated(module, s)[f"{s}/accuracy"] for s in ("train", "val", "test")] == [float(accuracy)] * 3


def test_figures_of_an_evaluation_are_scikit_learns_however_the_batches_fall() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 3, generator=generator), torch.randint(3, (500,), generator=generator)
    figures = EvaluationFigures(3)
    figures.add(torch.randn(9, 3), torch.zeros(9, dtype=torch.int64))
    figures.reset()  # a validation that broke off leaves nothing behind
    for part in (slice(0, 499), slice(499, 500)):
        figures.add(logits[part], labels[part])
    found = {name: float(metric.compute()) for name, metric in figures.final("val").items()}
    assert found["val/loss"] == pytest.approx(log_loss(labels, logits.double().softmax(1)), abs=1e-6)
    assert found["val/accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert found["val/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert found["val/macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))


def test_balanced_accuracy_leaves_classes_out_that_do_not_occur() -> None:
    figures = BalancedAccuracy(4)
    figures.update(torch.tensor([0, 1, 3, 2]), torch.tensor([0, 0, 0, 2]))
    assert float(figures.compute()) == pytest.approx((1 / 3 + 1) / 2)


def test_figures_of_an_epoch_weigh_batches_by_their_samples_and_go_on_from_a_checkpoint() -> None:
    whole, first, second = TrainingFigures(), TrainingFigures(), TrainingFigures()
    batches = [(torch.tensor(0.5), torch.tensor(3), 5), (torch.tensor(2.0), torch.tensor(1), 1)]
    for batch in batches:
        whole.add(*batch)
    first.add(*batches[0])
    second.restore(first.kept(), 0, torch.device("cpu"))
    second.add(*batches[1])
    for figures in (whole, second):
        found = {name: float(metric.compute()) for name, metric in figures.final("train").items()}
        assert found == pytest.approx({"train/loss": 0.75, "train/accuracy": 4 / 6})


def test_a_checkpoint_keeps_the_figures_of_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = [TrainingFigures(), TrainingFigures()]
    for rank, figures in enumerate(processes):
        for batch in range(3):
            figures.add(torch.tensor(float(rank + batch)), torch.tensor(rank), 2)
    theirs = iter(processes[1].kept())
    with monkeypatch.context() as distributed:
        distributed.setattr(torch.distributed, "is_initialized", lambda: True)
        gathered = "fashion_tl.training.figures.gather_all_tensors"
        distributed.setattr(gathered, lambda tensor: [tensor, next(theirs)[0]])
        kept = processes[0].kept()
    for rank, figures in enumerate(processes):
        again = TrainingFigures()
        again.restore(kept, rank, torch.device("cpu"))
        for name, metric in again.final("train").items():
            assert metric.compute() == figures.final("train")[name].compute()


def test_predictions_are_probabilities() -> None:
    probabilities: Tensor = scratch().eval().predict_step(BATCH, 0)
    assert probabilities.shape == (6, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "adamW"}, r"unknown optimizer 'adamW'; did you mean 'adam' or 'adamw'.*--model\.optimizer"),
        ({"schedule": "one-cycle"}, r"unknown schedule 'one-cycle'; did you mean 'one_cycle'.*--model\.schedule"),
        ({"objective": "focl"}, r"unknown objective 'focl'; did you mean 'focal'.*--model\.objective"),
        ({"objective": "no.such.Loss"}, r"model\.objective: cannot import 'no\.such\.Loss'"),
        ({"objective": "pathlib.Path"}, r"model\.objective: pathlib\.Path is no subclass of .*Objective"),
        ({"objective": "focal", "objective_args": {"gama": 1}}, r"objective_args do not fit objective 'focal'.*gama"),
        ({"objective": "focal", "label_smoothing": 0.1}, "the focal loss takes none"),
        ({"class_weights": [1, 2]}, r"class_weights is \[1, 2\]: it needs 3 numbers"),
        ({"class_weights": [0, 0, 0]}, "not all 0"),
        ({"class_weights": "balance"}, "unknown class_weights 'balance'; did you mean 'balanced'"),
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
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # between torch and Lightning
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
