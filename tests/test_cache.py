"""Runs on cached features equal runs without, and the cache is used exactly where that is so."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from lightning.pytorch import Callback, Trainer
from PIL import Image

from fashion_tl import FeatureCache, SyntheticGarments, TransferClassifier
from fashion_tl.cache.store import clear, entries
from fashion_tl.cli import main
from fashion_tl.data.augment import Augment
from fashion_tl.data.batches import ResidentImages, Split
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.images import InMemoryImages
from fashion_tl.records.record import read_record
from fashion_tl.runs.parser import quiet
from fashion_tl.seeds import seeded

from .conftest import Fit

# Bound of float32 rounding: the same sums in another order (layouts, parts of the graph) after a few dozen steps.
LOSS, WEIGHT = 2e-5, 2e-4


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(name: str, version: int = 0) -> list[dict[str, str]]:
    with Path(f"lightning_logs/{name}/version_{version}/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_equal_runs(first: str, second: str) -> None:
    for one, other in zip(rows(first), rows(second), strict=True):
        for key in ("train/loss", "val/loss"):
            assert float(one[key]) == pytest.approx(float(other[key]), abs=LOSS)
    states = [
        torch.load(f"checkpoints/{name}/version_0/last.ckpt", weights_only=True)["state_dict"]
        for name in (first, second)
    ]
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], atol=WEIGHT, rtol=WEIGHT)


class Losses(Callback):
    """Validation loss of each epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        self.values.append(float(trainer.callback_metrics["val/loss"]))


