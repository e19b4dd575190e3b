"""Frozen parts prepared for inference: what comes out is what eager mode gives, and nothing else changes."""

from __future__ import annotations

import gc
import logging
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from fashion_tl.features import inference
from fashion_tl.features.inference import Inference, prepare
from fashion_tl.models.split import chain_network
from fashion_tl.models.staged import StagedNetwork, divide_timm

SIZE, BATCH = 32, 8


def network() -> StagedNetwork:
    torch.manual_seed(0)
    backbone = timm.create_model("test_resnet", num_classes=0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.1)
            module.running_mean.normal_()  # type: ignore[union-attr]
    features = backbone(torch.zeros(2, 3, SIZE, SIZE)).shape[1]
    staged = StagedNetwork(backbone, nn.Linear(features, 10), divide_timm(backbone))
    staged.freeze_below(len(staged.stage_names))
    return staged.train()


def parts_of(staged: StagedNetwork) -> tuple[nn.Module, ...]:
    last = len(staged.stage_names)
    return chain_network(staged, [last - 1, last], SIZE)[:-1]


def batch(count: int = BATCH, seed: int = 0) -> Tensor:
    images = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return images.contiguous(memory_format=torch.channels_last)


def eager(parts: tuple[nn.Module, ...], images: Tensor) -> list[tuple[Tensor, ...]]:
    with torch.inference_mode():
        first = parts[0](images)
        return [first, parts[1](*first)]


def assert_equal(found: list[tuple[Tensor, ...]], expected: list[tuple[Tensor, ...]]) -> None:
    assert [len(outputs) for outputs in found] == [len(outputs) for outputs in expected]
    for outputs, wanted in zip(found, expected, strict=True):
        for a, b in zip(outputs, wanted, strict=True):
            assert a.shape == b.shape
            assert a.stride() == b.stride()
            assert float((a - b).abs().max()) <= 2e-5 * float(b.abs().max())


def state(staged: StagedNetwork) -> dict[str, Any]:
    import torch._dynamo.config
    import torch._inductor.config

    return {
        "modes": [module.training for module in staged.modules()],
        "gradients": [parameter.requires_grad for parameter in staged.parameters()],
        "storages": [tensor.data_ptr() for tensor in (*staged.parameters(), *staged.buffers())],
        "inductor": torch._inductor.config.get_config_copy(),
        "dynamo": torch._dynamo.config.get_config_copy(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads": torch.get_num_threads(),
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in inference._CHATTY],
    }


