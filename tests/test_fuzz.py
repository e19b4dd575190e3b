"""Properties that hold for any configuration, any plan and any bytes: Hypothesis looks for what breaks them.

`make test` tries the same few examples every time; `make fuzz MINUTES=10` tries new ones until the time is over.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from lightning.pytorch import Trainer
from PIL import Image
from torch import nn

from fashion_tl.cache import store
from fashion_tl.cli import main
from fashion_tl.data.augment import Augment
from fashion_tl.data.datamodule import ImageDataModule
from fashion_tl.data.files import check_image, decode_image
from fashion_tl.data.idx import read_idx
from fashion_tl.data.synthetic import SyntheticSource
from fashion_tl.errors import UserError
from fashion_tl.models.staged import StagedNetwork, divide_by_children
from fashion_tl.records.analysis import write_arrays
from fashion_tl.records.predictions import read_predictions
from fashion_tl.records.record import read_record, write_record
from fashion_tl.runs.configs import read_config
from fashion_tl.training.checkpoints import load_checkpoint, packed
from fashion_tl.training.classifier import BATCH_NORM, ImageClassifier
from fashion_tl.training.objective import OBJECTIVES
from fashion_tl.training.optimizer import OPTIMIZERS, group_rates, parameter_groups
from fashion_tl.training.plan import SCHEDULES, Phase, Plan, Progress, Schedule, differences, parse_phases, steps_in
from fashion_tl.training.scratch import ScratchClassifier

pytestmark = pytest.mark.slow
Test = TypeVar("Test", bound=Callable[..., None])

EXAMPLES = int(os.environ.get("FASHION_TL_FUZZ_EXAMPLES", "0"))  # set by tests/fuzz.py; else few, always the same
set_hypothesis_home_dir(tempfile.gettempdir())


def tried(examples: int) -> Callable[[Test], Test]:
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        yield Path(name)


def told(action: Callable[[], object]) -> str:
    """Return the message of a UserError; empty without one."""
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


# Configurations

# What would take minutes, start processes, or leave the working folder on purpose.
LEFT_OUT = {
    *("trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.default_root_dir", "trainer.plugins"),
    *("trainer.logger", "trainer.callbacks", "trainer.profiler", "trainer.max_time", "trainer.fast_dev_run"),
    *("trainer.max_epochs", "trainer.max_steps", "trainer.min_epochs", "trainer.min_steps", "data.source"),
    *("data.augment", "trainer.barebones", "trainer.model_registry"),
}
COSTLY = {  # what is allowed, but takes long: none of it is tried between these two
    "data.image_size": (40, 4097),
    "data.source.num_train": (200, 10_000_001),
    "data.source.num_test": (60, 10_000_001),
    "data.augment.translate": (8, 1001),
    "data.num_workers": (2, 257),
    "seeds": (1, 10_001),
    "processes": (1, 1025),
}
WORDS: dict[str, tuple[str, ...]] = {
    "model.train": ("head", "all", "block2", "2", "layer4"),
    "model.batch_norm": BATCH_NORM,
    "model.optimizer": OPTIMIZERS,
    "model.schedule": SCHEDULES,
    "model.objective": tuple(OBJECTIVES),
    "model.class_weights": ("balanced",),
    "model.network": ("plain", "light"),
    "data.interpolation": ("bilinear", "bicubic", "nearest"),
    "trainer.accelerator": ("cpu", "auto", "tpu"),
    "trainer.gradient_clip_algorithm": ("norm", "value"),
    "cache": ("auto", "off", "require"),
    "cache_dtype": ("float32", "bfloat16", "float16", "int8"),
    "monitor": ("val/loss", "val/accuracy", "train/loss"),
    "compile": ("gone", ""),
    "trainer.val_check_interval": ("00:00:00:01",),
}
OWN: dict[str, Any] = {
    "seed_everything": bool | int,
    "name": str,
    "log_dir": str,
    "checkpoint_dir": str,
    "checkpoint_minutes": float | None,
    "checkpoint_steps": int | None,
    "monitor": str,
    "patience": int | None,
    "cache": str,
    "cache_keep": list[str | int],
    "cache_views": int | None,
    "cache_dtype": str | None,
    "compile": bool | str,
    "seeds": int,
    "processes": int,
    "study": dict[str, Any] | None,
    "ckpt_path": str | None,
    "resume": bool,
}
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def hints_of(prefix: str, *kinds: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in kinds:
        found |= {
            f"{prefix}.{name}": hint
            for name, hint in get_type_hints(vars(kind)["__init__"]).items()
            if name != "kwargs"
        }
    return found


SETTINGS = {
    **OWN,
    **hints_of("trainer", Trainer),
    **hints_of("data", ImageDataModule),
    **hints_of("data.source", SyntheticSource),
    **hints_of("data.augment", Augment),
    **hints_of("model", ImageClassifier, ScratchClassifier),
}
SETTINGS = {
    name: hint
    for name, hint in SETTINGS.items()
    if name not in LEFT_OUT and not name.endswith((".return", ".class_names", ".input_spec"))
}


def values(name: str, hint: Any) -> st.SearchStrategy[Any]:
    """Make values of a type as a setting has it."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return st.one_of([values(name, each) for each in arguments])
    if kind is Literal:
        return st.sampled_from(arguments)
    if kind is list:
        return st.lists(values(name, arguments[0]), max_size=4)
    if kind is dict:
        keys = st.integers(-1, 4) if name == "model.train" else st.text(max_size=4)
        entries = st.sampled_from(WORDS.get(name, ("a",))) | TREES
        return st.dictionaries(keys | PLAIN.filter(lambda key: key is not None), entries, max_size=3)
    if hint is int:
        low, high = COSTLY.get(name, (0, 0))
        return st.integers(-2, max(low, 6)) | st.integers(min_value=high or 7) | st.integers(max_value=-1)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        type(None): st.none(),
        bool: st.booleans(),
        float: st.floats(0, 1) | st.floats(),
        str: st.sampled_from(WORDS[name]) if name in WORDS else st.text(max_size=8),
    }
    return simple.get(hint, PLAIN)


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=4, unique=True))
    return {name: draw(values(name, SETTINGS[name])) for name in names}


