"""What the values of a configuration may be: checked after parsing, before anything is built or written."""

from __future__ import annotations

import datetime
import inspect
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args, get_type_hints

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.strategies import StrategyRegistry

from fashion_tl.callbacks.averaging import SHARE, make_average
from fashion_tl.callbacks.cache_checks import check_storage
from fashion_tl.callbacks.features import MODES
from fashion_tl.data.augment import Augment
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.folds import MOST
from fashion_tl.data.mixing import Mix
from fashion_tl.data.sampling import BALANCED, SAMPLERS
from fashion_tl.errors import UserError, check_known, check_ranges, out_of_range, shown, unknown_name
from fashion_tl.features.pooling import POOLS
from fashion_tl.folders import obstacle
from fashion_tl.imports import class_path, import_class
from fashion_tl.process import on_cpu
from fashion_tl.records.record import check_name
from fashion_tl.runs.refusals import LINKED
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.objective import check_balanced_once
from fashion_tl.training.plan import Plan, Progress, epochs_at

_UP = math.inf
RANGES: dict[str, tuple[float, float]] = {  # lowest and highest value by setting
    "seed_everything": (0, 2**32 - 1),
    "checkpoint_minutes": (1e-6, _UP),
    "checkpoint_steps": (1, _UP),
    "patience": (0, _UP),
    "ema": SHARE,
    "swa": SHARE,
    "cache_views": (1, 1_000_000),
    "seeds": (1, 10_000),
    "folds": (2, MOST),
    "processes": (1, 1024),
    "trainer.num_nodes": (1, 10_000),
    "trainer.fast_dev_run": (0, _UP),
    "trainer.min_epochs": (0, _UP),
    "trainer.min_steps": (0, _UP),
    "trainer.overfit_batches": (0, _UP),
    "trainer.check_val_every_n_epoch": (1, _UP),
    "trainer.num_sanity_val_steps": (-1, _UP),
    "trainer.log_every_n_steps": (0, _UP),
    "trainer.accumulate_grad_batches": (1, 1_000_000),
    "trainer.gradient_clip_val": (0, _UP),
    "trainer.reload_dataloaders_every_n_epochs": (0, _UP),
}
ENDS = ("trainer.max_epochs", "trainer.max_steps")
NULLABLE = (
    *("checkpoint_minutes", "checkpoint_steps", "patience", "ema", "swa", "cache_views", "cache_dtype"),
    *("search", "study", "ckpt_path", "extends", "config", "folds"),
)
BUILT = {
    "trainer": Trainer,
    "data": ImageDataModule,
    "data.augment": Augment,
    "data.mix": Mix,
}  # what is built of a section
BATCHES = ("train_batches", "val_batches", "test_batches", "predict_batches")
SHARES = (*(f"trainer.limit_{name}" for name in BATCHES), "trainer.val_check_interval")
DURATIONS = ("trainer.max_time", "trainer.val_check_interval")
LAUNCHERS = ("MASTER_ADDR", "SLURM_JOB_ID", "LSB_JOBID", "TORCHELASTIC_RUN_ID")  # what sets the processes of others up
LARGEST = 2**63 - 1
STRENGTHS = (1e-9, 1e9)  # of a penalty; outside, rounding decides


