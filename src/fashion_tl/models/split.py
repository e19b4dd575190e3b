"""A partly frozen network as two networks: what is frozen, to be computed once per image, and what trains."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fashion_tl.errors import UserError
from fashion_tl.models.staged import HEAD, StagedNetwork

_Traced = Any  # what traced code handles: a tensor, a number, a container of them, or a proxy of one
_TRACING_RAISES = (
    RuntimeError,
    ValueError,  # fx.proxy.TraceError is one
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
)
_PLAIN = (int, float, bool, str, type(None))


class SplitError(UserError):
    """A network cannot be divided at a boundary; the message says why."""


@dataclass(frozen=True)
class SplitNetwork:
    """The two parts of a network, which share its modules and parameters, modes included.

    What is frozen and read above the boundary (a token, say) is in the upper part, or in both.

    Attributes:
        lower: Maps images (B, C, H, W) to activations, a tuple of tensors with B as their first dimension.
        upper: Maps activations, as positional arguments, to logits (B, K).
    """

    lower: nn.Module
    upper: nn.Module


def split_network(network: StagedNetwork, boundary: int, image_size: int, channels: int = 3) -> SplitNetwork:
    """Split a network that is frozen below a boundary into what depends on frozen stages only and the rest.

    The code around the boundary is traced with ``torch.fx``; a module that lies on one side of it is kept whole, so
    that nothing inside is captured. The parts hold for any number of images of the given size, and for this boundary:
    after another ``freeze_below``, split again. The state of the network, modes and random numbers stay as they are.

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
    """Split a network at several boundaries into a chain of parts, so that one pass gives the activations at each.

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
    try:
        return _split(network, list(boundaries), image_size, channels)
    except _Impossible as reason:
        lowest = " and ".join(repr((*network.stage_names, HEAD)[boundary]) for boundary in boundaries)
        name = type(network.backbone).__name__
        raise SplitError(f"cannot split {name} below {lowest}: {reason}. Try another boundary.") from reason


class _Impossible(Exception):  # noqa: N818
    """Why a network cannot be split, without the words around it."""


class _Part(nn.Module):
    """Part of a network's graph, run on the network's own modules, parameters and buffers.

    What takes part is registered here too, under its name in the network with slashes for dots.

    Attributes:
        source: The code that runs, for keys of cached features.
    """

    def __init__(self, network: StagedNetwork, graph: fx.Graph, constants: dict[str, Tensor]) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, or it would be a child of its own part
        self._code, self.source = _function(graph)
        self._moded: list[nn.Module] = []
        self.members = nn.ModuleDict()
        parameters = dict(network.named_parameters())
        for node in graph.nodes:
            target = str(node.target)
            name = target.replace(".", "/")
            if node.op == "call_module":
                self.members[name] = network.get_submodule(target)
            elif node.op == "get_attr" and target in parameters:
                self.register_parameter(name, parameters[target])
            elif node.op == "get_attr" and target in constants:
                self.register_buffer(name, constants[target], persistent=False)
            elif _reads_mode(node):
                self._moded.append(network.get_submodule(target.rpartition(".")[0]))
        self.training = network.training

    @property
    def backbone(self) -> nn.Module:
        """Backbone of the whole network, for the code of the graph."""
        return self._network[0].backbone

    @property
    def head(self) -> nn.Module:
        """Head of the whole network, for the code of the graph."""
        return self._network[0].head

    def train(self, mode: bool = True) -> _Part:
        """Set the mode of this part; what the network keeps in eval mode stays in eval mode."""
        super().train(mode)
        for module in self._moded:
            module.training = mode
        for module in self._network[0]._in_eval:
            module.training = False
        return self

    def forward(self, *inputs: Tensor) -> _Traced:
        """Compute this part."""
        return self._code(self, *inputs)


class _Sides:
    """Between which boundaries the members of a network lie: 0 below the first, up to their number above the last."""

    def __init__(self, network: StagedNetwork, boundaries: list[int]) -> None:
        self.last = len(boundaries)
        self.parameters = {name: bisect_right(boundaries, stage) for name, stage, _ in network.staged_parameters()}
        stage_of = {name: i for i, name in enumerate(network.stage_names)}
        members = {
            f"backbone.{member}": bisect_right(boundaries, stage_of[stage])
            for member, stage in network._stage_of.items()
        }
        members |= {name: self.last for name in (HEAD, *self.parameters) if name.startswith(HEAD)}
        self._highest: dict[str, int] = {}
        self._lowest_parameter: dict[str, int] = {}
        for member, side in members.items():
            parts = member.split(".")
            for depth in range(len(parts) + 1):
                path = ".".join(parts[:depth])
                self._highest[path] = max(self._highest.get(path, 0), side)
                if member in self.parameters:
                    self._lowest_parameter[path] = min(self._lowest_parameter.get(path, self.last), side)

    def is_frozen(self, name: str) -> bool:
        """Say whether a module lies below the last boundary as a whole."""
        return self._highest.get(name, self.last) < self.last

    def of_module(self, name: str) -> int | None:
        """Return the side of a module, or None if it has parameters below a boundary and members above it."""
        side = self._highest.get(name, self.last)
        return None if self._lowest_parameter.get(name, side) < side else side


class _Value(fx.Proxy):
    """A value of a graph whose attributes are looked up at once, in the examples."""

    def __getattr__(self, k: str) -> _Traced:
        tracer: Any = self.tracer
        example = getattr(tracer.examples[self.node][0], k)
        if callable(example):
            return super().__getattr__(k)
        return tracer.create_proxy("call_function", getattr, (self, k), {})


class _Tracer(fx.Tracer):
    """Trace only what is on both sides of a boundary, for any number of images of one size.

    Every node is computed for two and for three example images. A number that is the same for both is taken as a
    constant, so that the code may decide by it; modes of what trains, parameters and buffers are values of the graph.
    """

    def __init__(self, network: StagedNetwork, sides: _Sides, images: Tensor, training: bool = False) -> None:
        super().__init__()
        self.decides_by_mode = False
        self._training = training
        self.examples: dict[fx.Node, tuple[_Traced, _Traced]] = {}
        self.constants: dict[str, Tensor] = {}
        self._network, self._sides, self._images = network, sides, images
        self._names = {id(member): name for name, member in (*network.named_modules(), *network.named_buffers())}
        self._computing = False

    def trace_network(self) -> fx.Graph:
        """Trace the network."""

        def read(module: nn.Module) -> _Traced:
            name = self._names.get(id(module))
            if self._computing or name is None:
                return module.__dict__["training"]
            if self._sides.is_frozen(name):
                return False
            return self.create_proxy("get_attr", f"{name}.training", (), {})

        def write(module: nn.Module, mode: bool) -> None:
            module.__dict__["training"] = mode

        nn.Module.training = property(read, write)  # type: ignore[assignment] # fx replaces __call__ in the same way
        try:
            graph = self.trace(self._network)
        finally:
            del nn.Module.training
        for node in reversed(graph.nodes):
            dropped = node.op == "get_attr" or (
                node.op in ("call_function", "call_method") and not isinstance(self.examples[node][0], Tensor)
            )
            if dropped and not node.users:
                graph.erase_node(node)
        return graph

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Keep what is on one side whole."""
        return self._sides.of_module(module_qualified_name) is not None

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide by a mode as given; nothing else that is not a constant can be decided by."""
        if not _reads_mode(obj.node):
            raise _Impossible("its forward decides by what is in the images")
        self.decides_by_mode = True
        return self._training

    def call_module(
        self, m: nn.Module, forward: Callable[..., _Traced], args: tuple[_Traced, ...], kwargs: dict[str, _Traced]
    ) -> _Traced:
        """Leave modules alone that an example runs through."""
        return forward(*args, **kwargs) if self._computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: _Traced, parameter_proxy_cache: dict[str, _Traced]) -> _Traced:
        """Make a buffer a value of the graph, as fx does with a parameter."""
        if self._computing:
            return attr_val
        if isinstance(attr_val, Tensor) and id(attr_val) in self._names:
            return self.create_proxy("get_attr", self._names[id(attr_val)], (), {})
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: _Traced) -> _Traced:
        """Keep a tensor that was made during the trace here; fx would store it in the network."""
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) and a not in self.tensor_attrs:
            name = f"constant{len(self.constants)}"
            self.constants[name] = a
            node = self.create_node("get_attr", name, (), {})
            self.examples[node] = (a, a)
            return node
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Make the value of a node."""
        return _Value(node, self)

    def create_proxy(
        self,
        kind: str,
        target: _Traced,
        args: tuple[_Traced, ...],
        kwargs: dict[str, _Traced],
        *rest: _Traced,
        **more: _Traced,
    ) -> _Traced:
        """Add a node; where the examples agree on a number, return the number."""
        proxy: Any = super().create_proxy(kind, target, args, kwargs, *rest, **more)
        self._computing = True
        try:
            two, three = self.examples[proxy.node] = (self._compute(proxy.node, 0), self._compute(proxy.node, 1))
        finally:
            self._computing = False
        if _reads_mode(proxy.node):
            return proxy
        if isinstance(two, _PLAIN) and two == three:
            return two
        if type(two) in (tuple, list, torch.Size) and len(two) == len(three):
            items = [proxy[i] for i in range(len(two))]
            return items if isinstance(two, list) else tuple(items)
        if type(two) is dict and two.keys() == three.keys():
            return {key: proxy[key] for key in two}
        return proxy

    def _compute(self, node: fx.Node, which: int) -> _Traced:
        if node.op == "placeholder":
            return self._images[: 2 + which]
        target: Any = node.target
        if node.op == "get_attr":
            return operator.attrgetter(target)(self._network)
        args, kwargs = self._filled(node.args, which), self._filled(node.kwargs, which)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        function = self._network.get_submodule(target) if node.op == "call_module" else target
        return function(*args, **kwargs)

    def _filled(self, value: _Traced, which: int) -> _Traced:
        """Put examples in the place of nodes, and plain containers in the place of immutable ones."""
        if isinstance(value, fx.Node):
            return self.examples[value][which]
        if isinstance(value, list | tuple):
            items = [self._filled(item, which) for item in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, dict):
            return {key: self._filled(item, which) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*self._filled((value.start, value.stop, value.step), which))
        return value


