"""What studies of many runs share: what is checked before their first run, and how their runs are made."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.sources import loading_once, of_same_images
from fashion_tl.errors import UserError
from fashion_tl.plain_text import flatten, with_article
from fashion_tl.process import launched_processes
from fashion_tl.records.record import NAMED
from fashion_tl.runs.checks import bounds_of, check_monitor, check_plan
from fashion_tl.runs.find_rate import check_findable
from fashion_tl.runs.named import setting, settle_named_runs
from fashion_tl.runs.parser import arguments, instantiate, make_trainer, parse, quiet, without_weights
from fashion_tl.runs.refusals import as_user_errors
from fashion_tl.runs.resume import decided

ONE = {"seeds": 1, "folds": None, "search": None, "processes": 1}  # what makes one run of a configuration of several
ALONE = ("ckpt_path", "trainer.fast_dev_run")  # settings of a single run
JUDGES = {"val": "validation", "test": "test"}  # parts whose images decide
LIMITS = {  # settings beside those of the data that decide on their images
    "trainer.limit_val_batches": ("val",),
    "trainer.limit_test_batches": ("test",),
    "trainer.overfit_batches": ("val",),
}


def check_base(base: Namespace, kind: str) -> None:
    """Refuse a configuration of which no study can be made.

    Args:
        base: The parsed configuration.
        kind: What the study is called, such as "tournament".

    Raises:
        UserError: If it is for one run, for several processes or started by several, or has no seed.
    """
    a_study = with_article(kind)
    for flag in ALONE:
        if base[flag]:
            raise UserError(f"--{flag} is for one run; it cannot go with {a_study}.")
    if base.folds:
        raise UserError(
            f"--folds {base.folds} makes several runs of one configuration; {a_study} makes its own. Leave it out, "
            "or hold one fold out of all its runs: --data.folds, --data.fold."
        )
    if (launched := launched_processes()) > 1:
        raise UserError(
            f"torchrun or srun has started {launched} processes: {a_study} starts its own. Start it once (srun "
            f"--ntasks 1) with --processes {launched}, which share its runs."
        )
    if str(base.trainer.devices) not in ("auto", "1") or base.trainer.num_nodes > 1:
        raise UserError(f"trainer.devices is {base.trainer.devices}: {a_study} runs in one process. Leave it out.")
    if isinstance(base.seed_everything, bool):
        raise UserError(f"{a_study} needs the number of its first seed, such as --seed_everything 0.")


def run_settings(records: Path, checkpoints: Path) -> dict[str, Any]:
    """Return what belongs to a study itself in each of its runs: their folders, one process, and no output."""
    return {
        "log_dir": str(records),
        "checkpoint_dir": str(checkpoints),
        **ONE,
        "resume": True,
        "trainer.logger": False,
        "trainer.enable_progress_bar": False,
        "trainer.devices": 1,
    }


# What a study sets in its runs, and what is for one run alone.
OWN = (
    *run_settings(Path(), Path()),
    *("name", "seed_everything", "study", "ckpt_path", "config", "extends", "data.folds", "data.fold"),
    *("trainer.num_nodes", "trainer.fast_dev_run"),
)
# Figures of two monitors do not compare, and a rate that is searched comes from training, not from validation.
NOT_SEARCHED = (*OWN, "monitor", "find_lr")


def settings_in(changes: Mapping[str, Any]) -> list[str]:
    """Name the settings that changes are of, also those within a section or a class.

    Example:
        >>> settings_in({"data.batch_size": 8, "model": {"class_path": "X", "init_args": {"lr": 1}}})
        ['data.batch_size', 'model.class_path', 'model.lr']
    """
    return [key.replace(".init_args.", ".") for key in flatten(dict(changes))]


def among(changes: Mapping[str, Any], settings: Collection[str]) -> list[str]:
    """Return those of several settings that changes are of, be it a part of them.

    Example:
        >>> among({"model": {"init_args": {"lr": 1}}}, ["trainer.logger", "model.lr"])
        ['model.lr']
    """
    changed = settings_in(changes)
    return [setting for setting in settings if any(f"{key}.".startswith(f"{setting}.") for key in changed)]


def check_searched(changes: Mapping[str, Any]) -> None:
    """Refuse to choose by validation among values of what would not compare.

    Raises:
        UserError: If changes of a candidate are of such a setting.
    """
    for key in among(changes, NOT_SEARCHED):
        raise UserError(
            f"{key} cannot be searched: a study sets it itself, or figures could not be compared across its values."
        )


@dataclass(frozen=True)
class NamedRuns:
    """The runs that a study's configurations name, which its own runs, in folders of their own, would not find.

    Attributes:
        args: Command-line arguments of the base configuration, as given.
        checkpoints: The checkpoint of each name: the same one throughout, whatever is trained meanwhile.
        settled: Changes that were settled before.
    """

    args: tuple[str, ...]
    checkpoints: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    settled: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def base(self) -> list[str]:
        """The arguments of the base configuration, with checkpoints in the place of names.

        Raises:
            UserError: If a run is named that is not completed.
        """
        return arguments(self.args, self.settle({}))

    def settle(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return changes to the base configuration, with checkpoints in the place of the runs that both name.

        Raises:
            UserError: If a run is named that is not completed.
        """
        key = repr(changes)
        if key not in self.settled:
            self.settled[key] = {**changes, **self._checkpoints(changes)}
        return self.settled[key]

    def _checkpoints(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        given = parse("fit", arguments(self.args, changes))
        settled = given.clone()
        settle_named_runs(settled, known=self.checkpoints)
        flags = {".".join(key.split(".")[:3]) for key in NAMED}  # terms are set as a whole
        pairs = {flag: (setting(given, flag), setting(settled, flag)) for flag in sorted(flags)}
        return {flag.replace(".init_args", ""): after for flag, (before, after) in pairs.items() if before != after}


def load_data(args: Sequence[str], changes: Mapping[str, Any]) -> tuple[ImageDataModule, str]:
    """Load the images of a configuration; returns them with the name of the network's lowest stage."""
    built = build(args, changes)
    data: ImageDataModule = built.data
    data.prepare_data()
    data.setup("fit")
    return data, next(iter(built.model.network.stage_names), "head")


def build(args: Sequence[str], changes: Mapping[str, Any]) -> Namespace:
    """Build what a run is made of, but for weights; nothing is loaded or written."""
    config = parse("fit", arguments(args, {**changes, "search": None}))
    without_weights(config)
    return instantiate("fit", config)


def check_run(args: Sequence[str], changes: Mapping[str, Any]) -> Namespace:
    """Refuse a run that would be refused, before the first run of all; returns what it is made of, see ``build``."""
    config = parse("fit", arguments(args, changes))
    if among(changes, decided(config)):
        raise UserError("--find_lr true sets model.lr and model.backbone_lr itself: leave it, or them, out.")
    start = config.model.init_args.get("init_from")
    if start and not Path(start).is_file():
        raise UserError(f"model.init_from is {start}: there is no such checkpoint. Give the path of a .ckpt file.")
    without_weights(config)
    built = instantiate("fit", config)
    check_monitor(config.monitor, built.model, built.trainer.callbacks)
    if config.find_lr:
        check_findable(config, built.model)
    return built


def divide_as(data: ImageDataModule, base: ImageDataModule) -> None:
    """Split the images of a run as it will, once, without reading again what another one of the study has loaded.

    Raises:
        UserError: If they cannot be split as told, or not be read.
    """
    if data.splits:
        return
    if base.loaded is not None and of_same_images(data.source, base.source):
        data.divide(base.loaded)
    else:
        data.prepare_data()
        data.setup("fit")


def bounds(built: Namespace, base: ImageDataModule, checked: bool = True) -> tuple[int, int, float, int]:
    """Return what bounds the plan of a run of a study, see ``Plan.bounded``, by what it is made of.

    Args:
        built: What the run is made of.
        base: Images of the study that are loaded.
        checked: Whether the plan is to suit them.

    Raises:
        UserError: If there is no such trainer, the images cannot be split as told, or its plan does not suit them.
    """
    divide_as(built.data, base)
    with quiet():
        trainer = make_trainer(built.trainer, devices=1, logger=False)
    if checked:
        check_plan(built.model, trainer, built.data)
    return bounds_of(trainer, built.data)


def check_images(
    data: ImageDataModule, base: ImageDataModule, changes: Mapping[str, Any], parts: Sequence[str] = ("val", "test")
) -> None:
    """Refuse settings with which a run would be judged by other images than the others of its study.

    Args:
        data: The images of the run.
        base: The images of the others, after ``setup``.
        changes: What the run changes.
        parts: The splits that are to be the same.

    Raises:
        UserError: If they are not.
    """
    settings = [key for key in settings_in(changes) if decides_on_images(key)]
    if not settings:
        return
    others = [part for part in parts if any(part in LIMITS.get(key, ()) for key in settings)]
    if not others:
        divide_as(data, base)
        others = [part for part in parts if not data.has_the_same(part, base)]
    if others:
        which = " and ".join(JUDGES[part] for part in others)
        raise UserError(
            f"the {which} images would be others, and figures on them could not be compared. Set "
            f"{' and '.join(settings)} for all runs alike."
        )


def decides_on_images(setting: str) -> bool:
    """Say whether a setting, by its flag without the dashes, decides on which images a run sees."""
    return setting.partition(".")[0] == "data" or setting in LIMITS


def decides_on_batches(setting: str) -> bool:
    """Say whether a setting, by its flag without the dashes, decides on the batches of an epoch, see ``bounds``."""
    return setting.partition(".")[0] in ("data", "trainer")


@contextmanager
def many_runs() -> Iterator[None]:
    """Have the runs within load the same images once, and be free of what only the first one pays for."""
    gc.freeze()  # the modules of torch and Lightning, which every run's collection would walk through: half a second
    try:
        with loading_once():
            yield
    finally:
        gc.unfreeze()


@contextmanager
def stoppable() -> Iterator[None]:
    """Say how to go on when a study is stopped, and tell mistakes of the user as such."""
    try:
        with as_user_errors():
            yield
    except (KeyboardInterrupt, SystemExit):  # Lightning turns both signals into a SystemExit
        print("stopped; the same command goes on with what is not done yet")
        raise