def nested(config: dict[str, Any]) -> dict[str, Any]:
    """Write settings by dotted names as a file holds them, over a run of a second."""
    small = {"network": "plain", "network_args": {"widths": [2, 3]}}
    tree: dict[str, Any] = {
        "data": {"batch_size": 16, "source": {"class_path": "SyntheticGarments", "init_args": {"num_train": 60}}},
        "model": {"class_path": "ScratchClassifier", "init_args": small},
        "trainer": {"enable_progress_bar": False, "accelerator": "cpu"},
    }
    for name, value in config.items():
        *sections, last = name.replace("source.", "source.init_args.").replace("model.", "model.init_args.").split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return tree


@tried(25)
@given(configurations(), st.booleans())
@example({"trainer.overfit_batches": 0.5, "data.batch_size": 1}, True)
def test_any_configuration_is_a_run_or_one_message(config: dict[str, Any], trial: bool) -> None:
    length = ("--trainer.fast_dev_run=1",) if trial else ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2")
    out, err = io.StringIO(), io.StringIO()
    with empty_folder() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Text that no file of YAML can hold is nothing that a user can write.
        text = yaml.safe_dump(nested(config), allow_unicode=False)
        (folder / "config.yaml").write_text(text)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main(["fit", "-c", "config.yaml", *length])
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_default_dtype(torch.float32)
        message = err.getvalue()
        if status == 0:
            return
        assert status == 2, message
        assert message.startswith("fashion-tl: error: ")
        assert len(message.splitlines()) <= 3, message
        assert not any(word in message for word in ("Traceback", "Parser key", "Namespace(")), message
        begun = [json.loads(path.read_text()) for path in folder.rglob("run.json")]
        left = [path for path in folder.rglob("*") if path.name != "config.yaml"]
        # Training that diverges is stopped, and its record says so.
        assert not left or [record["status"] for record in begun] == ["failed"], (message, left)


# Plans

RATES = st.none() | st.floats(0, 10)
BOUNDARIES = st.sampled_from(["all", "head", "low", "middle", "top", 0, 1, 2, 3, "2"])
SELECTIONS = st.lists(st.sampled_from(["low", "top", "norms", "biases", "head", "*.weight", 1]), min_size=1, max_size=3)
ENTRIES = BOUNDARIES | st.fixed_dictionaries({"train": BOUNDARIES}, optional={"lr": RATES, "backbone_lr": RATES})
TRAINED = st.dictionaries(st.integers(1, 8), ENTRIES, max_size=3)
SCHEDULE = st.builds(
    Schedule,
    name=st.sampled_from(SCHEDULES),
    warmup=st.floats(0, 1),
    step_size=st.integers(1, 5),
    gamma=st.floats(0, 1),
    plateau_patience=st.integers(0, 3),
)


