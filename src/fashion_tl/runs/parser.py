"""The configuration of a run: its parser, and what becomes of it. Nothing is run here."""

from __future__ import annotations

import functools
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fashion_tl.data.csv_table import CSV
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.fashion_mnist import FashionMNIST
from fashion_tl.data.garments import SyntheticGarments
from fashion_tl.data.hugging_face import HuggingFace
from fashion_tl.data.image_folder import ImageFolder
from fashion_tl.data.objects import SyntheticObjects
from fashion_tl.data.torchvision_sets import TorchVision
from fashion_tl.data.web_dataset import WebDataset
from fashion_tl.errors import UserError, one_line
from fashion_tl.imports import search_working_directory
from fashion_tl.runs.configs import expand_extends
from fashion_tl.runs.flags import UNREADABLE, classes_first, mappings_merged, names_class
from fashion_tl.runs.ranges import check_settings
from fashion_tl.runs.refusals import refusal
from fashion_tl.training.checkpoints import VerifiedCheckpointIO
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.scratch import ScratchClassifier
from fashion_tl.training.transfer import TransferClassifier

VERBS = {
    "fit": "Train, validate, test the best checkpoint, leave a record.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
    "probe": "Solve a linear classifier on the features of every stage, without training; record the last stage's.",
}
CLASSES = {  # what can be named without its module
    "data.source": (
        *(CSV, FashionMNIST, HuggingFace, ImageFolder, SyntheticGarments, SyntheticObjects, TorchVision, WebDataset),
    ),
    "model": (ScratchClassifier, TransferClassifier),
}
MAX_EPOCHS = 10  # where neither epochs nor steps are given
QUIET = (
    # What is frozen is in eval mode, on purpose.
    r".*module\(s\) in eval mode at the start of training.*",
    # Checkpoints of a resumed run belong beside those of its first part.
    r".*Checkpoint directory .* exists and is not empty.*",
    # More epochs of a completed run are a version of their own, with a best checkpoint of its own.
    r".*The dirpath has changed from.*",
    # The progress bar shows the epoch; a short epoch is no fault.
    r".*The number of training batches .* is smaller than the logging interval.*",
    # `validate` and `test` need the weights of a checkpoint, not the callbacks that wrote it.
    r".*callbacks used to create the checkpoint need to be provided.*",
    # A machine that starts several processes is what was asked for.
    r".*The `srun` command is available.*",
    # Between torch and Lightning; nothing here can change it.
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",
)
Config = str | Path | Mapping[str, Any] | Sequence[str]


