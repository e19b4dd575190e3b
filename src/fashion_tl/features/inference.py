"""Frozen parts of a network prepared to run over many images: folded or compiled where that takes less time in all.

Folding (``features.folding``) takes less than a second and serves convolutional networks with BatchNorm. Other networks
can be compiled: ``torch.compile`` with Inductor's freezing takes the weights as constants, packs them for oneDNN and
joins what is elementwise. It takes seconds before it saves any, so the first batches are computed as they are, in eager
mode, and timed; what they cost decides.
"""

from __future__ import annotations

import itertools
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fashion_tl.features.folding import can_fold, fold

Outputs = list[tuple[Tensor, ...]]

WORTH_COMPILING = 150.0
"""Seconds of eager mode that must lie ahead before a pass is compiled.

Measured on 2 shared cores of an AMD EPYC with AVX-512, torch 2.15, with freed memory kept
(``process.keep_freed_memory``, as every run has it), batches of 256: compiling takes 10 to 30 s. Compiled batches are
1.06 to 1.15 times as fast with ResNet-18 at 64 px (its convolutions bound it as they are), 1.3 to 1.6 times with
EfficientNet-Lite0 at 96 px, 1.4 to 1.5 times with MobileNetV2-0.35 at 64 px. At 150 s ResNet-18 about wins the 10 s
back that it takes to compile; the others win some 20 s. In eager mode on an idle machine 55,000 images take about 42 s,
50 s and 7 s at these sizes. Where BatchNorm can be folded nothing is compiled: that does about as well.
"""
WORTH_FOLDING = 8
"""Full batches that must lie ahead before parts are folded.

On the same machine, with one thread: ResNet-18 at 64 px takes 0.35 s to fold and compare, and 0.30 s for a folded batch
(0.39 s in eager mode); EfficientNet-Lite0 at 96 px 0.34 s, and 0.30 s (0.44 s); MobileNetV2-0.35 at 64 px 0.06 s, and
0.037 s (0.056 s). That is won back within four batches.
"""
TOLERANCE = 2e-4
"""How far outputs may lie from those of eager mode, as a share of the largest magnitude of each output.

It tells mistakes from rounding in 32 bits, which gives up to 5e-5 on Fashion-MNIST with MobileNetV2-0.35 (64 px). There
folded and eager features are about as far from those in 64 bits: 1.1e-6 and 0.8e-6 (root mean square).
"""

_UNTIMED, _TIMED = 1, 3  # the first batch has oneDNN choose its kernels
_COMPILING_RAISES = (  # what is not one of torch's own, which are RuntimeErrors, comes of its code or of the compiler
    RuntimeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    subprocess.SubprocessError,
)
_CHATTY = ("torch.utils.cpp_extension",)  # it warns of a CUDA without a GPU
_serial = itertools.count()