def staged() -> StagedNetwork:
    body = nn.Sequential()
    body.add_module("low", nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    body.add_module("middle", nn.Linear(4, 4, bias=False))
    body.add_module("top", nn.Linear(4, 4))
    return StagedNetwork(body, nn.Linear(4, 2), divide_by_children(body))


@tried(60)
@given(ENTRIES | SELECTIONS, TRAINED, st.sampled_from(BATCH_NORM), st.floats(0.01, 1), st.floats(0, 1))
def test_any_plan_partitions_all_parameters(first: Any, later: Any, batch_norm: Any, lr: float, decay: float) -> None:
    network = staged()
    plan = Plan(parse_phases({0: first, **later}), lr=lr, backbone_lr=lr / 2, layer_decay=decay, batch_norm=batch_norm)
    groups = parameter_groups(network, weight_decay=0.1)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in network.parameters())
    assert [phase.start for phase in plan.phases] == sorted({0, *later})
    for index, phase in enumerate(plan.phases):
        selection, boundary = network.select(phase.train), network.resolve(phase.train)
        network.freeze_except(selection, batch_norm)
        trained = {name for name, _, parameter in network.staged_parameters() if parameter.requires_grad}
        assert trained == network.trained_names(selection, batch_norm)
        for name, stage, parameter in network.staged_parameters():
            normal = "low.1" in name and batch_norm == "eval"
            meant = name in selection.names if isinstance(phase.train, tuple) else stage >= boundary
            assert stage >= boundary or not meant
            assert parameter.requires_grad == (meant and not normal)
        rates = group_rates(network, list(groups), plan, index)
        assert all(rate >= 0 for rate in rates)
        assert all(rate == 0 for rate, group in zip(rates, groups, strict=True) if group["stage"] < boundary)
        moving = {id(parameter) for name, _, parameter in network.staged_parameters() if name in selection.names}
        still = [not any(id(parameter) in moving for parameter in group["params"]) for group in groups]
        assert all(rate == 0 for rate, stands in zip(rates, still, strict=True) if stands)


