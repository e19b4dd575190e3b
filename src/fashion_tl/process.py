"""The process: settings without which training on a CPU takes longer than it must, and its peak memory."""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.functional import conv2d

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_HALVES, _SLOW = {"bf16": torch.bfloat16, "16": torch.float16}, 2.0
_PROC = Path("/proc/self")


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next step instead of handing it back to the system.

    On a CPU every step frees activations of many MiB and allocates the same again. By default each of them is mapped
    anew and its pages are cleared one fault at a time, which can cost more than the arithmetic.

    Returns:
        Whether the C library took the settings (glibc); others are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def is_first_process() -> bool:
    """Say whether this is the first of the processes that a launcher has started, or the only one."""
    from lightning.pytorch.utilities import rank_zero_only

    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0


def launched_processes() -> int:
    """Return how many processes a launcher, torchrun or srun, has started to share one run, as Lightning counts them.

    Lightning takes no task of SLURM for one of several where the job is called bash or interactive.
    """
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    by_hand = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return 1 if by_hand else int(os.environ.get("SLURM_NTASKS", "1"))


def on_cpu(accelerator: str = "auto") -> bool:
    """Say whether a trainer computes on the CPU, by Lightning's choice where that is left to it."""
    return accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def own_device(accelerator: str = "auto") -> torch.device:
    """Return the device of this process, by Lightning's choice, where no trainer is there to tell."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@functools.cache
def slow_precision(precision: str) -> str | None:
    """Say how slow half precision is where the processor has no instructions for it; None where it has.

    A convolution is measured, once: x86 without AVX-512 takes ten times as long for 16 bits as for 32.

    Args:
        precision: A precision of Lightning's trainer, such as ``bf16-mixed``.
    """
    dtype = _HALVES.get(precision.partition("-")[0])
    if dtype is None:
        return None
    images, weight = torch.ones(16, 32, 28, 28).contiguous(memory_format=torch.channels_last), torch.ones(32, 32, 3, 3)

    def shortest(dtype: torch.dtype) -> float:
        given, seconds = (images.to(dtype), weight.to(dtype)), []
        for _ in range(4):  # the first one prepares
            started = time.perf_counter()
            conv2d(*given, padding=1)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    times = shortest(dtype) / shortest(torch.float32)
    if times < _SLOW:
        return None
    return f"{precision} takes {times:.0f} times as long as 32-true on this processor (a convolution, measured)"


def device_text(device: torch.device) -> str:
    """Name a device as records do."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def share_of_threads(processes: int) -> int:
    """Return how many threads each of several processes of this machine should compute with."""
    return max(1, torch.get_num_threads() // processes)


@contextmanager
def threads_of_worker(processes: int) -> Iterator[None]:
    """Compute with as many threads as each of several processes would, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(share_of_threads(processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def leave_group_at_exit() -> None:
    """Have this process leave the group of processes it has joined before it ends, else gloo's threads may abort it."""

    def leave() -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(leave)


def stop_looking_for_gpus() -> None:
    """Spare a machine without an NVIDIA GPU the search for its library at every optimizer step.

    Lightning has torch ask NVML whether there is a GPU, so that the question does not spoil forks. Every step of an
    optimizer asks, and where there is no such library, each time the dynamic loader searches for it.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


class PeakMemory:
    """Measures the most memory that is taken from ``start`` on: on a GPU by its tensors, else by the process.

    The peaks that systems keep are the process's or the GPU's, so that a run would inherit those of runs before it.
    ``start`` has them forgotten, and thereby ends what another instance measures.

    Args:
        device: The device that the run trains on.
    """

    _measured = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._before: int | None = 0

    def start(self) -> None:
        """Begin to measure."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        if PeakMemory._measured:
            gc.collect()  # what the run before has left in cycles; a quarter of a second that a first run is spared
        PeakMemory._measured += 1
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # what it keeps for later counts as taken
        self._before = 0 if _forget_peak() else _peak()

    def read(self) -> int | None:
        """Return the peak in bytes, or None where the system does not tell it, or not apart from an earlier one."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        peak = _peak()
        if peak is None or self._before is None or peak <= self._before:
            return None
        return peak


def _forget_peak() -> bool:
    """Have Linux set the process's peak to what it takes now; tells whether it did."""
    try:
        (_PROC / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> int | None:
    """Return the process's peak memory in bytes; None where the system does not tell."""
    try:
        # Not getrusage: that one is not forgotten.
        found = re.search(r"^VmHWM:\s+(\d+) kB", (_PROC / "status").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
