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
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from fashion_tl.features import inference
from fashion_tl.features.inference import Inference
from fashion_tl.models.split import chain_network
from fashion_tl.models.staged import StagedNetwork, divide_timm

SIZE, BATCH = 32, 8


def network(name: str = "test_resnet") -> StagedNetwork:
    torch.manual_seed(0)
    sized: dict[str, Any] = {"img_size": SIZE} if name == "test_vit" else {}
    backbone = timm.create_model(name, num_classes=0, **sized)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.1)
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
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
            assert [s for s, n in zip(a.stride(), a.shape, strict=True) if n > 1] == [
                s for s, n in zip(b.stride(), b.shape, strict=True) if n > 1
            ]
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


@pytest.mark.slow
@pytest.mark.thorough
def test_compiled_outputs_equal_eager_ones_and_nothing_else_changes() -> None:
    import torch._inductor.compile_fx

    staged = network()
    parts = parts_of(staged)
    before, values = state(staged), {k: v.clone() for k, v in staged.state_dict().items()}
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]

    prepared = Inference(parts, 1000, BATCH, worth_compiling=0)
    assert_equal(prepared(batch(1)), eager(parts, batch(1)))
    assert not prepared.compiled
    assert_equal(prepared(batch()), eager(parts, batch()))
    assert prepared.compiled, prepared.reason
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035", "test_efficientnet", "test_vit", "test_convnext"])
@pytest.mark.thorough(keep=2)
def test_folded_outputs_equal_eager_ones_and_nothing_else_changes(name: str) -> None:
    staged = network(name)
    parts = parts_of(staged)
    norms = sum(isinstance(module, nn.BatchNorm2d) for part in parts for module in part.modules())
    before, values = state(staged), {k: v.clone() for k, v in staged.state_dict().items()}

    prepared = Inference(parts, 1000, BATCH)
    assert_equal(prepared(batch(1)), eager(parts, batch(1)))
    assert not prepared.folded
    for seed in range(6):
        found = prepared(batch(seed=seed))
        assert prepared.folded == norms, prepared.fold_reason
        assert_equal(found, eager(parts, batch(seed=seed)))
        assert found[0][0].is_inference()
    assert not prepared.compiled
    assert "folded" in str(prepared.reason) if norms else "no BatchNorm" in str(prepared.fold_reason)
    # The last batch, another size and layout of memory, another grad mode and autocast.
    assert_equal(prepared(batch(3)), eager(parts, batch(3)))
    assert_equal(prepared(batch().contiguous()), eager(parts, batch().contiguous()))
    with torch.no_grad():
        assert_equal(prepared(batch()), eager(parts, batch()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert prepared(batch())[0][0].dtype == eager(parts, batch())[0][0].dtype

    assert state(staged) == before
    assert all(torch.equal(values[name], value) for name, value in staged.state_dict().items())
    staged.freeze_below(0)
    staged.train()
    staged(batch()).sum().backward()
    assert all(parameter.grad is not None for parameter in staged.parameters())

    freed = weakref.ref(parts[0])
    del parts, prepared
    gc.collect()
    assert freed() is None


class _Block(nn.Module):
    """A convolution, BatchNorm and an activation, as torch and as timm write them."""

    def __init__(self, activation: nn.Module, timms: bool, **convolution: Any) -> None:
        super().__init__()
        same = convolution.pop("same", False)
        self.conv = (Conv2dSame if same else nn.Conv2d)(3, 6, **convolution)
        norm: Any = BatchNormAct2d(6) if timms else nn.BatchNorm2d(6)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        if timms:
            norm.act = activation
        self.norm: Any = norm
        self.act = nn.Identity() if timms else activation
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.act(self.norm(self.conv(images))),)


def block_equal(block: nn.Module, size: tuple[int, int] = (16, 16)) -> Inference:
    images = torch.randn(BATCH, 3, *size, generator=torch.Generator().manual_seed(0))
    prepared = Inference([block], 1000, BATCH)
    for seed in range(3):
        given = (images + seed).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert_equal([prepared(given)[0]], [block(given)])
    return prepared


@pytest.mark.parametrize("timms", [False, True])
@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.SiLU(inplace=True), nn.GELU(), nn.Identity()],
)
def test_activations_after_a_folded_convolution_stay(activation: nn.Module, timms: bool) -> None:
    assert block_equal(_Block(activation, timms, kernel_size=3)).folded == 1


@pytest.mark.parametrize("size", [(16, 16), (15, 16), (4, 4), (3, 3), (2, 2), (1, 1), (2, 3)])
@pytest.mark.parametrize(
    "convolution",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
        {"kernel_size": (3, 5), "padding": (1, 2), "stride": (2, 1)},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "groups": 3},
        {"kernel_size": 3, "stride": 2, "same": True},
        {"kernel_size": 5, "stride": 2, "groups": 3, "same": True},
        {"kernel_size": (2, 3), "stride": 1, "same": True},
        {"kernel_size": 1, "stride": 2, "same": True},
    ],
)
def test_convolutions_of_all_kinds_are_folded(convolution: dict[str, Any], size: tuple[int, int]) -> None:
    assert block_equal(_Block(nn.ReLU(), False, **convolution), size).folded == 1


@pytest.mark.parametrize(
    "convolution",
    [
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "dilation": 2},
    ],
)
def test_other_convolutions_are_left(convolution: dict[str, Any]) -> None:
    prepared = block_equal(_Block(nn.ReLU(), False, **convolution))
    assert not prepared.folded
    assert prepared.fold_reason == "no BatchNorm after a convolution"