@tried(80)
@given(
    st.data(),
    TRAINED,
    st.none() | st.integers(1, 3),
    SCHEDULE,
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 10),
    st.lists(st.floats(0, 10), min_size=10, max_size=10),
)
def test_any_plan_resumes_exactly(
    data: st.DataObject,
    later: Any,
    patience: int | None,
    schedule: Schedule,
    batches: int,
    accumulate: int,
    epochs: int,
    losses: list[float],
) -> None:
    """Phase and rates follow from what a checkpoint keeps, wherever training was stopped."""
    first = {"train": "head", "until": "plateau", "patience": patience} if patience and later else "head"
    phases = parse_phases({0: first, **later})
    plan = Plan(phases, schedule).bounded(epochs, -1, batches, accumulate)
    steps = steps_in(batches, accumulate)

    def course(plan: Plan, epoch: int, batch: int, seen: dict[int, float]) -> Iterator[tuple[int, float]]:
        while epoch < epochs:
            done = epoch * steps + batch // accumulate
            progress = Progress(epoch, batch, batches, accumulate, done)
            now = plan.placed(seen, progress) if plan.may_end_early else plan
            if now.ended(progress):
                return
            yield now.phase(progress), now.factor(progress, seen)
            batch += 1
            if batch == batches:
                seen = {**seen, epoch: losses[epoch]}
                epoch, batch = epoch + 1, 0

    whole = list(course(plan, 0, 0, {}))
    assert [phase for phase, _ in whole] == sorted(phase for phase, _ in whole)
    assert all(0 <= factor <= 1 + 1e-9 for _, factor in whole)
    stop = data.draw(st.integers(0, len(whole) - 1))
    epoch, batch = divmod(stop, batches)
    before = dict(enumerate(losses[:epoch]))
    kept = json.loads(json.dumps(plan.settings()))
    now = Progress(epoch, batch, batches, accumulate, epoch * steps + batch // accumulate)
    now = replace(now, starts=(plan.placed(before, now) if plan.may_end_early else plan).starts(now))
    again = Plan(
        **{
            **kept,
            "phases": tuple(Phase(**phase) for phase in kept["phases"]),
            "schedule": Schedule(**kept["schedule"]),
        }
    ).bounded(epochs, -1, batches, accumulate, now)
    assert differences(kept, again.settings(), now) == []
    seen = {int(key): value for key, value in json.loads(json.dumps(dict(enumerate(losses[:epoch])))).items()}
    assert list(course(again, epoch, batch, seen)) == whole[stop:]


@tried(80)
@given(TREES | st.dictionaries(PLAIN, TREES, max_size=3))
def test_any_value_of_train_is_a_plan_or_one_message(spec: Any) -> None:
    found: list[tuple[Phase, ...]] = []
    message = told(lambda: found.append(parse_phases(spec)))
    assert len(message.splitlines()) <= 3
    if message:
        return
    (phases,) = found
    assert phases[0].start == 0
    assert all(isinstance(phase.train, str | int | tuple) for phase in phases)


# Bytes in place of a file


def run_files() -> dict[str, bytes]:
    """Return the files of a run as they are written, with their checksums."""
    arrays: dict[str, Any] = {"index": np.arange(4), "label": np.arange(4) % 2, "logits": np.zeros((4, 2), np.float32)}
    state = {"fashion_tl_module": "a.B", "state_dict": {"w": torch.ones(3)}, "hyper_parameters": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_arrays(folder / "test_predictions.npz", arrays)
        (folder / "last.ckpt").write_bytes(packed({**state, "epoch": 1, "global_step": 4}))
        write_record(folder, {"status": "completed", "test": {"loss": 0.5}})
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, kind)
    return buffer.getvalue()


def both(path: Path) -> None:
    check_image(path)
    decode_image(path, 8, "crop")


def predictions(path: Path) -> object:
    return read_predictions(path.parent, read_record(path.parent), 2).logits.tolist()


def weights(path: Path) -> object:
    return {name: value.tolist() for name, value in load_checkpoint(path)["state_dict"].items()}


RUN = run_files()
CHECKED: dict[str, Callable[[Path], object]] = {
    "run.json": lambda path: read_record(path.parent),
    "test_predictions.npz": predictions,
    "last.ckpt": weights,
}
READERS: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "config.yaml": (b"data: {batch_size: 3}\nname: x\n", read_config),
    "train-labels-idx1-ubyte": (b"\0\0\x08\1\0\0\0\4abcd", read_idx),
    **{f"0.{kind}": (picture(kind), both) for kind in ("png", "jpeg", "gif", "tiff", "webp")},
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Make any bytes, or those of a whole file with a few changes."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=200))
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        change = draw(st.sampled_from(["flip", "cut", "insert", "zero"]))
        if change == "cut":
            del content[at:]
        elif change == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        elif content:
            content[at % len(content)] ^= draw(st.integers(1, 255)) if change == "flip" else content[at % len(content)]
    return bytes(content)


@pytest.mark.parametrize("name", READERS)
@tried(50)
@given(data=st.data())
def test_any_bytes_are_read_or_named_as_damaged(name: str, data: st.DataObject) -> None:
    whole, read = READERS[name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, name)
        path.write_bytes(data.draw(damaged(whole)))
        message = told(lambda: read(path))
        assert not message or (name in message and len(message.splitlines()) <= 3)


@pytest.mark.parametrize("name", CHECKED)
@tried(50)
@given(data=st.data())
def test_any_bytes_in_a_run_are_named_as_damaged_or_change_nothing(name: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for each, content in RUN.items():
            Path(folder, each).write_bytes(content)
        path, found = Path(folder, name), []
        found.append(CHECKED[name](path))
        path.write_bytes(data.draw(damaged(RUN[name])))
        message = told(lambda: found.append(CHECKED[name](path)))
        assert (name in message and len(message.splitlines()) <= 3) if message else found[0] == found[1]


DESCRIPTION: dict[str, typing.Any] = {"what": "a test"}


@tried(50)
@given(st.data(), st.sampled_from(["meta.json", "features.npy"]))
def test_any_bytes_in_the_cache_are_read_as_they_were_or_removed(data: st.DataObject, name: str) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    with tempfile.TemporaryDirectory() as top, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(top)
        with store.write(folder, DESCRIPTION, {"features": (np.float32, (4, 3))}) as append:
            append["features"](array)
        path = folder / store.key_of(DESCRIPTION) / name
        content = data.draw(damaged(path.read_bytes()))
        path.write_bytes(content)
        store.entries(folder)
        found = store.read(folder, DESCRIPTION)
        assert found is None or np.array_equal(found["features"], array)
        assert found is not None or not path.exists()