@functools.cache
def parser_of(verb: str) -> LightningArgumentParser:
    """Build the parser of a verb: Lightning's Trainer, a classifier, the data module, and what belongs to a run."""
    # Lightning calls methods that jsonargparse has renamed.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    name, about = f"fashion-tl {verb}", VERBS[verb]
    parser = LightningArgumentParser(prog=name, description=about, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="A YAML file; later ones change earlier ones.")
    parser.add_argument("--seed_everything", type=bool | int, default=0, help="Seed of the run; false for none.")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(ImageClassifier, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageDataModule, "data", subclass_mode=False)
    add = parser.add_argument
    add("--extends", type=str | None, help="A YAML file that this one changes, beside it.")
    add("--name", type=str, default="run", help="Name of the run; every run is a new version of it.")
    add("--log_dir", type=Path, default=Path("lightning_logs"), help="Folder of all records.")
    add("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="Folder of checkpoints.")
    add("--checkpoint_minutes", type=float | None, default=10.0, help="Minutes between checkpoints within an epoch.")
    add("--checkpoint_steps", type=int | None, help="Optimizer steps between checkpoints within an epoch.")
    add(
        "--monitor",
        type=str,
        default="val/accuracy",
        help="Chooses: val/accuracy, val/loss, val/macro_f1, val/balanced_accuracy.",
    )
    add("--patience", type=int | None, help="Validations of the last phase without improvement to allow.")
    add("--ema", type=float | None, help="Decay of a moving average of the weights, such as 0.99.")
    add("--swa", type=float | None, help="Share of the last phase whose epochs' weights are averaged, such as 0.25.")
    add("--cache", type=str, default="auto", help="Cached features of frozen stages: auto, off or require.")
    add("--cache_keep", type=list[str | int], default=[], help="Stages whose features are kept for a later run too.")
    add("--cache_views", type=int | None, help="Drawn views of each training image to keep: epoch e takes e mod K.")
    add("--cache_dtype", type=str | None, help="Store features as float32, bfloat16 or float16; else by precision.")
    add("--compile", type=bool | str, default=False, help="torch.compile: true, or its backend.")
    add("--find_lr", type=bool, default=False, help="Search the learning rate before training.")
    add("--seeds", type=int, default=1, help="Runs to make, each with the next seed.")
    add("--folds", type=int | None, help="Cross-validation: as many runs, each tested on another part of the images.")
    add("--search", type=dict[str, list[Any]] | None, help="Values to try first: {model.lr: [0.001, 0.01]}.")
    add("--processes", type=int, default=1, help="Processes that share the runs of --search, --seeds and --folds.")
    add("--study", type=dict[str, Any] | None, help="A study's figures, to set beside the run's.")
    add("--resume", type=bool, default=False, help="Go on with the name's newest version if it is not done.")
    add("--ckpt_path", type=str | None, help="Checkpoint to go on from, or to evaluate: last, best or a path.")
    if verb == "probe":
        add("--pool", type=str, default="mean", help="How maps become vectors: mean, max or both.")
        add("--knn", type=bool, default=False, help="Classify by nearest neighbours too (cosine).")
        add("--strengths", type=list[float] | None, help="Strengths of the L2 penalty to try; a path if not given.")
    parser.set_defaults(
        {
            "model": {"class_path": "TransferClassifier"},
            "data.source": {"class_path": "FashionMNIST"},
            "trainer.num_sanity_val_steps": 0,
            "trainer.log_every_n_steps": 20,
            "trainer.enable_model_summary": False,
        }
    )
    parser.link_arguments("data.class_names", "model.init_args.class_names", apply_on="instantiate")
    parser.link_arguments("data.input_spec", "model.init_args.input_spec", apply_on="instantiate")
    return parser


def arguments(config: Config, changes: Mapping[str, Any] | None = None) -> list[str]:
    """Turn a configuration and changes to it into command-line arguments.

    Args:
        config: A YAML file, a mapping as one holds it, or command-line arguments.
        changes: Values by flag without the dashes, such as {"trainer.max_epochs": 2}. They change what the
            configuration says: a class takes over those of the arguments that it has too.
    """
    if isinstance(config, str | Path):
        given = ["-c", str(config)]
    elif isinstance(config, Mapping):
        given = ["-c", yaml.safe_dump(dict(config))]
    else:
        given = list(config)
    ordered = sorted((changes or {}).items(), key=lambda change: change[0].count("."))  # a class, then its arguments
    return [*given, *(f"--{name}={written(_in_place(name, value))}" for name, value in ordered)]


def _in_place(setting: str, value: Any) -> Any:  # noqa: ANN401 - a value of YAML
    """Write the name of a class as a mapping, which changes it from there on; a name alone is put ahead."""
    return {"class_path": value} if setting in CLASSES and names_class(value) else value


def written(value: Any) -> str:  # noqa: ANN401 - a value of YAML
    """Write a value as a flag takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def parse(verb: str, args: Sequence[str]) -> Namespace:
    """Parse the arguments of a verb and settle what can be known without building anything.

    Raises:
        UserError: If a value is not allowed.
    """
    search_working_directory()
    parser = parser_of(verb)
    expanded = classes_first(expand_extends(list(args)), _settings_of_classes(parser))
    try:
        config = parser.parse_args(expanded)
        merged = mappings_merged(expanded, config, parser.parse_args)
        if merged != expanded:
            config, expanded = parser.parse_args(merged), merged
    except UNREADABLE as error:
        names = {setting: [kind.__name__ for kind in kinds] for setting, kinds in CLASSES.items()}
        raise refusal(str(error), expanded, list(parser.get_defaults().keys()), names) from error
    config.extends = None
    check_settings(config, verb)
    trainer = config.trainer
    if trainer.max_epochs is None:
        trainer.max_epochs = MAX_EPOCHS if trainer.max_steps == -1 and trainer.max_time is None else -1
    if trainer.enable_progress_bar is None:
        trainer.enable_progress_bar = True
    return config


def _settings_of_classes(parser: LightningArgumentParser) -> list[str]:
    """Return the settings that take the name of a class: each has a help of its own."""
    flags = [flag.removeprefix("--") for flag in parser._option_string_actions]
    return [flag.removesuffix(".help") for flag in flags if flag.endswith(".help")]


def without_weights(config: Namespace) -> None:
    """Have a classifier built without reading its weights."""
    if "pretrained" in config.model.init_args:
        config.model.init_args.pretrained, config.model.init_args.init_from = False, None


def dump(verb: str, config: Namespace) -> str:
    """Write a configuration as YAML that runs again."""
    text: str = parser_of(verb).dump(config, skip_none=False)
    return text


def instantiate(verb: str, config: Namespace) -> Namespace:
    """Build the data module, the classifier, and the callbacks and loggers that the trainer was given.

    Raises:
        UserError: Of whatever a constructor refuses.
    """
    try:
        built: Namespace = parser_of(verb).instantiate_classes(config)
    except _OF_CONSTRUCTORS as error:
        raise _of_constructor(error) from error
    return built


_OF_CONSTRUCTORS = (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


def _of_constructor(error: BaseException) -> UserError:
    """Say what a constructor has refused: jsonargparse wraps that into messages about types."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        first, cause = cause, cause.__cause__
    return UserError(f"a class of the configuration cannot be built: {type(first).__name__}: {one_line(first)}")


def make_trainer(settings: Mapping[str, Any], **more: Any) -> Trainer:  # noqa: ANN401 - arguments of Trainer
    """Build a Trainer that writes checkpoints whole and verifies them, unless given another ``CheckpointIO``.

    Raises:
        UserError: If the settings contradict each other, or devices are not there.
    """
    try:
        trainer = Trainer(**{**settings, **more})
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError, LookupError) as error:
        raise UserError(f"trainer: {one_line(error)}") from error
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # not one that was asked for
        trainer.strategy.checkpoint_io = VerifiedCheckpointIO()
    return trainer


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning says of things that are meant."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # whose report was asked for
    with warnings.catch_warnings():
        for pattern in QUIET:
            warnings.filterwarnings("ignore", pattern)
        yield
