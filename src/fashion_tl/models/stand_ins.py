"""Modules that stand in the place of others: they return features that were recorded before, or record them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, dtype, nn
from torch.utils import _pytree as pytree

Call = tuple[str, int]
"""Qualified name of a module, and the number of its call in a forward pass."""


@dataclass(frozen=True)
class Rows:
    """A tensor with rows for each image, in the description of what a module returns.

    Attributes:
        per_image: Rows of each image; images may be folded into rows, such as (B * patches, C).
        shape: Shape of a row.
        dtype: Type of the values.
    """

    per_image: int
    shape: tuple[int, ...]
    dtype: dtype

    def zeros(self, images: int, like: Tensor) -> Tensor:
        """Return zeros for a number of images, which take no memory and are not to be read."""
        return like.new_zeros((), dtype=self.dtype).expand(images * self.per_image, *self.shape)

    def pack(self, tensor: Tensor) -> Tensor:
        """Give a tensor the number of images as its first dimension."""
        return tensor if self.per_image == 1 else tensor.view(-1, self.per_image, *self.shape)

    def unpack(self, tensor: Tensor) -> Tensor:
        """Undo ``pack``."""
        return tensor if self.per_image == 1 else tensor.flatten(0, 1)


@dataclass(frozen=True)
class Step:
    """What a stand-in does in one of the calls of a pass.

    Attributes:
        source: Whether it runs the module, returns given features, or returns zeros.
        output: What the module returns, with ``Rows`` in the place of tensors that have rows for each image.
        record: Whether these tensors are recorded.
    """

    source: Literal["run", "given", "zeros"]
    output: Any
    record: bool = False


@dataclass
class Pass:
    """State of one forward pass, which a part of a network shares with its stand-ins."""

    like: tuple[Tensor, ...] = ()
    given: Mapping[Call, list[Tensor]] = field(default_factory=dict)
    recorded: dict[Call, list[Tensor]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def begin(self, like: Tensor, given: Mapping[Call, list[Tensor]]) -> None:
        """Begin with a tensor (B, ...) of as many images as there are, and the features that are given."""
        self.like, self.given, self.recorded, self.calls = (like,), given, {}, {}

    def end(self) -> dict[Call, list[Tensor]]:
        """Return what was recorded, and keep no tensor."""
        recorded = self.recorded
        self.like, self.given, self.recorded = (), {}, {}
        return recorded


class StandIn(nn.Module):
    """Stands in the place of a module.

    Args:
        name: Qualified name of the module.
        original: The module, whose attributes the code around it may read.
        inner: What runs: the module, or a copy of it with stand-ins inside; None if no call runs it.
        steps: What happens in each of its calls.
        state: The pass.

    Attributes:
        rest: Attributes that concern the rest of the network, and so no key of features.
    """

    rest = ("_original", "_steps", "_pass")

    def __init__(
        self, name: str, original: nn.Module, inner: nn.Module | None, steps: Mapping[int, Step], state: Pass
    ) -> None:
        super().__init__()
        self.inner, self.name = inner, name
        self._original = (original,)  # in a tuple, or its parameters would be those of the part
        self._steps, self._pass = steps, state

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the original
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattribute__("_original")[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - what the original takes and returns
        """Return what the module returns in this call, as far as that is read."""
        state = self._pass
        number = state.calls.get(self.name, 0)
        state.calls[self.name] = number + 1
        step, call = self._steps[number], (self.name, number)
        if step.source == "run":
            output = self.inner(*args, **kwargs)  # type: ignore[misc]
        elif step.source == "given":
            tensors = iter(state.given[call])
            output = pytree.tree_map_only(Rows, lambda rows: rows.unpack(next(tensors)), step.output)
        else:
            like = state.like[0]
            output = pytree.tree_map_only(Rows, lambda rows: rows.zeros(like.shape[0], like), step.output)
        if step.record:
            state.recorded[call] = rows_of(step.output, output)
        return output


def describe_rows(output: Any, fewer: Any, images: int) -> Any:  # noqa: ANN401 - whatever a module returns
    """Put ``Rows`` in the place of tensors that have rows for each image.

    Args:
        output: What a module returns for a number of images.
        fewer: What it returns for one image less.
        images: Number of images, 2 or more.
    """

    def described(leaf: Any, other: Any) -> Any:  # noqa: ANN401
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) * (images - 1) != len(other) * images:
            return leaf
        return Rows(len(leaf) // images, tuple(leaf.shape[1:]), leaf.dtype)

    return pytree.tree_map(described, output, fewer)


def rows_in(described: Any) -> list[Rows]:  # noqa: ANN401 - as ``describe_rows`` gives it
    """List the ``Rows`` of a description."""
    return [leaf for leaf in pytree.tree_leaves(described) if isinstance(leaf, Rows)]


def rows_of(described: Any, output: Any) -> list[Tensor]:  # noqa: ANN401 - whatever a module returns
    """List the tensors that are ``Rows`` in a description, with the number of images as their first dimension."""
    pairs = zip(pytree.tree_leaves(described), pytree.tree_leaves(output), strict=True)
    return [leaf.pack(tensor) for leaf, tensor in pairs if isinstance(leaf, Rows)]
