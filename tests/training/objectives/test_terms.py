"""Penalties, teachers and an auxiliary head, against independent formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy.special import softmax
from torch.nn import functional as F

from fashion_tl.cache import store
from fashion_tl.data.augment import Augment
from fashion_tl.data.batches import Batch, Samples
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.mixing import Mix
from fashion_tl.errors import UserError
from fashion_tl.training.loading import load_classifier
from fashion_tl.training.objectives import distillation
from fashion_tl.training.scratch import ScratchClassifier

NAMES = list(SyntheticGarments.class_names)
GROUPS = {"first": NAMES[:3], "second": NAMES[3:6]}


def scratch(names: list[str] = NAMES, size: int = 28, **arguments: Any) -> ScratchClassifier:
    torch.manual_seed(arguments.pop("seed", 0))
    given = {"network": "plain", "network_args": {"widths": [3, 4], "dropout": 0.3}, **arguments}
    return ScratchClassifier(names, input_spec={"channels": 1, "storage_size": 28, "image_size": size}, **given)


def saved(path: Path, **arguments: Any) -> str:
    """Write the checkpoint of an untrained classifier."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(scratch(**arguments))
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture
def teachers(tmp_path: Path) -> list[str]:
    """Two untrained teachers, one of which sees its images at another size."""
    return [saved(tmp_path / "a.ckpt", seed=1), saved(tmp_path / "b.ckpt", seed=2, size=40)]


def garments(**settings: Any) -> ImageDataModule:
    data = ImageDataModule(SyntheticGarments(60), batch_size=16, **settings)
    data.setup()
    return data


# L2-SP


def moved(module: ScratchClassifier) -> dict[str, torch.Tensor]:
    """Move all weights, and return where they were."""
    before = {name: p.detach().clone() for name, p in module.network.named_parameters()}
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(torch.randn_like(parameter))
    return before


@pytest.mark.parametrize("train", ["all", "block2", "head"])
def test_gradient_of_l2_sp(train: str) -> None:
    module = scratch(train=train, terms={"l2_sp": {"alpha": 0.3, "beta": 0.07}})
    start = moved(module)
    module.objective.terms[0](torch.zeros(()), torch.zeros(1, 10), torch.zeros(1), None).backward()  # type: ignore[index,operator]
    trained = 0
    for name, parameter in module.network.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None
            continue
        trained += 1
        own = parameter.detach()
        expected = 0.07 * own if name.startswith("head.") else 0.3 * (own - start[name])
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected)
    assert 2 <= trained <= len(start)


def test_l2_sp_is_added_to_the_loss_of_any_objective_and_starts_at_nothing_but_the_head() -> None:
    plain, pulled = (
        scratch(objective="focal", terms=terms).eval() for terms in (None, {"l2_sp": {"alpha": 0.3, "beta": 0.07}})
    )
    batch = torch.rand(6, 1, 28, 28), torch.arange(6)
    head = sum(float(p.detach().square().sum()) for p in pulled.network.head.parameters())
    expected = float(plain.training_step(batch, 0).detach()) + 0.07 / 2 * head
    assert float(pulled.training_step(batch, 0).detach()) == pytest.approx(expected, rel=1e-6)


def test_the_weights_that_l2_sp_pulls_to_are_in_the_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", terms={"l2_sp": {"alpha": 0.3}})
    module: Any = load_classifier(path)
    starts = list(module.objective.terms[0].buffers())
    assert len(starts) == len(list(module.network.backbone.parameters()))
    again: Any = scratch(seed=5, terms={"l2_sp": {"alpha": 0.3}})
    again.load_state_dict(module.state_dict())
    for start, parameter in zip(again.objective.terms[0].buffers(), module.network.backbone.parameters(), strict=True):
        assert torch.equal(start, parameter)


# Distillation


def taught_by_hand(teachers: list[str], images: torch.Tensor, temperature: float) -> np.ndarray:
    found = []
    for path in teachers:
        teacher = load_classifier(path)
        with torch.no_grad():
            found.append(softmax(teacher(teacher.preprocess(images)).double().numpy() / temperature, axis=1))
    mean: np.ndarray = np.mean(found, axis=0)
    return mean


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shares", [False, True])
def test_loss_of_distillation(teachers: list[str], count: int, shares: bool) -> None:
    names, temperature, weight = teachers[:count], 3.0, 0.6
    module = scratch(terms={"distillation": {"teachers": names, "temperature": temperature, "weight": weight}}).eval()
    module.objective.prepare(module, None)
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    targets = 0.3 * F.one_hot(labels, 10) + 0.7 * F.one_hot(labels.flip(0), 10) if shares else labels
    logits = module.logits(images).detach()
    taught = taught_by_hand(names, images, temperature)
    student = softmax(logits.double().numpy() / temperature, axis=1)
    distance = (taught * np.log(taught / student)).sum(1).mean()
    expected = (1 - weight) * float(F.cross_entropy(logits, targets)) + weight * temperature**2 * distance
    assert float(module.training_step((images, targets), 0).detach()) == pytest.approx(expected, rel=1e-5)


