"""Frozen parts of a network rewritten for inference on a CPU, in less than a second and without a compiler.

BatchNorm in eval mode is a scale and a shift per channel, which the convolution before it takes into its own weights
(Jacob et al., 2018, section 3.2, https://arxiv.org/abs/1712.05877). What is left, a convolution and its activation, is
one call of oneDNN with packed weights: ``mkldnn._convolution_pointwise``, the operator that Inductor calls, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.padding import pad_same_arg
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fashion_tl.models.stand_ins import StandIn

_Pointwise = tuple[str, list[float], str]

_ACTIVATIONS: dict[type[nn.Module], _Pointwise] = {
    nn.Identity: ("none", [], ""),
    nn.ReLU: ("relu", [], ""),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], ""),
    nn.Hardswish: ("hardswish", [], ""),
    nn.SiLU: ("swish", [], ""),
}
_SMALL = 4
"""Positions of an output map up to which a convolution is computed as a matrix product.

Of 260 billion operations per second that oneDNN reaches on large maps (1 thread of an AMD EPYC with AVX-512) 160 are
left on maps of 2 x 2, over half of them on padding. A matrix product with packed weights reaches 240, without padding:
512 to 512 channels, 3 x 3, take 9 ms for 256 images where they took 30 ms.
"""


def can_fold() -> bool:
    """Say whether this build of torch has the operators that folded parts call."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    names = ("_convolution_pointwise", "_reorder_convolution_weight")
    return available and all(hasattr(torch.ops.mkldnn, name) for name in names)


def fold(part: nn.Module, inputs: int) -> tuple[nn.Module, int]:
    """Rewrite a part such that convolutions take in the BatchNorm after them, and the activation after that.

    The part is traced with ``torch.fx``, but for what holds no BatchNorm. Weights are copied; what is not rewritten
    runs on the part's own modules.

    Args:
        part: A module of which every BatchNorm is in eval mode.
        inputs: Number of tensors that it takes.

    Returns:
        The part rewritten, for channels_last batches of one shape on a CPU, in 32 bits, and how many BatchNorms went.
        Its first call packs the weights for the shape that it is given.
    """
    if not any(isinstance(module, _BatchNorm) for module in part.modules()):
        return part, 0
    root = _Root(part, inputs)
    graph = _Tracer().trace(root)
    modules = dict(root.named_modules())
    for node in graph.nodes:
        if _module(node, modules) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    folded = [_fold_one(node, graph, modules) for node in list(graph.nodes)].count(True)
    # Under names of its own: below one of the part's own names GraphModule would write into the part.
    attributes: dict[str, Any] = {}
    for i, node in enumerate(graph.nodes):
        if node.op in ("call_module", "get_attr"):
            target = str(node.target)
            attributes[f"a{i}"] = modules[target] if node.op == "call_module" else _attribute(root, target)
            node.target = f"a{i}"
    run = fx.GraphModule(attributes, graph, "Folded")
    if run.graph.eliminate_dead_code():  # zeros in the place of what trains
        run.recompile()
    return run, folded


class _Root(nn.Module):
    """Names the inputs of a part: a part that hands on ``*inputs`` of an unknown number cannot be traced."""

    def __init__(self, part: nn.Module, inputs: int) -> None:
        super().__init__()
        self.part, self.inputs = part, inputs

    def forward(self, *given: Tensor) -> Any:  # noqa: ANN401
        return self.part(*[given[i] for i in range(self.inputs)])


class _Tracer(fx.Tracer):
    """Looks into modules with BatchNorm or stand-ins inside and keeps all others whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say whether a module is kept whole."""
        return isinstance(m, _BatchNorm) or not any(isinstance(i, _BatchNorm | StandIn) for i in m.modules())


