"""Keys of cached features: a description of all that they depend on, from code and configuration to weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fashion_tl.imports import installed_version
from fashion_tl.models.lora import LoRA
from fashion_tl.models.parts import Part
from fashion_tl.models.stand_ins import StandIn

LIBRARIES = ("fashion_tl", "torch", "torchvision", "timm", "pillow", "numpy")
# Their code is told by their versions.
_TOLD = ("torch", "torchvision", "timm", "numpy", "builtins", "functools", "collections")
_TIMM = {"pretrained_cfg", "default_cfg", "feature_info"}  # where weights come from, which stages there are
_BOOKKEEPING = set(vars(nn.Module())) | {"_compiled_call_impl", "_trainer"} | _TIMM
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def versions() -> dict[str, str | None]:
    """Return the versions of the libraries that compute features."""
    return {name: installed_version(name) for name in LIBRARIES}


def function_hash(*modules: nn.Module) -> str:
    """Hash what modules compute, to 32 hexadecimal digits: their code, configuration, hooks, weights and buffers.

    Code of torch, torchvision and timm is left to their versions; any other class counts with the whole file that
    defines it, as its methods may call functions beside it. The random half of an adapter that adds nothing so far is
    left out.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update(repr(_described(module, set())).encode())
    return digest.hexdigest()[:32]


def object_hash(thing: Any) -> str:  # noqa: ANN401 - any value
    """Hash a value with the code of its classes and functions, to 32 hexadecimal digits, as ``function_hash`` does."""
    return hashlib.sha256(repr(_described(thing, set())).encode()).hexdigest()[:32]


def _contents(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    data = plain.view(-1).view(torch.uint8).numpy().data if plain.numel() else b""
    return f"{plain.dtype} {tuple(plain.shape)} {hashlib.sha256(data).hexdigest()}"


def _described(value: Any, within: set[int]) -> Any:  # noqa: ANN401 - any value of any module
    """Turn a value into plain ones whose ``repr`` is the same in every process."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if isinstance(value, torch.dtype | torch.device | torch.memory_format):
        return str(value)
    if isinstance(value, Tensor):
        return _contents(value)
    if id(value) in within:
        return "..."
    within = within | {id(value)}
    if isinstance(value, dict | types.MappingProxyType):
        return sorted((repr(_described(k, within)), _described(v, within)) for k, v in value.items())
    if isinstance(value, set | frozenset):
        return sorted(repr(_described(item, within)) for item in value)
    if isinstance(value, list | tuple):
        return [_described(item, within) for item in value]
    if isinstance(value, functools.partial):
        return ["partial", *(_described(item, within) for item in (value.func, value.args, value.keywords))]
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return [f"{value.__module__}.{value.__qualname__}", _code(value)]
    if isinstance(value, types.MethodType):
        return [_described(value.__func__, within), type(value.__self__).__qualname__]
    kind = [_described(each, within) for each in type(value).__mro__[:-1]]
    if isinstance(value, nn.Module):
        skipped = _BOOKKEEPING.union(value.rest if isinstance(value, Part | StandIn) else ())
        own = {name: item for name, item in vars(value).items() if name not in skipped}
        hooks = [list(getattr(value, name).values()) for name in _HOOKS]
        children = [(name, _described(child, within)) for name, child in value.named_children()]
        tensors = [*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)]
        if isinstance(value, LoRA) and value.adds_nothing:
            tensors = [(name, tensor) for name, tensor in tensors if name != "lora_a"]
        return [kind, _described(own, within), _described(hooks, within), _described(tensors, within), children]
    own = dict(getattr(value, "__dict__", ()))
    if dataclasses.is_dataclass(value):  # which may have slots; a subclass that is none has attributes of its own
        own |= {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return [kind, _described(own, within)]


@functools.cache
def _code(thing: type | types.FunctionType | types.BuiltinFunctionType) -> str | None:
    """Hash the code behind a class or a function that is not of a library whose version is told."""
    if (thing.__module__ or "builtins").partition(".")[0] in _TOLD:
        return None
    try:
        path = inspect.getsourcefile(thing)
        text = Path(path).read_bytes() if path else b""
    except (OSError, TypeError):
        text = b""
    if not text:  # defined in a notebook or in a shell
        functions = vars(thing).values() if isinstance(thing, type) else [thing]
        codes = [f.__code__ for f in functions if isinstance(f, types.FunctionType)]
        text = repr([(code.co_code, code.co_names, repr(code.co_consts)) for code in codes]).encode()
    return hashlib.sha256(text).hexdigest()
