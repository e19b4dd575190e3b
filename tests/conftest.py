"""What tests share: one thread, real data where it is at hand, a small run on the command line."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from fashion_tl import process
from fashion_tl.process import keep_freed_memory
from fashion_tl.runs import checks

torch.set_num_threads(1)
keep_freed_memory()

DATA = Path(os.environ.get("FASHION_TL_DATA_DIR", "../shared/data"))
BACKBONE = DATA.parent / "weights" / "mobilenetv2_035.keras_in1k"

Fit = Callable[..., int]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make test` leave to `make test-all` what takes long and repeats a kind that it has."""
    parser.addoption("--sample", action="store_true", help="of tests marked `thorough` run only the cases they keep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; begin with the files of slow tests, so that no process ends alone."""
    if config.getoption("sample"):
        kept = sampled(items)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]
    slow: dict[Path, list[bool]] = {}
    for item in items:
        slow.setdefault(item.path, []).append(item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: -sum(slow[item.path]) / len(slow[item.path]))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def sampled(items: list[pytest.Item]) -> set[pytest.Item]:
    """Choose what a sample runs: of a test marked ``thorough`` as many cases as it keeps, spread over all."""
    kept, cases = set(items), dict[str, list[pytest.Item]]()
    for item in items:
        if item.get_closest_marker("thorough"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for group in cases.values():
        keep = cast(pytest.Mark, group[0].get_closest_marker("thorough")).kwargs.get("keep", 0)
        places = {round(place * (len(group) - 1) / max(keep - 1, 1)) for place in range(keep)}
        kept -= {item for place, item in enumerate(group) if place not in places}
    return kept


def pytest_collection_finish() -> None:
    """Leave modules and tests out of the collection of garbage that each run has: it took a quarter of its time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let them end as usual."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep cached activations, and copies of datasets, out of the user's own cache folders."""
    os.environ["FASHION_TL_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session", autouse=True)
def no_confusion_picture() -> Iterator[None]:
    """Leave out of TensorBoard what takes a sixth of a small run to draw; tests of TensorBoard draw it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fashion_tl.callbacks.tensorboard.confusion_picture", lambda *_: np.zeros((8, 8, 3), np.uint8))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out what a power cut alone would tell: each run waits some twenty times for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def as_begun() -> None:
    """Leave out what others have set: a Ctrl-C that is ignored, a seed of Lightning's, a group of processes."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.pop("PL_GLOBAL_SEED", None)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def real_data() -> Path:
    """Folder of the real data; skips where it is not at hand."""
    if not (DATA / "FashionMNIST").is_dir():
        pytest.skip("needs the real data: set FASHION_TL_DATA_DIR")
    return DATA.resolve()


@pytest.fixture
def real_backbone() -> str:
    """Name of the pretrained backbone; skips where it is not at hand."""
    if not BACKBONE.is_dir():
        pytest.skip("needs real weights beside FASHION_TL_DATA_DIR")
    return f"local-dir:{BACKBONE.resolve()}"


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without the user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASHION_TL_DATA_DIR", raising=False)
    return tmp_path


@pytest.fixture
def fit(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Run ``fashion-tl fit`` in the process on a few synthetic garments; returns the exit status."""
    from fashion_tl.callbacks.checkpoints import LastCheckpoint
    from fashion_tl.cli import main

    # These epochs are shorter than the time between two.
    monkeypatch.setattr(LastCheckpoint, "every_seconds", 0.0)

    def run(*args: str, name: str = "run", epochs: int = 1, classifier: str = "TransferClassifier") -> int:
        small = [
            *(
                "--name",
                name,
                "--data.source",
                "SyntheticGarments",
                "--data.source.num_train",
                "120",
                "--data.batch_size",
                "32",
            ),
            *("--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false"),
            *("--model", classifier),
        ]
        if classifier == "TransferClassifier":
            small += ["--model.backbone", "test_resnet", "--model.pretrained", "false", "--data.image_size", "32"]
        return main(["fit", *small, *args])

    return run


@pytest.fixture
def folder_of_images(workdir: Path) -> tuple[str, ...]:
    """Flags of a folder of images of two classes, which has no test images of its own."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        folder = workdir / "data" / "photos" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = (level + rng.integers(-20, 20, (12, 12, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    source = json.dumps({"class_path": "ImageFolder", "init_args": {"folder": "photos"}})
    return "--data.source", source, "--data.val_fraction", "0.2"


@pytest.fixture
def put_weights(workdir: Path) -> Callable[[int], str]:
    """Write the weights of a tiny backbone, drawn by a seed, into one folder; returns the backbone's name."""
    import timm
    from safetensors.torch import save_file

    def put(seed: int) -> str:
        folder = workdir / "backbone"
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            save_file(timm.create_model("test_resnet").state_dict(), folder / "model.safetensors")
        about = {"input_size": [3, 160, 160], "num_classes": 1000, "first_conv": "conv1.0", "classifier": "fc"}
        (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": about}))
        return f"local-dir:{folder}"

    return put


@pytest.fixture
def slow_halves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Have a convolution in half precision take so many times as long as in 32 bits, by a clock of its own."""
    clock = [0.0]

    def forget() -> None:
        for cached in (process.slow_precision, checks.tell_slow_precision):
            cached.cache_clear()

    def take(times: float) -> None:
        def convolve(images: torch.Tensor, _weight: torch.Tensor, padding: int) -> None:
            clock[0] += 1.0 if images.dtype == torch.float32 else times

        monkeypatch.setattr(process, "conv2d", convolve)
        monkeypatch.setattr(process, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        forget()

    yield take
    forget()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The sources of synthetic garments that have loaded their images, as they do."""
    from fashion_tl import SyntheticGarments

    found: list[object] = []
    load = SyntheticGarments.load

    def counted(source: SyntheticGarments) -> object:
        found.append(source)
        return load(source)

    monkeypatch.setattr(SyntheticGarments, "load", counted)
    return found


class StopAt(Callback):
    """Raises in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, epoch: int, batch: int, error: BaseException) -> None:
        self.epoch, self.batch, self.error = epoch, batch, error

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            raise self.error


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, BaseException], None]:
    """Stop the runs that follow at an epoch and a batch."""
    from fashion_tl.runs.callbacks import callbacks_of

    def arm(epoch: int, batch: int, error: BaseException) -> None:
        stop = StopAt(epoch, batch, error)
        monkeypatch.setattr("fashion_tl.runs.fit.callbacks_of", lambda *args: [*callbacks_of(*args), stop])

    return arm