def check_settings(config: Namespace, verb: str) -> None:
    """Check every value of a parsed configuration; all numbers that are out of their ranges are told together.

    Raises:
        UserError: If a value is not allowed.
    """
    for section in ("trainer", "data", "model"):
        if not isinstance(config[section], Namespace):
            raise UserError(f"{section} is {shown(config[section])}, it must be a mapping of settings.")
    for linked in LINKED:
        if config.model.init_args.get(linked) is not None:
            raise UserError(f"model.{linked} cannot be set: it follows from the data. Leave it out.")
    if config.model.class_path in (class_path(ImageClassifier), "fashion_tl.ImageClassifier"):
        raise UserError(
            "model ImageClassifier has no network of its own: name ScratchClassifier, TransferClassifier or a subclass "
            "of yours."
        )
    problems = _values(config) or _numbers(config)
    if problems:
        more = f" (and {len(problems) - 5} more)" if problems[5:] else ""
        raise UserError("; ".join(problems[:5]) + f"{more}.")
    check_known("cache mode", config.cache, MODES, "Set it with --cache.")
    check_storage(config.cache_views, config.cache_dtype)
    _check_sampler(config)
    for flag in ("ckpt_path", "compile"):
        if config[flag] == "":
            raise UserError(f"--{flag} is empty: leave it out, or give it a value. `--help` tells which.")
    for flag in ("ckpt_path", "trainer.fast_dev_run"):
        if config.resume and config[flag]:
            raise UserError(f"--resume true finds the run to go on with itself; it cannot go with --{flag}.")
    make_average(config.ema, config.swa)
    check_name(config.name)
    for key in DURATIONS:
        if isinstance(config[key], str | Mapping | Namespace):
            _check_duration(key, config[key])
    if config.trainer.barebones:
        raise UserError(
            "trainer.barebones is true: a run keeps figures and checkpoints, which it switches off. Leave it out."
        )
    _check_devices(config.trainer)
    _check_root(config.trainer)
    if verb == "fit" and config.processes > 1:
        _check_processes(config)
    if verb in ("fit", "probe"):
        _check_folders(config)
    if verb == "fit":
        _check_validation(config.trainer)
        _check_folds(config)
    if verb == "probe":
        _check_probe(config)


def _check_sampler(config: Namespace) -> None:
    """Refuse a balanced sampler beside what would correct twice, or where nothing is drawn."""
    sampler = config.data.sampler
    check_known("sampler", sampler, SAMPLERS, "Set it with --data.sampler.")
    check_balanced_once(config.model.init_args.get("class_weights"), sampler)
    if sampler == BALANCED and config.trainer.overfit_batches:
        raise UserError(
            f"data.sampler is {BALANCED} and trainer.overfit_batches {config.trainer.overfit_batches}: that takes the "
            "first batches in their order, and draws none. Leave one of the two out."
        )


def _values(config: Namespace) -> list[str]:
    """Name what no setting may be: not finite, too large, null where a class does not allow it, code, exotic YAML."""
    problems = []
    for key, value in _leaves(config, ""):
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            problems.append(f"{key} is {shown(value)}: a number must be finite, and at most 2^63 - 1")
        elif isinstance(value, bytes | set | datetime.date):
            problems.append(f"{key} is {shown(value)}: allowed are numbers, text, booleans, null, lists and mappings")
        elif inspect.isroutine(value):
            problems.append(f"{key} names the function {value.__name__}, and a configuration calls none: name a class")
        elif value is _Null:
            problems.append(f"{key} is null: leave it out, or give it a value")
    return problems


