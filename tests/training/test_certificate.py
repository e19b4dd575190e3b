"""The freeze certificate of a record: what is frozen is the same at the end of a phase, or it says that it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fashion_tl import ScratchClassifier
from fashion_tl.features.inference import Inference
from fashion_tl.records.record import read_record
from fashion_tl.runs.callbacks import callbacks_of
from fashion_tl.training.certificate import FreezeCertificate, frozen_names, hash_tensors

from ..conftest import Fit
from ..test_processes import forked

PHASES = ("--model.train", "{0: head, 1: layer4}", "--data.augment.hflip", "0.5")


def certificate(name: str = "run") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_record(Path(f"lightning_logs/{name}/version_0"))["certificate"]
    return found


class Changes(Callback):
    """Changes a tensor of the network by hand in the middle of an epoch."""

    def __init__(self, kind: str, epoch: int) -> None:
        self.kind, self.epoch = kind, epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 1):
            network: Any = pl_module.network
            name = frozen_names(network)[self.kind][3]
            tensors = dict(network.named_parameters()) | dict(network.named_buffers())
            with torch.no_grad():
                tensors[name].add_(1)


def small() -> ScratchClassifier:
    spec = {"channels": 1, "image_size": 28}
    args = {"widths": [3, 4]}
    return ScratchClassifier(["cat", "dog"], "plain", network_args=args, input_spec=spec, train={0: "head", 1: 1})


@pytest.mark.parametrize("kind", ["frozen_weights", "frozen_buffers"])
def test_one_changed_bit_is_told_and_what_trains_is_not(kind: str) -> None:
    module = small()
    network, found = module.network, FreezeCertificate()
    found.follow(network, 0, None)
    with torch.no_grad():
        next(network.head.parameters()).add_(1)
    found.follow(network, 0, 1e-7)
    found.close(network)
    (entry,) = found.phases
    assert entry["same"] is True
    assert entry["cache"] == {"used": True, "largest_difference": 1e-7}
    module.enter_phase(1)
    found.follow(network, 1, None)
    name = frozen_names(network)[kind][0]
    tensor = (dict(network.named_parameters()) | dict(network.named_buffers()))[name]
    bits = tensor.data.view(-1).view(torch.uint8)
    bits[0] ^= 1
    found.close(network)
    entry = found.phases[1]
    assert entry["same"] is False
    assert entry[kind]["before"] != entry[kind]["after"]
    other = ({"frozen_weights", "frozen_buffers"} - {kind}).pop()
    assert entry[other]["before"] == entry[other]["after"]


def test_a_phase_goes_on_from_a_checkpoint_of_another_process() -> None:
    module = small()
    network, first, second = module.network, FreezeCertificate(), FreezeCertificate()
    first.follow(network, 0, None)
    second.load(first.state())
    with torch.no_grad():
        dict(network.named_parameters())[frozen_names(network)["frozen_weights"][0]].add_(1)
    module.enter_phase(1)
    second.follow(network, 1, None)  # the checkpoint was of the end of the first phase
    assert [entry["same"] for entry in second.phases] == [False, None]
    assert first.phases[0]["same"] is None


def test_ctrl_c_while_a_phase_is_hashed_leaves_nothing_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from fashion_tl.training import certificate as module

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    network, written = small().network, FreezeCertificate()
    monkeypatch.setattr(module, "hash_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written.follow(network, 0, None)
    monkeypatch.undo()
    written.close(network)
    assert written.phases == []


def test_hashes_depend_on_names_values_and_shapes() -> None:
    one = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    assert hash_tensors({"a": one}, []) is None
    hashes = [
        hash_tensors(tensors, ["a"]) for tensors in ({"a": one}, {"a": one.T}, {"a": one.float()}, {"a": -one}, {})
    ]
    hashes.append(hash_tensors({"b": one}, ["b"]))
    assert len(set(hashes)) == len(hashes)
    assert hash_tensors({"a": one.clone()}, ["a"]) == hashes[0]


# Through the command line


@pytest.mark.slow
def test_a_record_certifies_each_phase(fit: Fit) -> None:
    assert fit(*PHASES, "--cache", "require", name="on", epochs=3) == 0
    assert fit(*PHASES, "--cache", "off", name="off", epochs=3) == 0
    assert fit("--model.train", "all", name="all") == 0
    on, off = certificate("on"), certificate("off")
    for one, other in zip(on, off, strict=True):
        assert one["same"] is other["same"] is True
        assert 0 <= one["cache"]["largest_difference"] < 1e-4
        assert one["cache"]["used"]
        assert other["cache"] == {"used": False, "largest_difference": None}
        assert {**one, "cache": None} == {**other, "cache": None}
    assert [entry["phase"] for entry in on] == [0, 1]
    assert on[0]["frozen_weights"] != on[1]["frozen_weights"]
    (everything,) = certificate("all")
    assert everything["same"] is True
    assert everything["frozen_weights"] == {"before": None, "after": None}


FLIPPED = ("--data.augment.hflip", "0.5")
DRAWN = ("--data.augment.translate", "1", "--cache_views", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "call", "first"),
    [(FLIPPED, 1, 32), (FLIPPED, 2, 0), (DRAWN, 1, 32)],
    ids=["later images", "flipped images", "later drawn images"],
)
def test_features_that_were_computed_wrongly_are_told(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: tuple[str, ...], call: int, first: int
) -> None:
    """Folded and compiled code serves all batches but the first: the first images alone would tell nothing of it."""
    computed, calls = Inference.__call__, 0

    def broken(self: Inference, images: torch.Tensor) -> Any:
        nonlocal calls
        calls += len(images) > 1  # one tells the sizes
        outputs = computed(self, images)
        if calls != call:
            return outputs
        with torch.inference_mode():
            return [tuple(torch.cat([t[:first], 2 * t[first:]]) for t in each) for each in outputs]

    monkeypatch.setattr(Inference, "__call__", broken)
    monkeypatch.setenv("FASHION_TL_CACHE_DIR", str(tmp_path / "own"))
    assert fit("--model.train", "layer4", *flags, "--cache", "require") == 0
    assert certificate()[0]["cache"]["largest_difference"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "epoch"), [("frozen_weights", 0), ("frozen_buffers", 2)])
def test_what_a_callback_changes_by_hand_is_told(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, kind: str, epoch: int
) -> None:
    changes = Changes(kind, epoch)
    monkeypatch.setattr("fashion_tl.runs.fit.callbacks_of", lambda *args: [*callbacks_of(*args), changes])
    assert fit(*PHASES, epochs=3) == 0
    assert [entry["same"] for entry in certificate()] == [epoch > 0, epoch == 0]


@pytest.mark.slow
@pytest.mark.parametrize("place", [(0, 1), (1, 0), (1, 2)])
@pytest.mark.thorough
def test_a_run_that_was_stopped_has_the_certificate_of_one_that_was_not(
    fit: Fit, stop_at: Callable[[int, int, BaseException], None], place: tuple[int, int]
) -> None:
    assert fit(*PHASES, name="whole", epochs=3) == 0
    stop_at(*place, KeyboardInterrupt())
    flags = (*PHASES, "--checkpoint_steps", "1")
    assert fit(*flags, name="stopped", epochs=3) not in (0, 2)
    assert [entry["same"] for entry in certificate("stopped")] == [True] * (place[0] + 1)
    stop_at(-1, -1, KeyboardInterrupt())
    assert fit(*flags, "--resume", "true", name="stopped", epochs=3) == 0
    whole, stopped = certificate("whole"), certificate("stopped")
    for entry in (*whole, *stopped):
        del entry["cache"]["largest_difference"]
    assert whole == stopped


@pytest.mark.slow
@pytest.mark.thorough
def test_two_processes_have_one_certificate(workdir: Path) -> None:
    forked("--name", "two", "--trainer.strategy", "ddp", "--data.augment.hflip", "0.5")
    assert [entry["same"] for entry in certificate("two")] == [True] * 3
    assert [entry["cache"]["used"] for entry in certificate("two")] == [True, True, False]
