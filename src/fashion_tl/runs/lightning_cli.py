"""The verbs that train and test: LightningCLI with this package's defaults, and a record for every run."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from fashion_tl.callbacks.checkpoints import LastCheckpoint
from fashion_tl.callbacks.features import MODES, FrozenCache
from fashion_tl.callbacks.progress_bar import PhaseProgressBar
from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.callbacks.tensorboard import RunLogger, TensorBoardPictures
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.errors import UserError, unknown_name
from fashion_tl.models.staged import count_parameters
from fashion_tl.process import keep_freed_memory, stop_looking_for_gpus
from fashion_tl.records.record import COMPLETED, RunPaths, claim, newest_completed, next_paths, paths_of, read_record
from fashion_tl.runs.configs import expand_extends, flat
from fashion_tl.runs.search import search
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.freezing import EarlyStopping
from fashion_tl.training.scratch import ScratchClassifier as ScratchClassifier  # so that YAML can name it alone
from fashion_tl.training.transfer import TransferClassifier as TransferClassifier

MONITORS = ("val/accuracy", "val/loss")
QUIET = (
    # What is frozen is in eval mode, on purpose.
    r".*module\(s\) in eval mode at the start of training.*",
    # Images lie in memory and a batch is one gather: worker processes would only cost time.
    r".*does not have many workers.*",
    # Checkpoints of a resumed run belong beside those of its first part.
    r".*Checkpoint directory .* exists and is not empty.*",
    # More epochs of a completed run are a version of their own, with a best checkpoint of its own.
    r".*The dirpath has changed from.*",
    # The progress bar shows the epoch; a short epoch is no fault.
    r".*The number of training batches .* is smaller than the logging interval.*",
    # `validate` and `test` need the weights of a checkpoint, not the callbacks that wrote it.
    r".*callbacks used to create the checkpoint need to be provided.*",
    # Between torch and Lightning; nothing here can change it.
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",
)


class TrainingCLI(LightningCLI):
    """LightningCLI whose ``fit`` tests the best checkpoint afterwards and leaves a complete record."""

    def __init__(self, args: list[str]) -> None:
        self.args = expand_extends(args)
        self.command = "fashion-tl " + shlex.join(args)
        self.tested = True
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            args=self.args,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"prog": "fashion-tl", "description": "Train and test image classifiers."},
            trainer_defaults={
                "max_epochs": 10,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 20,
                "enable_model_summary": False,
            },
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Offer Lightning's verbs except ``predict``, which here takes image files."""
        verbs = LightningCLI.subcommands()
        return {verb: verbs[verb] for verb in ("fit", "validate", "test")}

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Build the parser of the verb in use only: each takes a while."""
        if self.args and self.args[0] in self.subcommands():
            verb = self.args[0]
            offered = {verb: self.subcommands()[verb]}
            self.subcommands = lambda: offered  # type: ignore[method-assign]
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run, and link what the model must know of the data."""
        parser.add_argument("--extends", type=str | None, help="A YAML file that this one changes, beside it.")
        parser.add_argument(
            "--name", type=str, default="run", help="Name of the run; every run is a new version of it."
        )
        parser.add_argument("--log_dir", type=Path, default=Path("lightning_logs"), help="Folder of all records.")
        parser.add_argument("--checkpoint_dir", type=Path, default=Path("checkpoints"), help="Folder of checkpoints.")
        parser.add_argument("--monitor", type=str, default=MONITORS[0], help="val/accuracy or val/loss: what chooses.")
        parser.add_argument(
            "--patience", type=int | None, help="Epochs of the last phase without improvement to allow."
        )
        parser.add_argument("--cache", type=str, default="auto", help="Frozen activations: auto, off or require.")
        parser.add_argument(
            "--cache_keep", type=list[str | int], default=[], help="Stages to keep for a later run too."
        )
        parser.add_argument("--compile", type=bool | str, default=False, help="torch.compile: true, or its backend.")
        parser.add_argument("--find_lr", type=bool, default=False, help="Search the learning rate before training.")
        parser.add_argument("--seeds", type=int, default=1, help="Runs to make, each with the next seed.")
        parser.add_argument(
            "--search", type=dict[str, list[Any]] | None, help="Values to try first, such as {model.lr: [0.001, 0.01]}."
        )
        parser.add_argument("--study", type=dict[str, Any] | None, help="A study's figures, to set beside the run's.")
        parser.set_defaults({"model": {"class_path": "fashion_tl.training.transfer.TransferClassifier"}})
        parser.link_arguments("data.class_names", "model.init_args.class_names", apply_on="instantiate")
        parser.link_arguments("data.input_spec", "model.init_args.input_spec", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, without Lightning's warning that the arguments come from a list."""
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    def _parse_ckpt_path(self) -> None:
        """Let the configuration win over a checkpoint's hyperparameters; what is checked is that they fit."""

    def before_instantiate_classes(self) -> None:
        """Settle what depends on the machine and on earlier runs, before anything is built."""
        config = self.config[self.config.subcommand]
        if config.monitor not in MONITORS:
            raise unknown_name("monitor", config.monitor, MONITORS)
        if config.seeds < 1:
            raise UserError(f"--seeds is {config.seeds}, it must be at least 1.")
        # A record's configuration is that of one run.
        self.seeds, self.searched = config.seeds, config.search
        config.seeds, config.search = 1, None
        if config.cache not in MODES:
            raise unknown_name("cache mode", config.cache, MODES, "Set it with --cache.")
        config.extends = None
        if config.trainer.precision is None:
            config.trainer.precision = best_precision(str(config.trainer.accelerator))
        if config.trainer.enable_progress_bar is None:
            config.trainer.enable_progress_bar = True
        model = config.model.init_args
        checkpoint, start = config.get("ckpt_path"), model.get("init_from")
        if start and not start.endswith(".ckpt") and not checkpoint:
            model.init_from = str(newest_completed(config.log_dir, config.checkpoint_dir, start).best)
        # What the record keeps runs the whole again; a checkpoint brings its own weights.
        self.whole = config.clone()
        if checkpoint:
            load_checkpoint(Path(checkpoint))
            self.whole.ckpt_path = None
            if "pretrained" in model:
                model.pretrained, model.init_from = False, None

    def _run_subcommand(self, subcommand: str) -> None:
        """Run once; ``fit`` may search first, by validation alone, and then repeat with other seeds."""
        config, seeds, values = self.config[subcommand], self.seeds, self.searched
        if subcommand != "fit" or (seeds == 1 and not values):
            super()._run_subcommand(subcommand)
            return
        for flag, why in (("ckpt_path", config.ckpt_path), ("trainer.fast_dev_run", config.trainer.fast_dev_run)):
            if why:
                raise UserError(f"--{flag} is for one run; it cannot go with --search or --seeds.")
        found = search(self, values, config.name) if values else []
        for seed in range(config.seed_everything, config.seed_everything + seeds):
            self.again([*found, f"--seed_everything={seed}"])

    def again(self, flags: list[str], tested: bool = True) -> None:
        """Run once more, with other settings.

        Args:
            flags: Command-line flags that come after those of this command.
            tested: Whether the run is tested and keeps its checkpoints; else it is a candidate of a search.
        """
        self.config = self.parser.parse_args([*self.args, *flags])
        self.tested = tested
        self._set_seed()
        self.before_instantiate_classes()
        self.instantiate_classes()
        super()._run_subcommand("fit")

    def instantiate_classes(self) -> None:
        """Build everything, with the errors of this package as they are."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse wraps whatever a constructor raises into a message about types.
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__
            raise (cause or error) from None

    def instantiate_trainer(self, **kwargs: Any) -> Any:  # noqa: ANN401 - Lightning's type
        """Build the Trainer with this run's logger and callbacks."""
        config = self.config[self.subcommand]
        fast = bool(config.trainer.fast_dev_run)
        callbacks: list[Any] = []
        if self.config_init[self.subcommand].trainer.enable_progress_bar:
            callbacks.append(PhaseProgressBar())
        logger: Any = False
        self.paths: RunPaths | None = None
        if self.subcommand == "fit" and not fast:
            self.paths = self._run_paths()
            given = self.config_init[self.subcommand].trainer.logger
            logger = (self.tested and RunLogger(self.paths)) if given is None else given
            callbacks += self._run_callbacks(self.paths, bool(logger))
        if config.patience is not None and not fast:
            mode = "min" if config.monitor.endswith("loss") else "max"
            callbacks.append(
                EarlyStopping(config.monitor, mode=mode, patience=config.patience, check_on_train_epoch_end=True)
            )
        trainer = self.config_init[self.subcommand].trainer
        trainer.callbacks = [*(trainer.callbacks or []), *callbacks]
        checkpointing = bool(trainer.enable_checkpointing is not False and self.paths and self.tested)
        try:
            return super().instantiate_trainer(logger=logger, enable_checkpointing=checkpointing, **kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise UserError(f"trainer: {error}") from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Read checkpoints as plain values only."""
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def _run_paths(self) -> RunPaths:
        config = self.config[self.subcommand]
        self.fresh = False
        resumed = Path(config.ckpt_path) if config.get("ckpt_path") else None
        if resumed is not None and resumed.parent.parent == config.checkpoint_dir / config.name:
            old = paths_of(
                config.log_dir, config.checkpoint_dir, config.name, int(resumed.parent.name.removeprefix("version_"))
            )
            if (old.logs / "run.json").is_file() and read_record(old.logs)["status"] != COMPLETED:
                return old
        self.fresh = True
        return next_paths(config.log_dir, config.checkpoint_dir, config.name)

    def _run_callbacks(self, paths: RunPaths, logged: bool) -> list[Any]:
        config = self.config[self.subcommand]
        seed = int(config.seed_everything)
        text = self._parser(self.subcommand).dump(self.whole, skip_none=False)
        mode = "min" if config.monitor.endswith("loss") else "max"
        best = ModelCheckpoint(
            paths.checkpoints,
            "best",
            monitor=config.monitor,
            mode=mode,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.cache = cache = FrozenCache(config.cache, config.cache_keep)
        self.recorder = recorder = RunRecorder(
            paths, text, self.command, seed, config.monitor, cache, config.study, self.tested
        )
        if not self.tested:
            return [cache, recorder]
        pictures = TensorBoardPictures({**flat(config.model), **flat(config.data), "seed": seed}, paths.logs)
        rates = [LearningRateMonitor("step")] if logged else []
        return [cache, recorder, pictures, *rates, best, LastCheckpoint(paths)]

    def before_fit(self) -> None:
        """Load the data before anything is written, so that a mistake leaves nothing behind."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        checkpoint = self.config[self.subcommand].get("ckpt_path")
        if checkpoint:
            _check_fits(Path(checkpoint), self.model)
        if self.paths is None:
            return
        if self.subcommand == "fit":
            self.cache.check(self.model, self.datamodule)
        if self.config.fit.compile:
            self.model.compile_network(self.config.fit.compile)
        _check_disk(self.paths, self.model)
        if self.fresh and self.trainer.is_global_zero:
            claim(self.paths)
        if self.tested:
            print(_summary(self.paths, self.model, self.datamodule))
        if self.config.fit.find_lr:
            self._find_lr()

    before_validate = before_test = before_fit

    def after_fit(self) -> None:
        """Test the best checkpoint, once, and say where the record is."""
        if self.paths is None or not self.tested:
            return
        if not self.paths.best.is_file():
            self.recorder.fail("no checkpoint was written, so nothing was tested")
            raise UserError(
                f"{self.paths.logs}: {self.recorder.record['reason']}. It takes one whole epoch with validation, and "
                "--trainer.enable_checkpointing true."
            )
        best = str(self.paths.best)
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        test = read_record(self.paths.logs)["test"]
        print(
            f"{self.paths.name} version {self.paths.version}: test accuracy {test['accuracy']:.4f}, "
            f"loss {test['loss']:.4f}, macro F1 {test['macro_f1']:.4f} on {test['images']:,} images\n"
            f"record: {self.paths.logs}   checkpoint: {self.paths.best}"
        )

    def _find_lr(self) -> None:
        from lightning.pytorch import Trainer
        from lightning.pytorch.tuner.tuning import Tuner

        trainer = Trainer(
            accelerator=self.config.fit.trainer.accelerator,
            precision=self.config.fit.trainer.precision,
            logger=False,
            max_epochs=1,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        found = Tuner(trainer).lr_find(self.model, datamodule=self.datamodule, update_attr=False)
        suggestion = found.suggestion() if found else None
        if suggestion is None:
            raise UserError("the learning-rate finder found no rate; set one with --model.lr.")
        ratio = self.model.backbone_lr / self.model.lr
        self.model.lr, self.model.backbone_lr = suggestion, suggestion * ratio
        print(f"learning-rate finder: lr {suggestion:.2e}, backbone_lr {suggestion * ratio:.2e}")


def run(args: list[str]) -> None:
    """Run one of the verbs ``fit``, ``validate`` and ``test`` with command-line arguments."""
    keep_freed_memory()
    stop_looking_for_gpus()
    # Lightning calls methods that jsonargparse has renamed.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for pattern in QUIET:
            warnings.filterwarnings("ignore", pattern)
        TrainingCLI(args)


def best_precision(accelerator: str) -> str:
    """Choose bf16-mixed on a CUDA GPU that computes it natively, else 32-true."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False):
        return "bf16-mixed"
    return "32-true"


def _check_fits(path: Path, model: ImageClassifier) -> None:
    """Refuse a checkpoint of another network before anything is written."""
    saved, own = load_checkpoint(path)["state_dict"], model.state_dict()
    for name in sorted(saved.keys() | own.keys()):
        shapes = [tuple(state[name].shape) if name in state else "nothing" for state in (saved, own)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} does not fit the model of this configuration: at {name} it has {shapes[0]}, the model "
                f"{shapes[1]}. Give the configuration of its run, such as -c lightning_logs/NAME/version_N/config.yaml."
            )


def _check_disk(paths: RunPaths, model: ImageClassifier) -> None:
    """Refuse to start where two checkpoints, with the optimizer's state, will not fit."""
    needed = 2 * 3 * sum(p.numel() * p.element_size() for p in model.parameters()) + 20 * 2**20
    folder = paths.checkpoints
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{os.path.abspath(folder)} has {free / 2**20:.0f} MiB free, this run's checkpoints may need "
            f"{needed / 2**20:.0f} MiB. Free some space or choose another disk with --checkpoint_dir."
        )


def _summary(paths: RunPaths, model: ImageClassifier, data: ImageDataModule) -> str:
    """Say in a few lines what is about to be trained on what."""
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    parameters = f"{count_parameters(model.network):,} parameters"
    lines = [
        f"{paths.name} version {paths.version}: {model.architecture} ({model.weights}), {parameters}",
        f"data: {data.source_name}, {sizes}, {len(data.class_names)} classes, {model.input_spec.image_size} px",
    ]
    if len(model.phases) == 1:
        lines.append(f"trains: {model.describe_phase(0)}")
    for index, phase in enumerate(model.phases if len(model.phases) > 1 else ()):
        lines.append(f"phase {index + 1} from epoch {phase.start + 1}: trains {model.describe_phase(index)}")
    return "\n".join(lines)
