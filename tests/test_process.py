"""The process: freed memory stays with it, no GPU is looked for in vain, and its peak memory is that of one run."""

from __future__ import annotations

import io
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fashion_tl import process
from fashion_tl.cli import outlasting
from fashion_tl.process import PeakMemory, keep_freed_memory, on_cpu, own_device, slow_precision, stop_looking_for_gpus
from fashion_tl.records.record import COMPLETED, read_record

MIB = 2**20
CPU = torch.device("cpu")


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


def take(mebibytes: int) -> int:
    """Take memory, page by page, and give it back."""
    return int(torch.ones(mebibytes * MIB // 4)[-1])


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux forgets a peak")
def test_peak_memory_is_that_of_this_run_alone() -> None:
    peak = PeakMemory(CPU)
    take(800)
    peak.start()
    take(50)
    small = peak.read()
    take(800)
    large = peak.read()
    assert small is not None
    assert large is not None
    assert 600 * MIB < large - small < 900 * MIB
    # What was freed before the start is no part of it, although the C library keeps it.
    peak.start()
    again = peak.read()
    assert again is not None
    assert again < small + 200 * MIB


@pytest.mark.slow
@pytest.mark.parametrize("platform_name", ["linux", "darwin"])
@pytest.mark.thorough(keep=1)
def test_where_a_peak_cannot_be_forgotten_only_one_that_grew_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform_name: str
) -> None:
    peaks = iter([5000, 5000, 5000, 7000])
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=next(peaks)))
    monkeypatch.setattr(process, "resource", usage)
    monkeypatch.setattr(process, "_PROC", tmp_path / "missing")
    monkeypatch.setattr(sys, "platform", platform_name)
    peak = PeakMemory(CPU)
    peak.start()
    assert peak.read() is None
    peak.start()
    assert peak.read() == 7000 * (1 if platform_name == "darwin" else 1024)


def test_a_system_that_does_not_tell_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "resource", None)
    monkeypatch.setattr(process, "_PROC", tmp_path)
    peak = PeakMemory(CPU)
    peak.start()
    assert peak.read() is None
    assert PeakMemory(CPU).read() is None


def test_on_a_gpu_its_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"peak": 900}
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: counted.update(peak=100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: counted["peak"])
    peak = PeakMemory(torch.device("cuda", 0))
    peak.start()
    assert peak.read() == 100


@pytest.mark.slow
@pytest.mark.thorough
def test_a_system_without_the_resource_module_fits_and_says_nothing_of_memory(tmp_path: Path) -> None:
    """Windows has no such module."""
    script = """
import sys
from pathlib import Path
sys.modules["resource"] = None
from fashion_tl import process
process._PROC = Path("nowhere")
from fashion_tl.cli import main
from fashion_tl.records.record import read_record
flags = ["--data.source", "SyntheticGarments", "--data.source.num_train", "60", "--trainer.max_epochs", "1"]
flags += ["--model", "ScratchClassifier"]
assert main(["fit", *flags, "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]) == 0
assert read_record(Path("lightning_logs/run/version_0"))["peak_memory_bytes"] is None
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("accelerator", "rank", "gpus", "expected"),
    [
        ("cpu", "1", True, "cpu"),
        ("auto", "1", True, "cuda:1"),
        ("gpu", None, True, "cuda:0"),
        ("auto", "1", False, "cpu"),
    ],
)
def test_a_process_has_a_device_of_its_own(
    accelerator: str, rank: str | None, gpus: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert str(own_device(accelerator)) == expected


def test_half_precision_is_told_to_be_slow_where_a_convolution_is(slow_halves: Callable[[float], None]) -> None:
    slow_halves(8)
    assert (slow_precision("bf16-mixed") or "").startswith("bf16-mixed takes 8 times as long as 32-true")
    assert slow_precision("16-true") is not None
    assert slow_precision("32-true") is None
    slow_halves(1)
    assert slow_precision("bf16-mixed") is None


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "expected"),
    [
        ("cpu", True, True, True),
        ("auto", False, False, True),
        ("auto", True, False, False),
        ("gpu", False, True, False),
    ],
)
def test_whether_a_trainer_computes_on_the_cpu(
    accelerator: str, cuda: bool, mps: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert on_cpu(accelerator) is expected


@pytest.mark.parametrize("unbuffered", [False, True])
def test_output_whose_reader_has_gone_goes_nowhere(unbuffered: bool) -> None:
    reader, writer = os.pipe()
    own = io.TextIOWrapper(os.fdopen(writer, "wb"), encoding="ascii", write_through=unbuffered)
    stream = outlasting(own)
    print("caf\u00e9", file=stream, flush=True)
    assert os.read(reader, 99) == b"caf\\xe9\n"
    os.close(reader)
    for _ in range(2):
        print("more", file=stream, flush=True)
    assert os.write(writer, b"of a library") > 0
    own.close()


@pytest.mark.slow
@pytest.mark.thorough
def test_a_training_outlasts_the_reader_of_its_output(tmp_path: Path) -> None:
    small = "--data.source SyntheticGarments --data.source.num_train 120 --data.image_size 8 --trainer.max_epochs 1"
    command = [sys.executable, "-m", "fashion_tl", "fit", *small.split(), "--model", "ScratchClassifier"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path, text=True, check=False)
    os.close(writer)
    assert (done.returncode, "Traceback" in done.stderr, "BrokenPipe" in done.stderr) == (0, False, False)
    assert read_record(tmp_path / "lightning_logs/run/version_0")["status"] == COMPLETED
