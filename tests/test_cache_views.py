"""Drawn views in the cache: the first K epochs are those of a run without the cache, later ones see the same again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from fashion_tl import FeatureCache, ImageDataModule, SyntheticGarments, TransferClassifier
from fashion_tl.cache.eviction import why_no_room
from fashion_tl.cache.store import CacheWriteError, entries
from fashion_tl.callbacks.features import _placed as place
from fashion_tl.data.augment import Augment
from fashion_tl.data.batches import Batch, CachedFeatures
from fashion_tl.data.views import DrawnViews
from fashion_tl.errors import UserError
from fashion_tl.features.extraction import Extraction, stored
from fashion_tl.features.views import DrawnEpoch
from fashion_tl.records.record import read_record
from fashion_tl.runs.parser import quiet
from fashion_tl.seeds import seed_batch, seeded

from .conftest import Fit
from .test_cache import LOSS, WEIGHT, assert_equal_runs, folder, rows  # noqa: F401 - a fixture
from .test_processes import forked

EVERYTHING: dict[str, Any] = {
    **{"hflip": 0.5, "translate": 3, "rotation": 20.0, "brightness": 0.2, "contrast": 0.2},
    **{"random_erasing": 0.5, "random_resized_crop": 0.5, "trivial_augment": True},
}
FLAGS = tuple(f"--data.augment.{name}={value}" for name, value in EVERYTHING.items())


class Seen(Callback):
    """What each training batch sees: its positions' labels, its inputs' sum, and the loss."""

    def __init__(self) -> None:
        self.losses: dict[int, list[float]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.setdefault(trainer.current_epoch, []).append(float(outputs["loss"]))


def trained(
    mode: str,
    views: int | None = None,
    train: Any = "head",
    epochs: int = 3,
    dtype: str | None = None,
    augment: Any = None,
    also: Sequence[Callback] = (),
    start: Path | None = None,
    **more: Any,
) -> tuple[dict[int, list[float]], dict[str, torch.Tensor], FeatureCache]:
    """Train with every augmentation and dropout; returns the loss of each batch, weights, and the cache."""
    with seeded(0), quiet():
        source = SyntheticGarments(num_train=100, num_test=10)
        data = ImageDataModule(source, image_size=32, batch_size=16, augment=augment or Augment(**EVERYTHING))
        model = TransferClassifier(
            *(list(data.class_names), "test_resnet", False),
            **{"train": train, "dropout": 0.3, "lr": 0.003, "input_spec": data.input_spec},
        )
        cache, seen = FeatureCache(mode, views=views, dtype=dtype), Seen()
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[cache, seen, *also],
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=bool(also),
            enable_progress_bar=False,
            enable_model_summary=False,
            **more,
        )
        trainer.fit(model, data, ckpt_path=start, weights_only=True)
        return seen.losses, model.state_dict(), cache


class SaveAt(Checkpoint):
    """Saves a checkpoint in one hook, in one epoch, after all other callbacks."""

    def __init__(self, path: Path, epoch: int, hook: str = "on_train_epoch_end") -> None:
        self.path, self.epoch = path, epoch
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


class Faded(torch.nn.Module):
    """An augmentation with state: a buffer, and a kernel that its first call makes."""

    replayable = True

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.register_buffer("strength", torch.tensor(strength))
        self.kernel: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.kernel = torch.ones(1) if self.kernel is None else self.kernel
        return images / 255 * self.get_buffer("strength") * self.kernel


class Scaled(torch.nn.Module):
    """An augmentation with a parameter of its own."""

    replayable = True

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(strength), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images / 255 * self.strength


@dataclass(frozen=True)
class _Plain(Augment):
    replayable: ClassVar[bool] = True


class Weaker(_Plain):
    """A subclass of the dataclass that is none itself."""

    replayable: ClassVar[bool] = True

    def __init__(self, strength: float) -> None:
        super().__init__()
        object.__setattr__(self, "strength", strength)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return super().__call__(images) * float(vars(self)["strength"])


@pytest.mark.parametrize("kind", [Faded, Scaled, Weaker])
def test_views_of_another_augmentation_are_not_taken(kind: Any) -> None:
    found = [trained(mode, 1, epochs=1, augment=kind(s))[0] for s in (1.0, 0.3) for mode in ("off", "require")]
    for plain, cached in (found[:2], found[2:]):
        assert cached[0] == pytest.approx(plain[0], abs=LOSS)
    assert found[0][0] != pytest.approx(found[2][0], abs=100 * LOSS)


def test_training_that_goes_on_at_the_end_of_an_epoch_takes_the_views_of_the_next(tmp_path: Path) -> None:
    """The checkpoint is written before its epoch counts as done, and a phase begins with the next one."""
    train = {0: "head", 1: 1}
    whole = trained("require", 3, train, also=[SaveAt(tmp_path / "cut.ckpt", 0, "on_validation_end")])
    again = trained("require", 3, train, start=tmp_path / "cut.ckpt")
    assert again[0] == {epoch: losses for epoch, losses in whole[0].items() if epoch}


@pytest.mark.parametrize("now", [{"views": 3}, {}, {"views": 2, "dtype": "bfloat16"}, {"views": 2, "mode": "off"}])
def test_a_plain_trainer_does_not_go_on_with_other_views(tmp_path: Path, now: dict[str, Any]) -> None:
    last, mode = tmp_path / "last.ckpt", now.get("mode", "auto")
    trained("auto", 2, epochs=1, also=[SaveAt(last, 0)])
    with pytest.raises(UserError, match="cache_dtype: None, now bfloat16" if "dtype" in now else "cache_views: 2, now"):
        trained(mode, now.get("views"), epochs=2, dtype=now.get("dtype"), start=last)
    assert trained("auto", 2, epochs=2, start=last)[0].keys() == {1}


def test_views_that_nothing_draws_do_not_matter_where_training_goes_on(tmp_path: Path) -> None:
    last, flipped = tmp_path / "last.ckpt", Augment(hflip=0.5)
    trained("auto", 2, epochs=1, augment=flipped, also=[SaveAt(last, 0)])
    for mode, views in (("off", 2), ("auto", None)):
        assert trained(mode, views, epochs=2, augment=flipped, start=last)[0].keys() == {1}


def test_views_on_a_gpu_take_a_share_of_its_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class View(CachedFeatures):
        """Rows of 100 bytes that say where they lie."""

        place = torch.device("cpu")

        @property
        def device(self) -> torch.device:
            return self.place

        def to(self, device: torch.device) -> CachedFeatures:
            self.place = device
            return self

    gpu, views = torch.device("cuda"), [View([[np.zeros((5, 5), np.float32)]]) for _ in range(5)]

    def free(device: torch.device) -> tuple[int, int]:
        return 1000 - 100 * sum(view.place == gpu for view in views), 1000

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    for number, view in enumerate(views):
        place(view, gpu, views[:number])
    assert [view.place == gpu for view in views] == [True, True, False, False, False]


def test_what_a_device_lacks_is_not_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has no float64: only what was brought to the CPU becomes that."""
    real, brought = torch.Tensor.cpu, []

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        brought.append(real(tensor).clone())
        return brought[-1]

    def double(tensor: torch.Tensor) -> torch.Tensor:
        if not any(tensor is each for each in brought):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.to(torch.float64)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    monkeypatch.setattr(torch.Tensor, "double", double)
    assert trained("require", 1, epochs=1)[2].largest_difference is not None


