"""``fashion-tl new NAME``: a commented experiment to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from fashion_tl.errors import UserError, shown
from fashion_tl.files import write_text
from fashion_tl.records.record import check_name

FOLDER = Path("experiments")
TEXT = """\
# Question: what is this experiment to find out?
# Command:  {command}
# Result:   (test accuracy, seeds, hardware)
name: {name}
seed_everything: 0            # `--seeds 3` runs three, from this one on

data:
  source: {source}
  # FashionMNIST; {{class_path: ImageFolder, init_args: {{folder: photos, root: .}}}}: a folder a class; CSV, a table
  # of paths and labels; TorchVision, its sets by name; SyntheticGarments, SyntheticObjects; MODULE.CLASS of your own
  image_size: {size}              # height and width that the network sees, pixels
  batch_size: {batch}
  augment: {{hflip: 0.5}}       # flips still train on cached features; others: `fashion-tl fit --data.augment.help`
  # label_budget: 100         # labelled images of each class, those that validate included
  # val_fraction: 0.1         # share of the training images that chooses the checkpoint

model:
  class_path: TransferClassifier   # ScratchClassifier: a small network without pretrained weights
  init_args:
    backbone: resnet18.tv_in1k     # any name of timm, or local-dir:FOLDER; `fashion-tl stages NAME` lists its stages
    train:                         # what trains from which epoch on: a stage, a number of top stages, all, norms, ...
      0: {{train: head, lr: 0.003}}
      3: {{train: 2, lr: 0.001, backbone_lr: 0.0001}}
    batch_norm: {batch_norm}             # in trained stages: train, affine (statistics stay), eval (for few images)
    optimizer: adamw               # sgd, adam
    schedule: cosine               # one_cycle, step, plateau, constant; begins anew with each phase
    warmup: 0.1                    # share of a phase
    # weight_decay: 0.01
    # dropout: 0.2                 # before the head
    # label_smoothing: 0.1
    # class_weights: balanced
    # objective: focal

trainer:
  max_epochs: 10
  # precision: bf16-mixed          # on a GPU

# patience: 3                      # validations of the last phase without improvement to allow
# monitor: val/accuracy            # what chooses the checkpoint: val/loss, val/macro_f1
# ema: 0.99                        # a moving average of the weights is what is validated and tested
"""


def new(name: str, images: Path | None = None, output: Path | None = None) -> None:
    """Write a commented experiment to begin with: a YAML file that `fashion-tl fit -c` runs.

    Args:
        name: Name of the experiment, and of its runs.
        images: Folder of image files, one subfolder a class; Fashion-MNIST if not given.
        output: File to write, a new one; NAME.yaml if not given, in the folder `experiments` if there is one.

    Raises:
        UserError: If the name cannot be that of a run, the folder is not there, or the file is.
    """
    check_name(name)
    if (path := Path(name)).suffix in (".yaml", ".yml"):
        raise UserError(f"{name} is a file, and the name of an experiment is needed: fashion-tl new {path.stem}")
    file = output or (FOLDER if FOLDER.is_dir() else Path()) / f"{name}.yaml"
    if images is not None and not images.is_dir():
        raise UserError(f"--images {shown(str(images))}: there is no such folder.")
    if file.exists():
        raise UserError(f"{file} exists. Choose another name, or --output FILE.")
    photographs = images is not None
    source = {"class_path": "ImageFolder", "init_args": {"folder": str(images), "root": "."}}
    written = yaml.safe_dump(source, default_flow_style=True, width=1000).strip() if photographs else "FashionMNIST"
    command = f"fashion-tl fit -c {shlex.quote(str(file))}"
    text = TEXT.format(
        name=_quoted(name),
        command=command.replace("\n", " "),
        source=written,
        size=160 if photographs else 64,
        batch=32 if photographs else 128,
        batch_norm="eval" if photographs else "train",
    )
    write_text(file, text)
    print(f"{file} is written. Next: read it, then {command}")


def _quoted(name: str) -> str:
    """Write a name so that YAML reads it as text: `1e3`, `null` and `2024` are something else."""
    return name if yaml.safe_load(name) == name and name[0].isalpha() else f'"{name}"'