def _module(node: fx.Node, modules: dict[str, nn.Module]) -> type[nn.Module] | None:
    """Return the class of the module that a node calls, if nothing hangs on it that folding would pass over."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = modules[str(node.target)]
    return None if module._forward_hooks or module._forward_pre_hooks else type(module)


def _fold_one(node: fx.Node, graph: fx.Graph, modules: dict[str, nn.Module]) -> bool:
    """Fold a node, if it is a BatchNorm after a convolution, into that."""
    if _module(node, modules) not in (nn.BatchNorm2d, BatchNormAct2d):
        return False
    before = node.args[0]
    if not isinstance(before, fx.Node) or len(before.users) != 1:
        return False
    if _module(before, modules) not in (nn.Conv2d, Conv2dSame):
        return False
    norm: Any = modules[str(node.target)]
    convolution: Any = modules[str(before.target)]
    plain = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    if not plain or convolution.dilation != (1, 1) or norm.running_mean is None or norm.running_var is None:
        return False
    name, last, other = f"folded{len(modules)}", node, None
    activation: Any = nn.Identity
    if type(norm) is BatchNormAct2d:
        if type(norm.drop) is not nn.Identity:
            return False
        activation = type(norm.act)
        if activation not in _ACTIVATIONS:
            activation, other = nn.Identity, f"{node.target}.act"
    elif len(node.users) == 1:
        after = next(iter(node.users))
        if (found := _module(after, modules)) in _ACTIVATIONS:
            activation, last = found, after
    modules[name] = _Folded(convolution, norm, _ACTIVATIONS[activation])
    with graph.inserting_before(before):
        new = graph.call_module(name, before.args)
        if other is not None:
            new = graph.call_module(other, (new,))
        last.replace_all_uses_with(new)
    for gone in dict.fromkeys((last, node, before)):
        graph.erase_node(gone)
    return True


def _attribute(root: nn.Module, target: str) -> Any:  # noqa: ANN401
    module, _, name = target.rpartition(".")
    return getattr(root.get_submodule(module), name)


class _Folded(nn.Module):
    """A convolution with the BatchNorm and the activation after it, for maps of the size that it meets first."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, activation: _Pointwise) -> None:
        super().__init__()
        statistics: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        weight, bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
        self._weight, self._bias = weight.detach(), bias.detach()
        self._stride, self._groups, self._activation = convolution.stride, convolution.groups, activation
        padding: Any = convolution.padding
        self._padding = None if isinstance(convolution, Conv2dSame) else (padding[1],) * 2 + (padding[0],) * 2
        self._run: Callable[[Tensor], Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Compute it, after packing its weights the first time."""
        if self._run is None:
            self._run = self._prepared(images)
        return self._run(images)

    def _prepared(self, images: Tensor) -> Callable[[Tensor], Tensor]:
        size, kernel = images.shape[2:], self._weight.shape[2:]
        left, right, top, bottom = padding = self._padding or pad_same_arg(list(size), list(kernel), list(self._stride))
        height = (size[0] + top + bottom - kernel[0]) // self._stride[0] + 1
        width = (size[1] + left + right - kernel[1]) // self._stride[1] + 1
        if self._groups == 1 and kernel.numel() > 1 and height * width <= _SMALL:
            return self._as_product(images, padding, (height, width))
        # The operator pads both sides alike: where "same" pads the first less, the filter begins with zeros.
        weight = F.pad(self._weight, (right - left, 0, bottom - top, 0))
        return _packed(images, weight, self._bias, [bottom, right], self._stride, self._groups, self._activation)

    def _as_product(self, images: Tensor, padding: Sequence[int], out: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """Multiply what lies under the filter, or the whole map where that is less, as one matrix for the batch."""
        left, _, top, _ = padding
        size, kernel, stride = images.shape[2:], self._weight.shape[2:], self._stride
        whole = size.numel() < kernel.numel()
        if whole:
            matrix = self._weight.new_zeros(*out, len(self._weight), *size, self._weight.shape[1])
            for i, j, k, m in itertools.product(*map(range, (*out, *kernel))):
                y, x = i * stride[0] + k - top, j * stride[1] + m - left
                if 0 <= y < size[0] and 0 <= x < size[1]:
                    matrix[i, j, :, y, x] = self._weight[:, :, k, m]
            matrix, bias = matrix.flatten(3).flatten(0, 2), self._bias.repeat(out[0] * out[1])
        else:
            matrix, bias = self._weight.permute(0, 2, 3, 1).flatten(1), self._bias

        def rows(images: Tensor) -> Tensor:
            maps = images if whole else F.pad(images, tuple(padding))
            maps = maps.permute(0, 2, 3, 1)
            if not whole:
                windows = maps.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1])
                maps = windows.permute(0, 1, 2, 4, 5, 3)
            return maps.reshape(1, -1, 1, matrix.shape[1]).permute(0, 3, 1, 2)

        multiply = _packed(rows(images), matrix[:, :, None, None], bias, [0, 0], (1, 1), 1, self._activation)

        def run(images: Tensor) -> Tensor:
            return multiply(rows(images)).permute(0, 2, 3, 1).reshape(len(images), *out, -1).permute(0, 3, 1, 2)

        return run


def _packed(
    like: Tensor,
    weight: Tensor,
    bias: Tensor,
    padding: list[int],
    stride: tuple[int, ...],
    groups: int,
    activation: _Pointwise,
) -> Callable[[Tensor], Tensor]:
    """Make a convolution and its activation one call of oneDNN, with weights in the order that it prefers."""
    settings = (padding, list(stride), [1, 1], groups)
    weight = weight.contiguous(memory_format=torch.channels_last)
    weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *settings, list(like.shape))

    def run(images: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._convolution_pointwise(images, weight, bias, *settings, *activation)
        return outputs

    return run
