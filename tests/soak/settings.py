"""What is run: settings drawn from a product, each value of each dimension equally often."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = "{folder}"  # stands for the folder of images
PAIR = "{pair}"  # stands for two of its classes
SCRATCH = (
    "--model=ScratchClassifier",
    "--model.network=plain",
    "--model.network_args={widths: [4, 6], dropout: 0.3}",
    "--data.image_size=28",
)
TRANSFER = (
    "--model=TransferClassifier",
    "--model.backbone=test_resnet",
    "--model.pretrained=false",
    "--model.dropout=0.2",
    "--data.image_size=32",
)
COMMON = (
    "fit",
    "--name=run",
    "--data.batch_size=16",
    "--data.val_fraction=0.2",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--model.plateau_patience=0",
    "--model.step_size=1",
    "--model.gamma=0.5",
    "--model.lr=0.01",
)
LENGTHLESS = ("step", "plateau", "constant")
EPOCHS = "--trainer.max_epochs=3"

DIMENSIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "schedule": {name: (f"--model.schedule={name}",) for name in ("cosine", "one_cycle", *LENGTHLESS)},
    "phases": {
        "1, scratch": (*SCRATCH, "--model.train=all"),
        "2, scratch": (*SCRATCH, "--model.train={0: head, 1: all}"),
        "3, scratch": (*SCRATCH, "--model.train={0: head, 1: block2, 2: all}"),
        "1, transfer": (*TRANSFER, "--model.train=head"),
        "2, transfer": (*TRANSFER, "--model.train={0: head, 1: layer4}"),
        "3, transfer": (*TRANSFER, "--model.train={0: head, 1: layer4, 2: all}", "--model.batch_norm=eval"),
        "by plateau": (*TRANSFER, "--model.train={0: {train: head, until: plateau, patience: 1}, 2: layer4}"),
        "selected": (*TRANSFER, "--model.train={0: [layer2, head], 1: norms}"),
        "adapters": (*TRANSFER, "--model.train={0: head, 1: lora}", "--model.lora={rank: 2}"),
    },
    "source": {
        "SyntheticGarments": ("--data.source=SyntheticGarments", "--data.source.num_train=80"),
        "ImageFolder": ("--data.source=ImageFolder", f"--data.source.folder={FOLDER}"),
        "ImageFolder, on disk": (
            "--data.source=ImageFolder",
            f"--data.source.folder={FOLDER}",
            "--data.num_workers=1",
        ),
    },
    "cache": {
        "auto": (),
        "off": ("--cache=off",),
        "views": ("--cache_views=2",),
        "views in half precision": ("--cache_views=2", "--cache_dtype=bfloat16"),
    },
    "augmentation": {
        "none": (),
        "hflip": ("--data.augment.hflip=0.5",),
        "hflip, translate": ("--data.augment.hflip=0.5", "--data.augment.translate=2"),
        "rotation, erasing": ("--data.augment.rotation=10", "--data.augment.random_erasing=0.5"),
        "crop, policy": ("--data.augment.random_resized_crop=0.5", "--data.augment.trivial_augment=true"),
        "mixed": ("--data.augment.hflip=0.5", "--data.mix={mixup: 0.2, cutmix: 1.0}"),
    },
    "end": {
        "epochs": (EPOCHS,),
        "steps, within an epoch": ("--trainer.max_steps=7",),
        "steps, after an epoch": ("--trainer.max_steps=8",),
        "epochs and steps": (EPOCHS, "--trainer.max_steps=10"),
        "epochs and time": (EPOCHS, "--trainer.max_time=00:01:00:00"),
        "time": ("--trainer.max_time=00:00:00:01",),
        "patience": ("--trainer.max_epochs=5", "--patience=1"),
    },
    "accumulate": {str(n): (f"--trainer.accumulate_grad_batches={n}",) for n in (1, 2, 3)},
    "validation": {
        "every epoch": (),
        "every second epoch": ("--trainer.check_val_every_n_epoch=2",),
        "twice an epoch": ("--trainer.val_check_interval=0.5",),
        "every batch": ("--trainer.val_check_interval=1",),
    },
    "checkpoints": {
        "every step": ("--checkpoint_steps=1",),
        "every 3 steps": ("--checkpoint_steps=3",),
        "every epoch": (),
        "by time": ("--checkpoint_minutes=0.001",),
    },
    "optimizer": {"adamw": (), "sgd": ("--model.optimizer=sgd",)},
    "objective": {
        "cross entropy": (),
        "balanced": ("--model.class_weights=balanced",),
        "focal": ("--model.objective=focal",),
        "smoothed": ("--model.label_smoothing=0.1",),
    },
    "terms": {
        **{f"none {i}": () for i in range(2)},
        "l2_sp": ("--model.terms={l2_sp: {alpha: 0.1, beta: 0.01}}",),
        "auxiliary": ("--model.terms={auxiliary: {groups: {alike: [" + PAIR + "]}}}",),
    },
    "averaging": {
        **{f"none {i}": () for i in range(2)},
        "ema": ("--ema=0.9",),
        "swa": ("--swa=0.5",),
    },
    "runs": {
        **{f"one {i}": () for i in range(7)},
        "search": ("--search={model.lr: [0.01, 0.001]}",),
        "seeds": ("--seeds=2",),
        "search and seeds": ("--search={model.lr: [0.01, 0.001]}", "--seeds=2"),
    },
    "processes": {
        **{f"1 {i}": () for i in range(4)},
        "2": ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8"),
    },
}


@dataclass(frozen=True)
class Setting:
    """One point of the product.

    Attributes:
        number: Its place in the sequence of a seed.
        values: The name of the value in each dimension.
        folder: The folder of images.
    """

    number: int
    values: Mapping[str, str]
    folder: Path

    @property
    def args(self) -> list[str]:
        """The command line that trains it."""
        chosen = [flag for name, value in self.values.items() for flag in DIMENSIONS[name][value]]
        pair = "Shirt, Coat" if self.values["source"] == "SyntheticGarments" else "across, along"
        return [flag.replace(FOLDER, str(self.folder)).replace(PAIR, pair) for flag in (*COMMON, *chosen)]

    @property
    def processes(self) -> int:
        """Processes that train it."""
        return int(self.values["processes"][0])

    @property
    def tweaks(self) -> list[str]:
        """What differs from the program as it is."""
        on_disk = self.values["source"].endswith("on disk")
        return ["on disk"] * on_disk + ["every epoch"] * (self.values["checkpoints"] == "every epoch")

    @property
    def exact(self) -> bool:
        """Whether two whole runs are equal: one that the clock ends is not."""
        return self.values["end"] != "time"

    @property
    def several(self) -> bool:
        """Whether it is more than one run."""
        return not self.values["runs"].startswith("one")

    def __str__(self) -> str:
        told = {name: value.split(" 0")[0] for name, value in self.values.items()}
        return f"setting {self.number}: " + "; ".join(f"{name} {value}" for name, value in told.items())


def draw(seed: int, number: int, folder: Path) -> Setting:
    """Draw a setting; every value of a dimension comes once before one comes again."""
    values = {}
    for name, choices in DIMENSIONS.items():
        turn, place = divmod(number, len(choices))
        order = random.Random(f"{seed} {name} {turn}").sample(list(choices), len(choices))
        values[name] = order[place]
    if values["end"] == "time" and values["schedule"] not in LENGTHLESS:
        values["schedule"] = LENGTHLESS[number % len(LENGTHLESS)]
    if values["end"] == "time" and values["averaging"] == "swa":  # of which epochs nobody knows
        values["averaging"] = "ema"
    if "plateau" in (values["schedule"], *values["phases"].split()):  # judged once an epoch
        values["validation"] = "every epoch"
    return Setting(number, values, folder)


def make_images(folder: Path, per_class: int = 25) -> Path:
    """Write a folder of small pictures: stripes of three directions with noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    patterns = {"across": rows, "along": columns, "askew": rows + columns}
    for name, places in patterns.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            picture = (
                128 + 60 * np.sin(places * rng.uniform(0.5, 1.0) + rng.uniform(0, 6)) + rng.normal(0, 30, (32, 32))
            )
            pixels = np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder
