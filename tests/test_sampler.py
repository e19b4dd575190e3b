"""Runs with the balanced sampler: going on, cached features, cached views, several processes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from fashion_tl import FeatureCache, ImageDataModule, ScratchClassifier, TransferClassifier
from fashion_tl.data.augment import Augment
from fashion_tl.errors import UserError
from fashion_tl.records.record import read_record
from fashion_tl.runs.parser import quiet
from fashion_tl.seeds import seeded

from .conftest import Fit
from .long_tail import LongTail
from .test_cache import LOSS, WEIGHT, assert_equal_runs
from .test_processes import forked

SOURCE = ("--data.source", "tests.long_tail.LongTail", "--data.source.num_train", "300")
BALANCED = ("--data.sampler", "balanced")
DRAWN = ("--data.augment.translate", "3", "--data.augment.rotation", "20")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))


class Seen(Callback):
    """The classes of each batch and its loss, by epoch."""

    def __init__(self) -> None:
        self.labels: dict[int, list[list[int]]] = {}
        self.losses: dict[int, list[float]] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.labels.setdefault(trainer.current_epoch, []).append(batch.labels.tolist())
        self.losses.setdefault(trainer.current_epoch, []).append(float(outputs["loss"]))


def trained(
    cache: str, views: int | None = None, epochs: int = 3, augment: Augment | None = None, **more: Any
) -> tuple[Seen, dict[str, torch.Tensor], ImageDataModule]:
    settings: dict[str, Any] = {name: more.pop(name) for name in ("label_budget", "per_class") if name in more}
    with seeded(0), quiet():
        data = ImageDataModule(
            LongTail(num_train=300, num_test=10),
            image_size=32,
            batch_size=16,
            augment=augment,
            sampler="balanced",
            **settings,
        )
        model = TransferClassifier(
            list(data.class_names),
            "test_resnet",
            False,
            train="head",
            dropout=0.3,
            lr=0.003,
            input_spec=data.input_spec,
        )
        seen = Seen()
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[FeatureCache(cache, views=views), seen],
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **more,
        )
        trainer.fit(model, data)
        return seen, model.state_dict(), data


@pytest.mark.parametrize("limit", [{}, {"label_budget": 12}, {"per_class": 20}])
def test_an_epoch_has_classes_equally_often(limit: dict[str, Any]) -> None:
    seen, _, data = trained("auto", **limit)
    sizes = torch.tensor(data.class_counts)
    assert sizes.max() >= 2 * sizes.min()
    for labels in seen.labels.values():
        counts = torch.tensor([label for batch in labels for label in batch]).bincount(minlength=10)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == len(data.splits["train"]) // 16 * 16
        assert counts.min() > sizes.min()


@pytest.mark.parametrize("more", [{}, {"accumulate_grad_batches": 3}, {"limit_train_batches": 5}])
@pytest.mark.parametrize(
    ("augment", "views"), [(None, None), (Augment(hflip=0.5), None), (Augment(translate=3, rotation=20.0), 3)]
)
@pytest.mark.thorough(keep=3)
def test_training_on_cached_features_is_training_on_images(
    augment: Augment | None, views: int | None, more: dict[str, Any]
) -> None:
    """With drawn views each of an image's repeats in an epoch is another view, kept as such."""
    plain, cached = (trained(mode, views, augment=augment, **more) for mode in ("off", "require"))
    assert plain[0].labels == cached[0].labels
    for epoch, losses in plain[0].losses.items():
        assert cached[0].losses[epoch] == pytest.approx(losses, abs=LOSS)
    for key, value in plain[1].items():
        torch.testing.assert_close(cached[1][key], value, atol=WEIGHT, rtol=WEIGHT)


def test_later_epochs_see_all_kept_views_of_an_image_that_comes_often() -> None:
    """Each image is in one of the views that the first epoch drew of it, not always in the same."""
    from fashion_tl.data.batches import Batch
    from fashion_tl.data.views import DrawnView, DrawnViews

    with seeded(5):
        data = ImageDataModule(LongTail(num_train=300, num_test=10), batch_size=16, sampler="balanced")
        data.setup()
        views: DrawnViews | None = data.drawn_views
        assert views is not None
        order, count = views.order(0), len(data.splits["train"])
    assert sorted(set(order.tolist())) == list(range(count))
    often = int(order.bincount().argmax())
    own = (order == often).nonzero().flatten().tolist()
    assert len(own) > 3
    numbers = torch.arange(len(order), dtype=torch.float32).view(-1, 1).numpy()
    view = DrawnView([numbers], order, torch.zeros(0).numpy())
    labels = torch.zeros(400, dtype=torch.int64)
    (rows,) = view.fetch(Batch(torch.full((400,), often), labels, number=0), training=True)
    assert sorted(set(rows.flatten().int().tolist())) == own
    (rows,) = view.fetch(Batch(torch.arange(count), torch.zeros(count)), training=True)
    assert order[rows.flatten().long()].tolist() == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("place", [(1, 1), (2, 4)])