def test_teachers_are_neither_trained_nor_kept(teachers: list[str]) -> None:
    plain, taught = scratch(), scratch(terms={"distillation": {"teachers": teachers}})
    taught.objective.prepare(taught, None)
    assert taught.state_dict().keys() == plain.state_dict().keys()
    assert len(list(taught.parameters())) == len(list(plain.parameters()))
    taught.train()
    loss = taught.training_step((torch.rand(4, 1, 28, 28), torch.arange(4)), 0)
    loss.backward()  # type: ignore[no-untyped-call]
    term: Any = taught.objective.terms[0]  # type: ignore[index]
    assert all(p.grad is None for teacher in term._modules_of for p in teacher.parameters())
    assert not any(teacher.training for teacher in term._modules_of)


@pytest.mark.parametrize("augment", [{}, {"hflip": 0.5}])
def test_what_teachers_said_once_is_what_they_say_of_the_batch(teachers: list[str], augment: dict[str, Any]) -> None:
    data = garments(augment=Augment(**augment))
    module = scratch(terms={"distillation": {"teachers": teachers}})
    module.objective.prepare(module, data)
    term: Any = module.objective.terms[0]  # type: ignore[index]
    positions = torch.tensor([3, 1, 30, 7])
    views = torch.tensor([1, 0, 0, 1]) if augment else None
    split = data.splits["train"]
    batch = split.batch(positions)
    batch.views = views
    assert batch.images is not None
    images = batch.images.float() / 255
    if views is not None:
        images = torch.where(views.view(-1, 1, 1, 1).bool(), images.flip(-1), images)
    known = term.targets(Samples((), batch.labels, batch), torch.device("cpu"))
    assert term._table.shape == (1 + len(augment), len(split), 10)
    torch.testing.assert_close(known, term.targets((images, batch.labels), torch.device("cpu")), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"augment": Augment(translate=2)}, {"mix": Mix(mixup=0.2)}])
def test_teachers_see_the_images_of_the_batch_where_there_are_no_fixed_views(
    teachers: list[str], settings: dict[str, Any]
) -> None:
    data = garments(**settings)
    module = scratch(terms={"distillation": {"teachers": teachers, "temperature": 2.0}})
    module.objective.prepare(module, data)
    term: Any = module.objective.terms[0]  # type: ignore[index]
    images, batch = torch.rand(4, 1, 28, 28), Batch(torch.arange(4), torch.arange(4))
    found = term.targets(Samples(images, batch.labels, batch, images), torch.device("cpu"))
    np.testing.assert_allclose(found.numpy(), taught_by_hand(teachers, images, 2.0), atol=1e-6)
    assert term._table is None
    with pytest.raises(UserError, match="needs images, and the batch has features"):
        term.targets(Samples((images,), batch.labels, batch), torch.device("cpu"))


def test_a_teacher_of_other_classes_or_channels_is_refused(tmp_path: Path, teachers: list[str]) -> None:
    other = saved(tmp_path / "other.ckpt", names=["cat", "dog"])
    module = scratch(terms={"distillation": {"teachers": other}})
    with pytest.raises(UserError, match=r"the teacher .*other\.ckpt tells the classes cat, dog; this run has"):
        module.objective.prepare(module, None)
    gone = scratch(terms={"distillation": {"teachers": "gone.ckpt"}})
    with pytest.raises(UserError, match=r"there is no checkpoint gone\.ckpt"):
        gone.objective.prepare(gone, None)


