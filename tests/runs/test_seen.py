"""No run tests, or validates, on what the weights that it starts from or learns from were trained on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from fashion_tl import ImageDataModule, ImageFolder, ScratchClassifier, SyntheticGarments, load_classifier
from fashion_tl.cli import main
from fashion_tl.errors import UserError
from fashion_tl.runs.parser import quiet
from fashion_tl.training.loading import finished_checkpoint
from fashion_tl.training.seen import Seen

from ..conftest import Fit

OWN_TEST = ("--data.source", "tests.long_tail.Untested", "--data.source.num_train", "200")  # split off by seed
HEAD = ("--model.train", "head")
OTHER = ("--data.split_seed", "1")
STARTS = {
    "model.init_from": ("--model.init_from", "first"),
    "model.terms.distillation": ("--model.terms", "{distillation: {teachers: first}}"),
    "smoothing_confusion": ("--model.label_smoothing", "0.1", "--model.smoothing_confusion", "first"),
    "data.mix.pairs": ("--data.mix", "{mixup: 0.2, pairs: first}"),
}


class Parts:
    """A data module of numbers: positions of each split in a set of ten images."""

    def __init__(self, name: str = "set", **parts: list[int]) -> None:
        self.name, self.parts = name, parts

    def positions(self, part: str) -> tuple[str, torch.Tensor, int]:
        return self.name, torch.tensor(self.parts.get(part, []), dtype=torch.int64), 10


def test_what_was_trained_on_neither_tests_nor_validates_and_what_validated_does_not_test() -> None:
    seen = Seen.by_training(Parts(train=[0, 1, 2], val=[3, 9]))
    seen.check(Parts(test=[4, 5, 6, 7, 8], val=[3, 9]), "it")
    seen.check(Parts("another set", test=[0, 1], val=[2]), "it")
    seen.check(object(), "it")
    for parts, said in (
        ({"test": [2, 4]}, "it has seen 1 of the 2 images that this run tests on"),
        ({"test": [9, 4, 5]}, "it has seen 1 of the 3 images that this run tests on"),
        ({"val": [0, 1, 3]}, "it has seen 2 of the 3 images that this run validates on"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            seen.check(Parts("set", **parts), "it")


def test_what_was_seen_adds_up_and_is_kept() -> None:
    first, second = Seen.by_training(Parts(train=[0], val=[1])), Seen.by_training(Parts(train=[2], val=[0]))
    both = Seen.restored((first | second).kept())
    for position in (0, 2):
        with pytest.raises(UserError, match="validates"):
            both.check(Parts(val=[position]), "it")
    both.check(Parts(val=[1, 3]), "it")
    with pytest.raises(UserError, match="validates"):
        both.fitted_to_chosen().check(Parts(val=[1]), "it")
    assert Seen.restored(None) == Seen()
    apart = Seen.by_training(Parts("another set", train=[5])) | first
    assert sorted(apart.trained) == ["another set", "set"]


def save(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9), level, np.uint8)).save(path)


def files(folder: Path, **changes: Any) -> ImageDataModule:
    data = ImageDataModule(ImageFolder(folder, storage_size=8), num_workers=0, **changes)
    data.setup()
    return data


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes of 12 files, all different."""
    for number in range(24):
        save(tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png", 10 * number)
    return tmp_path / "photos"


def test_files_are_known_in_a_folder_that_has_grown(photos: Path) -> None:
    first = files(photos)
    seen = Seen.restored(Seen.by_training(first).kept())
    seen.check(first, "it")
    for label in "ab":
        save(photos / label / "00a.png", 255)
    grown = files(photos)
    assert grown.positions("test")[0] != first.positions("test")[0]
    for part, name in (("test", "tests"), ("val", "validates")):
        with pytest.raises(UserError, match=rf"it has seen \d of the \d images that this run {name} on"):
            seen.check(files(photos, split_seed=2), "it", (part,))
    with pytest.raises(UserError, match="apart from the others"):
        (Seen() | seen).fitted_to_chosen().check(grown, "it")
    Seen.restored({"trained": dict(seen.trained), "chosen": dict(seen.chosen)}).check(grown, "an earlier version's")


def test_a_test_folder_of_its_own_is_not_seen_when_training_images_are_added(photos: Path) -> None:
    for label in "ab":
        (photos / "train").mkdir(exist_ok=True)
        (photos / label).rename(photos / "train" / label)
        save(photos / "test" / label / "0.png", 252)
        save(photos / "test" / label / "1.png", 10 if label == "b" else 0)  # copies of training images
    seen = Seen.by_training(files(photos))
    save(photos / "train/a/new.png", 253)
    seen.check(files(photos), "it", ("test",))
    save(photos / "test/a/2.png", 40)
    with pytest.raises(UserError, match="it has seen 1 of the 5 images that this run tests on"):
        seen.check(files(photos), "it", ("test",))


def test_a_checkpoint_that_holds_something_else_there_is_refused(tmp_path: Path) -> None:
    model = ScratchClassifier(["a", "b"])
    wrong: list[dict[str, Any]] = [{"trained": {"set": 1}}, {"trained": []}, {"contents": {"trained": 1}}]
    for seen in wrong:
        (tmp_path / "best.ckpt").write_bytes(finished_checkpoint(model, fashion_tl_seen=seen))
        with pytest.raises(UserError, match="is not as fashion_tl writes checkpoints"):
            load_classifier(tmp_path / "best.ckpt")


@pytest.mark.slow
@pytest.mark.thorough(keep=2)
@pytest.mark.parametrize("setting", STARTS)
def test_a_run_with_another_split_is_refused_before_anything_is_written(
    fit: Fit, workdir: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert fit(*HEAD, *OWN_TEST, name="first") == 0
    capsys.readouterr()
    assert fit(*HEAD, *OWN_TEST, *STARTS[setting], *OTHER, name="second") == 2
    told = capsys.readouterr().err
    assert re.search(rf"error: .*{setting}.* has seen \d+ of the \d+ images that this run tests on", told), told
    assert not Path("lightning_logs/second").exists()
    assert fit(*HEAD, *OWN_TEST, *STARTS[setting], name="second") == 0


@pytest.mark.slow
def test_it_is_known_of_weights_that_come_from_others(fit: Fit, workdir: Path, capsys) -> None:
    # The test set is the source's own: what another split takes is what validates.
    few = ("--data.per_class", "4")
    assert fit(*HEAD, name="first") == 0
    assert fit(*HEAD, *few, "--model.init_from", "first", name="second") == 0
    assert fit(*HEAD, *few, "--model.terms", "{distillation: {teachers: second}}", name="third") == 0
    assert main(["ensemble", "second", "third", "--name", "both"]) == 0
    first = load_classifier("checkpoints/first/version_0/best.ckpt").seen
    for name in ("second", "third", "both"):
        seen = load_classifier(f"checkpoints/{name}/version_0/best.ckpt").seen
        assert all(torch.equal(bits, seen.trained[part]) for part, bits in first.trained.items()), name
    capsys.readouterr()
    assert fit(*HEAD, "--model.init_from", "third", *OTHER, name="fourth") == 2
    assert re.search(r"has seen \d+ of the \d+ images that this run validates on", capsys.readouterr().err)
    assert fit(*HEAD, "--model.init_from", "second", name="fourth") == 0  # a smaller choice is part of the larger one


@pytest.mark.slow
def test_the_images_of_another_split_do_not_test_a_checkpoint(fit: Fit, workdir: Path, capsys) -> None:
    assert fit(*HEAD, *OWN_TEST) == 0
    config, best = "lightning_logs/run/version_0/config.yaml", "checkpoints/run/version_0/best.ckpt"
    assert main(["test", "-c", config, "--ckpt_path", best]) == 0
    capsys.readouterr()
    assert main(["test", "-c", config, "--ckpt_path", best, *OTHER]) == 2
    assert "the checkpoint has seen" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_from_one_on_a_folder_that_has_grown_is_refused(photos: Path, workdir: Path, capsys) -> None:
    fit = ["fit", "--data.source", "ImageFolder", "--data.source.folder", str(photos), "--data.image_size", "32"]
    fit += ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"]
    fit += ["--model.backbone", "test_resnet", "--model.pretrained", "false", *HEAD]
    assert main([*fit, "--name", "first"]) == 0
    for label in "ab":
        save(photos / label / "00a.png", 255)
    capsys.readouterr()
    assert main([*fit, *OTHER, "--model.init_from", "first", "--name", "second"]) == 2
    assert re.search(r"first.* has seen \d+ of the \d+ images that this run tests on", capsys.readouterr().err)
    assert not Path("lightning_logs/second").exists()


@pytest.mark.slow
def test_a_trainer_of_ones_own_is_told_as_well(workdir: Path) -> None:
    def data(seed: int) -> ImageDataModule:
        return ImageDataModule(SyntheticGarments(num_train=60, num_test=20), batch_size=20, split_seed=seed)

    def trainer() -> Trainer:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, **quiet)

    first = data(0)
    model = ScratchClassifier(list(first.class_names), input_spec=first.input_spec)
    with quiet():
        trainer().fit(model, datamodule=first)
        trainer().fit(model, datamodule=data(0))
        with pytest.raises(UserError, match="the checkpoint has seen"):
            trainer().fit(model, datamodule=data(1))