def _split(network: StagedNetwork, boundaries: list[int], image_size: int, channels: int) -> tuple[nn.Module, ...]:
    trained = [
        name
        for name, stage, parameter in network.staged_parameters()
        if stage < boundaries[-1] and parameter.requires_grad
    ]
    if trained:
        raise _Impossible(f"{len(trained)} parameters below it train, such as {trained[0]}; freeze_below comes first")
    like = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, channels, image_size, image_size, generator=generator).to(like.device, like.dtype)
    sides = _Sides(network, boundaries)
    with _untouched(network, like.device):
        expected = network(images[:2])
        tracer = _Tracer(network, sides, images)
        try:
            graph = tracer.trace_network()
            if tracer.decides_by_mode:
                in_training = _Tracer(network, sides, images, training=True).trace_network()
                if in_training.python_code("self").src != graph.python_code("self").src:
                    raise _Impossible("its forward takes another way in training")
        except _TRACING_RAISES as error:
            raise _Impossible(f"tracing its forward failed ({_first_line(error)})") from error
        graphs, crossings = _cut(graph, sides, tracer.examples)
        parts = tuple(_Part(network, part, tracer.constants) for part in graphs)
        given: list[tuple[Tensor, ...]] = []
        try:
            for part in parts[:-1]:
                given.append(part(*given[-1]) if given else part(images[:2]))
            kept = [[tensor.clone() for tensor in tensors] for tensors in given]
            logits = parts[-1](*given[-1])
        except _TRACING_RAISES as error:
            raise _Impossible(f"its parts do not run ({_first_line(error)})") from error
    if not torch.allclose(logits, expected, rtol=1e-5, atol=1e-5):
        raise _Impossible(f"its parts compute something else (by {float((logits - expected).abs().max()):.2g})")
    for before, after, crossing in zip(kept, given, crossings, strict=True):
        if not all(torch.equal(*pair) for pair in zip(before, after, strict=True)):
            raise _Impossible("what trains overwrites what is frozen")
        for tensor, node in zip(before, crossing, strict=True):
            alone, among = tensor.float(), tracer.examples[node][1][:2].float()
            if not torch.allclose(alone, among, rtol=1e-2, atol=1e-2 * float(alone.abs().max())):
                raise _Impossible("what is frozen mixes the images of a batch")
    return parts