class Counted(ScratchClassifier):
    """A teacher whose logits are not its network's alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that teachers have seen."""
    seen: list[int] = []
    asked = distillation._logits

    def counted(teacher: Any, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        seen.append(len(images))
        return asked(teacher, images, device)

    monkeypatch.setattr(distillation, "_logits", counted)
    return seen


def told(folder: Path | None, teachers: list[str], data: ImageDataModule | None = None, **settings: Any) -> Any:
    """Have teachers say what they do of every image."""
    data = garments(augment=Augment(hflip=0.5)) if data is None else data
    module = scratch(terms={"distillation": {"teachers": teachers, **settings}})
    module.cache_folder = folder
    module.objective.prepare(module, data)
    split = data.splits["train"]
    batch = split.batch(torch.arange(len(split)))
    term: Any = module.objective.terms[0]  # type: ignore[index]
    term.targets(Samples((), batch.labels, batch), torch.device("cpu"))
    return term._table


def test_what_teachers_say_is_kept_for_other_runs_and_other_temperatures(
    tmp_path: Path, teachers: list[str], passes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    alone = told(None, teachers)
    folder = tmp_path / "cache"
    assert torch.equal(told(folder, teachers), alone)
    passes.clear()
    capsys.readouterr()
    assert torch.equal(told(folder, teachers), alone)
    cooler = told(folder, teachers[:1], temperature=1.0)
    assert passes == []
    assert capsys.readouterr().out == ""
    images = garments().splits["train"].batch(torch.arange(5)).images
    assert images is not None
    np.testing.assert_allclose(cooler[0, :5], taught_by_hand(teachers[:1], images.float() / 255, 1.0), atol=1e-6)


def test_a_damaged_entry_of_a_teacher_is_computed_again(tmp_path: Path, teachers: list[str]) -> None:
    folder = tmp_path / "cache"
    alone = told(folder, teachers[:1])
    (entry,) = store.entries(folder)
    file = entry.path / "logits.npy"
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"damaged values in logits\.npy"):
        assert torch.equal(told(folder, teachers[:1]), alone)
    assert len(store.entries(folder)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda path: {"teachers": [saved(path / "c.ckpt", seed=3)]},
        lambda path: {"teachers": [saved(path / "c.ckpt", seed=1, size=32)]},
        lambda path: {"data": garments()},
        lambda path: {"data": garments(augment=Augment(hflip=0.5), split_seed=1)},
    ],
    ids=["weights", "size", "views", "samples"],
)
def test_what_another_teacher_says_or_of_other_images_is_another_entry(
    tmp_path: Path, teachers: list[str], passes: list[int], change: Any
) -> None:
    folder = tmp_path / "cache"
    told(folder, teachers[:1])
    passes.clear()
    changed = {"teachers": teachers[:1], **change(tmp_path)}
    found = told(folder, **changed)
    assert passes
    assert torch.equal(found, told(None, **changed))


def test_what_cannot_be_kept_is_computed_once_by_each_run(
    tmp_path: Path, teachers: list[str], passes: list[int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "cache"
    alone = told(None, teachers[:1])
    once = len(passes)
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", "0")
    assert torch.equal(told(folder, teachers[:1]), alone)
    assert len(passes) == 2 * once
    assert f"cache: what {teachers[0]} says is not kept, it needs" in capsys.readouterr().out
    monkeypatch.delenv("FASHION_TL_CACHE_LIMIT")
    own = scratch()
    own.__class__ = Counted
    monkeypatch.setattr("fashion_tl.training.loading.load_classifier", lambda path: own)
    passes.clear()
    doubled = [told(folder, teachers[:1]) for _ in range(2)]
    assert len(passes) == 2 * once
    assert torch.equal(*doubled)
    assert capsys.readouterr().out.count("is not kept, Counted computes its logits in a way of its own") == 2
    assert store.entries(folder) == []


# An auxiliary head


def test_the_auxiliary_head_tells_groups_in_training_and_is_gone_after_it() -> None:
    module = scratch(terms={"auxiliary": {"groups": GROUPS, "weight": 0.4}}, network_args={"widths": [3, 4]})
    images, labels = torch.rand(12, 1, 28, 28), torch.arange(12) % 10
    module.eval()
    assert module.logits(images).shape == (12, 10)
    module.train()
    outputs = module.logits(images)
    assert outputs.shape == (12, 16)  # two groups, and the four classes of none
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 2, 3, 4, 5])[labels]
    expected = F.cross_entropy(outputs[:, :10], labels) + 0.4 * F.cross_entropy(outputs[:, 10:], groups)
    torch.testing.assert_close(module.objective(outputs, labels, None).loss, expected)
    soft = module.objective(outputs, F.one_hot(labels, 10).float(), None)
    torch.testing.assert_close(soft.loss, expected)
    assert soft.correct == (outputs[:, :10].argmax(1) == labels).sum()


def test_the_auxiliary_head_is_trained_kept_and_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ckpt", terms={"auxiliary": {"groups": GROUPS}}, train="head")
    module = load_classifier(path)
    names = [name for name, _, _ in module.network.staged_parameters() if name.startswith("head.")]
    assert "head.auxiliary.weight" in names
    assert all(p.requires_grad for p in module.network.head.parameters())
    assert module.logits(torch.rand(2, 1, 28, 28)).shape == (2, 10)