@pytest.mark.parametrize("reading", ["images", "features", "views"])
@pytest.mark.thorough(keep=1)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    fit: Fit, stop_at: Any, place: tuple[int, int], reading: str
) -> None:
    flags: tuple[str, ...] = (*SOURCE, *BALANCED, "--model.dropout", "0.3", "--checkpoint_steps", "1")
    flags += ("--data.batch_size", "16", "--model.train", "{0: head, 1: layer4}")
    flags += {
        "images": (*DRAWN, "--cache", "off"),
        "features": ("--data.augment.hflip", "0.5", "--cache", "require"),
        "views": (*DRAWN, "--cache", "require", "--cache_views", "2"),
    }[reading]
    assert fit(*flags, name="whole", epochs=4) == 0
    stop_at(*place, KeyboardInterrupt())
    assert fit(*flags, name="stopped", epochs=4) not in (0, 2)
    stop_at(-1, -1, KeyboardInterrupt())
    assert fit(*flags, "--resume", "true", name="stopped", epochs=4) == 0
    whole, stopped = (
        torch.load(f"checkpoints/{name}/version_0/last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(value, stopped[key]) for key, value in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize("cache", [("--cache", "off"), ("--cache", "require", "--cache_views", "3")])
@pytest.mark.thorough
def test_two_processes_share_one_draw(fit: Fit, cache: tuple[str, ...]) -> None:
    """Without augmentation two processes of 16 are one of 32; with it each process keeps what it draws."""
    flags = (*SOURCE, *BALANCED, "--model.train", "{0: head, 1: layer4}")
    if "off" in cache:
        plain = ("--model.optimizer", "sgd", "--model.lr", "0.05", "--model.batch_norm", "eval")
        assert fit(*flags, *plain, *cache, "--data.source.num_test", "41", name="one", epochs=3) == 0
        forked(*flags, *plain, *cache, "--name", "two", "--trainer.strategy", "ddp")
        states = [
            torch.load(f"checkpoints/{name}/version_0/last.ckpt", weights_only=True)["state_dict"]
            for name in ("one", "two")
        ]
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, atol=1e-5, rtol=0, msg=key)
        return
    for name, way in (("off", ("--cache", "off")), ("views", cache)):
        forked(*flags, *DRAWN, "--model.dropout", "0.3", *way, "--name", name, "--trainer.strategy", "ddp")
    assert_equal_runs("off", "views")


@pytest.mark.slow
def test_another_sampler_is_another_run_and_another_batch_size_between_epochs_is_not(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(*SOURCE, *BALANCED) == 0
    record = read_record(Path("lightning_logs/run/version_0"))
    assert record["data"]["sampler"] == "balanced"
    last = ("--ckpt_path", "checkpoints/run/version_0/last.ckpt")
    assert fit(*SOURCE, *last, epochs=2) == 2
    assert "data.sampler: balanced, now random" in capsys.readouterr().err
    assert fit(*SOURCE, *BALANCED, *last, "--data.batch_size", "20", epochs=2) == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--data.sampler", "balance"), "did you mean 'balanced'"),
        (("--data.sampler", "weighted"), "random, balanced"),
        ((*BALANCED, "--model.class_weights", "balanced"), "corrected for twice"),
        ((*BALANCED, "--trainer.overfit_batches", "2"), "trainer.overfit_batches 2"),
    ],
)
def test_mistakes_leave_nothing(fit: Fit, capsys: pytest.CaptureFixture[str], flags: Any, told: str) -> None:
    assert fit(*flags) == 2
    assert told in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_a_plain_trainer_refuses_balanced_weights_beside_it() -> None:
    with seeded(0), quiet():
        data = ImageDataModule(LongTail(num_train=60, num_test=10), sampler="balanced")
        given: dict[str, Any] = {"input_spec": data.input_spec, "network_args": {"widths": [3, 4]}}
        model = ScratchClassifier(data.class_names, network="plain", class_weights="balanced", **given)
        trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
        with pytest.raises(UserError, match="both balanced"):
            trainer.fit(model, data)
    with pytest.raises(UserError, match="unknown sampler 'even'"):
        ImageDataModule(LongTail(num_train=60), sampler="even")


def test_a_probe_draws_nothing(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fashion_tl.cli import main

    assert main(["probe", *SOURCE, *BALANCED]) == 2
    assert "a probe is solved on every training image once" in capsys.readouterr().err
