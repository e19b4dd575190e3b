"""Backbones from timm, by name, with messages that say what to do when one cannot be had."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fashion_tl.errors import UserError, check_ranges, unknown_name
from fashion_tl.files import sha256
from fashion_tl.models.staged import probe

LOCAL, HUB = "local-dir:", "hf-hub:"
_WEIGHTS = tuple(stem + end for stem in ("", "open_clip_") for end in ("model.safetensors", "pytorch_model.bin"))


@dataclass(frozen=True)
class Backbone:
    """A backbone and what a checkpoint must know to build it again without its weights.

    Attributes:
        module: Maps images (B, C, H, W) to features (B, F).
        architecture: timm's name of the architecture, without tag or prefix.
        arguments: Keyword arguments that rebuild it together with the architecture.
        channels: Channels C of the images that it takes.
        features: Number of features F that it gives.
        mean: Mean per channel of the images it was trained with, on the scale 0 to 1.
        std: Standard deviation per channel, on the same scale.
        weights: Name of the pretrained weights, or "random".
    """

    module: nn.Module
    architecture: str
    arguments: dict[str, Any]
    channels: int
    features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str


def create_backbone(name: str, pretrained: bool, image_size: int, arguments: dict[str, Any] | None = None) -> Backbone:
    """Create a timm backbone without its classifier.

    Args:
        name: Any name that ``timm.create_model`` takes: "resnet18.tv_in1k", "local-dir:FOLDER", "hf-hub:OWNER/NAME".
        pretrained: Whether to load the weights that the name stands for.
        image_size: Height and width of the images that it will see, in pixels.
        arguments: More keyword arguments of the architecture.

    Raises:
        UserError: If there is no such backbone, its weights cannot be read or fetched, or the images are too small.
    """
    import timm

    failures = _failures()
    try:
        described = _described(name)
    except failures as error:
        raise _cannot_create(name, pretrained, error) from error
    given = {**described.get("model_args", {}), **(arguments or {})}
    drops = {
        name: value
        for name, value in given.items()
        if re.search(r"drop.*_rate$", name) and isinstance(value, int | float)
    }
    check_ranges({name: (rate, 0, 1) for name, rate in drops.items()}, "model.backbone_args.")
    if described.get("pretrained_cfg", {}).get("fixed_input_size", False):
        given["img_size"] = image_size
    created = name if pretrained or not name.startswith(LOCAL) else str(described["architecture"])
    fetched = _on_hub(described) if pretrained and not name.startswith(LOCAL) else ("", ())
    try:
        _ask_hub(*fetched)
        module = timm.create_model(created, pretrained=pretrained, num_classes=0, **given)
        _check_fetched(*fetched)
    except failures as error:
        raise _cannot_create(name, pretrained, error) from error
    built: Any = module
    config: dict[str, Any] = {**built.pretrained_cfg, **described.get("pretrained_cfg", {})}
    channels = int(given.get("in_chans") or config.get("input_size", (3,))[0])
    try:
        shape = probe(module, channels, image_size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(
            f"images of {image_size} px do not fit backbone {name!r} ({str(error).splitlines()[0]}). "
            f"It was trained at {config.get('input_size', ('?',))[-1]} px; choose a size with --data.image_size."
        ) from error
    if len(shape) != 2 or 0 in shape:
        raise UserError(f"backbone {name!r} gives an output of shape {shape}, not one vector an image; choose another.")
    return Backbone(
        module=module,
        architecture=str(described["architecture"]),
        arguments=given,
        channels=channels,
        features=shape[1],
        mean=_per_channel(config.get("mean", (0.5,)), channels),
        std=_per_channel(config.get("std", (0.5,)), channels),
        weights=name if pretrained else "random",
    )


def weights_hash(module: nn.Module) -> str:
    """Hash all tensors of a module's state, names and order included, to 16 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Fit statistics to the channels that a network takes; filters of other channels were summed, so these average."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _described(name: str) -> dict[str, Any]:
    """Read what is known of a backbone before it is built: architecture, arguments, pretrained configuration."""
    import timm
    from timm.models import load_model_config_from_hf

    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        config = folder / "config.json"
        if not config.is_file():
            found = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            raise UserError(
                f"backbone {name!r}: {config} is missing ({found or 'the folder is empty'}). "
                "A local-dir: backbone is a folder with config.json and model.safetensors, as timm saves them."
            )
        try:
            described: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"backbone {name!r}: {config} is not JSON ({error}).") from error
        if not isinstance(described, dict) or "architecture" not in described:
            raise UserError(f"backbone {name!r}: {config} names no 'architecture'.")
        return described
    if name.startswith(HUB):
        _ask_hub(name.removeprefix(HUB), ("config.json",))
        config_of_hub, architecture, arguments = load_model_config_from_hf(name.removeprefix(HUB))
        return {"architecture": architecture, "model_args": arguments, "pretrained_cfg": config_of_hub}
    if "/" in name:
        raise UserError(
            f"backbone {name!r} needs a prefix: write '{HUB}{name}' for a hub or '{LOCAL}{name}' for a folder."
        )
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("backbone", name, timm.list_models(), "timm.list_models() lists them all.")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(architecture)]
    if tag and tag not in tags:
        raise unknown_name(f"weights of {architecture}", tag, tags)
    known_config: Any = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {"architecture": architecture, "pretrained_cfg": known_config.to_dict() if known_config else {}}