class Inference:
    """Computes the outputs of a chain of frozen parts for one batch after another, without gradients.

    Weights and modes must stay as they are while it is in use. The parts are left alone, compiled or not: their
    parameters go on to serve training, and compiled constants go with this object.

    The first full batch is computed in eager mode. Where many are to come, what can be folded in the parts then is,
    and checked against the outputs of this batch; that is all where anything was.

    Otherwise the first full batches are computed in eager mode; from the fastest of three follows how long the rest
    would take in it. At ``worth_compiling`` seconds or more the chain is compiled and checked against the outputs
    of the batch at hand.

    Parts stay in eager mode, for a ``fold_reason`` and a ``reason``, where there are few images, on a GPU, with numbers
    of other than 32 bits (autocast included), without oneDNN or a C++ compiler, where rewriting or compiling fails, and
    where outputs would differ by more than ``TOLERANCE``.

    Configurations of torch, grad mode and modules are afterwards as before, and what others compile stays compiled.

    Args:
        parts: Modules in eval mode, as ``models.split.chain_network`` gives them without the last. The first takes
            images, each other one what the part before it gave, a tuple of tensors.
        images: Number of images to come, in all; views count.
        batch_size: Images of a full batch. Only batches of this size are timed and compiled.
        worth_compiling: Seconds of eager mode from which compiling pays; 0 compiles at the first full batch and leaves
            out folding.

    Attributes:
        folded: How many BatchNorms were folded into convolutions for full batches; 0 before the first, and where
            parts run as they are.
        fold_reason: Why, in a few words, nothing is folded; None while that is open and once it is.
        compiled: Whether full batches run compiled code by now.
        reason: Why, in a few words, batches are not compiled; None while that is open and once they are.
    """

    def __init__(
        self, parts: Sequence[nn.Module], images: int, batch_size: int, worth_compiling: float = WORTH_COMPILING
    ) -> None:
        self._parts, self._left, self._batch_size, self._worth = tuple(parts), images, batch_size, worth_compiling
        self._run: Callable[[Tensor], Outputs] | None = None
        self._like: tuple[Any, ...] = ()
        self._seen = 0
        self._seconds: list[float] = []
        self.reason = self._why_never()
        self.compiled = False
        self.fold_reason = self._why_never_folded()
        self.folded = 0

    def __call__(self, images: Tensor) -> Outputs:
        """Compute the outputs of all parts for a batch of images.

        A batch of another size than the full one, such as the last, runs in eager mode and is not prepared for anew.

        Args:
            images: Float (B, C, H, W), as the first part expects them.

        Returns:
            The outputs of each part, in the order of the parts; made in inference mode.
        """
        with torch.inference_mode():
            if self._run is not None and _layout(images) == self._like:
                outputs = self._run(images)
            elif self.reason is not None or self._run is not None or len(images) != self._batch_size:
                outputs = _chained(self._parts, images)
            else:
                outputs = self._timed(images)
        self._left -= len(images)
        return outputs

    def _timed(self, images: Tensor) -> Outputs:
        """Compute a full batch in eager mode while it is open which mode is the better one."""
        began = time.perf_counter()
        outputs = _chained(self._parts, images)
        self._seen += 1
        if self.fold_reason is None:
            self.fold_reason = self._fold(images, outputs)
            if self.folded:
                self.reason = "folded, which compiling would hardly better"
            return outputs
        if self._seen > _UNTIMED:
            self._seconds.append(time.perf_counter() - began)
        if len(self._seconds) == _TIMED or (self._seen == 1 and self._worth <= 0):
            self.reason = self._why_not(images)
            if self.reason is None:
                self.reason = self._compile(images, outputs)
        return outputs

    def _why_never_folded(self) -> str | None:
        if self._worth <= 0:
            return "to be compiled"
        if self._left < (1 + WORTH_FOLDING) * self._batch_size:
            return "few images"
        if not can_fold():
            return "no oneDNN"
        return self.reason

    def _why_never(self) -> str | None:
        tensors = [tensor for part in self._parts for tensor in (*part.parameters(), *part.buffers())]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return "compiled inference is for CPUs"  # a GPU's gain is not measured, and its passes are short
        if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
            return "compiled inference is for 32-bit weights"
        if self._left < (_UNTIMED + _TIMED) * self._batch_size and self._worth > 0:
            return "few images"
        return None

    def _fold(self, images: Tensor, expected: Outputs) -> str | None:
        """Fold for batches like this one and compare; returns why that was in vain."""
        if not _is_plain(images):
            return "folding is for 32-bit numbers on a CPU"
        if not images.is_contiguous(memory_format=torch.channels_last):
            return "folding is for channels_last"
        if any(isinstance(module, _BatchNorm) and module.training for part in self._parts for module in part.modules()):
            return "BatchNorm in training"  # to run it once more would move its statistics
        folded, count, failure = list(self._parts), 0, "no BatchNorm after a convolution"
        try:
            for i, (part, inputs) in enumerate(zip(self._parts, [1, *map(len, expected)], strict=False)):
                try:
                    run, found = fold(part, inputs)
                except _COMPILING_RAISES as error:
                    failure = f"tracing failed ({_first_line(error)})"
                    continue
                if found:
                    folded[i], count = run, count + found
            if not count:
                return failure
            outputs = _chained(folded, images)
        except _COMPILING_RAISES as error:
            return f"folded parts fail ({_first_line(error)})"
        difference = _difference(outputs, expected)
        if not difference <= TOLERANCE:  # NaN is not
            return f"folded outputs differ from those of eager mode (by {difference:.1g} of the largest)"
        self._run, self._like, self.folded = lambda images: _chained(folded, images), _layout(images), count
        return None

    def _why_not(self, images: Tensor) -> str | None:
        if not _is_plain(images):
            return "compiled inference is for 32-bit numbers on a CPU"
        if self._seconds:
            ahead = min(self._seconds) * (self._left / self._batch_size - 1)
            if ahead < self._worth:
                return f"about {ahead:.0f} s of eager mode ahead, compiling pays from {self._worth:.0f} s"
        if not _has_compiler():
            return "no C++ compiler"
        return None

    def _compile(self, images: Tensor, expected: Outputs) -> str | None:
        """Compile for batches like this one and compare; returns why that was in vain."""
        try:
            with _quiet():
                import torch._inductor.config as inductor

                run: Callable[[Tensor], Outputs] = torch.compile(_own(self._parts), fullgraph=True, dynamic=False)
                with inductor.patch(freezing=True, freezing_discard_parameters=False):
                    outputs = run(images)
        except _COMPILING_RAISES as error:
            return f"compiling failed ({_first_line(error)})"
        difference = _difference(outputs, expected)
        if not difference <= TOLERANCE:  # NaN is not
            return f"compiled outputs differ from those of eager mode (by {difference:.1g} of the largest)"

        def guarded(images: Tensor) -> Outputs:
            # A guard that fails all the same (a number of threads) must not compile anew.
            with torch.compiler.set_stance("eager_on_recompile"):
                return run(images)

        self._run, self._like, self.compiled = guarded, _layout(images), True
        return None


def _is_plain(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _chained(parts: Sequence[nn.Module], images: Tensor) -> Outputs:
    outputs: Outputs = []
    given: tuple[Tensor, ...] = (images,)
    for part in parts:
        given = part(*given)
        outputs.append(given)
    return outputs


def _own(parts: Sequence[nn.Module]) -> Callable[[Tensor], Outputs]:
    """Make a function whose code no other shares: torch keeps compiled code, and limits its number, by code object."""

    def run(images: Tensor) -> Outputs:
        return _chained(parts, images)

    code = run.__code__.replace(co_name=f"frozen_parts_{next(_serial)}")
    return types.FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)


def _layout(images: Tensor) -> tuple[Any, ...]:
    return images.shape, images.stride(), images.dtype, images.device, torch.is_autocast_enabled("cpu")


def _difference(found: Outputs, expected: Outputs) -> float:
    """Return the largest difference, as a share of the largest magnitude in its output; infinite for other shapes."""
    pairs = [pair for outputs in zip(found, expected, strict=True) for pair in zip(*outputs, strict=True)]
    if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in pairs):
        return float("inf")
    shares = [
        (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12) for a, b in pairs if b.numel()
    ]
    return float(torch.stack(shares).max()) if shares else 0.0


def _has_compiler() -> bool:
    """Look for the compiler that Inductor would call."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    command = shlex.split(os.environ.get("CXX", "")) or [usual]
    return shutil.which(command[0]) is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch has to say while it compiles: nobody asked for it by name, and eager mode is at hand."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
