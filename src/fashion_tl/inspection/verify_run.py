"""What of a record needs data and network to be checked: checkpoint, configuration, data, split, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jsonargparse import Namespace
from scipy.special import log_softmax

from fashion_tl.callbacks.averaging import make_average
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.file_index import reading_anew
from fashion_tl.data.transforms import describe_preprocessing
from fashion_tl.errors import UserError, one_line
from fashion_tl.inspection.inference import FULL, infer, tracked
from fashion_tl.inspection.run import data_of
from fashion_tl.inspection.verify_weights import check_start
from fashion_tl.models.staged import count_parameters
from fashion_tl.plain_text import flatten
from fashion_tl.process import own_device
from fashion_tl.records.predictions import Predictions, read_predictions
from fashion_tl.records.record import CONFIG, RunPaths, measured
from fashion_tl.records.settings import setting_changes, untold
from fashion_tl.records.verify import DIFFERS, UNKNOWN, Check, compared, concluded, value_differences
from fashion_tl.runs.checks import to_build
from fashion_tl.runs.configs import read_config, read_yaml
from fashion_tl.runs.parser import instantiate, parse
from fashion_tl.seeds import seeded
from fashion_tl.training.checkpoints import load_checkpoint
from fashion_tl.training.classifier import ImageClassifier
from fashion_tl.training.going_on import averaging_of, progress_in
from fashion_tl.training.loading import load_classifier
from fashion_tl.training.plan import differences

# Of the largest logit: how far logits may lie from recorded ones in full precision, where the device is another one
# (whose convolutions may use TF32), and in half precision.
EXACT, OTHER_DEVICE, HALF = 1e-4, 1e-2, 5e-2


def check_run(paths: RunPaths, record: dict[str, Any], root: str | None, batch_size: int) -> Iterator[Check]:
    """Check a completed run against its checkpoint, configuration and data.

    Args:
        paths: The folders of the run.
        record: Its record.
        root: Folder with the data, where it lies elsewhere than for the run.
        batch_size: Images in a batch.
    """
    checkpoint, module = None, None
    if paths.best.is_file():
        try:
            checkpoint = load_checkpoint(paths.best)
            module = load_classifier(paths.best)
        except UserError as error:
            yield Check("checkpoint", DIFFERS, str(error))
        else:
            yield _checkpoint(checkpoint, module, record)
    data, checks = _data(paths, record, root)
    yield from checks
    config = None
    if (paths.logs / CONFIG).is_file() and not record.get("kind"):
        yield _settings(paths, checkpoint, record)
        try:
            config = parse("fit", ["-c", str(paths.logs / CONFIG)])
            make_average(config.ema, config.swa)
        except UserError as error:
            yield Check("configuration", DIFFERS, f"it does not run again: {error}")
    if config is not None:
        started, checks = _configuration(config, checkpoint, record, root)
        yield from checks
        if checkpoint is not None and started is not None:
            yield from check_start(config, checkpoint, record, started)
    if data is not None:
        yield _split(data, checkpoint)
        if data.describe()["test_set"] == (record.get("data") or {}).get("test_set"):
            yield from _predictions(paths, record, data, module, batch_size)
        else:
            yield Check("predictions", UNKNOWN, "these are other test images")


def _checkpoint(checkpoint: dict[str, Any], module: ImageClassifier, record: dict[str, Any]) -> Check:
    """Compare what a checkpoint says of itself, and the network that it builds, with the record."""
    model, network = measured(record, "model"), module.network
    recorded: dict[str, Any] = {
        **{name: model[name] for name in ("module", "architecture", "stages", "parameters", "input") if name in model},
        "class_names": measured(record, "data").get("class_names"),
        "best epoch": measured(record, "best").get("epoch"),
        "weights_hash": model.get("weights_hash"),
    }
    found = {
        "module": type(module).__name__,
        "architecture": module.architecture,
        "stages": list(network.stage_names),
        "parameters": count_parameters(network),
        "input": describe_preprocessing(module.preprocess),
        "class_names": list(module.class_names),
        "best epoch": checkpoint["epoch"],
        "weights_hash": checkpoint.get("fashion_tl_weights_hash"),
    }
    told = f"its checksum; epoch {checkpoint['epoch']}, {found['parameters']:,} parameters, classes, input"
    known = {name: value for name, value in recorded.items() if value is not None}
    return compared("checkpoint", known, found, told, tolerance=1e-6)


def _data(paths: RunPaths, record: dict[str, Any], root: str | None) -> tuple[ImageDataModule | None, list[Check]]:
    """Load the data of a run, and compare them with what the record says of them."""
    try:
        data = data_of(paths, root)
        data.prepare_data()
        with reading_anew():
            data.setup()
    except (UserError, OSError) as error:
        return None, [Check("data", UNKNOWN, one_line(error))]
    recorded = measured(record, "data")  # where null is a setting, the configuration is compared with it
    told = (
        f"{data.source_name}, {sum(map(len, data.splits.values())):,} images, fingerprint {recorded.get('fingerprint')}"
    )
    return data, [compared("data", recorded, data.describe(), told)]


def _settings(paths: RunPaths, checkpoint: dict[str, Any] | None, record: dict[str, Any]) -> Check:
    """Compare every setting with those that the checkpoint was trained with, or that were changed later."""
    recorder = (checkpoint or {}).get("callbacks", {}).get("RunRecorder") or {}
    if not isinstance(recorder.get("config"), str):
        return Check("settings", UNKNOWN, "no checkpoint says with which it was trained")
    try:
        kept = read_yaml(recorder["config"], "the configuration in the checkpoint")
        changes = setting_changes(kept, read_config(paths.logs / CONFIG))
    except UserError as error:
        return Check("settings", DIFFERS, str(error))
    told = [f"{name}: recorded {a}, found {b}" for name, (a, b) in untold(changes, record.get("resumed") or []).items()]
    return concluded("settings", told, "those that the checkpoint was trained with")


def _configuration(
    config: Namespace,
    checkpoint: dict[str, Any] | None,
    record: dict[str, Any],
    root: str | None,
) -> tuple[ImageClassifier | None, list[Check]]:
    """Build a classifier as the run began, and compare its settings with the record and with the checkpoint.

    Returns:
        The classifier with the weights that the run started from, None if they are not at hand; and the checks.
    """
    given_callbacks, config = config.trainer.callbacks, config.clone()
    config.trainer.logger, config.trainer.callbacks = False, None
    source = (config.data.source or {}).get("init_args")
    if root is not None and source is not None and "root" in source:
        source.root = root
    what, checks, began = "configuration", [], True
    try:
        with seeded(config.seed_everything):
            built = instantiate("fit", config)
    except (UserError, OSError) as error:
        began = False
        checks.append(Check("starting weights", UNKNOWN, f"they are not at hand: {one_line(error)}"))
        try:
            built = instantiate("fit", to_build(config, Path()))
        except (UserError, OSError) as second:
            return None, [Check(what, UNKNOWN, f"it cannot be built here: {one_line(second)}")]
    module = built.model
    model, plan = measured(record, "model"), module.plan
    recorded, found = _of_record(record), _of_config(config, module)
    if given_callbacks:  # any of which may average weights
        recorded.pop("averaging", None)
    told = list(value_differences(recorded, found))
    if saved := (checkpoint or {}).get("callbacks", {}).get("FreezeUnfreeze"):
        different = differences(saved["plan"], plan.settings(), progress_in(saved))
        told += [f"plan of the checkpoint: {each}" for each in different]
        given = {name: module.given[name] for name in saved["model"] if name in module.given}
        told += [f"model.{each}" for each in value_differences(saved["model"], given)]
    phases = [phase for phase in model.get("phases", []) if isinstance(phase, dict)]
    for index, phase in enumerate(phases[: len(plan.phases)]):
        told += value_differences(phase, {"trained_parameters": _trained(module, index)}, name=f"phase {index + 1}")
    also = "".join(f", {name}" for name in _ALSO if name in recorded and name in found)
    checks.insert(
        0, concluded(what, told, f"it runs again; seed {config.seed_everything}, lr {plan.lr:g}, plan, model{also}")
    )
    return module if began else None, checks


# Lightning's short names of precisions.
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
_ALSO = ("monitor", "averaging", "precision", "max_steps")
_ELSEWHERE = (("best", "monitor"), ("environment", "precision"))
_OF_DATA = ("label_budget", "per_class", "split_seed", "sampler", "folds", "fold")
_NONE_AS_VALUE = ("label_budget", "per_class", "folds", "fold")  # of which null says that there is none


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    model, data = measured(record, "model"), record.get("data") or {}
    names = ("lr", "backbone_lr", "optimizer", "batch_norm", "schedule", "objective", "max_epochs")
    settings = {name: model[name] for name in names if name in model}
    known = {**dict.fromkeys(set(_NONE_AS_VALUE) & data.keys()), **measured(record, "data")}
    sizes = {name: known[name] for name in ("image_size", *_OF_DATA) if name in known}
    named = {"name": record["name"]} if record.get("name") is not None else {}
    more = {name: model.get(name) for name in ("max_steps", "averaging") if name in (record.get("model") or {})}
    more |= {"max_steps": None} if more.get("max_steps") == -1 else {}
    chosen = {name: measured(record, section).get(name) for section, name in _ELSEWHERE}
    more |= {name: value for name, value in chosen.items() if value is not None}
    return {"seed": record.get("seed"), **named, **settings, **more, **sizes}


def _of_config(config: Namespace, module: ImageClassifier) -> dict[str, Any]:
    plan, data = module.plan, config.data
    precision = None if config.trainer.precision is None else str(config.trainer.precision)
    return {
        "seed": None if config.seed_everything is False else config.seed_everything,
        "name": config.name,
        "lr": plan.lr,
        "backbone_lr": plan.backbone_lr,
        "optimizer": plan.optimizer,
        "batch_norm": plan.batch_norm,
        "schedule": plan.schedule.name,
        "objective": module.objective.label,
        "max_epochs": config.trainer.max_epochs,
        "image_size": module.input_spec.image_size,
        "max_steps": None if config.trainer.max_steps == -1 else config.trainer.max_steps,
        "averaging": averaging_of(SimpleNamespace(callbacks=make_average(config.ema, config.swa))),
        "monitor": config.monitor,
        **({} if precision is None or config.trainer.plugins else {"precision": PRECISIONS.get(precision, precision)}),
        **{name: data.get(name) for name in _OF_DATA},
    }


def _trained(module: ImageClassifier, index: int) -> int:
    module.enter_phase(index)
    return count_parameters(module.network, trained_only=True)


def _split(data: ImageDataModule, checkpoint: dict[str, Any] | None) -> Check:
    """Compare the images of each split with those that the checkpoint was trained, chosen and tested with."""
    saved = ((checkpoint or {}).get("callbacks", {}).get("FreezeUnfreeze") or {}).get("data")
    if not saved:
        return Check("split", UNKNOWN, "no checkpoint says which images it was trained with")
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    flat, now = flatten(dict(saved)), flatten(data.identity)
    return compared("split", flat, now, f"{sizes}: the images that the checkpoint was trained and chosen with")


def _predictions(
    paths: RunPaths, record: dict[str, Any], data: ImageDataModule, module: ImageClassifier | None, batch_size: int
) -> Iterator[Check]:
    """Compare labels with the data, and logits with those that the checkpoint gives now."""
    try:
        found = read_predictions(paths.logs, record, len(data.class_names))
    except UserError as error:
        yield Check("labels", UNKNOWN, str(error))
        return
    labels = data.splits["test"].labels.numpy()
    inside = found.index < len(labels)
    wrong = np.flatnonzero(~inside | (labels[np.where(inside, found.index, 0)] != found.labels))
    named = [f"test image {found.index[i]}: recorded {_name(data, int(found.labels[i]))}" for i in wrong]
    more = len(labels) - len(found.labels)
    missing = f"; {more} test images have no prediction" if more else ""
    yield concluded("labels", named, f"{len(found.labels):,} of the data's {len(labels):,} test images{missing}")
    if module is None:
        yield Check("predictions", UNKNOWN, "there is no checkpoint that gives logits")
        return
    if len(wrong):  # these are other images
        return
    place = own_device()
    batches = tracked(data.in_order("test", batch_size), f"test images of {paths.name}", len(labels))
    logits, _ = infer(module.to(place), batches)
    yield _logits(found, logits, record, place.type)


def _name(data: ImageDataModule, label: int) -> str:
    return data.class_names[label]


def _logits(found: Predictions, computed: np.ndarray, record: dict[str, Any], device: str) -> Check:
    environment = record.get("environment") or {}
    there = "cpu" if str(environment.get("device", "cpu")).startswith("cpu") else "cuda"
    full = environment.get("precision", FULL[0]) in FULL
    share = HALF if not full else EXACT if there == device == "cpu" else OTHER_DEVICE
    again = computed[found.index].astype(np.float64)
    recorded = found.logits.astype(np.float64)
    if record.get("members"):  # whose record holds logarithms of probabilities, whatever its checkpoint computes
        again, recorded = log_softmax(again, axis=1), log_softmax(recorded, axis=1)
    tolerance = share * max(1.0, float(np.abs(recorded).max()))
    gap = np.abs(again - recorded).max(axis=1)
    worst = np.flatnonzero(~(gap <= tolerance))  # NaN too
    changed = int((again.argmax(axis=1) != recorded.argmax(axis=1)).sum())
    told = [
        f"test image {found.index[i]}: logits differ by {gap[i]:.2g}, tolerance {tolerance:.2g}"
        for i in worst[np.argsort(-gap[worst], kind="stable")]
    ]
    classes = "all classes the same" if not changed else f"{changed} predicted classes differ"
    return concluded(
        "predictions",
        told,
        f"logits of {len(gap):,} images within {gap.max():.1e} (tolerance {tolerance:.1e}), {classes}",
    )