def compile_as(result: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put something in the place of the compiler; returns a list that grows with each use."""
    uses: list[int] = []

    def compiled(run: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        uses.append(1)
        return lambda images: result(run, images)

    monkeypatch.setattr(torch, "compile", compiled)
    return uses


def test_compiled_outputs_equal_eager_ones_and_nothing_else_changes() -> None:
    import torch._inductor.compile_fx

    staged = network()
    parts = parts_of(staged)
    before, values = state(staged), {k: v.clone() for k, v in staged.state_dict().items()}
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]

    prepared = prepare(parts, 1000, BATCH, worth_compiling=0)
    assert_equal(prepared(batch(1)), eager(parts, batch(1)))
    assert not prepared.compiled
    assert_equal(prepared(batch()), eager(parts, batch()))
    assert prepared.compiled, prepared.reason
    assert prepared.compile_seconds > 0
    for seed in (1, 2):
        found = prepared(batch(seed=seed))
        assert_equal(found, eager(parts, batch(seed=seed)))
        assert found[0][0].is_inference()
    # The last batch, another layout of memory, another grad mode and autocast: never compiled a second time.
    assert_equal(prepared(batch(3)), eager(parts, batch(3)))
    assert_equal(prepared(batch().contiguous()), eager(parts, batch().contiguous()))
    with torch.no_grad():
        assert_equal(prepared(batch()), eager(parts, batch()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prepared(batch())[0][0].dtype == eager(parts, batch())[0][0].dtype
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted + 1

    assert state(staged) == before
    assert all(torch.equal(values[name], value) for name, value in staged.state_dict().items())

    # The network trains on as before, below the boundary too.
    staged.freeze_below(0)
    staged.train()
    staged(batch()).sum().backward()
    assert all(parameter.grad is not None for parameter in staged.parameters())

    freed = weakref.ref(parts[0])
    del parts, prepared
    gc.collect()
    assert freed() is None


def test_many_passes_of_a_process_are_compiled_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # As many as torch compiles of one code object, and more; what others compiled stays.
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **given: compiler(run, backend="eager", **given))
    others = torch.compile(torch.nn.Softmax(-1))
    others(batch())
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    kept = []
    for _ in range(10):
        part = _Wrapped(nn.Conv2d(3, 2, 1).eval())
        prepared = prepare([part], 1000, BATCH, worth_compiling=0)
        prepared(batch())
        assert prepared.compiled, prepared.reason
        kept.append(prepared)
    others(batch())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == counted + 10


class _Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.inner(images),)


@pytest.fixture
def linear() -> tuple[nn.Module, nn.Module]:
    return _Wrapped(nn.Conv2d(3, 4, 3).eval()), _Wrapped(nn.ReLU().eval())


def passed(prepared: Inference, parts: tuple[nn.Module, ...], batches: int = 6) -> None:
    for seed in range(batches):
        assert_equal(prepared(batch(seed=seed)), eager(parts, batch(seed=seed)))


def test_a_long_pass_is_compiled_after_four_batches(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # a batch takes a second
    freezing: list[bool] = []

    def run_compiled(run: Callable[..., Any], images: Tensor) -> Any:
        freezing.append(torch._inductor.config.freezing)
        return run(images)

    uses = compile_as(run_compiled, monkeypatch)
    prepared = prepare(linear, 203 * BATCH, BATCH, worth_compiling=199)
    passed(prepared, linear, 3)
    assert not uses
    passed(prepared, linear, 3)
    assert len(uses) == 1
    assert prepared.compiled
    assert freezing == [True, False, False]  # while it compiles alone

    short = prepare(linear, 203 * BATCH, BATCH, worth_compiling=200)
    passed(short, linear)
    assert len(uses) == 1
    assert short.reason == "about 199 s of eager mode ahead, compiling pays from 200 s"


def test_few_images_are_not_compiled(linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    uses = compile_as(lambda run, images: run(images), monkeypatch)
    for images, reason in ((20, "few images"), (10 * BATCH, "s of eager mode ahead")):
        prepared = prepare(linear, images, BATCH)
        passed(prepared, linear)
        assert reason in str(prepared.reason)
    assert not uses


def test_without_a_compiler_batches_run_in_eager_mode(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = compile_as(lambda run, images: run(images), monkeypatch)
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    prepared = prepare(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert prepared.reason == "no C++ compiler"
    assert not uses


@pytest.mark.parametrize(
    "error", [RuntimeError("no luck.\nTrace"), OSError("disk full"), SyntaxError("odd"), KeyError()]
)
def test_where_compiling_fails_batches_run_in_eager_mode(
    error: Exception, linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: object, images: Tensor) -> None:
        raise error

    uses = compile_as(fail, monkeypatch)
    before = state(network())["inductor"]
    prepared = prepare(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert not prepared.compiled
    expected = {"RuntimeError": "no luck", "OSError": "disk full", "SyntaxError": "odd", "KeyError": "KeyError"}
    assert prepared.reason == f"compiling failed ({expected[type(error).__name__]})"
    assert len(uses) == 1
    assert state(network())["inductor"] == before


def test_a_compiler_that_fails_is_no_failure(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("false",))
    prepared = prepare(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert "compiling failed" in str(prepared.reason)


@pytest.mark.parametrize(("factor", "fits"), [(1 + 1e-5, True), (1 + 1e-4, False), (float("nan"), False)])
def test_outputs_that_differ_are_not_used(
    factor: float, fits: bool, linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_as(lambda run, images: [tuple(t * factor for t in outputs) for outputs in run(images)], monkeypatch)
    prepared = prepare(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert prepared.compiled == fits
    assert fits or "differ from those of eager mode" in str(prepared.reason)


def test_other_precisions_run_in_eager_mode(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = compile_as(lambda run, images: run(images), monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prepared = prepare(linear, 1000, BATCH, worth_compiling=0)
        assert prepared(batch())[0][0].dtype == torch.bfloat16
    assert "32-bit" in str(prepared.reason)
    half = tuple(part.bfloat16() for part in linear)
    prepared = prepare(half, 1000, BATCH, worth_compiling=0)
    assert prepared(batch().bfloat16())[1][0].dtype == torch.bfloat16
    assert "32-bit" in str(prepared.reason)
    assert not uses