def weights_at_hand(name: str) -> bool:
    """Say whether the pretrained weights of a backbone's name lie on this machine, so that nothing must be fetched.

    Raises:
        UserError: If there is no such backbone.
    """
    if name.startswith(LOCAL):
        return any((Path(name.removeprefix(LOCAL)) / file).is_file() for file in _WEIGHTS)
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        return bool(_cached(repository, ("config.json",)) and _cached(repository, _WEIGHTS))
    repository, files = _on_hub(_described(name))
    return bool(repository and _cached(repository, files))


def _on_hub(described: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the repository of weights on the hub, empty if there is none, and the files that may hold them."""
    source = described.get("pretrained_cfg", {})
    return source.get("hf_hub_id") or "", (source.get("hf_hub_filename") or _WEIGHTS[0], *_WEIGHTS)


def _failures() -> tuple[type[Exception], ...]:
    """List what timm and the libraries below it raise when a network cannot be built or its weights be had."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined] # of httpx or httpx2, by version
    from safetensors import SafetensorError

    timm_raises = (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError, ImportError)
    return (*timm_raises, EOFError, pickle.UnpicklingError, HTTPError, SafetensorError)


def _ask_hub(repository: str, files: tuple[str, ...]) -> None:
    """Raise at once where no file is in the cache and no hub answers; huggingface_hub would retry for half a minute."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if not repository or _cached(repository, files):
        return
    repository, _, revision = repository.partition("@")
    with suppress(HfHubHTTPError):  # an answer, if a refusal: timm's own request says what is wrong
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=revision or None), timeout=4)


def _check_fetched(repository: str, files: tuple[str, ...]) -> None:
    """Refuse weights that changed on their way or since; the hub's cache keeps them under their SHA-256."""
    for path in _cached(repository, files) if repository else ():
        kept = path.resolve()
        if re.fullmatch("[0-9a-f]{64}", kept.name) and sha256(kept) != kept.name:
            raise UserError(f"{kept} is damaged: its SHA-256 is not its name. Remove it to have it downloaded again.")


def _cached(repository: str, files: tuple[str, ...]) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    found = [try_to_load_from_cache(repository, file, revision=revision or None) for file in files]
    return [Path(path) for path in found if isinstance(path, str)]


def _cannot_create(name: str, pretrained: bool, error: Exception) -> UserError:
    reason = " ".join(str(error).split("\n")[:2]).strip().rstrip(".") or type(error).__name__
    if name.startswith(LOCAL) and pretrained:
        return UserError(f"cannot load backbone {name!r}: {reason}. The folder must hold config.json and its weights.")
    if not pretrained and not name.startswith(HUB):
        return UserError(f"cannot build backbone {name!r}: {reason}.")
    random = "--model.pretrained false" if pretrained else "an architecture's name alone, such as resnet18"
    return UserError(
        f"cannot fetch backbone {name!r}: {reason}. With no connection to the hub, either download "
        "it elsewhere and name the folder (--model.backbone local-dir:FOLDER), point HF_ENDPOINT at a mirror, "
        f"or train from random weights ({random})."
    )