def _cut(
    graph: fx.Graph, sides: _Sides, examples: dict[fx.Node, tuple[_Traced, _Traced]]
) -> tuple[list[fx.Graph], list[list[fx.Node]]]:
    """Cut a graph into a chain: the outputs of each part, a tuple, are the inputs of the next.

    What depends on no image and on nothing that trains is computed in each part that needs it.

    Returns:
        The graphs, and for each but the last the nodes whose tensors go on to the next.
    """
    side: dict[fx.Node, int] = {}
    of_images: dict[fx.Node, bool] = {}
    by_mode: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        inputs = node.all_input_nodes
        own = sides.last if node.op == "output" else 0
        if node.op == "call_module":
            found = sides.of_module(str(node.target))
            own = sides.last if found is None else found
        elif node.op == "get_attr":
            own = sides.parameters.get(str(node.target), 0)
        side[node] = max([own, *(side[i] for i in inputs)])
        of_images[node] = node.op == "placeholder" or any(of_images[i] for i in inputs)
        by_mode[node] = _reads_mode(node) or any(by_mode[i] for i in inputs)
    if any(by_mode[node] and of_images[node] and side[node] < sides.last for node in graph.nodes):
        raise _Impossible("something below it, outside of the modules that can be frozen, depends on training mode")

    graphs: list[fx.Graph] = []
    crossings: list[list[fx.Node]] = []
    for level in range(1, sides.last + 1):
        below = [node for node in graph.nodes if of_images[node] and side[node] < level]
        needed = [node for node in below if any(side[user] >= level for user in node.users)]
        crossing = [node for node in needed if isinstance(examples[node][0], Tensor)]
        if any(node.op == "placeholder" for node in crossing):
            raise _Impossible("what trains reads the images themselves")
        if not crossing:
            raise _Impossible("what trains reads nothing of what is frozen")
        part, copies = _begin(crossings, examples)
        if not crossings:
            for node in below:
                _copy(node, part, copies)
        for node in crossing:
            _copy(node, part, copies)
        part.output(tuple(copies[node] for node in crossing))
        graphs.append(part)
        crossings.append(crossing)
        for node in needed:
            two, three = examples[node]
            if node in crossing:
                if two.ndim == 0 or (len(two), len(three)) != (2, 3) or two.shape[1:] != three.shape[1:]:
                    raise _Impossible(
                        f"a tensor of shape {tuple(two.shape)} for 2 images does not hold one row per image"
                    )
            elif (two, three) != (2, 3):
                raise _Impossible(f"what trains reads a {type(two).__name__} that is not a tensor of what is frozen")
    last, copies = _begin(crossings, examples)
    for node in graph.nodes:
        if side[node] == sides.last:
            _copy(node, last, copies)
    return [*graphs, last], crossings


