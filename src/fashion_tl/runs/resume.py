"""Going on with a run: which version, from which checkpoint, and whether it is the same run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.errors import UserError
from fashion_tl.models.backbones import weights_at_hand
from fashion_tl.plain_text import flatten
from fashion_tl.records.record import (
    COMPLETED,
    CONFIG,
    RECORD,
    TRAINED,
    RunPaths,
    as_given,
    check_same_data,
    check_same_start,
    paths_of,
    read_record,
    verify,
    versions,
)
from fashion_tl.runs.configs import read_config, read_yaml
from fashion_tl.runs.parser import dump, instantiate, without_weights
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.going_on import averaging_of, cache_of, check_resumed, compared, progress_in, without_plan

# What changes neither weights nor figures beyond their last bits, or only where they lie, or what is run at all.
FREE = {
    *("name", "seeds", "folds", "search", "processes", "ckpt_path", "extends"),
    *("log_dir", "checkpoint_dir", "checkpoint_minutes", "checkpoint_steps", "cache_keep", "resume", "study"),
    *("data.num_workers", "data.source.root", "data.eval_batch_size"),
    *(f"trainer.{name}" for name in ("accelerator", "logger", "log_every_n_steps", "profiler")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "num_sanity_val_steps")),
}
FOUND = {"model.lr", "model.backbone_lr"}  # by --find_lr
# What ``check_resumed`` judges of a run that goes on, by where its checkpoint was written.
PROCESSES = {"trainer.devices", "trainer.strategy", "trainer.num_nodes"}
OF_EACH = {"data.batch_size", "trainer.accumulate_grad_batches"}  # of them, and so changed with their number
HASHES = ("weights_hash", "head_hash")
WAY = "Give another --name."
STARTS = ("backbone", "pretrained", "init_from", "backbone_args")  # arguments of a model that decide on its start


def decided(config: Namespace) -> set[str]:
    """Return the settings that a run decides itself, whatever its configuration says of them."""
    return FOUND if config.find_lr else set()


@dataclass(frozen=True)
class Version:
    """A version of a run that the same configuration has made.

    Attributes:
        paths: Its folders.
        record: Its ``run.json``.
    """

    paths: RunPaths
    record: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.record["status"] == COMPLETED)

    @property
    def trained(self) -> bool:
        """Whether the test alone is left to do."""
        return bool(self.record["status"] == TRAINED)

    @property
    def unfinished(self) -> bool:
        """Whether training is left to do."""
        return not (self.done or self.trained or self.diverged)

    @property
    def diverged(self) -> bool:
        """Whether training has diverged, as it would again."""
        return bool(self.record.get("diverged"))


def find_version(config: Namespace, varied: Collection[str] = (), study: bool = False) -> Version | None:
    """Find the newest version of the run's name that the same configuration has made; see ``--resume``.

    Args:
        config: The settled configuration.
        varied: Settings in which other versions may differ without being in the way.
        study: Whether the run is one of a study, which goes on without being told to.

    Returns:
        The version; None if there is none and the newest one is done.

    Raises:
        UserError: If the newest version is of another configuration and not done, the differences are named; or if the
            files of a version are damaged.
    """
    newest: tuple[Version, dict[str, str]] | None = None
    asked, way = ("", "give another --name") if study else ("--resume true: ", "leave --resume out for a new version")
    for version, changed in _earlier(config, asked, way):
        if version.unfinished:
            judged = {"cache"} | (PROCESSES | OF_EACH if changed.keys() & PROCESSES else set())
            changed = {key: told for key, told in changed.items() if key not in judged or _within(key, varied)}
        if not changed:
            return version
        if any(not _within(key, varied) for key in changed):
            newest = newest or (version, changed)
    if newest is None or newest[0].done or newest[0].diverged:
        return None
    told = "; ".join([*newest[1].values()][:8])
    raise UserError(
        f"{asked}{newest[0].paths.logs} is not done, but of another configuration: {told}. "
        f"Give its settings, {'' if study else 'another --name, '}or {way}."
    )


def check_earlier(config: Namespace) -> None:
    """Refuse a name for runs of a study of which an earlier version cannot be read, and so not be told from them.

    Raises:
        UserError: It names the version.
    """
    for _ in _earlier(config, "", "give another --name"):
        pass


def _earlier(config: Namespace, asked: str, way: str) -> Iterator[tuple[Version, dict[str, str]]]:
    """Yield the versions of a run's name, newest first, with what differs; see ``changed_settings``."""
    for number in reversed(versions(config.log_dir, config.name)):
        paths = paths_of(config.log_dir, config.checkpoint_dir, config.name, number)
        if not all((paths.logs / name).is_file() for name in (RECORD, CONFIG)):
            continue  # one that was killed before it had them
        try:
            version = Version(paths, read_record(paths.logs))
            verify(paths.logs, CONFIG, version.record)
            changed = changed_settings(paths, version.record, config)
        except UserError as error:
            raise UserError(
                f"{asked}{paths.logs} cannot be read: {str(error).rstrip('.')}. Move it away, or {way}."
            ) from error
        yield version, changed