def test_what_is_more_than_a_convolution_and_its_batch_norm_is_left() -> None:
    class Reads(_Block):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            before = self.conv(images)
            return before, self.norm(before)

    class Decides(_Block):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return super().forward(images if images.sum() > -1e9 else -images)

    assert block_equal(Reads(nn.ReLU(), False, kernel_size=3)).fold_reason == "no BatchNorm after a convolution"
    assert "tracing failed" in str(block_equal(Decides(nn.ReLU(), False, kernel_size=3)).fold_reason)
    hooked = _Block(nn.ReLU(), False, kernel_size=3)
    hooked.norm.register_forward_hook(lambda module, given, output: output * 2)
    assert not block_equal(hooked).folded
    unbiased = _Block(nn.ReLU(), False, kernel_size=3)
    unbiased.norm = nn.BatchNorm2d(6, track_running_stats=False).eval()
    assert not block_equal(unbiased).folded


def test_one_part_that_cannot_be_traced_leaves_the_others_folded() -> None:
    class Decides(_Block):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return super().forward(images[:, :3] if images.sum() > -1e9 else images[:, 3:])

    parts = (_Block(nn.ReLU(), False, kernel_size=3), Decides(nn.ReLU(), False, kernel_size=3))
    prepared = Inference(parts, 1000, BATCH)
    passed(prepared, parts)
    assert prepared.folded == 1


def test_batch_norm_in_training_is_not_folded_and_moves_once_a_batch() -> None:
    block = _Block(nn.ReLU(), False, kernel_size=3)
    block.norm.train()
    prepared = Inference([block], 1000, BATCH)
    prepared(batch())
    assert prepared.fold_reason == "BatchNorm in training"
    assert int(block.norm.num_batches_tracked) == 1


def test_what_differs_or_fails_is_not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    block = _Block(nn.ReLU(), False, kernel_size=3)

    def put(run: Callable[..., Any]) -> None:
        monkeypatch.setattr(inference, "fold", lambda part, inputs: (run, 1))

    put(lambda images: (block(images)[0] * (1 + 1e-3),))
    assert "differ from those of eager mode" in str(block_equal(block).fold_reason)
    put(lambda images: 1 / 0)
    assert block_equal(block).fold_reason == "folded parts fail (division by zero)"
    monkeypatch.setattr(inference, "can_fold", lambda: False)
    assert block_equal(block).fold_reason == "no oneDNN"
    assert Inference([block], 9 * BATCH - 1, BATCH).fold_reason == "few images"


@pytest.mark.slow
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
        prepared = Inference([part], 1000, BATCH, worth_compiling=0)
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
    prepared = Inference(linear, 203 * BATCH, BATCH, worth_compiling=199)
    passed(prepared, linear, 3)
    assert not uses
    passed(prepared, linear, 3)
    assert len(uses) == 1
    assert prepared.compiled
    assert freezing == [True, False, False]  # while it compiles alone

    short = Inference(linear, 203 * BATCH, BATCH, worth_compiling=200)
    passed(short, linear)
    assert len(uses) == 1
    assert short.reason == "about 199 s of eager mode ahead, compiling pays from 200 s"


def test_few_images_are_not_compiled(linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    uses = compile_as(lambda run, images: run(images), monkeypatch)
    for images, reason in ((20, "few images"), (10 * BATCH, "s of eager mode ahead")):
        prepared = Inference(linear, images, BATCH)
        passed(prepared, linear)
        assert reason in str(prepared.reason)
    assert not uses


def test_without_a_compiler_batches_run_in_eager_mode(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = compile_as(lambda run, images: run(images), monkeypatch)
    monkeypatch.setenv("CXX", "no-such-compiler -O3")
    prepared = Inference(linear, 1000, BATCH, worth_compiling=0)
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
    prepared = Inference(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert not prepared.compiled
    expected = {"RuntimeError": "no luck", "OSError": "disk full", "SyntaxError": "odd", "KeyError": "KeyError"}
    assert prepared.reason == f"compiling failed ({expected[type(error).__name__]})"
    assert len(uses) == 1
    assert state(network())["inductor"] == before


@pytest.mark.slow
def test_a_compiler_that_fails_is_no_failure(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("false",))
    prepared = Inference(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert "compiling failed" in str(prepared.reason)


@pytest.mark.parametrize(("factor", "fits"), [(1 + 1e-5, True), (1 + 1e-3, False), (float("nan"), False)])
def test_outputs_that_differ_are_not_used(
    factor: float, fits: bool, linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_as(lambda run, images: [tuple(t * factor for t in outputs) for outputs in run(images)], monkeypatch)
    prepared = Inference(linear, 1000, BATCH, worth_compiling=0)
    passed(prepared, linear)
    assert prepared.compiled == fits
    assert fits or "differ from those of eager mode" in str(prepared.reason)


def test_other_precisions_run_in_eager_mode(
    linear: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    uses = compile_as(lambda run, images: run(images), monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prepared = Inference(linear, 1000, BATCH, worth_compiling=0)
        assert prepared(batch())[0][0].dtype == torch.bfloat16
    assert "32-bit" in str(prepared.reason)
    half = tuple(part.bfloat16() for part in linear)
    prepared = Inference(half, 1000, BATCH, worth_compiling=0)
    assert prepared(batch().bfloat16())[1][0].dtype == torch.bfloat16
    assert "32-bit" in str(prepared.reason)
    assert not uses
