"""A partly frozen network as two networks: the frozen part, to be computed once per image, and the part that trains.

Both parts run the network's own ``forward``. Modules of the other side are replaced by stand-ins: in the upper part
those of frozen modules return the features that the lower part recorded, in the lower part those of trained modules
return zeros. Gradients tell which features the upper part reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fashion_tl.errors import UserError
from fashion_tl.models.parts import Cut, Part, by_call, root_of
from fashion_tl.models.staged import HEAD, StagedNetwork
from fashion_tl.models.stand_ins import Call, describe_rows, rows_in, rows_of

_FORWARD_RAISES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
)


class SplitError(UserError):
    """A network cannot be divided at a boundary; the message says why."""


@dataclass(frozen=True)
class SplitNetwork:
    """The two parts of a network, which share its modules and parameters, modes included.

    A frozen parameter that is read above the boundary (a token, say) is in the upper part, or in both.

    Attributes:
        lower: Maps images (B, C, H, W) to features, a tuple of tensors with B as their first dimension.
        upper: Maps features, as positional arguments, to logits (B, K).
    """

    lower: nn.Module
    upper: nn.Module


def split_network(network: StagedNetwork, boundary: int, image_size: int, channels: int = 3) -> SplitNetwork:
    """Split a network that is frozen below a boundary into what depends on frozen stages only and the rest.

    The parts hold for any number of images of the given size, for the network's device and dtype, and for this
    boundary: after another ``freeze_below``, split again. The state of the network, modes and random numbers stay as
    they are.

    Args:
        network: A network on its device, on which ``freeze_below`` was called with this boundary or a higher one.
        boundary: Index of the lowest stage that trains, 1 to ``len(stage_names)`` (the head alone).
        image_size: Height and width of the images, in pixels.
        channels: Channels of the images.

    Returns:
        Parts of which ``upper(*lower(images))`` is what the network computes.

    Raises:
        ValueError: If nothing is frozen at the boundary, or the network has no such boundary.
        SplitError: If the network cannot be divided there.
    """
    return SplitNetwork(*chain_network(network, [boundary], image_size, channels))


def chain_network(
    network: StagedNetwork, boundaries: Sequence[int], image_size: int, channels: int = 3
) -> tuple[nn.Module, ...]:
    """Split a network at several boundaries into a chain of parts, so that one pass gives the features at each.

    Args:
        network: As in ``split_network``, frozen below the last of the boundaries.
        boundaries: Ascending, each once.
        image_size: Height and width of the images, in pixels.
        channels: Channels of the images.

    Returns:
        One part more than boundaries. The first takes images, each other one what the part before it gave.

    Raises:
        ValueError: If nothing is frozen at a boundary, or the network has no such boundary.
        SplitError: If the network cannot be divided there.
    """
    count = len(network.stage_names)
    for boundary in boundaries:
        if not 1 <= boundary <= count:
            raise ValueError(f"cannot split at boundary {boundary}: allowed are 1 to {count}; at 0 nothing is frozen")
    like = next(network.parameters())
    try:
        with _untouched(network, like.device):
            generator = torch.Generator().manual_seed(0)
            images = torch.randn(3, channels, image_size, image_size, generator=generator)
            return _split(network, boundaries, images.to(like.device, like.dtype))
    except (_Impossible, *_FORWARD_RAISES) as reason:
        lowest = " and ".join(repr((*network.stage_names, HEAD)[boundary]) for boundary in boundaries)
        text = (str(reason).strip().splitlines() or [type(reason).__name__])[0].rstrip(".")
        text = text if isinstance(reason, _Impossible) else f"its parts do not run ({text})"
        name = type(network.backbone).__name__
        raise SplitError(f"cannot split {name} below {lowest}: {text}. Try another boundary.") from reason


class _Impossible(Exception):  # noqa: N818
    """Why a network cannot be split, without the words around it."""


def _split(network: StagedNetwork, boundaries: Sequence[int], images: Tensor) -> tuple[nn.Module, ...]:
    """Split a network in eval mode, and compare what the parts compute with what it computes."""
    trained = [
        name
        for name, stage, parameter in network.staged_parameters()
        if stage < boundaries[-1] and parameter.requires_grad
    ]
    if trained:
        raise _Impossible(f"{len(trained)} parameters below it train, such as {trained[0]}; freeze_below comes first")
    two = images[:2]
    found = [_cut(network, boundary, images) for boundary in boundaries]
    cuts = [cut for cut, _ in found]
    pairs = zip([None, *cuts], [*cuts, None], strict=True)
    parts = tuple(Part(network, before, after, images) for before, after in pairs)
    given: tuple[Tensor, ...] = (two,)
    for part, (_, expected) in zip(parts, found, strict=False):
        outputs = []
        for mode in (True, False):
            torch.manual_seed(0)
            part.follow(mode)
            outputs.append(part(*(tensor.clone() for tensor in given)))
        in_training, given = outputs
        if not all(torch.equal(*pair) for pair in zip(given, in_training, strict=True)):
            raise _Impossible("something below it, outside of the modules that can be frozen, depends on training mode")
        for tensor, example in zip(given, expected, strict=True):
            alone, among = tensor.float(), example[:2].float()
            if alone.shape != among.shape or not _close(alone, among, 1e-2 * float(among.abs().max()), 1e-2):
                raise _Impossible("what is frozen mixes the images of a batch, or draws random numbers")
    logits, expected = parts[-1](*(tensor.clone() for tensor in given)), network(two)
    if not _close(logits, expected):
        raise _Impossible("what trains reads more than the outputs of frozen modules, such as the images themselves")
    return parts


def _close(one: Tensor, other: Tensor, absolute: float = 1e-5, relative: float = 1e-5) -> bool:
    return torch.allclose(one, other, rtol=relative, atol=absolute)


def _cut(network: StagedNetwork, boundary: int, images: Tensor) -> tuple[Cut, list[Tensor]]:
    """Find the features at a boundary; returns with it those of the images."""
    outputs, below = _watch(network, boundary, images)
    fewer, _ = _watch(network, boundary, images[:-1])
    if outputs.keys() != fewer.keys():
        raise _Impossible("its forward takes another way for another number of images")
    described = {call: describe_rows(output, fewer[call], len(images)) for call, output in outputs.items()}
    values = {
        call: rows_of(described[call], outputs[call]) for call in outputs if call in below and rows_in(described[call])
    }
    if not values:
        raise _Impossible("what trains reads nothing of what is frozen")
    cut = Cut(boundary, described, below, list(values))
    given = [tensor.clone().requires_grad_(tensor.is_floating_point()) for call in values for tensor in values[call]]
    with torch.enable_grad():
        # Not leaves themselves: the network may overwrite what it is given.
        logits = Part(network, cut, None, images)(*(tensor * 1 for tensor in given))
        floating = [tensor for tensor in given if tensor.requires_grad]
        gradients = torch.autograd.grad(logits.sum(), floating, allow_unused=True)
    unread = {id(tensor) for tensor, gradient in zip(floating, gradients, strict=True) if gradient is None}
    cut.crossing = [
        call for call, tensors in by_call(cut, given).items() if any(id(tensor) not in unread for tensor in tensors)
    ]
    if not cut.crossing:
        raise _Impossible("what trains reads nothing of what is frozen")
    return cut, [tensor for call in cut.crossing for tensor in values[call]]


def _watch(network: StagedNetwork, boundary: int, images: Tensor) -> tuple[dict[Call, Any], set[Call]]:
    """Run a network; returns what the outermost modules on one side return in each call, and which calls are below.

    What depends on something above the boundary requires a gradient: parameters that train, and the outputs of modules
    above, to which a zero is added that does.
    """
    outputs: dict[Call, Any] = {}
    below: set[Call] = set()
    calls: Counter[str] = Counter()
    inside: list[str] = []
    root = root_of(network)

    def leave(name: str, frozen: bool, output: Any) -> Any:  # noqa: ANN401 - whatever a module returns
        inside.pop()
        if inside:
            return output
        call = name, calls[name]
        calls[name] += 1
        tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        outputs[call] = pytree.tree_map_only(Tensor, _copied, output)
        if frozen and not any(tensor.requires_grad for tensor in tensors):
            below.add(call)
            return output
        return pytree.tree_map_only(Tensor, _with_gradient, output)

    handles = []
    for name, module in root.named_modules():
        if (side := network.side(name, boundary)) != "both":
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
            hook = partial(leave, name, side == "below")
            handles.append(module.register_forward_hook(lambda _, __, output, hook=hook: hook(output)))
    try:
        with torch.enable_grad():
            root(images)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, below


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _with_gradient(tensor: Tensor) -> Tensor:
    return tensor + tensor.new_zeros(()).requires_grad_() if tensor.is_floating_point() else tensor


@contextmanager
def _untouched(network: StagedNetwork, device: torch.device) -> Iterator[None]:
    """Compute in eval mode and without gradients; modes and random numbers are afterwards as before."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        devices = [device] if device.type == "cuda" else []
        with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