def test_what_float16_does_not_hold_at_a_lower_boundary_leaves_the_one_that_is_needed(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_large_below(tensor: torch.Tensor, precision: str, dtype: str | None = None) -> np.ndarray:
        return stored(tensor * (1e9 if tensor.ndim == 4 else 1), precision, dtype)

    monkeypatch.setattr("fashion_tl.features.extraction.stored", too_large_below)
    trained("auto", None, {0: "head", 1: 1}, epochs=2, dtype="float16", augment=Augment(hflip=0.5))
    kept = [e.description for e in entries(folder) if e.description["part"] == "train"]
    assert {about["boundary"] for about in kept} == {"head"}


@pytest.mark.parametrize(
    ("train", "more"),
    [
        ("head", {}),
        ({0: "head", 1: 1, 2: 2}, {}),
        ("head", {"max_steps": 8, "limit_train_batches": 4, "val_check_interval": 2}),
        (1, {"accumulate_grad_batches": 2, "overfit_batches": 3}),
    ],
)
def test_as_many_views_as_epochs_are_training_on_images(train: Any, more: dict[str, Any]) -> None:
    plain, cached = trained("off", train=train, **more), trained("require", 3, train, **more)
    assert plain[0].keys() == cached[0].keys()
    assert cached[2].largest_difference is not None
    for epoch, losses in plain[0].items():
        assert cached[0][epoch] == pytest.approx(losses, abs=LOSS)
    for key, value in plain[1].items():
        torch.testing.assert_close(cached[1][key], value, atol=WEIGHT, rtol=WEIGHT)


def test_each_phase_keeps_the_views_of_its_own_epochs_alone(folder: Path) -> None:  # noqa: F811
    trained("require", 3, {0: "head", 1: 1, 2: 2})
    kept = [e.description for e in entries(folder) if e.description["part"] == "train"]
    found = {(about["boundary"], about["epoch"]) for about in kept}
    assert found == {("head", 0), ("layer4", 1), ("layer3", 2)}


def test_later_epochs_see_the_views_of_the_first_ones_in_orders_of_their_own(folder: Path) -> None:  # noqa: F811
    """A view's features are the network's, of the image that augmentation drew in that epoch, whatever the order."""
    plain, cached = trained("off", epochs=5), trained("require", 2, epochs=5)
    for epoch in (0, 1):
        assert cached[0][epoch] == pytest.approx(plain[0][epoch], abs=LOSS)
    for epoch in (2, 3, 4):
        assert cached[0][epoch] != pytest.approx(plain[0][epoch], abs=100 * LOSS)
    assert len([e for e in entries(folder) if e.description["part"] == "train"]) == 2
    again = trained("require", 2, epochs=5)
    assert again[0] == cached[0]


@pytest.mark.parametrize("processes", [1, 2])
def test_views_are_what_training_draws_for_each_sample(processes: int) -> None:
    """Against a walk through the loaders by hand, with the samples that an epoch leaves out at the end."""
    with seeded(5):
        data = ImageDataModule(SyntheticGarments(num_train=60), batch_size=8, augment=Augment(**EVERYTHING))
        data.setup()
        split = data.splits["train"]
        views = DrawnViews(
            split,
            data.augment,
            8,
            True,
            5,
            processes,
        )
        for epoch in (0, 3):
            drawn = torch.cat([images for images, _ in views.draw(epoch, torch.device("cpu"))])
            row_of = {int(position): row for row, position in enumerate(views.order(epoch))}
            assert sorted(row_of) == list(range(len(split)))
            seen = 0
            for rank in range(processes):
                loader = data.train_dataloader()
                loader.rank, loader.world = rank, processes
                loader.set_epoch(epoch)
                for number, batch in enumerate(loader):
                    seed_batch(5, rank, epoch, number, torch.device("cpu"))
                    images = data.augment(cast(torch.Tensor, batch.images))
                    rows_of = [row_of[int(position)] for position in batch.positions]
                    assert torch.equal(drawn[rows_of], images)
                    seen += len(rows_of)
            assert 0 < seen < len(split)


def test_a_seed_is_needed_and_a_foreign_augmentation_must_say_that_one_repeats_it(tmp_path: Path) -> None:
    class Noise(Augment):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return super().__call__(images) + float(np.random.default_rng().random())

    with seeded(0):
        data = ImageDataModule(SyntheticGarments(60), augment=Noise(translate=1))
        data.setup()
        assert data.drawn_views is None
        data.augment = Augment(translate=1)
        assert data.drawn_views is not None
    assert data.drawn_views is None


# Through the command line


def state_of(name: str) -> dict[str, torch.Tensor]:
    path = f"checkpoints/{name}/version_0/last.ckpt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.parametrize("place", [(1, 1), (2, 2)])
@pytest.mark.thorough(keep=1)
def test_a_run_that_goes_on_sees_the_views_of_its_epochs(fit: Fit, stop_at: Any, place: tuple[int, int]) -> None:
    flags = (*FLAGS, "--model.train", "{0: head, 1: layer4}", "--model.dropout", "0.3", "--cache", "require")
    flags += ("--cache_views", "2", "--checkpoint_steps", "1", "--data.batch_size", "16")
    assert fit(*flags, name="whole", epochs=4) == 0
    stop_at(*place, KeyboardInterrupt())
    assert fit(*flags, name="stopped", epochs=4) not in (0, 2)
    stop_at(-1, -1, KeyboardInterrupt())
    assert fit(*flags, "--resume", "true", name="stopped", epochs=4) == 0
    whole, stopped = (state_of(name) for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[key]) for key, value in whole.items())
    losses = [[row["train/loss"] for row in rows(name)] for name in ("whole", "stopped")]
    assert losses[0] == losses[1]


