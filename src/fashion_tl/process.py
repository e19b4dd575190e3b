"""Settings of the process without which training on a CPU takes longer than it must."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


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


def stop_looking_for_gpus() -> None:
    """Spare a machine without an NVIDIA GPU the search for its library at every optimizer step.

    Lightning has torch ask NVML whether there is a GPU, so that the question does not spoil forks. Every step of an
    optimizer asks, and where there is no such library, each time the dynamic loader searches for it.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