def check_same(version: Version, config: Namespace, goes_on: bool = False) -> None:
    """Refuse to take a version for what a configuration makes if images or starting weights are others by now.

    Args:
        version: The version.
        config: The settled configuration.
        goes_on: Whether the run goes on from a checkpoint, by which its images are compared (``check_resumed``).

    Raises:
        UserError: If they are, or cannot be loaded.
    """
    at_hand = _start_at_hand(config)
    if goes_on and not at_hand:
        return
    built = _build(config, at_hand)
    check_same_start(version.paths.logs, version.record, _hashes(built.model), WAY)
    if not goes_on:
        data: ImageDataModule = built.data
        data.prepare_data()
        data.setup("fit")
        check_same_data(version.paths.logs, version.record, data.describe(), WAY)


def start_of(config: Namespace, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what a record's ``model`` says of the weights that a run starts from.

    Args:
        config: Its settled configuration.
        known: What is known of other starts: a network is built once; what is found is added.

    Returns:
        The hashes and the name; nothing of random weights, and of weights that would have to be fetched.
    """
    arguments = config.model.init_args
    key = repr([config.model.class_path, config.data.image_size, *(arguments.get(name) for name in STARTS)])
    if key not in known:
        known[key] = _hashes(_build(config, True).model) if _start_at_hand(config) else {}
    return known[key]


def _start_at_hand(config: Namespace) -> bool:
    """Say whether a run starts from weights that lie on this machine."""
    arguments = config.model.init_args
    if start := arguments.get("init_from"):
        return Path(start).is_file()
    name = arguments.get("backbone")
    return bool(arguments.get("pretrained")) and isinstance(name, str) and weights_at_hand(name)


def _build(config: Namespace, weights: bool) -> Namespace:
    """Build what a run is made of; its weights are read if they are asked for."""
    config = config.clone()
    if not weights:
        without_weights(config)
    return instantiate("fit", config)


def _hashes(model: ImageClassifier) -> dict[str, Any]:
    """Return name and hashes of a model's starting weights; nothing of weights that a seed draws."""
    return {} if model.weights == "random" else {name: getattr(model, name) for name in ("weights", *HASHES)}


def _within(key: str, settings: Collection[str]) -> bool:
    """Say whether a setting is one of several, or lies within one of them."""
    wholes = [setting.replace(".init_args.", ".") for setting in settings]
    return any(key == whole or key.startswith(f"{whole}.") for whole in wholes)


def changed_settings(paths: RunPaths, record: Mapping[str, Any], config: Namespace) -> dict[str, str]:
    """Say of each setting that changes weights or figures and is not as a version's files have it.

    Raises:
        UserError: If its ``config.yaml`` cannot be read.
    """
    saved, now = flatten(read_config(paths.logs / CONFIG)), flatten(read_yaml(dump("fit", config), "the configuration"))
    free = {"seed_everything"} if config.seed_everything is True else set()
    if config.find_lr:  # else the rate that was found is a rate like any other
        saved = as_given(saved, record)
        free |= set() if "rate_search" in record else {"find_lr", *FOUND}  # a record of an earlier version
    before, after = decisive(saved), decisive(now)
    return {
        key: f"{key}: {before.get(key)}, now {after.get(key)}"
        for key in sorted((before.keys() | after.keys()) - free)
        if before.get(key) != after.get(key)
    }


def decisive(settings: Mapping[str, str]) -> dict[str, str]:
    """Return those of some settings that change weights or figures, by their flags without the dashes.

    Example:
        >>> decisive({"name": "a", "cache": "auto", "cache_views": "4", "model.init_args.lr": "0.1"})
        {'cache': 'on', 'cache_views': '4', 'model.lr': '0.1'}
    """
    free = FREE
    if all(settings.get(key, "null") == "null" for key in ("cache_views", "cache_dtype")):
        free = free | {"cache"}
    named = {key.replace(".init_args.", "."): text for key, text in settings.items()}
    if named.get("cache") in ("auto", "require"):
        named["cache"] = "on"
    return {key: text for key, text in named.items() if not f"{key}.".startswith(tuple(f"{name}." for name in free))}


def resolve_checkpoint(config: Namespace) -> Path | None:
    """Return the checkpoint that ``--ckpt_path`` names: a path, or last or best of the newest version of the name.

    Raises:
        UserError: If there is none.
    """
    given = config.ckpt_path
    if given is None:
        return None
    if given not in ("last", "best"):
        return Path(given)
    for version in reversed(versions(config.checkpoint_dir, config.name)):
        path = paths_of(config.log_dir, config.checkpoint_dir, config.name, version).checkpoints / f"{given}.ckpt"
        if path.is_file():
            return path
    raise UserError(
        f"--ckpt_path {given}: no version of the run {config.name!r} in {config.checkpoint_dir} has a {given}.ckpt."
    )


def own_version(config: Namespace, checkpoint: Path | None) -> RunPaths | None:
    """Return the folders of the version that a checkpoint is of, if a run goes on in them: it is not completed."""
    if checkpoint is None:
        return None
    for number in versions(config.checkpoint_dir, config.name):
        own = paths_of(config.log_dir, config.checkpoint_dir, config.name, number)
        if own.checkpoints.resolve() == checkpoint.resolve().parent and (own.logs / RECORD).is_file():
            return own if read_record(own.logs)["status"] != COMPLETED else None
    return None


def is_trained(
    path: Path,
    saved: dict[str, Any],
    config: Namespace,
    own: RunPaths | None,
    model: ImageClassifier,
    trainer: Trainer,
    data: ImageDataModule,
) -> bool:
    """Say whether a checkpoint is the end of the training that its own version is to have, so that its test is left.

    Args:
        path: The checkpoint.
        saved: Its ``saved_state``.
        config: The configuration.
        own: The version that goes on; None if a new one begins.
        model: The classifier that goes on.
        trainer: The trainer that goes on.
        data: The data module, after ``setup``.

    Raises:
        UserError: If the checkpoint is of another plan, data or objective, each difference is named; or if nothing is
            left to train for a new version.
    """
    now = {
        **compared(model, data),
        "batches": epoch_batches(trainer, data),
        "accumulate": trainer.accumulate_grad_batches,
        "processes": trainer.world_size,
        "averaging": averaging_of(trainer),
        "cache": cache_of(trainer, data),
    }
    check_resumed(saved, now)
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    ended = (epochs == saved["epoch"] and not saved["batch"]) or 0 <= steps <= saved["steps"]
    progress = progress_in(saved)
    plan = model.plan.bounded(epochs, steps, now["batches"], now["accumulate"], progress)
    if plan.may_end_early and not ended:
        ended = plan.placed(saved["losses"], progress).ended(progress)
    stopped = own is not None and saved["stopped"] and not changed_settings(own, read_record(own.logs), config)
    if 0 <= epochs < saved["epoch"] or (ended and own is None):
        raise UserError(
            f"{path} has {saved['epoch']} epochs and {saved['steps']} steps: nothing is left to train with "
            f"trainer.max_epochs {epochs} and trainer.max_steps {steps}. Give larger ones."
        )
    return bool(ended or stopped)


def fitting_state(path: Path, model: ImageClassifier) -> dict[str, Any]:
    """Return the ``saved_state`` of a checkpoint of a model's network.

    Raises:
        UserError: If it is of another network, or keeps no plan.
    """
    checkpoint = load_checkpoint(path)
    check_network(path, model, checkpoint)
    return saved_state(path, checkpoint)


def saved_state(path: Path, checkpoint: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the plan and the progress that a checkpoint keeps.

    Raises:
        UserError: If it keeps none.
    """
    found: dict[str, Any] | None = (checkpoint or load_checkpoint(path)).get("callbacks", {}).get("FreezeUnfreeze")
    if not found:
        raise without_plan(path)
    return found


def check_network(path: Path, model: ImageClassifier, checkpoint: dict[str, Any] | None = None) -> None:
    """Refuse a checkpoint of another network."""
    saved, own = (checkpoint or load_checkpoint(path))["state_dict"], model.state_dict()
    for name in sorted(saved.keys() | own.keys()):
        shapes = [tuple(state[name].shape) if name in state else "nothing" for state in (saved, own)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{path} does not fit the model of this configuration: at {name} it has {shapes[0]}, the model "
                f"{shapes[1]}. Give the configuration of its run, such as -c lightning_logs/NAME/version_N/config.yaml."
            )


def epoch_batches(trainer: Trainer, data: ImageDataModule) -> float:
    """Return the training batches of an epoch in each process."""
    batches, limit = data.count_batches(trainer.world_size), trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return float(batches)