def trained(backbone: str, train: Any, mode: str, **more: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train three epochs; returns validation losses and weights."""
    with seeded(0), quiet():
        size = 160 if backbone == "test_vit" else 32
        source = SyntheticGarments(num_train=100, num_test=10)
        data = ImageDataModule(source, image_size=size, batch_size=32, augment=Augment(hflip=0.5))
        model = TransferClassifier(
            list(data.class_names),
            backbone,
            False,
            train=train,
            dropout=0.1,
            lr=0.003,
            input_spec=data.input_spec,
            **more,
        )
        losses = Losses()
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            callbacks=[FeatureCache(mode), losses],
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data)
        return losses.values, model.state_dict()


@pytest.mark.parametrize("backbone", ["test_resnet", "mobilenetv2_035", "test_vit"])
@pytest.mark.parametrize("train", ["head", 1, {0: "head", 1: 1, 2: 2}])
@pytest.mark.thorough(keep=5)
def test_training_on_cached_features_is_training_on_images(folder: Path, backbone: str, train: Any) -> None:
    plain, cached = (trained(backbone, train, mode) for mode in ("off", "require"))
    assert len(list(folder.glob("[!.]*"))) >= 2
    assert cached[0] == pytest.approx(plain[0], abs=LOSS)
    for key, value in plain[1].items():
        torch.testing.assert_close(cached[1][key], value, atol=WEIGHT, rtol=WEIGHT)


@pytest.mark.parametrize(
    ("backbone", "train", "more"),
    [
        ("test_resnet", {0: ["layer3", "head"], 1: ["layer4.*.bn*.weight"], 2: ["layer2", "head"]}, {}),
        ("mobilenetv2_035", ["blocks.4", "head"], {"batch_norm": "affine"}),
        ("test_vit", {0: ["blocks.2.norm1.*", "blocks.3.*.bias"], 1: ["blocks.1.attn", "head"]}, {}),
        ("test_resnet", {0: {"train": "head", "until": "plateau", "patience": 1}, 2: ["layer4"]}, {}),
        ("mobilenetv2_035", {0: "head", 1: "lora"}, {"lora": {"layers": "blocks.[56].*"}}),
        ("test_vit", "lora", {"lora": {"layers": ["blocks.3.*", "blocks.4.attn.*"]}}),
    ],
)
@pytest.mark.thorough(keep=2)
def test_whatever_is_selected_trains_on_cached_features_as_on_images(
    backbone: str, train: Any, more: dict[str, Any]
) -> None:
    plain, cached = (trained(backbone, train, mode, **more) for mode in ("off", "require"))
    assert cached[0] == pytest.approx(plain[0], abs=LOSS)
    for key, value in plain[1].items():
        torch.testing.assert_close(cached[1][key], value, atol=WEIGHT, rtol=WEIGHT)


@pytest.mark.slow
def test_cached_and_uncached_runs_are_equal(fit: Fit, folder: Path) -> None:
    flags = ["--model.train", "{0: head, 1: 1, 2: 2}", "--model.dropout", "0.1", "--model.lr", "0.003"]
    flags += ["--data.augment.hflip", "0.5", "--data.source.num_train", "100"]
    for mode in ("off", "require"):
        assert fit(*flags, "--cache", mode, name=mode, epochs=3) == 0
    assert len(list(folder.glob("[!.]*"))) >= 3
    assert_equal_runs("off", "require")


@pytest.mark.slow
def test_a_second_run_computes_nothing(fit: Fit, capsys):
    flags = ("--model.train", "head", "--cache", "require")
    assert fit(*flags, name="first") == 0
    assert "computed once" in capsys.readouterr().out
    assert fit(*flags, "--model.lr", "0.1", name="second") == 0
    assert "computed once" not in capsys.readouterr().out


@pytest.mark.slow
def test_whatever_features_depend_on_has_them_computed_again(fit: Fit, capsys) -> None:
    flags = ("--model.train", "head", "--cache", "require")
    assert fit(*flags, name="first") == 0
    for change in (
        ("--seed_everything", "1"),  # other random weights
        ("--model.train", "1"),
        ("--model.backbone_args", "{act_layer: gelu}"),  # the same weights, another function
        ("--model.mean", "[0.4, 0.4, 0.4]"),
        ("--data.image_size", "40"),
        ("--data.interpolation", "nearest"),
        ("--data.split_seed", "1"),
        ("--data.per_class", "5"),
        ("--data.augment.hflip", "0.5"),
    ):
        capsys.readouterr()
        assert fit(*flags, *change, name="second") == 0
        assert "cache: features of train below" in capsys.readouterr().out, change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--model.train", "all"), "nothing is frozen"),
        (("--model.train", "head", "--data.augment.translate", "2"), "augmented at random"),
    ],
)
def test_where_it_is_not_valid_auto_says_why_once_and_require_stops(fit: Fit, capsys, flags, reason):
    assert fit(*flags, epochs=2) == 0
    assert capsys.readouterr().out.count(reason) == 1
    assert fit(*flags, "--cache", "require") == 2
    assert reason in capsys.readouterr().err


def test_require_refuses_before_anything_is_written(fit: Fit, capsys):
    assert fit("--model.train", "{0: head, 1: all}", "--cache", "require", epochs=2) == 2
    assert "nothing is frozen" in capsys.readouterr().err
    assert fit("--cache_keep", "[layer9]") == 2
    assert "layer9" in capsys.readouterr().err
    assert not Path("lightning_logs").exists()
    assert not Path("checkpoints").exists()


@pytest.mark.slow
def test_one_pass_keeps_what_later_phases_need(fit: Fit, folder: Path, capsys):
    assert fit("--model.train", "head", "--cache_keep", "[layer4, layer2]", name="first") == 0
    assert "below layer2 and above and layer4 and head and head computed once" in capsys.readouterr().out
    assert len(list(folder.glob("[!.]*"))) == 9
    for train in ("layer4", "layer2"):
        flags = ("--model.init_from", "first", "--model.train", train, "--cache")
        assert fit(*flags, "require", name=f"kept_{train}") == 0
        assert "computed once" not in capsys.readouterr().out
        assert fit(*flags, "off", name=f"plain_{train}") == 0
        assert_equal_runs(f"kept_{train}", f"plain_{train}")


@pytest.mark.slow
def test_one_pass_serves_all_phases_of_a_schedule(fit: Fit, folder: Path, capsys):
    assert fit("--model.train", "{0: head, 1: layer4, 2: layer3}", "--cache", "require", epochs=3) == 0
    said = capsys.readouterr().out
    assert all(said.count(f"cache: features of {part} below") == 1 for part in ("train", "val", "test"))
    assert len(list(folder.glob("[!.]*"))) == 7  # three boundaries of two parts, and the test's


@pytest.mark.slow
def test_images_that_lie_on_the_device_train_the_same(fit: Fit, monkeypatch):
    flags = ("--model.train", "all", "--data.augment.hflip", "0.5", "--cache", "off")
    assert fit(*flags, name="plain") == 0

    def place(self: ImageDataModule, split: Split, device: torch.device) -> None:
        assert isinstance(split.images, InMemoryImages)
        split.images_source = split.source = ResidentImages(split.images.images[split.indices])

    monkeypatch.setattr(ImageDataModule, "_place", place)
    assert fit(*flags, name="resident") == 0
    assert_equal_runs("plain", "resident")


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["auto", "off"])
@pytest.mark.thorough
def test_compiled_code_follows_a_change_of_phase(fit: Fit, capsys, cache):
    flags = ("--model.train", "{0: head, 1: layer4, 2: all}", "--model.lr", "0.003", "--cache", cache)
    assert fit(*flags, name="plain", epochs=3) == 0
    assert fit(*flags, "--compile", "eager", name="compiled", epochs=3) == 0
    assert_equal_runs("plain", "compiled")
    assert fit(*flags, "--compile", "egaer", name="wrong") == 2
    assert "eager" in capsys.readouterr().err


@pytest.mark.slow
def test_off_writes_nothing(fit: Fit, folder: Path):
    assert fit("--model.train", "head", "--cache", "off") == 0
    assert not folder.exists()


@pytest.mark.slow
def test_no_room_means_a_line_and_training_without(fit: Fit, folder: Path, capsys, monkeypatch):
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", "0.000001")
    assert fit("--model.train", "head") == 0
    assert "cache: not used" in capsys.readouterr().out
    assert list(folder.glob("[!.]*")) == []


@pytest.mark.slow
def test_a_damaged_file_is_noticed_and_computed_again(fit: Fit, folder: Path, capsys):
    assert fit("--model.train", "head", name="first") == 0
    for file in folder.glob("[!.]*/*.npy"):
        content = bytearray(file.read_bytes())
        content[-20] ^= 1
        file.write_bytes(content)
    capsys.readouterr()
    with pytest.warns(UserWarning, match="damaged values in .*; removed, to be computed again"):
        assert fit("--model.train", "head", name="second") == 0
    assert "computed once" in capsys.readouterr().out
    assert_equal_runs("first", "second")


@pytest.mark.slow
def test_the_record_says_how_long_the_cache_took(fit: Fit):
    assert fit("--model.train", "head") == 0
    assert read_record(Path("lightning_logs/run/version_0"))["time"]["cache_seconds"] > 0


@pytest.mark.slow
def test_cache_list_and_clear(fit: Fit, folder: Path, capsys):
    assert fit("--model.train", "head") == 0
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    listed = capsys.readouterr().out
    assert "test_resnet at head, train, 32 px" in listed
    assert main(["cache", "clear"]) == 0
    assert "removed" in capsys.readouterr().out
    assert list(folder.glob("[!.]*")) == []


@pytest.mark.slow
@pytest.mark.thorough
def test_images_read_by_workers_are_cached_too(fit: Fit, workdir: Path, monkeypatch, capsys):
    generator = torch.Generator().manual_seed(0)
    for name in ("cats", "dogs"):
        (workdir / "pets" / name).mkdir(parents=True)
        for i in range(24):
            pixels = torch.randint(256, (40, 40, 3), generator=generator, dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(workdir / "pets" / name / f"{i}.png")
    monkeypatch.setattr("fashion_tl.data.image_folder.memory_limit", lambda: 0)
    flags: tuple[str, ...] = (
        "--data.source",
        "ImageFolder",
        "--data.source.root",
        str(workdir),
        "--data.source.folder",
        "pets",
    )
    flags += ("--data.num_workers", "1", "--data.val_fraction", "0.2", "--data.batch_size", "8")
    # Not Adam: it divides by the size of gradients, and so blows rounding up in the phase without the cache.
    flags += ("--model.train", "{0: head, 2: all}", "--model.optimizer", "sgd", "--model.lr", "0.01")
    assert fit(*flags, name="on", epochs=3) == 0
    assert "computed once" in capsys.readouterr().out
    assert fit(*flags, "--cache", "off", name="off", epochs=3) == 0
    assert_equal_runs("on", "off")


@pytest.mark.slow
@pytest.mark.thorough
def test_a_phase_whose_features_do_not_fit_loses_its_cache_alone(fit: Fit, folder: Path, capsys, monkeypatch):
    flags = ("--model.train", "{0: head, 1: layer2}", "--model.optimizer", "sgd")
    assert fit(*flags, name="fits", epochs=2) == 0
    sizes = sorted(entry.bytes for entry in entries(folder))
    assert clear(folder) == (len(sizes), sum(sizes), [])
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", str((sizes[-1] - 1) / 2**30))  # all but the largest entry fit
    capsys.readouterr()
    assert fit(*flags, name="tight", epochs=2) == 0
    said = capsys.readouterr().out
    assert "cache: features of train below head computed once" in said
    assert said.count("cache: not used, it needs") == 1
    assert_equal_runs("fits", "tight")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16), ("32-true", torch.float32)]
)
def test_features_are_stored_in_the_precision_of_the_run(precision: str, dtype: torch.dtype) -> None:
    from fashion_tl.data.batches import Batch, CachedFeatures
    from fashion_tl.features.extraction import stored

    features = torch.tensor([[1.0, -3.0], [6e4, 2.0**-9]]).to(dtype)
    if dtype != torch.float16:
        features[1, 0] = 1e5  # beyond what float16 holds
    found = CachedFeatures([[stored(features.float(), precision)]])
    (rows_of,) = found.fetch(Batch(torch.tensor([1, 0]), torch.tensor([0, 0])), training=False)
    assert rows_of.dtype == torch.float32
    assert torch.equal(rows_of, features.float()[[1, 0]])
    assert found.nbytes == features.nbytes


@pytest.mark.parametrize("limit", ["much", "nan", "-1"])
def test_a_limit_that_is_no_number_is_refused_before_anything_is_written(fit: Fit, capsys, monkeypatch, limit):
    monkeypatch.setenv("FASHION_TL_CACHE_LIMIT", limit)
    before = sorted(Path().rglob("*"))
    assert fit("--model.train", "head") == 2
    assert f"FASHION_TL_CACHE_LIMIT={limit!r}" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
@pytest.mark.thorough
def test_a_warm_cache_that_only_others_may_write_is_used(fit: Fit, folder: Path, capsys, monkeypatch):
    flags = ("--model.train", "head", "--cache", "require")
    assert fit(*flags, name="first") == 0
    before = sorted(folder.rglob("*"))

    class Refusing(FileLock):
        def acquire(self, *_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied", self.lock_file)

    monkeypatch.setattr("fashion_tl.cache.store.FileLock", Refusing)
    capsys.readouterr()
    assert fit(*flags, name="second") == 0
    assert "cache" not in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    # What later phases could use is missing, and goes on missing.
    assert fit(*flags, "--cache_keep", "[layer4]", name="third") == 0
    assert sorted(folder.rglob("*")) == before
    assert fit("--model.train", "1", name="fourth") == 0
    assert "cache: not used, cannot write the cache" in capsys.readouterr().out
    assert_equal_runs("first", "second")
