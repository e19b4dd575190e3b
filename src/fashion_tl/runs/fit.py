"""A run, from its configuration to its record."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from fashion_tl.callbacks.features import FeatureCache
from fashion_tl.callbacks.pruning import Watch
from fashion_tl.callbacks.recorder import RunRecorder
from fashion_tl.callbacks.tensorboard import RunLogger
from fashion_tl.errors import UserError
from fashion_tl.metrics.metrics import headline
from fashion_tl.process import is_first_process, keep_freed_memory, own_device, stop_looking_for_gpus
from fashion_tl.records.record import CONFIG, FAILED, RunPaths, TakenError, next_paths, read_record, taken, write_record
from fashion_tl.runs import checks
from fashion_tl.runs.callbacks import callbacks_of
from fashion_tl.runs.find_rate import find_rate
from fashion_tl.runs.named import check_same_named, hashes_of_named
from fashion_tl.runs.parser import Config, arguments, dump, instantiate, make_trainer, parse, quiet
from fashion_tl.runs.resume import check_same, find_version, fitting_state, is_trained, own_version
from fashion_tl.seeds import seeded
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.divergence import DivergedError
from fashion_tl.training.loading import load_classifier


@dataclass(frozen=True)
class Run:
    """A run that is done.

    Attributes:
        paths: Its folders; None of a trial that leaves nothing (``trainer.fast_dev_run``).
        record: Its ``run.json``.
        found: Whether it was done before (``--resume true``).
    """

    paths: RunPaths | None
    record: dict[str, Any] = field(repr=False)
    found: bool = False

    @property
    def test(self) -> dict[str, Any]:
        """Test figures: accuracy, balanced_accuracy, macro_f1, loss, per_class and more; empty without a test."""
        return self.record.get("test") or {}

    @cached_property
    def model(self) -> ImageClassifier:
        """The classifier of the best checkpoint, in eval mode."""
        if self.paths is None:
            raise UserError("a trial with trainer.fast_dev_run keeps no model.")
        return load_classifier(self.paths.best)


def fit(
    config: Config,
    changes: Mapping[str, Any] | None = None,
    tested: bool = True,
    later: bool = False,
    watch: Watch | None = None,
    varied: Collection[str] = (),
) -> Run:
    """Train, validate, test the checkpoint that validation chose, and leave a record.

    Args:
        config: A YAML file, a mapping as one holds it, or command-line arguments.
        changes: Settings to change, by flag without the dashes, such as {"trainer.max_epochs": 2}.
        tested: Whether the run is tested and keeps its checkpoints; else it is a candidate of a search.
        later: Whether the test is left to a later call, with "resume".
        watch: Is told each epoch's validation figure of a candidate, and ends it there by returning True; its record
            then says that it was pruned.
        varied: Settings in which other runs of the name may differ: those of the same search, or other seeds. They
            are not in the way of ``--resume``, whether they are done or not.

    Raises:
        UserError: If a setting is wrong, or something that the run needs is missing.
    """
    if tested and watch is not None:
        raise ValueError("a run that may be pruned is a candidate of a search, which is not tested")
    args = arguments(config, changes)
    command = shlex.join(["fashion-tl", "fit", *args])
    while True:
        with suppress(TakenError):  # another process has begun the version that was to be this run
            return _run(parse("fit", args), command, tested, later, watch, varied)


def _run(
    config: Namespace, command: str, tested: bool, later: bool, watch: Watch | None, varied: Collection[str]
) -> Run:
    keep_freed_memory()
    stop_looking_for_gpus()
    with quiet(), ExitStack() as held:
        # What belongs to the whole run is decided by the first process; the recorder tells the others.
        first, trial = is_first_process(), bool(config.trainer.fast_dev_run)
        checkpoint = checks.settle(config)
        found = find_version(config, varied) if config.resume else None
        if found is not None:
            if found.done or found.diverged or (later and found.trained):
                check_same(found, config)
                check_same_named(found.paths.logs, found.record, config)
                if found.diverged:
                    raise DivergedError(str(found.record["reason"]))
                if first:
                    print(f"{found.paths.logs} is done already")
                return Run(found.paths, found.record, found=True)
            checkpoint = found.paths.last if found.paths.last.is_file() else None
            if checkpoint is not None:
                check_same(found, config, goes_on=True)
            config.seed_everything = False if found.record["seed"] is None else found.record["seed"]
        seed = held.enter_context(seeded(config.seed_everything))
        config.seed_everything = False if seed is None else seed
        built = instantiate("fit", checks.to_build(config, checkpoint))
        data, model = built.data, built.model
        cache = FeatureCache(config.cache, config.cache_keep, views=config.cache_views, dtype=config.cache_dtype)
        checks.check_monitor(config.monitor, model, built.trainer.callbacks)
        data.prepare_data()
        data.setup("fit")
        checks.ask_other_runs(model, data, own_device(str(config.trainer.accelerator)))
        cache.check(model, data)
        if config.compile:
            model.compile_network(config.compile)
        searched = find_rate(config, model, data, checkpoint) if config.find_lr else None

        own = found.paths if found is not None else own_version(config, checkpoint)
        paths = None
        if first and not trial:
            paths = own or next_paths(config.log_dir, config.checkpoint_dir, config.name)
        facts: dict[str, Any] = {"seed": seed, "command": command, "study": config.study}
        if own is None:  # else its record says it
            facts |= {"rate_search": searched, "named": hashes_of_named(config)}
        text = dump("fit", checks.to_record(config))
        goes_on = own is not None and checkpoint is not None
        recorder = RunRecorder(paths, text, facts, config.monitor, cache, tested, later, own_start=goes_on)
        logger = built.trainer.logger
        if logger is None:
            logger = RunLogger(paths) if tested and not trial else False
        callbacks = callbacks_of(config, built.trainer, cache, recorder, bool(logger), tested, trial, watch)
        keeping = any(isinstance(callback, Checkpoint) for callback in callbacks)
        trainer = make_trainer(built.trainer, logger=logger, callbacks=callbacks, enable_checkpointing=keeping)

        saved = None if checkpoint is None else fitting_state(checkpoint, model)
        plan = checks.check_plan(model, trainer, data, saved, kept=own is not None and own.best.is_file())
        if checkpoint is not None and saved is not None:
            recorder.trained = is_trained(checkpoint, saved, config, own, model, trainer, data)
        cache.check_start(trainer, model, data, plan)
        if paths is not None:
            checks.check_disk(paths, model)
            held.enter_context(taken(paths, own is None))
            if tested:
                print(checks.summary(paths, model, data))
        resumed = None if checkpoint is None else str(checkpoint)
        try:
            trainer.fit(model, datamodule=data, ckpt_path=resumed, weights_only=True)
            return Run(None, {}) if trial else _test(trainer, model, data, recorder.paths, tested and not later)
        except KeyboardInterrupt:  # between training and test, where Lightning does not see it
            if first and not trial:
                recorder.interrupt()
            raise


def _train_on(paths: RunPaths, trainer: Trainer) -> str:
    """Return the command with which a run that was never validated is, by its next epoch."""
    config, last = (shlex.quote(str(path)) for path in (paths.logs / CONFIG, paths.last))
    epochs = max(trainer.current_epoch + 1, trainer.max_epochs or -1)
    settings = f"--trainer.check_val_every_n_epoch 1 --trainer.max_epochs {epochs} --trainer.max_time null"
    return f"fashion-tl fit -c {config} --ckpt_path {last} {settings}"


def _test(trainer: Trainer, model: ImageClassifier, data: Any, paths: RunPaths, tested: bool) -> Run:  # noqa: ANN401
    """Test the best checkpoint, once, and return what was recorded."""
    first = trainer.is_global_zero
    if tested:
        if not trainer.strategy.broadcast(paths.best.is_file()):
            if first:
                record = {**read_record(paths.logs), "status": FAILED, "reason": "no checkpoint was written to test"}
                write_record(paths.logs, record)
            raise UserError(
                f"{paths.logs}: training ended before its first validation, and there is no checkpoint to test. Train "
                f"on: {_train_on(paths, trainer)}"
            )
        trainer.test(model, datamodule=data, ckpt_path=str(paths.best), verbose=False, weights_only=True)
    run = Run(paths, trainer.strategy.broadcast(read_record(paths.logs) if first else {}))
    if tested and first:
        print(
            f"{paths.name} version {paths.version}: {headline(run.test)}\n"
            f"record: {paths.logs}   checkpoint: {paths.best}"
        )
    return run
