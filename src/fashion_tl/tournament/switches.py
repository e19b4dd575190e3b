"""The switches of a configuration: what it turns on against the defaults, and how each is turned off alone."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from fashion_tl.errors import UserError, check_known
from fashion_tl.runs.configs import read_yaml
from fashion_tl.runs.parser import arguments, dump, parse
from fashion_tl.runs.refusals import parameters_of
from fashion_tl.tournament.strategies import Changes, Strategy

# What a run is about, where it lies and how long it takes: no techniques. All other settings are, new ones included.
KEPT = {
    "": (
        *("config", "extends", "name", "log_dir", "checkpoint_dir", "checkpoint_minutes", "checkpoint_steps", "study"),
        *("seed_everything", "seeds", "folds", "search", "resume", "ckpt_path"),
        *("cache", "cache_keep", "compile", "monitor", "find_lr"),
    ),
    "data": (
        *("source", "image_size", "interpolation", "batch_size", "eval_batch_size", "val_fraction", "test_fraction"),
        *("label_budget", "per_class", "split_seed", "folds", "fold", "num_workers"),
    ),
    "model": (
        *("class_names", "input_spec", "backbone", "backbone_args", "network", "network_args"),
        *("pretrained", "mean", "std"),
        *("train", "lora", "optimizer", "lr"),
    ),
}
TRAINER = ("gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches", "callbacks")  # its techniques
# Settings that make no sense without another one go off with it; some are no switches of their own beside it.
WITH = {"model.objective": ("model.objective_args",), "model.label_smoothing": ("model.smoothing_confusion",)}
PARTS = ("model.objective_args",)


def turned_off(base: Namespace, names: str | None = None) -> list[Strategy]:
    """List the switches that a configuration turns on, each as the change that turns it off.

    A switch is on if its value is not the parser's default; a part of the augmentation is a switch of its own, any
    other mapping is one as a whole.

    Args:
        base: The parsed configuration.
        names: Names of the switches to turn off, separated by commas; all if None.

    Raises:
        UserError: If nothing is turned on, or a name is none of a switch that is.
    """
    on, off = _settings(base), _settings(_defaults(base))
    changed = [key for key in on if on[key] != off.get(key)]
    dependent = {each for key, others in WITH.items() if key in changed for each in others if each in PARTS}
    switches = [key for key in changed if key not in dependent]
    by_name = {_short(key, switches): key for key in switches}
    if not by_name:
        raise UserError(
            "this configuration turns nothing on: every technique has its default. Name one that does, or try changes "
            "with --add '{NAME: {FLAG: VALUE}}'."
        )
    picked = list(by_name) if names is None else [name.strip() for name in names.split(",")]
    for name in picked:
        check_known("switch", name, by_name, "These are what the configuration turns on.")
    found = []
    for name in dict.fromkeys(picked):
        key = by_name[name]
        changes: Changes = {each: off.get(each) for each in (key, *WITH.get(key, ())) if each in changed}
        found.append(Strategy(f"without_{name}", changes, optional=names is None))
    return found


def _defaults(base: Namespace) -> Namespace:
    """Parse the defaults of the same classes; what has none is as in the configuration."""
    given = read_yaml(dump("fit", base), "the configuration")["model"].get("init_args", {})
    required = {
        f"model.{name}": given[name]
        for name, parameter in parameters_of(base.model.class_path).items()
        if parameter.default is parameter.empty and name in given
    }
    return parse("fit", arguments([f"--model={base.model.class_path}", "--data.augment={}"], required))


def _settings(config: Namespace) -> dict[str, Any]:
    """Return every technique's setting by its flag: parts of the augmentation one by one, other mappings whole."""
    content: dict[str, Any] = read_yaml(dump("fit", config), "the configuration")
    augment = content["data"].pop("augment", None) or {}
    sections = {
        "": {name: value for name, value in content.items() if name not in ("data", "model", "trainer")},
        "data": content["data"],
        "model": content["model"].get("init_args", {}),
    }
    found = {
        f"{section}.{name}" if section else name: value
        for section, settings in sections.items()
        for name, value in settings.items()
        if name not in KEPT[section]
    }
    found |= {f"data.augment.{name}": value for name, value in augment.items()}
    return found | {f"trainer.{name}": content["trainer"].get(name) for name in TRAINER}


def _short(key: str, keys: list[str]) -> str:
    """Name a switch by the last part of its flag, or by all of it where that is the end of several."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key.replace(".", "_")
