"""Frozen parts of a network prepared to run over many images: compiled where that takes less time in all.

``torch.compile`` with Inductor's freezing takes the weights as constants: it folds BatchNorm into convolutions, packs
their filters for oneDNN and joins what is elementwise. It takes seconds before it saves any, so the first batches are
computed as they are, in eager mode, and timed; what they cost decides.
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

Outputs = list[tuple[Tensor, ...]]

WORTH_COMPILING = 150.0
"""Seconds of eager mode that must lie ahead before a pass is compiled.

Measured on 2 shared cores of an AMD EPYC with AVX-512, torch 2.15, with freed memory kept
(``process.keep_freed_memory``, as every run has it), batches of 256: compiling takes 10 to 30 s. Compiled batches are
1.06 to 1.15 times as fast with ResNet-18 at 64 px (its convolutions bound it as they are), 1.3 to 1.6 times with
EfficientNet-Lite0 at 96 px, 1.4 to 1.5 times with MobileNetV2-0.35 at 64 px. At 150 s ResNet-18 about wins the 10 s
back that it takes to compile; the others win some 20 s. In eager mode on an idle machine 55,000 images take about 42 s,
50 s and 7 s at these sizes, so that none of these passes is compiled.
"""
TOLERANCE = 2e-5
"""How far compiled outputs may lie from those of eager mode, as a share of the largest magnitude of each output."""

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

    Attributes:
        compiled: Whether full batches run compiled code by now.
        reason: Why, in a few words, batches run in eager mode; None while that is open and once they are compiled.
        compile_seconds: Time that compiling took, in vain or not.
    """

    def __init__(self, parts: Sequence[nn.Module], images: int, batch_size: int, worth_compiling: float) -> None:
        self._parts, self._left, self._batch_size, self._worth = tuple(parts), images, batch_size, worth_compiling
        self._run: Callable[[Tensor], Outputs] | None = None
        self._like: tuple[Any, ...] = ()
        self._seen = 0
        self._seconds: list[float] = []
        self.reason = self._why_never()
        self.compile_seconds = 0.0

    @property
    def compiled(self) -> bool:
        """Whether full batches run compiled code by now."""
        return self._run is not None

    def __call__(self, images: Tensor) -> Outputs:
        """Compute the outputs of all parts for a batch of images.

        A batch of another size than the full one, such as the last, runs in eager mode and costs no second compiling.

        Args:
            images: Float (B, C, H, W), as the first part expects them.

        Returns:
            The outputs of each part, in the order of the parts; made in inference mode.
        """
        with torch.inference_mode():
            if self._run is not None and _layout(images) == self._like:
                # A guard that fails all the same (autocast, a number of threads) must not compile anew.
                with torch.compiler.set_stance("eager_on_recompile"):
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
        if self._seen > _UNTIMED:
            self._seconds.append(time.perf_counter() - began)
        if len(self._seconds) == _TIMED or (self._seen == 1 and self._worth <= 0):
            self.reason = self._why_not(images)
            if self.reason is None:
                began = time.perf_counter()
                self.reason = self._compile(images, outputs)
                self.compile_seconds = time.perf_counter() - began
        return outputs

    def _why_never(self) -> str | None:
        tensors = [tensor for part in self._parts for tensor in (*part.parameters(), *part.buffers())]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return "compiled inference is for CPUs"  # a GPU's gain is not measured, and its passes are short
        if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors):
            return "compiled inference is for 32-bit weights"
        if self._left < (_UNTIMED + _TIMED) * self._batch_size and self._worth > 0:
            return "few images"
        return None

    def _why_not(self, images: Tensor) -> str | None:
        if images.device.type != "cpu" or images.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
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
        self._run, self._like = run, _layout(images)
        return None


def prepare(
    parts: Sequence[nn.Module], images: int, batch_size: int = 256, worth_compiling: float = WORTH_COMPILING
) -> Inference:
    """Prepare a chain of frozen parts to run over many images.

    The first four full batches are computed in eager mode; from the fastest of the last three follows how long the
    rest would take in it. At ``worth_compiling`` seconds or more the chain is compiled and checked against the outputs
    of the batch at hand. It stays in eager mode, for a ``reason``, where it has few images, on a GPU, with numbers of
    other than 32 bits (autocast included), without a C++ compiler, where compiling fails, and where compiled outputs
    differ by more than ``TOLERANCE``.

    Configurations of torch, grad mode and modules are afterwards as before, and what others compile stays compiled.

    Args:
        parts: Modules in eval mode, as ``models.split.chain_network`` gives them without the last. The first takes
            images, each other one what the part before it gave, a tuple of tensors.
        images: Number of images to come, in all; views count.
        batch_size: Images of a full batch. Only batches of this size are timed and compiled.
        worth_compiling: Seconds of eager mode from which compiling pays; 0 compiles at the first full batch.

    Returns:
        A function of a batch of images to the outputs of all parts.
    """
    return Inference(parts, images, batch_size, worth_compiling)


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
    return images.shape, images.stride(), images.dtype, images.device


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
