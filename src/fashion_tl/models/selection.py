"""What trains in a network, from what a user writes: a boundary, or stages and parameters by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from fashion_tl.errors import UserError, shown, unknown_name

HEAD = "head"
NORMS, BIASES, LORA = "norms", "biases", "lora"
SHORTCUTS = (NORMS, BIASES, LORA)
ADAPTER = ("lora_a", "lora_b")  # the factors of an adapter
_PARAMETRIZED = re.compile(r"\.parametrizations\.(\w+)\.original$|\.parametrizations\.\w+\.\d+(?=\.)")

Entry = str | int
TrainSpec = Entry | Sequence[Entry]


@dataclass(frozen=True)
class Selection:
    """The parameters of a network that train.

    Attributes:
        names: Their qualified names in the network.
        boundary: Index of the lowest stage with one of them; all below it is frozen.
        words: What trains, in words, such as "layer4 and head".
    """

    names: frozenset[str]
    boundary: int
    words: str


def entries_of(spec: TrainSpec) -> tuple[Entry, ...]:
    """Return what a selection consists of; a shortcut alone brings the head along, a boundary is one entry."""
    if isinstance(spec, str | int):
        return (spec, HEAD) if spec in SHORTCUTS else (spec,)
    return tuple(spec)


def select(spec: TrainSpec, stages: Mapping[str, int], stage_names: Sequence[str], norms: Iterable[str]) -> Selection:
    """Find the parameters that a user means.

    Args:
        spec: A boundary ("all", "head", the lowest stage to train, the number of top stages), a shortcut for some
            parameters and the head ("norms", Frankle et al. 2021; "biases", Ben Zaken et al. 2022; "lora", the
            adapters), or a list of what trains and nothing else: stages, shortcuts, modules and parameters by name,
            and shell patterns over parameter names, such as ["blocks.1", "*.bn*", "head"].
        stages: The stage of every parameter, by qualified name; the head's is ``len(stage_names)``.
        stage_names: Names of the stages, input first.
        norms: Qualified names of the parameters of normalisation layers.

    Raises:
        UserError: If something in it is not in this network.
    """
    alone = isinstance(spec, str | int)
    if alone and (spec in stage_names or spec not in SHORTCUTS):
        boundary = boundary_of(spec, stage_names)  # type: ignore[arg-type]
        names = frozenset(name for name, stage in stages.items() if stage >= boundary)
        return Selection(names, boundary, describe_boundary(boundary, stage_names))
    entries = entries_of(spec)
    if not entries:
        raise UserError("model.train is an empty list: name what trains, as in [blocks.1, head].")
    names = frozenset().union(*(_matching(entry, stages, stage_names, set(norms)) for entry in entries))
    *first, last = dict.fromkeys(str(entry) for entry in entries)
    words = f"{', '.join(first)} and {last}" if first else last
    return Selection(names, min(stages[name] for name in names), words)


def boundary_of(boundary: Entry, stage_names: Sequence[str]) -> int:
    """Turn a boundary as a user writes it into the index of the lowest stage that trains.

    Args:
        boundary: "all", "head", the name of the lowest stage to train, or the number of top stages to train.
        stage_names: Names of the stages, input first.

    Returns:
        0 for everything up to ``len(stage_names)`` for the head alone.

    Raises:
        UserError: If there is no such boundary.
    """
    count = len(stage_names)
    if _is_number(boundary):
        top = int(boundary)
        if not 0 <= top <= count:
            raise UserError(
                f"cannot train the top {top} stages: this network has {count}. "
                f"Allowed: 0 to {count}, 'head', 'all', or a stage: {', '.join(stage_names)}."
            )
        return count - top
    names = ("all", HEAD, *stage_names)
    if boundary not in names:
        hint = f"A number from 0 to {count} means that many top stages, a list selects by name: [norms, '*.bn1*']."
        raise unknown_name("stage", str(boundary), names, hint)
    return {"all": 0, HEAD: count}.get(str(boundary), count and names.index(str(boundary)) - 2)


def describe_boundary(boundary: int, stage_names: Sequence[str]) -> str:
    """Say in words what trains at a boundary, such as "layer4 and head"."""
    if boundary == 0:
        return "all"
    trained = stage_names[boundary:]
    return HEAD if not trained else f"{trained[0]}{' and above' if len(trained) > 1 else ' and head'}"


def plain_name(name: str) -> str:
    """Return the name that a parameter has without the adapter on its layer; an adapter's is that of its layer.

    >>> plain_name("stem.parametrizations.weight.original"), plain_name("stem.parametrizations.weight.0.lora_a")
    ('stem.weight', 'stem.lora_a')
    """
    return _PARAMETRIZED.sub(lambda found: f".{found[1]}" if found[1] else "", name)


def _is_number(entry: Entry) -> bool:
    return isinstance(entry, int) or re.fullmatch(r"-?\d+", entry) is not None


def _matching(entry: Entry, stages: Mapping[str, int], stage_names: Sequence[str], norms: set[str]) -> set[str]:
    """Return the names that an entry of a list stands for, at least one."""
    if _is_number(entry) or entry == "all":
        boundary = boundary_of(entry, stage_names)
        return {name for name, stage in stages.items() if stage >= boundary}
    text = str(entry)
    if text in (*stage_names, HEAD):
        index = (*stage_names, HEAD).index(text)
        found = {name for name, stage in stages.items() if stage == index}
    elif text == NORMS:
        found = norms
    elif text == BIASES:
        found = {name for name in stages if name.endswith(".bias")}
    elif text == LORA:
        found = {name for name in stages if name.endswith(ADAPTER)}
    else:
        patterns = text, f"{text}.*"
        found = {n for n in stages if any(fnmatchcase(own, p) for own in _own_names(n) for p in patterns)}
    if not found:
        raise _nothing(text, stages, stage_names)
    return found


def _own_names(name: str) -> tuple[str, ...]:
    """Return the names that a pattern may match: with the backbone's prefix, and without where that is unambiguous."""
    plain = plain_name(name)
    short = plain.removeprefix("backbone.")
    return (plain,) if short.startswith(f"{HEAD}.") else (plain, short)


def _nothing(entry: str, stages: Mapping[str, int], stage_names: Sequence[str]) -> UserError:
    if entry == LORA:
        return UserError("model.train names 'lora', and this network has no adapters: set --model.lora '{rank: 4}'.")
    names = [own for name in stages for own in _own_names(name)[-1:]]
    prefixes = {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)}
    near = difflib.get_close_matches(entry, [*stage_names, *SHORTCUTS, HEAD, *sorted(prefixes)], n=3, cutoff=0.6)
    if not near:  # of a pattern: its words, one by one
        words = sorted({word for name in names for word in name.split(".")})
        fragments = re.findall(r"[^\W_]\w*", entry)
        near = [f"*.{word}.*" for part in fragments for word in difflib.get_close_matches(part, words, n=2)][:3]
    told = f"; did you mean {' or '.join(repr(name) for name in near)}?" if near else "."
    return UserError(
        f"model.train: nothing that trains in this network is called {shown(entry)}{told} Allowed in a list: a stage "
        f"({', '.join(stage_names)}), {HEAD}, all, {', '.join(SHORTCUTS)}, or a shell pattern over the names of "
        f"parameters, such as {shown(names[0])}."
    )