def _begin(
    crossings: list[list[fx.Node]], examples: dict[fx.Node, tuple[_Traced, _Traced]]
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """Begin the graph of the next part: its inputs, and the number of images wherever that is read."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    if crossings:
        copies = {node: part.placeholder(f"activation{i}") for i, node in enumerate(crossings[-1])}
        counts = [node for node, (two, three) in examples.items() if type(two) is int and (two, three) == (2, 3)]
        for node in counts:
            copies[node] = part.call_method("size", (copies[crossings[-1][0]], 0))
    return part, copies


def _copy(node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    """Copy a node, after those among its inputs that were not copied yet."""
    if node not in copies:
        for needed in node.all_input_nodes:
            _copy(needed, graph, copies)
        copies[node] = graph.node_copy(node, copies.__getitem__)


def _reads_mode(node: fx.Node) -> bool:
    return node.op == "get_attr" and str(node.target).rpartition(".")[2] == "training"


def _function(graph: fx.Graph) -> tuple[Callable[..., Any], str]:
    """Turn a graph into a function of ``self`` and its inputs, with its code; a GraphModule would copy buffers."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(code.src, names)  # noqa: S102 - the graph's own code, as GraphModule runs it
    function: Callable[..., Any] = names["forward"]
    return function, code.src


@contextmanager
def _untouched(network: StagedNetwork, device: torch.device) -> Iterator[None]:
    """Compute in eval mode and without gradients; modes and random numbers are afterwards as before."""
    modes = {module: module.training for module in network.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