@pytest.mark.thorough
def test_teachers_that_see_each_batch_leave_no_place_for_features(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--model.train", "head", name="teacher") == 0
    taught = ("--model.train", "head", "--model.terms={distillation: {teachers: teacher}}", "--cache_views", "2")
    assert fit(*taught, *FLAGS) == 0
    assert "cache: not used, the objective needs the images of each batch" in capsys.readouterr().out


def test_a_certificate_tells_of_a_cache_that_was_given_up(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure = Extraction.ensure

    def filled(extraction: Extraction, split: Any, part: str, views: Any, *more: Any) -> None:
        if isinstance(views, DrawnEpoch) and views.epoch == 1:
            raise CacheWriteError("the disk is full")
        ensure(extraction, split, part, views, *more)

    monkeypatch.setattr(Extraction, "ensure", filled)
    assert fit("--model.train", "head", "--cache_views", "2", *FLAGS, name="full", epochs=2) == 0
    assert "cache: not used, the disk is full" in capsys.readouterr().out
    (phase,) = read_record(Path("lightning_logs/full/version_0"))["certificate"]
    assert phase["cache"] == {"used": False, "largest_difference": None}


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_see_what_each_draws(workdir: Path) -> None:
    flags = (*FLAGS, "--model.dropout", "0.3", "--model.train", "{0: head, 1: layer4}")
    for name, cache in (("off", ("--cache", "off")), ("views", ("--cache", "require", "--cache_views", "3"))):
        forked(*flags, *cache, "--name", name, "--trainer.strategy", "ddp")
    assert_equal_runs("off", "views")


@pytest.mark.slow
def test_views_that_do_not_fit_are_refused_before_anything_is_written(
    fit: Fit,
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = (*FLAGS, "--model.train", "layer2")
    assert fit(*flags, "--cache_views", "3", name="fits", epochs=3) == 0
    said = capsys.readouterr().out
    assert "cache: 3 views of 110 images below layer2" in said
    train = [e.bytes for e in entries(folder) if e.description["part"] == "train"]
    assert len(train) == 3
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", str(2.5 * max(train) / 2**30))
    before = sorted(Path().rglob("*"))
    assert fit(*flags, "--cache_views", "3", name="tight", epochs=3) == 2
    told = capsys.readouterr().err
    assert "--cache_views 3: 3 views of" in told
    assert "FASHION_TL_CACHE_LIMIT" in told
    assert sorted(Path().rglob("*")) == before
    assert fit(*flags, "--cache_views", "3", "--cache_dtype", "bfloat16", name="half", epochs=3) == 0
    assert fit(*flags, "--cache_views", "2", name="two", epochs=3) == 0
    assert "not used" not in capsys.readouterr().out


def test_why_views_do_not_fit_changes_nothing(tmp_path: Path) -> None:
    assert why_no_room(tmp_path / "new", 10, 5) is not None
    assert why_no_room(tmp_path / "new", 10, 10) is None
    assert "free" in str(why_no_room(tmp_path / "new", 2**60, 2**61))
    assert list(tmp_path.iterdir()) == []


def test_wrong_values_are_refused(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--cache_views", "0") == 2
    assert "cache_views is 0, allowed is 1" in capsys.readouterr().err
    assert fit("--cache_dtype", "float15") == 2
    assert "did you mean 'float16'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_views(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*FLAGS, "--model.train", "head")
    assert fit(*flags, "--cache_views", "2") == 0
    last = ("--ckpt_path", "checkpoints/run/version_0/last.ckpt")
    for more, told in ((("--cache_views", "3"), "2, now 3"), ((), "2, now None")):
        assert fit(*flags, *more, *last, epochs=2) == 2
        assert f"cache_views: {told}" in capsys.readouterr().err
    assert fit(*flags, "--cache_views", "2", *last, epochs=2) == 0


# Storage in half precision


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float16", 2e-3), ("bfloat16", 1e-2)])
def test_features_and_losses_in_another_type_are_near(dtype: str, bound: float) -> None:
    plain, cached = trained("off"), trained("require", 3, dtype=dtype)
    for epoch, losses in plain[0].items():
        assert cached[0][epoch] == pytest.approx(losses, rel=bound)
    features = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    found = CachedFeatures([[stored(features, "32-true", dtype)]])
    (back,) = found.fetch(Batch(torch.arange(50), torch.zeros(50)), training=False)
    assert back.dtype == torch.float32
    error = float(((back - features).abs() / features.abs()).max())
    assert error <= {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[dtype]
    assert (error > 0) == (dtype != "float32")


def test_what_float16_does_not_hold_is_refused() -> None:
    with pytest.raises(CacheWriteError, match="beyond float16: use bfloat16"):
        stored(torch.tensor([[1e5]]), "32-true", "float16")