class _Null:
    """Stands for null where the class that it is handed to does not allow it."""


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - what a configuration holds
    """Yield every value with its dotted name, but for those that a class sets itself."""
    named = value.get("class_path") if isinstance(value, Namespace) else None
    kind = BUILT.get(key) if named is None else import_class(named, object, key)
    if kind is not None and isinstance(value, Namespace):
        hints, defaults = _signature(kind)
        for name, each in vars(value.get("init_args", value)).items():
            if each is None and name not in LINKED and defaults.get(name) is not None:
                if type(None) not in get_args(hints.get(name, Any | None)):
                    yield f"{key}.{name}", _Null
            elif not (inspect.isroutine(each) and each is defaults.get(name)):
                yield from _leaves(each, f"{key}.{name}")
    elif isinstance(value, Namespace | Mapping):
        for name, each in dict(vars(value) if isinstance(value, Namespace) else value).items():
            if each is None and not key and name not in (*NULLABLE, "strengths"):
                yield name, _Null
            yield from _leaves(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for each in value:
            yield from _leaves(each, key)
    else:
        yield key, value


def _signature(built: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the types and the defaults of the arguments of a class and of those that it passes on."""
    hints: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    for kind in reversed(built.__mro__):
        init: Any = vars(kind).get("__init__")
        if inspect.isfunction(init):
            with suppress(NameError):  # a type that is imported for checkers alone
                hints |= get_type_hints(init)
            defaults |= {name: one.default for name, one in inspect.signature(init).parameters.items()}
    return hints, defaults


def _numbers(config: Namespace) -> list[str]:
    given = {key: _number(config.get(key)) for key in RANGES}
    problems = out_of_range({key: (value, *RANGES[key]) for key, value in given.items()})
    for key in ENDS:
        value = config[key]
        if value is not None and value != -1 and value < 1:
            problems.append(f"{key} is {value}, allowed is 1 or more, or -1 for no end")
        least = key.replace("max", "min")
        if 0 < (value or 0) < (config[least] or 0):
            problems.append(f"{least} is {config[least]}, allowed is at most {key}, which is {value}")
    for key in SHARES:
        value = _number(config[key])
        if value is not None and not (0 < value <= 1 or (isinstance(value, int) and value > 1)):
            problems.append(f"{key} is {value}, allowed is a number of batches from 1, or a share above 0 to 1.0")
    return problems


def _number(value: Any) -> float | None:  # noqa: ANN401 - what a configuration holds
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check_duration(key: str, given: str | Namespace | dict[str, int]) -> None:
    try:
        left = Timer(dict(vars(given)) if isinstance(given, Namespace) else given).time_remaining()
    except (MisconfigurationException, TypeError, ValueError, OverflowError, AttributeError) as error:
        left, reason = 0.0, f" ({error})"
    else:
        reason = ""
    if not left or left <= 0:
        raise UserError(f"{key} is {shown(given)}{reason}: give a time above 0 as DD:HH:MM:SS, such as 00:01:30:00.")


def _check_devices(trainer: Namespace) -> None:
    """Refuse accelerators, strategies and processes that this machine does not have."""
    accelerator, devices = trainer.accelerator, trainer.devices
    accelerators = ("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators()))
    if isinstance(accelerator, str) and accelerator not in accelerators:
        raise unknown_name("trainer.accelerator", accelerator, accelerators)
    gpus = {"gpu": ("cuda", "mps")}.get(str(accelerator), (str(accelerator),))
    if isinstance(accelerator, str) and accelerator != "auto" and not any(map(_is_there, gpus)):
        raise UserError(f"trainer.accelerator is {accelerator}: there is no {gpus[0].upper()} here. Give auto or cpu.")
    strategies = ("auto", *StrategyRegistry.available_strategies())
    if isinstance(trainer.strategy, str) and trainer.strategy not in strategies:
        raise unknown_name("trainer.strategy", trainer.strategy, strategies)
    if trainer.num_nodes > 1 and not any(name in os.environ for name in LAUNCHERS):
        raise UserError(
            f"trainer.num_nodes is {trainer.num_nodes}, and nothing has started the others: use torchrun or SLURM, or "
            "set MASTER_ADDR and NODE_RANK on each."
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = int(str(devices)) if str(devices).isdigit() else 1
    if on_cpu(str(accelerator)) and (count > cores or not (count and str(devices) in ("auto", str(count)))):
        raise UserError(f"trainer.devices is {devices}: this machine has {cores} CPU cores. Give 1 to {cores}.")


def _check_root(trainer: Namespace) -> None:
    """Refuse a folder that nothing would be written to: records and checkpoints have folders of their own."""
    if trainer.default_root_dir is not None and not trainer.logger and not trainer.callbacks:
        raise UserError(
            f"trainer.default_root_dir is {shown(str(trainer.default_root_dir))[1:-1]}: only a logger or callbacks of "
            "Lightning's would write there. Give --log_dir and --checkpoint_dir."
        )


def _check_processes(config: Namespace) -> None:
    """Refuse processes that have no runs to share, or whose runs would take several processes each."""
    if config.seeds == 1 and not config.search and not config.folds:
        raise UserError(
            f"processes is {config.processes}, and there is one run: they share those of --seeds, --folds and "
            "--search. Leave it out; --trainer.devices has several processes make one run."
        )
    devices = str(config.trainer.devices)
    if devices not in ("auto", "1") or config.trainer.num_nodes > 1:
        raise UserError(
            f"processes is {config.processes} and trainer.devices {devices}: runs that several processes share take "
            "one device each. Leave one of the two out."
        )


def _check_folds(config: Namespace) -> None:
    """Refuse folds beside what belongs to one of them, and a choice that their test images would have a part in."""
    if not config.folds:
        return
    for name in ("data.folds", "data.fold"):
        if config[name] is not None:
            raise UserError(
                f"--folds {config.folds} makes the runs of all folds, and {name} is {config[name]}: leave that out, or "
                "--folds for one run."
            )
    if config.search:
        raise UserError(
            f"--folds {config.folds} with --search: every image tests once, so that values chosen before have seen "
            "test images. Search within each fold: --data.folds, --data.fold and --search, a command for each."
        )


def _is_there(accelerator: str) -> bool:
    try:
        return bool(AcceleratorRegistry.get(accelerator).is_available())
    except ImportError:  # it takes a package that is not installed
        return False


def _check_validation(trainer: Namespace) -> None:
    """Refuse a run that would end before its first validation, which chooses the checkpoint that is tested."""
    if trainer.fast_dev_run:
        return
    if trainer.enable_checkpointing is False:
        raise UserError("trainer.enable_checkpointing is false: a run tests its best checkpoint. Leave it out.")
    every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
    if every is not None and 0 < (epochs or 0) < every:
        raise _unvalidated("check_val_every_n_epoch", every, 0, epochs)


def _unvalidated(setting: str, every: int, done: int, epochs: int) -> UserError:
    """Return the error of a run that is never validated, from the epochs that are done to its last one."""
    length = f"goes on from epoch {done + 1} to {epochs}" if done else f"has {epochs} epoch{'s' * (epochs > 1)}"
    return UserError(
        f"trainer.{setting} is {every}, and the run {length}, of which none would be validated: validation chooses the "
        "checkpoint that is tested. Give a smaller number, or a longer run."
    )


def check_validated(trainer: Any, plan: Plan, batches: float, began: Progress) -> None:  # noqa: ANN401 - as below
    """Refuse a run that would end before its first validation, and so leave nothing to test.

    Args:
        trainer: The trainer.
        plan: The plan, with its end.
        batches: Batches in an epoch.
        began: Where training begins or goes on.
    """
    every, epochs = trainer.check_val_every_n_epoch, plan.epochs
    if epochs is None or epochs <= began.epoch:  # where nothing is left to train, that is said
        return
    if every is not None:
        if epochs // every <= began.epoch // every:
            raise _unvalidated("check_val_every_n_epoch", every, began.epoch, epochs)
        return
    # Without epochs to be validated, batches of all epochs are counted, and the last step is validated too.
    every = trainer.val_check_interval
    if not plan.by_steps and epochs * batches // every <= (began.epoch * batches + began.batch) // every:
        raise _unvalidated("val_check_interval", every, began.epoch, epochs)


def check_least(trainer: Any, plan: Plan, batches: float, began: Progress) -> None:  # noqa: ANN401 - as below
    """Refuse a least number of epochs or steps beyond the end of the run.

    Args:
        trainer: The trainer.
        plan: The plan, with its end.
        batches: Batches in an epoch.
        began: Where training begins or goes on.
    """
    epochs, steps = trainer.min_epochs or 0, trainer.min_steps or 0
    end = f"the run ends by trainer.max_epochs {trainer.max_epochs} and trainer.max_steps {trainer.max_steps}"
    if plan.epochs is not None and epochs > plan.epochs:
        raise UserError(f"trainer.min_epochs is {epochs}, and {end} after {plan.epochs}: give at most as many.")
    if steps and epochs_at(steps, batches, trainer.accumulate_grad_batches, began) > plan.length + 1e-9:
        raise UserError(f"trainer.min_steps is {steps}, and {end} before: give fewer, or a longer run.")


def _check_probe(config: Namespace) -> None:
    """Refuse what a probe cannot use, and strengths that are no penalty."""
    check_known("pooling", config.pool, POOLS, "Set it with --pool.")
    if config.data.sampler == BALANCED:
        raise UserError(f"data.sampler is {BALANCED}: a probe is solved on every training image once. Leave it out.")
    if config.strengths is not None and not config.strengths:
        raise UserError("strengths is an empty list: leave it out, or give one or more, such as [0.01, 0.1].")
    several = (("seeds", config.seeds > 1), ("processes", config.processes > 1), ("search", config.search))
    for flag, given in (*several, ("folds", config.folds), ("resume", config.resume)):
        if given:
            raise UserError(f"--{flag} is for training: a probe is solved, the same each time. Leave it out.")
    tried = {f"strengths[{i}]": (strength, *STRENGTHS) for i, strength in enumerate(config.strengths or ())}
    check_ranges(tried)


def check_lengths(trainer: Any, data: ImageDataModule) -> None:  # noqa: ANN401 - the Trainer, whose type does not tell
    """Refuse limits of batches that leave nothing to do, and epochs whose last validation is not at their end.

    Args:
        trainer: The trainer.
        data: The data module, after ``setup``.
    """
    sizes = {
        "train": data.count_batches(trainer.world_size),
        **{name: math.ceil(len(data.splits[name]) / data.eval_batch_size) for name in ("val", "test")},
    }
    for name, batches in sizes.items():
        limit = getattr(trainer, f"limit_{name}_batches")
        if isinstance(limit, float) and int(limit * batches) < 1:
            raise UserError(
                f"trainer.limit_{name}_batches is {limit}: of {batches} batches that leaves none. Give 1 or more for a "
                "number of batches."
            )
    train, limit = sizes["train"], trainer.limit_train_batches
    train = int(train * limit) if isinstance(limit, float) else min(train, limit or train)
    if getattr(trainer, "_val_check_time_interval", None) is not None:
        raise UserError(
            "trainer.val_check_interval is a time: the last validation of an epoch would not be at its end, whose "
            f"weights best.ckpt keeps. Give a number of batches that divides the {train} of an epoch, or leave it out."
        )
    every = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is not None and isinstance(every, int) and every > train:
        raise UserError(f"trainer.val_check_interval is {every}: an epoch has {train} batches. Give at most as many.")
    if isinstance(every, float) and int(train * every) < 1:
        raise UserError(f"trainer.val_check_interval is {every}: of {train} batches that is none. Give a larger one.")
    step = int(train * every) if isinstance(every, float) else every
    if train % step and step % train:
        fitting = max(n for n in range(1, min(step, train) + 1) if train % n == 0)
        raise UserError(
            f"trainer.val_check_interval is {every}: an epoch has {train} batches, and its last validation would not "
            f"be at its end, whose weights best.ckpt keeps. Give a number of batches that divides {train}, such as "
            f"{fitting}, or leave it out."
        )


def _check_folders(config: Namespace) -> None:
    if config.trainer.fast_dev_run:
        return
    for flag in ("log_dir", "checkpoint_dir"):
        if problem := obstacle(config[flag] / config.name):
            raise UserError(f"--{flag}: {problem}. Choose another folder.")
    if os.path.realpath(config.log_dir) == os.path.realpath(config.checkpoint_dir):
        raise UserError(f"--log_dir and --checkpoint_dir are both {config.log_dir}: give two folders.")
