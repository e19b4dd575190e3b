"""Settings of the process: freed memory stays with it, and no GPU is looked for in vain."""

from __future__ import annotations

import os
import platform
import resource

import pytest
import torch

from fashion_tl.process import keep_freed_memory, stop_looking_for_gpus


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_that_was_freed_is_not_mapped_again() -> None:
    assert keep_freed_memory()
    for _ in range(20):  # until the heap has its size
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    # 64 MiB are 16,384 pages; each would fault in every round.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 16_384


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not keep_freed_memory()


@pytest.mark.parametrize(("there", "asked"), [(False, "0"), (True, "1")])
def test_gpus_are_not_looked_for_again_where_there_are_none(monkeypatch: pytest.MonkeyPatch, there, asked) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    stop_looking_for_gpus()
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == asked
